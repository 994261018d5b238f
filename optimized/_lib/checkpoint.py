"""What the backward computes once more instead of keeping it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

from trueness.optimized._lib.dispatch import under_functorch

Result = TypeVar("Result")


def checkpointed(function: Callable[..., Result], *arguments: Any) -> Result:
    """``function(*arguments)``, of which the graph keeps the arguments alone: the backward calls it once more.

    A transform of functorch keeps everything: checkpoints and its levels do not go together.
    """
    watched = torch.is_grad_enabled() and any(x.requires_grad for x in _tensors(arguments))
    if not watched or under_functorch():
        return function(*arguments)
    found: Result = checkpoint(
        function, *arguments, use_reentrant=False, preserve_rng_state=False, determinism_check="none"
    )
    return found


def _tensors(x: Any) -> Iterator[torch.Tensor]:
    if isinstance(x, torch.Tensor):
        yield x
    elif isinstance(x, tuple):
        for y in x:
            yield from _tensors(y)
