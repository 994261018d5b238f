"""A failure is shown again from the file a function lies in, and a call that a function cannot take is told to it."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trueness.tools.report.listing import call
from trueness.tools.run.api import check
from trueness.tools.run.importing import spec_of, statement
from trueness.tools.run.runner import Job, trial_for, user_implementation
from trueness.tools.run.trial import Trial
from trueness.tools.spec import registry
from trueness.tools.spec.calling import takes_keyword
from trueness.tools.tests.processes import none_left

SCRIPT = """
import trueness

def absolute(score, alpha):
    return score.abs() + (1e-4 + 1e-3 * (1 - alpha))

if __name__ == "__main__":
    outcome = trueness.check("fisher.diagonal", absolute, dtype="float32", profile="quick", checks=["value"])
    print(outcome.failures[0].implementation)
    print(outcome.failures[0].reproduction)
"""


def python(folder: Path, *arguments: str, text: str = "") -> str:
    command = [sys.executable, *arguments]
    environment = os.environ | {"TRUENESS_EXAMPLES": str(folder / "examples")}
    with none_left():
        done = subprocess.run(command, cwd=folder, env=environment, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("file", "folder", "arguments", "name"),
    [
        ("mine.py", ".", ("mine.py",), "mine:absolute"),
        ("theirs/mine.py", ".", ("theirs/mine.py",), "mine:absolute"),
        ("my-kernels.py", ".", ("my-kernels.py",), "my-kernels:absolute"),
        ("package/mine.py", ".", ("-m", "package.mine"), "package.mine:absolute"),
    ],
)
def test_a_script_is_imported_from_its_file(
    tmp_path: Path, file: str, folder: str, arguments: tuple[str, ...], name: str
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(SCRIPT)
    said, again = python(tmp_path, *arguments).split("\n", 1)
    assert said == name
    assert "__main__" not in again
    assert "behaves like FSB-01" in python(tmp_path, "-c", again), again


def test_in_a_session_the_name_is_used_as_it_is(tmp_path: Path) -> None:
    again = python(tmp_path, "-", text=SCRIPT).split("\n", 1)[1]
    assert "__main__" not in again and "import absolute" not in again
    definition = SCRIPT.split("if __name__")[0]
    assert "behaves like FSB-01" in python(tmp_path, "-", text=definition + again)


def test_what_has_no_name_is_left_to_the_reader() -> None:
    for function in (lambda score, alpha: score, functools.partial(torch.add, alpha=2)):
        lines, target = statement(function, spec_of(function))
        assert target == "f"
        assert [line for line in lines if not line.startswith("#")] == []


def test_a_function_of_a_module_is_imported_from_it_and_a_method_goes_by_its_path() -> None:
    assert statement(torch.nn.functional.gelu, "torch.nn.functional:gelu") == (
        ["from torch.nn.functional import gelu"],
        "gelu",
    )
    assert statement(Path.joinpath, "pathlib:Path.joinpath") == ([], "'pathlib:Path.joinpath'")
    assert statement(Path.joinpath, "os:path.join")[1] == "f", "another function lies there"


# -- the call ---------------------------------------------------------------------------------------------------------


def without_device(steps: int, beta_start: float, beta_end: float, *, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(steps, dtype=dtype)


@pytest.mark.parametrize(
    ("function", "missing"),
    [
        (lambda steps, beta_start, beta_end: torch.zeros(steps), "dtype= and device="),
        (without_device, "device="),
        (lambda steps, beta_start, beta_end, device, /, dtype=None: torch.zeros(steps), "device="),
    ],
)
def test_a_callable_that_does_not_take_dtype_or_device_is_told_which(
    function: Callable[..., Any], missing: str
) -> None:
    verdict = check("diffusion.linear_betas", function, dtype="float32", profile="quick").verdicts[0]
    assert not verdict.passed
    assert verdict.message == (
        f"does not take {missing}, which diffusion.linear_betas passes; "
        "`trueness show diffusion.linear_betas` prints the call."
    )


def test_keywords_in_any_form_are_taken() -> None:
    assert takes_keyword(lambda n, **options: n, "device")
    assert takes_keyword(lambda n, device=None: n, "device")
    assert takes_keyword(functools.partial(without_device, dtype=torch.float32), "dtype")
    assert not takes_keyword(without_device, "device")
    assert takes_keyword(max, "device"), "its signature cannot be read"


def test_a_wrapper_takes_what_it_names_and_passes_the_rest_on() -> None:
    def named(*arguments: Any, device: Any = None, **options: Any) -> Any:
        return without_device(*arguments, **options)

    def passing(*arguments: Any, **options: Any) -> Any:
        return without_device(*arguments, **options)

    assert takes_keyword(functools.wraps(without_device)(named), "device")
    assert not takes_keyword(functools.wraps(without_device)(passing), "device")
    assert takes_keyword(functools.wraps(without_device)(passing), "dtype")


def test_every_declared_implementation_takes_what_its_formula_passes() -> None:
    tried = 0
    for formula in (f for f in registry.formulas().values() if f.keywords):
        for implementation in (i for i in formula.implementations if not i.needs):
            Trial(formula, implementation, "float64").load()
            tried += 1
    assert tried > 10


@pytest.mark.parametrize(
    "name", ["fisher.diagonal", "diffusion.linear_betas", "attention.relative_position_index", "training.ema_update"]
)
def test_the_call_that_is_shown_is_the_one_that_is_made(name: str) -> None:
    seen: list[tuple[int, dict[str, Any]]] = []

    def spy(*arguments: Any, dtype: Any = None, device: Any = None) -> Any:
        seen.append((len(arguments), {k: v for k, v in {"dtype": dtype, "device": device}.items() if v is not None}))
        return None

    trial = trial_for(Job(name, "mine:spy", "float32"), user_implementation("mine:spy", spy))
    trial.invoke([0.0] * len(trial.formula.arguments))
    count, keywords = seen[0]
    shown = re.match(r"f\((.*?)\)", call(registry.formula(name)))
    assert shown is not None
    given = shown[1].split(", ")
    assert len(given) == count + len(keywords)
    assert given[count:] == [f"{k}={v if k == 'dtype' else chr(34) + v + chr(34)}" for k, v in keywords.items()]
