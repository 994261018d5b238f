"""Every code block of README.md, docs/verify.md and docs/tolerance.md runs, and prints what the document shows.

```python    is executed; the blocks of one document share their variables. A block whose first line is a comment
             with a file name, such as ``# mine.py``, is that file instead.
```sh        is run line by line in the folder of those files. ``# exit status 1`` at the end of a line says how it
             ends if not with 0. ``make`` and ``pip install`` are not run: their targets and extras must exist.
```text      is what the block before it prints on standard output. ``…`` stands for anything within a line, a line
             of ``…`` alone for any number of lines.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from trueness.tools.tests.processes import none_left

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "docs/verify.md", "docs/tolerance.md")
pytestmark = [
    pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="needs a checkout with README.md"),
    pytest.mark.xdist_group("documents"),
]

RUN = ("trueness", "pytest", "python")
SHELL = """
python() { "$PYTHON" "$@"; }
pytest() { python -P -m pytest "$@"; }
trueness() { python -P -c 'from trueness.tools.cli import main; main()' "$@"; }
"""
PYTHON = """
import json, sys
namespace = {"__name__": "__main__"}
sys.path.insert(0, "")
for where, text in json.load(sys.stdin):
    exec(compile(text, where, "exec"), namespace)
    print(end="\\0", flush=True)
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the document it begins in."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str:
        """The name of the file that a block of Python is, empty for one that is executed."""
        found = re.match(r"# (\w+\.py)\n", self.text)
        return found[1] if found and self.language == "python" else ""


def blocks(document: str) -> Iterator[Block]:
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", document, re.M | re.S):
        yield Block(found[1], found[2], document.count("\n", 0, found.start()) + 1)


def shows(shown: str, printed: str) -> bool:
    """Whether a ```text block is what was printed, but for trailing spaces and what ``…`` stands for."""
    lines = (r"(?:.*\n)*?" if line.strip() == "…" else rf"{_pattern(line)}\n" for line in shown.strip().splitlines())
    return bool(re.fullmatch("".join(lines), "".join(f"{line.rstrip()}\n" for line in printed.strip().splitlines())))


def _pattern(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.rstrip().split("…"))


def unknown(command: str) -> str:
    """What is wrong with a command that is not run; empty if its targets or extras exist."""
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
        missing = [word for word in words[1:] if "=" not in word and word not in targets]
        return f"the Makefile has no target {missing[0]}" if missing else ""
    if words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        wanted = [extra for word in words[2:] for extra in re.findall(r"\[(.*)\]", word)]
        missing = [extra for group in wanted for extra in group.split(",") if extra not in extras]
        return f"pyproject.toml has no extra {missing[0]}" if missing else ""
    return f"`{command}` is never run: it is none of {', '.join(RUN)}, make, pip install"


def defects(document: str, folder: Path) -> list[str]:
    """Run a document in an empty folder; one sentence for everything in it that does not hold."""
    chosen = list(blocks(document))
    found: list[str] = []
    printed: dict[int, str] = {}
    for block in chosen:
        if block.file:
            (folder / block.file).write_text(block.text)
        if block.language not in ("python", "sh", "text"):
            found.append(f"line {block.line}: a block of {block.language or 'no language'} is never run")
    # Under CI and BUILD_NUMBER, pytest repeats a whole message in its summary; the documents show a terminal.
    hidden = {"CI", "BUILD_NUMBER"} | {name for name in os.environ if name.startswith("PYTEST")}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"TRUENESS_EXAMPLES": str(folder / "examples"), "COLUMNS": "100", "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHON"] = sys.executable

    code = [block for block in chosen if block.language == "python" and not block.file]
    if code:
        program = json.dumps([(f"line {block.line}", block.text) for block in code])
        command = [sys.executable, "-P", "-c", PYTHON]
        done = subprocess.run(command, input=program, capture_output=True, text=True, cwd=folder, env=environment)
        outputs = done.stdout.split("\0")
        printed |= {block.line: text for block, text in zip(code, outputs, strict=False)}
        if done.returncode:
            failed = code[min(len(outputs), len(code)) - 1]
            found.append(f"line {failed.line}: {done.stderr.strip().splitlines()[-1]}")

    for block in (b for b in chosen if b.language == "sh"):
        printed[block.line] = ""
        for line in filter(None, map(str.strip, block.text.splitlines())):
            if not shlex.split(line, comments=True):
                continue
            if shlex.split(line)[0] not in RUN:
                found += [f"line {block.line}: {sentence}"] if (sentence := unknown(line)) else []
                continue
            done = subprocess.run(SHELL + line, shell=True, capture_output=True, text=True, cwd=folder, env=environment)
            printed[block.line] += done.stdout
            status = re.search(r"#.*exit status (\d+)", line)
            if done.returncode != (int(status[1]) if status else 0):
                last = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
                found.append(f"line {block.line}: `{line}` ended with status {done.returncode}: {last}")

    for before, block in zip([None, *chosen], chosen, strict=False):
        if block.language == "text":
            if before is None or before.line not in printed:
                found.append(f"line {block.line}: nothing is run whose output this would be")
            elif not shows(block.text, printed[before.line]):
                found.append(f"line {block.line}: shown\n{block.text}printed\n{printed[before.line]}")
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_runs_and_prints_what_it_shows(name: str, tmp_path: Path) -> None:
    with none_left():
        found = defects((ROOT / name).read_text(), tmp_path)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", [*DOCUMENTS, "CONTRIBUTING.md"])
def test_links_lead_somewhere_and_commands_exist(path: str) -> None:
    from trueness.tools.cli import cli

    text = (ROOT / path).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / path).parent.joinpath(link).exists()] == []
    named = re.findall(r"`trueness ([a-z]+)", text) + re.findall(r"^trueness ([a-z]+)", text, re.M)
    assert [name for name in named if name not in cli.commands] == []
    targets = [f"make {name}" for name in re.findall(r"`make ([a-z]+)", text)]
    assert list(filter(None, map(unknown, targets))) == []


def document(*parts: tuple[str, str]) -> str:
    return "\n".join(f"Text.\n\n```{language}\n{text}\n```\n" for language, text in parts)


RIGHT = document(
    ("python", "# half.py\ndef half(x):\n    return x / 2"),
    ("python", "from half import half\nx = half(3)"),
    ("python", "print(x)\nprint('took', 12, 's')"),
    ("text", "1.5\ntook … s"),
    ("sh", "python -c 'import half; print(half.half(4))'\npython -c 'print(3); exit(2)'  # exit status 2"),
    ("text", "2.0\n…\n3"),
    ("sh", "make verify ARGS='fisher'\npip install 'trueness[verify,peers]'"),
)


def test_a_right_document_is_accepted(tmp_path: Path) -> None:
    assert defects(RIGHT, tmp_path) == []


@pytest.mark.parametrize(
    ("right", "wrong", "sentence"),
    [
        ("1.5\n", "1.4\n", ": shown\n1.4\ntook … s\nprinted\n1.5\ntook 12 s\n"),
        ("took … s", "took … m", ": shown\n"),
        ("2.0\n…\n3", "2.0\n…\n4", ": shown\n"),
        ("2.0\n…\n3", "…\n2.0", ": shown\n"),
        ("x = half(3)", "x = third(3)", "line 11: NameError: name 'third' is not defined"),
        ("print(x)", "print(y)", ": NameError: name 'y' is not defined"),
        ("exit(2)", "exit(1)", ": `python -c 'print(3); exit(1)'  # exit status 2` ended with status 1: 3"),
        ("half.half(4)", "half.third(4)", "ended with status 1: AttributeError: module 'half' has no attribute"),
        ("python -c 'import", "bash -c 'import", "is never run: it is none of trueness, pytest, python, make, pip"),
        ("make verify", "make very", "the Makefile has no target very"),
        ("[verify,peers]", "[verify,pears]", "pyproject.toml has no extra pears"),
        ("```sh\nmake", "```bash\nmake", "a block of bash is never run"),
        ("```sh\nmake", "```\nmake", "a block of no language is never run"),
        ("```sh\nmake", "```text\nmake", "nothing is run whose output this would be"),
    ],
)
def test_a_wrong_document_is_rejected(tmp_path: Path, right: str, wrong: str, sentence: str) -> None:
    assert RIGHT.count(right) == 1
    found = defects(RIGHT.replace(right, wrong), tmp_path)
    assert any(sentence in defect for defect in found), found
