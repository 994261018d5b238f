"""The command line from outside: tables, messages, exit status, files, the pytest plugin."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trueness.tools.tests.forked import Launcher, launcher
from trueness.tools.tests.processes import none_left

MINE = '''
import torch

def absolute(score, alpha):
    return score.abs() + (1e-4 + 1e-3 * (1 - alpha))

def gain(score, alpha):
    return 1.02 * (score * score + (1e-4 + 1e-3 * (1 - alpha)))

def right(score, alpha):
    return score * score + (1e-4 + 1e-3 * (1 - alpha))

class HalfGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, score, floor):
        ctx.save_for_backward(score)
        return score * score + floor

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None

def half_gradient(score, alpha):
    return HalfGradient.apply(score, 1e-4 + 1e-3 * (1 - alpha))

def noising(x_0, t, noise, alphas_cumprod):
    """diffusers as anybody would call it"""
    from diffusers import DDPMScheduler
    scheduler = DDPMScheduler(num_train_timesteps=len(alphas_cumprod))
    scheduler.alphas_cumprod = alphas_cumprod.float()
    return scheduler.add_noise(x_0, noise, t)
'''


COMMAND = ("-c", "from trueness.tools.cli import main; main()")
IMPORTS = """
import trueness.tools.cli, trueness.tools.run.api, trueness.tools.report.html
from trueness.tools.spec import registry
registry.formulas()
"""
_python: list[Launcher] = []


@pytest.fixture(scope="module", autouse=True)
def python() -> Iterator[None]:
    with launcher(IMPORTS) as found:
        _python.append(found)
        yield
        _python.clear()


def run(folder: Path, *arguments: str, program: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """``trueness ARGUMENTS`` in ``folder``; another ``program`` in an interpreter of its own."""
    environment = os.environ | {"TRUENESS_EXAMPLES": str(folder / "examples"), "COLUMNS": "200"}
    if not program:
        return _python[0].run(*COMMAND, *arguments, cwd=folder, env=environment)
    command = [sys.executable, *program, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(autouse=True)
def nothing_outlives_its_test() -> Iterator[None]:
    with none_left():
        yield


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


Ran = tuple[Path, subprocess.CompletedProcess[str]]


def verified(folder: Path, *arguments: str) -> Ran:
    (folder / "mine.py").write_text(MINE)
    with none_left():
        return folder, run(folder, "verify", *arguments, "--dtype", "float32", "--json", "v.json")


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    files = ("--report", "page", "--junit", "j.xml")
    impl = ("--impl", "fisher.diagonal=mine:right")
    return verified(tmp_path_factory.mktemp("right"), *impl, "--profile", "quick", *files)


@pytest.fixture(scope="module")
def absolute(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return verified(tmp_path_factory.mktemp("absolute"), "fisher.diagonal", "--impl", "mine:absolute")


def test_absolute_score_is_wrong_shrunk_to_one_element_and_named(absolute: Ran) -> None:
    here, done = absolute
    assert done.returncode == 1, done.stdout + done.stderr
    assert "behaves like FSB-01" in done.stdout
    verdict = next(v for v in json.loads((here / "v.json").read_text())["verdicts"] if v["status"] == "fail")
    assert verdict["check"] == "value"
    assert verdict["bugs"] == ["FSB-01"]
    sizes = json.loads(verdict["case"]).get("sizes", {"...": []})["..."]
    assert all(n == 1 for n in sizes), f"the case was not shrunk to one element: {sizes}"
    assert list((here / "examples").glob("fisher.diagonal-*.json")), "the case was not kept"
    again = run(here, program=("-c", verdict["reproduction"]))
    assert "behaves like FSB-01" in again.stdout, again.stdout + again.stderr


def test_a_gain_of_two_percent_is_wrong_and_no_bug_is_named(here: Path) -> None:
    done = run(here, "verify", "fisher.diagonal", "--impl", "mine:gain", "--dtype", "float32")
    assert done.returncode == 1
    assert "wrong: value" in done.stdout
    assert "behaves like" not in done.stdout


def test_a_right_implementation_is_right_and_files_are_written(right: Ran) -> None:
    here, done = right
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"mine:right +float32 +\d+ +[\d.]+ of 1\.5 +(\d+)/\1 +right", done.stdout), done.stdout
    assert (here / "page" / "index.html").stat().st_size > 10_000
    assert json.loads((here / "v.json").read_text())["passed"] is True
    assert "<testsuites" in (here / "j.xml").read_text()


def test_the_last_line_says_how_many_cases_were_run_and_up_to_which_length(right: Ran, absolute: Ran) -> None:
    here, done = right
    judged = [v for v in json.loads((here / "v.json").read_text())["verdicts"] if v["origin"] == "user"]
    cases, longest = sum(v["cases"] for v in judged), max(v["longest"] for v in judged)
    last = done.stdout.splitlines()[-1]
    assert f"; no fault found in {cases} cases, lengths up to {longest}; " in last
    assert longest >= 4099, "the longest axis that the check of shapes gives to an elementwise formula"
    assert "no fault" not in absolute[1].stdout


ONE = '{"sizes": {"...": [3]}, "seed": 7, "scalars": {"alpha": 0.5}}'


def test_one_case_is_judged_by_value_and_gradient(here: Path) -> None:
    options = ("verify", "fisher.diagonal", "--dtype", "float32", "--case", ONE, "--impl")
    right = run(here, *options, "mine:right")
    assert right.returncode == 0
    assert "no fault found in 2 cases, lengths up to 3; " in right.stdout, right.stdout
    wrong = run(here, *options, "mine:half_gradient")
    assert wrong.returncode == 1 and "wrong: gradient" in wrong.stdout, wrong.stdout
    both = run(here, *options, "mine:absolute")
    assert "wrong: value, gradient" in both.stdout, both.stdout


def test_a_run_that_judged_nothing_says_why_and_ends_with_status_two(here: Path) -> None:
    done = run(here, "verify", "sequences.shift", "--impl", "mine:right", "--dtype", "float32", "--profile", "quick")
    assert done.returncode == 2, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert "; nothing was judged: integers in, integers out: no dtype enters; " in last
    assert "no fault" not in done.stdout


def test_diffusers_as_a_users_implementation_is_right_but_for_its_float32_tables(here: Path) -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'trueness[peers]'")
    dtypes = ("--dtype", "float32", "--dtype", "bfloat16")
    done = run(here, "verify", "diffusion.q_sample", "--impl", "mine:noising", "--limit", "eager", *dtypes)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"mine:noising +float32 .*behaves like DDPM-07", done.stdout), done.stdout
    assert re.search(r"convention", done.stdout)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ("verify fisher.diagonal --impl nosuch:fn", "there is no module 'nosuch' here or installed."),
        ("verify fisher.diagonal --impl mine:nosuch", "module 'mine' has no attribute 'nosuch'."),
        ("verify fisher.diagonal --impl mine", "it must look like module:callable"),
        ("verify --impl mine:right", "say which formula: --impl FORMULA=module:callable."),
        ("verify nosuch", "formula was 'nosuch', which is not declared."),
        ("verify fisher.diagnal", "Did you mean fisher.diagonal?"),
        ("verify fisher --report /proc/nowhere", "--report was '/proc/nowhere'"),
        ("verify fisher --json /proc/nowhere/v.json", "/proc/nowhere"),
        ("verify fisher --dtype float8", "'float8' is not one of"),
        ("verify fisher.diagonal --case {", "it must be a JSON object"),
        ("show nosuch", "formula was 'nosuch'"),
        ("verify --jobs 0", "0 is not in the range"),
        ("verify fisher --profile dep", "'dep' is not one of 'quick', 'ci', 'deep'"),
        ("kernels --triton /nowhere --only nosuch", "it must be a folder in which Triton was unpacked."),
        ("gpu --dry-run --only nosuch", "--only was 'nosuch'; allowed are ceilings, correctness, timing."),
        ("gpu --dry-run --only timing --cases /nowhere", "it must be a file that defines CASES."),
        ("mutate FSB-01", "an ID needs --ledger."),
        ("mutate --ledger FSB-99", "id was 'FSB-99'"),
        ("nosuch", "No such command 'nosuch'"),
    ],
)
def test_a_wrong_request_ends_in_one_sentence_and_status_two(here: Path, request_: str, sentence: str) -> None:
    done = run(here, *request_.split())
    assert done.returncode == 2, done.stdout + done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not done.stdout.strip()


def test_the_other_commands_print_what_they_promise(here: Path) -> None:
    assert "fisher.diagonal" in run(here, "list").stdout
    ledger = run(here, "ledger").stdout
    assert "FSB-01 " in ledger and "real bug, right fix" in ledger
    shown = run(here, "show", "fisher.diagonal").stdout
    for part in ("F = s² + ε(ᾱ)", "Amari 1998", "score", "T ≤ 1.5", "triton kernel", "FSB-01", "claim:"):
        assert part in shown, part
    doctor = run(here, "doctor").stdout
    assert "torch" in doctor and "generic checks can run here" in doctor


def test_every_command_is_a_subcommand_and_the_former_name_of_the_ledger_says_so(here: Path) -> None:
    help_ = run(here, "--help").stdout
    commands = re.findall(r"^  ([a-z]+) ", help_, flags=re.MULTILINE)
    expected = ["calibrate", "doctor", "gpu", "kernels", "ledger", "list", "mutate", "sabotage", "show", "verify"]
    assert commands == expected
    former = run(here, "bugs")
    assert former.returncode == 0 and "FSB-01 " in former.stdout
    assert former.stderr.startswith("trueness bugs is now trueness ledger;")


def test_a_known_wrong_variant_in_our_place_is_caught(here: Path) -> None:
    done = run(here, "mutate", "--ledger", "FSB-01")
    assert done.returncode == 0 and done.stdout.endswith("1 of 1 wrong variants caught: 100 %.\n")


def test_pyargs_runs_the_suite_on_an_implementation_of_the_callers(here: Path) -> None:
    program = ("-P", "-m", "pytest", "--pyargs", "trueness.properties.test_conformance")
    impls = ("--impl", "fisher.diagonal=mine:gain", "--impl", "fisher.diagonal=mine:right")
    chosen = "(mine and float32) or (mine:right and float64)"
    done = run(here, "-q", "-p", "no:cacheprovider", "-k", chosen, *impls, program=program)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "mine:gain · float32 · value" in done.stdout
    assert "mine:right" not in done.stdout, done.stdout
    assert "1 failed, 2 passed" in done.stdout, done.stdout


def test_the_fixture_fails_a_test_with_the_sentence(here: Path) -> None:
    (here / "test_theirs.py").write_text(
        "import mine\n\n"
        "def test_right(trueness_check):\n    trueness_check('fisher.diagonal', mine.right, dtype='float32')\n\n"
        "def test_wrong(trueness_check):\n    trueness_check('fisher.diagonal', mine.absolute, dtype='float32')\n"
    )
    done = run(here, "-q", "-p", "no:cacheprovider", program=("-m", "pytest"))
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "behaves like FSB-01" in done.stdout
