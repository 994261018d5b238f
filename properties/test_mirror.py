"""The optimized side mirrors the reference: the same functions, the same arguments, the same defaults.

The signatures are read with `inspect`. What is optimized may take further options, by keyword and with a default.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

import trueness.optimized
import trueness.reference

DERIVATIVES = ("_vjp", "_second")
MOST = 5
WITHOUT_EQUATION = {  # what acts on modules, files, generators and devices has no reference
    "adapters": "adapt",
    "attention": "inconsistencies multiply_adds",
    "kernels": "sample_frequencies sample_offsets sample_orthogonal_frequencies sample_signs",
    "training": "check_state content_key deterministic device_properties estimate_memory graph_key graphable "
    "has_bfloat16 has_float16 has_tf32 largest_batch load_checkpoint load_weights measure_memory needs_loss_scaling "
    "precision random_state replacing restore_random_state save_checkpoint seed select_weights",
}
NO_USUAL_VALUE = {  # options that every caller must choose
    "tensors and random numbers": "alpha eta theta gamma scale source coefficients initial_state weights counts "
    "generator",
    "sizes of the problem": "window num_heads groups height width tile sweeps length depth points rank warmup_steps "
    "total_steps step resolution channels embed_dim multipliers blocks",
    "two conventions that are both in use": "shift order",
    "what to load": "which",
}
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def families(package: ModuleType) -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def module(side: str, family: str) -> ModuleType:
    package = {"reference": "trueness.reference", "optimized": "trueness.optimized"}[side]
    return importlib.import_module(f".{family}", package)


def public(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The functions and classes that a module offers: those of ``__all__``, or those it defines itself."""
    names = getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])
    found = {n: getattr(module, n) for n in names}
    return {
        n: f
        for n, f in found.items()
        if (inspect.isfunction(f) or inspect.isclass(f)) and f.__module__.startswith(module.__name__)
    }


def functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    return {n: f for n, f in public(module).items() if inspect.isfunction(f)}


def positional(function: Callable[..., Any]) -> list[str]:
    """The names of the parameters that may be given by position."""
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind in POSITIONAL]


def options(function: Callable[..., Any]) -> dict[str, Any]:
    """The keyword-only parameters and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def same(a: Any, b: Any) -> bool:
    """Whether two defaults are the same value; structures are two classes with equal fields."""
    return a is b or repr(a) == repr(b)


def differences(name: str, true: Callable[..., Any], fast: Callable[..., Any]) -> Iterator[str]:
    """What keeps ``fast`` from mirroring ``true``; nothing if nothing does."""
    if positional(true) != positional(fast):
        yield f"{name}: the reference takes {positional(true)} by position, the optimized side {positional(fast)}"
    ours, theirs = options(true), options(fast)
    for option, default in ours.items():
        if option not in theirs:
            yield f"{name}: the optimized side has no option {option}"
        elif not same(default, theirs[option]):
            yield f"{name}: {option} is {default!r} in the reference and {theirs[option]!r} on the optimized side"
    for option in theirs.keys() - ours.keys():
        if theirs[option] is inspect.Parameter.empty:
            yield f"{name}: {option} has no default and is no option of the reference"
    both = inspect.signature(true).parameters, inspect.signature(fast).parameters
    for p in positional(true):
        if p in both[1] and not same(both[0][p].default, both[1][p].default):
            yield f"{name}: {p} is {both[0][p].default!r} in the reference and {both[1][p].default!r} here"


def unmirrored(true: ModuleType, fast: ModuleType, without: str = "") -> list[str]:
    """What keeps an optimized family from mirroring its reference. Derivatives need no twin: autograd has them.

    without  names of the optimized functions that have no reference
    """
    ours, theirs = functions(true), functions(fast)
    found = [f"{n} has no optimized version" for n in ours.keys() - theirs.keys() if not n.endswith(DERIVATIVES)]
    found += [f"{n} has no reference" for n in theirs.keys() - ours.keys() - set(without.split())]
    found += [f"{n} has a reference after all" for n in ours.keys() & set(without.split())]
    found += [d for n in ours.keys() & theirs.keys() for d in differences(n, ours[n], theirs[n])]
    return sorted(found)


def test_both_sides_have_the_same_families() -> None:
    assert families(trueness.reference) == families(trueness.optimized)


@pytest.mark.parametrize("family", families(trueness.reference))
def test_every_function_mirrors_its_reference(family: str) -> None:
    true, fast = module("reference", family), module("optimized", family)
    assert unmirrored(true, fast, WITHOUT_EQUATION.get(family, "")) == []


def made(name: str, text: str) -> ModuleType:
    module = ModuleType(name)
    exec(text, vars(module))
    return module


@pytest.mark.parametrize(
    ("true", "fast"),
    [
        ("def f(x, y): ...", ""),
        ("", "def f(x): ..."),
        ("", "def f_vjp(x): ..."),
        ("def f(x, y): ...", "def f(y, x): ..."),
        ("def f(x, y): ...", "def f(x): ..."),
        ("def f(x, y): ...", "def f(x, y, z): ..."),
        ("def f(x, *, eps=1e-6): ...", "def f(x): ..."),
        ("def f(x, *, eps=1e-6): ...", "def f(x, *, eps=1e-5): ..."),
        ("def f(x, *, eps=1e-6): ...", "def f(x, eps=1e-6): ..."),
        ("def f(x, *, eps=1e-6): ...", "def f(x, *, eps): ..."),
        ("def f(x): ...", "def f(x, *, out): ..."),
        ("def f(x, k=1): ...", "def f(x, k=2): ..."),
    ],
)
def test_a_broken_mirror_is_rejected(true: str, fast: str) -> None:
    assert unmirrored(made("a", true), made("b", fast))


@pytest.mark.parametrize(
    ("true", "fast"),
    [
        ("def f(x, *, eps=1e-6): ...", "def f(x, *, eps=1e-6, out=None): ..."),
        ("def f(x): ...\ndef f_vjp(g, x): ...\ndef f_second(h, g, x): ...", "def f(x): ...\ndef _launch(): ..."),
    ],
)
def test_a_true_mirror_is_accepted(true: str, fast: str) -> None:
    assert unmirrored(made("a", true), made("b", fast)) == []


# -- how much of a call stands by position ----------------------------------------------------------------------------


def table() -> list[tuple[str, int, tuple[str, ...]]]:
    """(function or class, parameters by position, options without a default) of all that `optimized` offers."""
    rows = []
    for family in families(trueness.optimized):
        for name, function in public(module("optimized", family)).items():
            if inspect.isclass(function) and issubclass(function, (tuple, Exception)):
                continue  # a structure of weights or of a state is built by name
            required = tuple(n for n, default in options(function).items() if default is inspect.Parameter.empty)
            rows.append((f"{family}.{name}", len(positional(function)), required))
    return rows


def test_no_function_takes_more_than_five_arguments_by_position() -> None:
    rows = table()
    for name, count, required in rows:
        print(f"{name:<48} {count}  {', '.join(required)}")
    assert [name for name, count, _ in rows if count > MOST] == []


def test_an_option_without_a_default_has_no_usual_value() -> None:
    allowed = {name for names in NO_USUAL_VALUE.values() for name in names.split()}
    used = {option for _, _, required in table() for option in required}
    assert used == allowed, "an option that papers give a value must have it as its default"
