"""The framework of a user's callable is guessed; JAX and NumPy callables are verified like torch's."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trueness.tools.run.api import check
from trueness.tools.run.frameworks import guess

pytest.importorskip("jax")

BODY = """
def plain(s, a):
    return s * s + (1e-4 + 1e-3 * (1 - a))
"""
USING = {
    "torch": "import torch\ndef f(s, a):\n    return torch.square(s) + 1e-4 + 1e-3 * (1 - a)",
    "numpy": "import numpy as np\ndef f(s, a):\n    return np.square(s) + s.dtype.type(1e-4 + 1e-3 * (1 - a))",
    "jax": "import jax.numpy as jnp\ndef f(s, a):\n    return jnp.square(s) + 1e-4 + 1e-3 * (1 - a)",
}
DECORATED = """
import functools
def kept(f):
    @functools.wraps(f)
    def inner(*args):
        return f(*args)
    return inner
def lost(f):
    return lambda *args: f(*args)
"""


def module(text: str, name: str = "guessed") -> types.ModuleType:
    """A module of this text, known to sys.modules as an imported one would be."""
    made = types.ModuleType(name)
    sys.modules[name] = made
    exec(compile(text, name, "exec"), vars(made))
    return made


WAYS: dict[str, Callable[[types.ModuleType], Callable[..., Any]]] = {
    "the function": lambda m: m.f,
    "a partial of it": lambda m: functools.partial(functools.partial(m.f), a=0.5),
    "decorated with wraps": lambda m: module(DECORATED, "decorators").kept(m.f),
    "decorated without": lambda m: module(DECORATED, "decorators").lost(m.f),
    "an instance with __call__": lambda m: type("C", (), {"__call__": m.f})(),
    "a bound method": lambda m: types.MethodType(m.f, object()),
    "a lambda around it": lambda m: eval("lambda s, a: f(s, a)", vars(m)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("framework", USING)
def test_a_callable_is_taken_for_what_its_code_uses(framework: str, way: str) -> None:
    assert guess(WAYS[way](module(USING[framework]))) == framework


@pytest.mark.parametrize("framework", USING)
def test_the_code_counts_for_more_than_the_imports(framework: str) -> None:
    everything = "import torch, numpy as np, jax, jax.numpy as jnp\n"
    assert guess(module(everything + USING[framework]).f) == framework


@pytest.mark.parametrize("framework", USING)
def test_arithmetic_alone_is_taken_for_what_its_module_imports(framework: str) -> None:
    assert guess(module(f"import {framework}\n{BODY}").plain) == framework
    assert guess(module(f"from {framework} import *\n{BODY}").plain) == framework


@pytest.mark.parametrize("hint", ["torch.Tensor", "np.ndarray", "jax.Array"])
def test_annotations_count_for_more_than_the_code(hint: str) -> None:
    m = module(f"from __future__ import annotations\nimport jax, torch\ndef f(s: {hint}, a: float):\n    return jax, s")
    assert guess(m.f) == {"t": "torch", "n": "numpy", "j": "jax"}[hint[0]]


def test_nothing_to_go_by_is_torch() -> None:
    assert guess(module(BODY).plain) == "torch"


def test_compiled_functions_are_seen_through() -> None:
    import jax
    import torch

    assert guess(jax.jit(module(USING["jax"]).f)) == "jax"
    assert guess(jax.jit(module(BODY).plain)) == "jax"
    assert guess(torch.compile(module(USING["torch"]).f)) == "torch"
    assert guess(torch.nn.Identity()) == "torch"


FOREIGN = """
import functools
import jax
import jax.numpy as jnp
import numpy as np

def right(s, a):
    return jnp.square(s) + (1e-4 + 1e-3 * (1 - a))

def accurate(s, a):
    wide = s.astype(jnp.float32)
    largest = float(jnp.finfo(s.dtype).max)
    value = wide * wide + (1e-4 + 1e-3 * (1 - a))
    return (jnp.clip(value, -largest, largest) if s.dtype != jnp.float32 else value).astype(s.dtype)

jitted = jax.jit(accurate)

def gain(s, a):
    return 1.02 * accurate(s, a)

@jax.custom_vjp
def wrong_gradient(s, a):
    return accurate(s, a)

wrong_gradient.defvjp(lambda s, a: (accurate(s, a), s), lambda s, g: (s * g, None))

def in_numpy(s, a):
    largest = np.finfo(s.dtype).max
    value = np.square(s.astype(np.float64)) + (1e-4 + 1e-3 * (1 - a))
    return (np.minimum(value, largest) if s.dtype == np.float16 else value).astype(s.dtype)

def in_numpy_wrong(s, a):
    return np.abs(s) + s.dtype.type(1e-4 + 1e-3 * (1 - a))

def for_numpy_but_torch(s, a):
    import torch
    return torch.as_tensor(np.square(s))
"""
VALUES = ("value", "gradient", "shapes", "determinism")


@pytest.fixture
def callables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    (tmp_path / "strangers.py").write_text(FOREIGN)
    monkeypatch.chdir(tmp_path)
    return module(FOREIGN, "strangers")


@pytest.mark.parametrize(
    ("name", "dtype"), [("accurate", "float32"), ("accurate", "float16"), ("jitted", "bfloat16"), ("jitted", "float32")]
)
def test_a_jax_callable_passes_with_its_gradient(callables: types.ModuleType, name: str, dtype: str) -> None:
    outcome = check("fisher.diagonal", getattr(callables, name), dtype=dtype, profile="quick", checks=VALUES)
    assert outcome, outcome
    assert {v.check for v in outcome.verdicts if not v.skipped} == set(VALUES)


@pytest.mark.usefixtures("callables")
def test_a_jax_callable_passes_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "strangers")  # it lies in the current directory
    outcome = check("fisher.diagonal", "strangers:jitted", dtype="float32", profile="quick", checks=VALUES)
    assert outcome, outcome
    assert {v.check for v in outcome.verdicts if not v.skipped} == set(VALUES)


@pytest.mark.parametrize(("name", "failing"), [("gain", "value"), ("wrong_gradient", "gradient")])
def test_a_wrong_jax_callable_fails(callables: types.ModuleType, name: str, failing: str) -> None:
    outcome = check("fisher.diagonal", getattr(callables, name), dtype="float32", profile="quick", checks=VALUES)
    assert [v.check for v in outcome.failures] == [failing]
    assert outcome.failures[0].bugs == ()


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_a_numpy_callable_passes_and_its_gradient_is_skipped(callables: types.ModuleType, dtype: str) -> None:
    outcome = check("fisher.diagonal", callables.in_numpy, dtype=dtype, profile="quick")
    assert outcome, outcome
    reasons = {v.check: v.message for v in outcome.verdicts}
    assert reasons["value"] == "" and reasons["layouts"] == ""
    assert reasons["gradient"] == "NumPy callables have no gradient"


def test_numpy_has_no_bfloat16(callables: types.ModuleType) -> None:
    outcome = check("fisher.diagonal", callables.in_numpy, dtype="bfloat16")
    assert [v.message for v in outcome.verdicts] == ["NumPy has no bfloat16"]


def test_a_wrong_numpy_callable_is_named(callables: types.ModuleType) -> None:
    (failure, *_) = check("fisher.diagonal", callables.in_numpy_wrong, dtype="float32", profile="quick").failures
    assert failure.check == "value"
    assert failure.bugs == ("FSB-01",)


def test_an_array_of_another_framework_is_refused_by_name(callables: types.ModuleType) -> None:
    wrong = callables.for_numpy_but_torch
    (failure, *_) = check("fisher.diagonal", wrong, dtype="float32", profile="quick", framework="numpy").failures
    assert failure.message == "returned a torch.Tensor, expected a numpy.ndarray."
