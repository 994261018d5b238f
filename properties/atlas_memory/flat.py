"""The functions of atlas_memory with the arguments of their formulas: flat, by position or by name.

A formula draws ``q, k, …, memory, momentum, …, chunk_size, …, clip`` one by one and compares o, M_T and S_T. Laws and
wrong variants are written with these arguments, too; the public functions take a state and a configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from trueness.optimized import atlas_memory as _optimized
from trueness.optimized.atlas_memory import OmegaConfig
from trueness.reference import atlas_memory as _reference
from trueness.tools.spec.calling import positional

GATES = ("alpha", "eta", "theta", "gamma")
TOKENS = ("q", "k", "v", *GATES)
STATE = ("memory", "momentum", "k_window", "v_window")
MLP = ("w1", "w2", "s1", "s2")
ORDER = ("lr_inside_momentum", "read_before_update")
MODES = ("chunk_size", "objective", "optimizer", *ORDER, "clip")
SEPARABLE = ("q", "k", "v", "alpha", "eta", "theta", "scale", "source")
ARGUMENTS = {
    "omega": (*TOKENS, *STATE, *MODES),
    "omega_varlen": (*TOKENS, *STATE, "cu_seqlens", *MODES),
    "omega_mlp": (*TOKENS, *MLP, *STATE[2:], "chunk_size", "optimizer", *ORDER),
    "omega_separable": (*SEPARABLE, *STATE, "source_window", "chunk_size", "objective", *ORDER),
    "omega_picard": (*TOKENS, *STATE, *ORDER, "tile", "sweeps"),
    "atlas_attention": (*TOKENS, "coefficients", "clamp", *MODES),
    "newton_schulz": ("g", "coefficients", "eps"),
    "newton_schulz_lowrank": ("x", "y", "coefficients", "eps"),
    "elementwise_features": ("x", "coefficients", "clamp"),
    "window_weights": ("window", "decay"),
}
OUTPUTS = {"omega": 3, "omega_varlen": 3, "omega_mlp": 5, "omega_separable": 3, "omega_picard": 3}  # without windows


def flat(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """``function`` as a function of ``ARGUMENTS[name]``, by position or by name, with its final memory as outputs"""
    names, outputs = ARGUMENTS[name], OUTPUTS.get(name)
    bound = positional(function, names)
    options: dict[str, Any] = {} if outputs is None else {"output_final_state": True}

    def call(*arguments: Any, **named: Any) -> Any:
        values = arguments or [named.pop(n) for n in names]
        result = bound(*values, **named, **options)
        return result if outputs is None else result[:outputs]

    call.__doc__ = function.__doc__
    call.flattened = function  # type: ignore[attr-defined]
    return call


class Flat:
    """A module whose functions take flat arguments; everything else is as it is there."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        for name in ARGUMENTS:
            setattr(self, name, flat(getattr(module, name.removesuffix("_varlen")), name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


optimized: Any = Flat(_optimized)
reference: Any = Flat(_reference)


def advance(stream: Any, tokens: Iterable[Any], state: Any, **options: Any) -> Any:
    """One call of a stream with the flat tokens q, k, v, α, η, θ, γ"""
    q, k, v, *gates = tokens
    return stream(q, k, v, **dict(zip(GATES, gates, strict=True)), state=state, **options)


def config(p: Mapping[str, Any]) -> OmegaConfig:
    """The configuration among the arguments of a problem"""
    return OmegaConfig(**{name: p[name] for name in MODES if name in p})
