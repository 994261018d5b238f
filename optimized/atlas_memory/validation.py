"""Argument validation of atlas_memory: each helper raises ValueError with one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from trueness.optimized._lib.validation import require_flag as require_flag
from trueness.optimized._lib.validation import require_floating, require_number
from trueness.optimized._lib.validation import require_not_negative as require_not_negative

CHOICES = {
    "objective": ("l2", "dot"),
    "optimizer": ("gd", "muon", "muon_chunk", "norm_ema"),
}


def require_choice(value: object, name: str) -> None:
    if value not in CHOICES[name]:
        raise ValueError(f"{name} was {value!r}; allowed are {', '.join(map(repr, CHOICES[name]))}.")


def require_ends(cu_seqlens: object, length: int, sequences: int | None) -> list[int]:
    """0, T_1, T_1 + T_2, …, T as numbers; of any number of sequences if ``sequences`` is None"""
    if not isinstance(cu_seqlens, torch.Tensor) or cu_seqlens.dtype not in (torch.int32, torch.int64):
        was = cu_seqlens.dtype if isinstance(cu_seqlens, torch.Tensor) else type(cu_seqlens).__name__
        raise ValueError(f"cu_seqlens was {was}; it must be a torch.Tensor of int32 or int64.")
    if cu_seqlens.ndim != 1 or not cu_seqlens.shape[0]:
        raise ValueError(f"cu_seqlens had shape {tuple(cu_seqlens.shape)}; it must be (N+1,).")
    if sequences is not None and cu_seqlens.shape[0] != sequences + 1:
        shape = tuple(cu_seqlens.shape)
        raise ValueError(f"cu_seqlens had shape {shape}; with {sequences} memories it must be ({sequences + 1},).")
    ends: list[int] = cu_seqlens.tolist()
    if ends[0] != 0 or ends[-1] != length or any(a > b for a, b in pairwise(ends)):
        raise ValueError(f"cu_seqlens was {ends}; it must rise from 0 to the {length} tokens of q.")
    return ends


def require_positive(value: object, name: str) -> None:
    require_number(value, name, "a positive number", above=0)


def require_coefficients(coefficients: object, x: torch.Tensor) -> None:
    """a (p+1,) like x"""
    if not isinstance(coefficients, torch.Tensor):
        raise ValueError(f"coefficients was {type(coefficients).__name__}; it must be a torch.Tensor of shape (p+1,).")
    if coefficients.ndim != 1 or not coefficients.shape[0]:
        raise ValueError(f"coefficients had shape {tuple(coefficients.shape)}; it must be (p+1,), p at least 0.")
    if not coefficients.is_floating_point() or coefficients.device != x.device:
        raise ValueError(
            f"coefficients was {coefficients.dtype} on {coefficients.device}; it must be floating, on {x.device}."
        )


def require_steps(coefficients: object) -> None:
    """Rows (a, b, c)"""
    if not isinstance(coefficients, Sequence) or any(
        not isinstance(row, Sequence) or len(row) != 3 for row in coefficients
    ):
        raise ValueError(f"coefficients was {coefficients!r}; it must be a sequence of rows (a, b, c).")


def with_axes(structure: Any, values: Iterable[Any], axes: Sequence[str]) -> dict[str, tuple[Any, str]]:
    """The fields of a named tuple by name, each with its axes: what ``require_shapes`` takes"""
    return dict(zip(structure._fields, zip(values, axes, strict=True), strict=True))


def require_shapes(tensors: Mapping[str, tuple[torch.Tensor, str]], first: str) -> dict[str, int]:
    """The lengths of the axes' symbols; every tensor must agree with those before it, and be like the first.

    tensors  name → (tensor, its axes: one word each, "c-1" is one less than "c")
    """
    known: dict[str, int] = {}
    like = tensors[first][0]
    for name, (x, axes) in tensors.items():
        require_floating(x, name)
        symbols = axes.split()
        wanted = [known.get(s, known["c"] - 1 if s == "c-1" else None) for s in symbols]
        fits = x.ndim == len(symbols) and all(w in (None, n) for w, n in zip(wanted, x.shape, strict=True))
        if not fits:
            shown = ", ".join(s if w is None else f"{s} = {w}" for s, w in zip(symbols, wanted, strict=True))
            raise ValueError(f"{name} had shape {tuple(x.shape)}; it must be ({shown}).")
        if x.dtype != like.dtype or x.device != like.device:
            raise ValueError(
                f"{name} was {x.dtype} on {x.device}; it must be like {first}, {like.dtype} on {like.device}."
            )
        known.update(zip(symbols, x.shape, strict=True))
    for symbol, least in (("T", 1), ("c", 1)):
        if known.get(symbol, least) < least:
            raise ValueError(f"{first} and gamma gave {symbol} = {known[symbol]}; it must be at least {least}.")
    return known
