"""Activation checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

from trueness.optimized._lib.dispatch import under_functorch

Result = TypeVar("Result")


def checkpointed(function: Callable[..., Result], *arguments: Any) -> Result:
    """``function(*arguments)``; its intermediate results are not saved but computed again in the backward pass.

    Under a functorch transform everything is saved: torch's checkpoint does not support its levels.
    """
    needs_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in _tensors(arguments))
    if not needs_gradient or under_functorch():
        return function(*arguments)
    result: Result = checkpoint(
        function, *arguments, use_reentrant=False, preserve_rng_state=False, determinism_check="none"
    )
    return result


def _tensors(x: Any) -> Iterator[torch.Tensor]:
    """The tensors among nested tuples."""
    if isinstance(x, torch.Tensor):
        yield x
    elif isinstance(x, tuple):
        for y in x:
            yield from _tensors(y)
