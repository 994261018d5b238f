"""Formats, devices and profiles are one table each; what a declaration names must exist."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trueness.tools import checks
from trueness.tools.checks.core import Check
from trueness.tools.run.plan import Request, groups
from trueness.tools.spec import registry
from trueness.tools.spec.inputs import Real
from trueness.tools.spec.model import Bug, Case, Formula, Implementation
from trueness.tools.spec.tables import FORMATS

ONE_EDIT = """
from trueness.tools.spec import tables

tables.FORMATS["float8_e5m2"] = tables.Format("float8_e5m2", 3, -14, 57344.0, "fp8", "v", ("#555555", "#aaaaaa"))
tables.DEVICES["xpu"] = tables.Device("xpu", "Intel GPU")
tables.PROFILES["nightly"] = tables.Profile("nightly", 20, 10)

import click
import torch
from trueness.tools.cli import cli
from trueness.tools.arithmetic.formats import precision, round_to
from trueness.tools.report.html import to_html
from trueness.tools.report.results import Results, schema
from trueness.tools.run.api import check
from trueness.tools.run.plan import Request, groups

options = {p.name: p.type.choices for p in cli.commands["verify"].params if isinstance(p.type, click.Choice)}
added = (("dtypes", "float8_e5m2"), ("device", "xpu"), ("profile", "nightly"))
print("command line:", *(name in options[option] for option, name in added))
planned = {job.dtype for group in groups(Request(("fisher.diagonal",), profile="nightly")) for job in group}
print("planner:", "float8_e5m2" in planned)
try:
    groups(Request(("fisher.diagonal",), device="xpu"))
except ValueError as refusal:
    print("device:", refusal)
info = torch.finfo(torch.float8_e5m2)
fmt = precision("float8_e5m2")
print("bound:", fmt.u == info.eps / 2, fmt.max == info.max, fmt.tiny == info.tiny, fmt.half, round_to([1.1], fmt.name))

def right(score, alpha):
    value = score.double() ** 2 + 1e-4 + 1e-3 * (1 - alpha)
    return value.clamp(max=fmt.max).to(score.dtype)

def gain(score, alpha):
    value = 2 * (score.double() ** 2 + 1e-4 + 1e-3 * (1 - alpha))
    return value.clamp(max=fmt.max).to(score.dtype)

for function in (right, gain):
    outcome = check("fisher.diagonal", function, dtype="float8_e5m2", profile="nightly", checks=["value"])
    print(function.__name__, bool(outcome))
page = to_html(Results(outcome.verdicts))
dtype = schema()["$defs"]["Verdict"]["properties"]["dtype"]
print("report:", "float8_e5m2" in dtype["enum"], "--float8_e5m2: #555555" in page)
"""


def test_formats_are_those_of_torch() -> None:
    for name, fmt in FORMATS.items():
        info = torch.finfo(getattr(torch, name))
        assert (fmt.u, fmt.tiny, fmt.max) == (info.eps / 2, info.tiny, info.max), name
        assert fmt.eta == max(info.tiny * info.eps / 2, np.nextafter(0.0, 1.0)), name


def test_a_format_a_device_and_a_profile_are_one_entry_each(tmp_path: Path) -> None:
    """The command line, the planner, the bound, the checks and the report read the tables."""
    done = subprocess.run([sys.executable, "-P", "-c", ONE_EDIT], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "command line: True True True",
        "planner: True",
        "device: device was 'xpu', but torch sees no Intel GPU; `trueness doctor` says what is missing.",
        "bound: True True True True [1.]",
        "right True",
        "gain False",
        "report: True True",
    ], done.stdout + done.stderr


def implementation(**fields: Any) -> Callable[[], Implementation]:
    return lambda: Implementation("mine", lambda: abs, **fields)


def formula(**fields: Any) -> Formula:
    text: Any = {"equation": "y = |x|", "source": "nowhere", "no_gradient": "not looked at"}
    return Formula("made.up", abs, arguments=(Real("x"),), **{**text, **fields})


def declared(waived: str) -> dict[str, Formula]:
    return registry.validated([formula(implementations=(implementation(waived={waived: "why"})(),))])


def bug(dtype: str) -> Bug:
    text: Any = dict.fromkeys(("title", "document", "claim", "source", "finding", "evidence"), "here")
    return Bug("FSB-99", "made.up", verdict="no bug", invisible={dtype: "why"}, **text)


@pytest.mark.parametrize(
    ("declare", "sentence"),
    [
        (implementation(claims=frozenset({"gradeint"})), r"mine: claims was 'gradeint'; allowed are autocast, compile"),
        (implementation(dtypes=("float23",)), r"mine: dtypes was 'float23'; allowed are float32, float16"),
        (implementation(devices=("gpu",)), r"mine: devices was 'gpu'; allowed are cpu, cuda\."),
        (implementation(origin="ours"), r"mine: origin was 'ours'; allowed are builtin, third_party, user\."),
        (implementation(limit="strict"), r"mine: limit was 'strict'; allowed are fused, eager, exact\."),
        (implementation(framework="tf"), r"mine: framework was 'tf'; allowed are torch, numpy, jax\."),
        (lambda: formula(dtypes=("half",)), r"made\.up: dtypes was 'half'"),
        (lambda: formula(without={"half": "why"}), r"made\.up: dtypes was 'half'"),
        (lambda: formula(overflow="wrap"), r"made\.up: overflow was 'wrap'; allowed are inf, saturate\."),
        (lambda: declared("special value"), r"made\.up, mine: waived was 'special value'; .*mean 'special values'\?"),
        (lambda: declared("special values half"), r"made\.up, mine: waived was 'special values half'"),
        (lambda: registry.validated([formula(), formula()]), r"made\.up is declared twice\."),
        (lambda: bug("half"), r"FSB-99: invisible was 'half'"),
        (
            lambda: groups(Request(("fisher.diagonal",), profile="dep")),
            r"profile was 'dep'; allowed are quick, ci, deep",
        ),
        (lambda: groups(Request(("fisher.diagonal",), device="gpu")), r"device was 'gpu'; allowed are cpu, cuda\."),
        (lambda: groups(Request(("fisher.diagonal",), dtypes=("half",))), r"dtype was 'half'; allowed are float32"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_sentence(declare: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}") as refusal:
        declare()
    assert "\n" not in str(refusal.value)


def test_what_exists_is_accepted() -> None:
    for name in ("special values", "special values float16"):
        assert list(declared(name)) == ["made.up"]


def test_every_convention_is_an_entry_of_the_ledger() -> None:
    named = {i.convention for f in registry.formulas().values() for i in f.implementations if i.convention}
    assert named and named <= set(registry.bugs())


def test_every_check_is_in_the_list_once() -> None:
    modules = [importlib.import_module(m.name) for m in pkgutil.iter_modules(checks.__path__, f"{checks.__name__}.")]
    found = [x for m in modules for x in vars(m).values() if isinstance(x, Check)]
    assert {id(x) for x in found} == {id(x) for x in checks.IN_ORDER}
    assert len(checks.CHECKS) == len(checks.IN_ORDER)
    assert next(iter(checks.CHECKS)) == "value"


def test_a_case_survives_json_and_the_former_name_of_its_input_is_read() -> None:
    case = Case(sizes={"n": 3, "...": (2, 1)}, seed=7, scalars={"alpha": 0.5}, named_input="FSB-01")
    assert Case.from_json(case.to_json()) == case
    assert Case.from_json('{"witness": "FSB-01"}') == Case(named_input="FSB-01")
    with pytest.raises(ValueError, match="it must be a JSON object with the fields of Case"):
        Case.from_json('{"size": {}}')
