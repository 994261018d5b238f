"""A run that leaves its last completed step on the disk, however it ends."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from trueness.optimized._lib.validation import require_count
from trueness.optimized.training.checkpoints import load_checkpoint, save_checkpoint
from trueness.optimized.training.rng import Generators, random_state

__all__ = ["Checkpointing"]


class Checkpointing:
    """A run whose last completed step is on the disk when the block is left: finished, failed or interrupted.

        with Checkpointing("run.pt", objects, every=100) as run:
            for k in range(run.step, total):                 # run.step: where the file left off, else 0
                train_one_step()
                run.completed(k + 1)

    The random numbers are noted at every completed step. When the block is left in the middle of a step with every
    weight, buffer and optimizer state as the last one left them, that one is saved, and resuming repeats the
    interrupted step bit for bit. When they have changed, what there is goes to ``<path>.interrupted`` with a warning,
    and ``path`` keeps the last step that was saved.

    path        the file; read on entering if it is there and ``resume`` is true
    objects     as in ``save_checkpoint``
    every       steps between saves, ≥ 1
    generators  as in ``save_checkpoint``
    resume      False starts from the objects as they are
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        objects: Mapping[str, Any],
        *,
        every: int = 1000,
        generators: Generators | None = None,
        resume: bool = True,
    ) -> None:
        require_count(every, "every", 1)
        self.path, self.objects, self.every, self.generators = Path(path), dict(objects), every, generators
        self.resume, self.step, self.saved, self.extra = resume, 0, -1, None

    def __enter__(self) -> Checkpointing:
        if self.resume and self.path.is_file():
            found = load_checkpoint(self.path, self.objects, generators=self.generators)
            self.step, self.saved, self.extra = found.step, found.step, found.extra
        self._note()
        return self

    def _note(self) -> None:
        self._random, self._fingerprint = random_state(self.generators), self._versions()
        self._small = self._numbers()

    def _numbers(self) -> dict[str, Any]:
        """The numbers beside the tensors: rates, counts."""
        others = {k: v for k, v in self.objects.items() if not isinstance(v, torch.nn.Module)}
        return {name: _numbers(owner.state_dict()) for name, owner in others.items()}

    def _versions(self) -> list[Any]:
        """What changes when a tensor of the objects is written to, or replaced."""
        return [(id(x), x._version) for owner in self.objects.values() for x in _tensors(owner)]

    def completed(self, step: int, extra: Any = None) -> bool:
        """Note that ``step`` steps are completed; True if this wrote the file."""
        self.step, self.extra = step, extra
        self._note()
        if step % self.every:
            return False
        self.save()
        return True

    def save(self) -> None:
        """Write the last completed step."""
        save_checkpoint(self.path, self.objects, step=self.step, extra=self.extra, random=self._random)
        self.saved = self.step

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            for owner in self.objects.values():
                getattr(owner, "discard", lambda: None)()  # an accumulator's unfinished window
        if self._untouched():
            if self.saved != self.step:
                self.save()
            return
        aside = self.path.with_name(self.path.name + ".interrupted")
        save_checkpoint(aside, self.objects, step=self.step, extra=self.extra, random=self._random)
        warnings.warn(
            f"the run stopped inside of step {self.step + 1}; {aside} has its weights, and {self.path} the last step "
            f"that was saved, {max(self.saved, 0)}.",
            stacklevel=2,
        )

    def _untouched(self) -> bool:
        return self._versions() == self._fingerprint and self._numbers() == self._small


def _tensors(owner: Any) -> Iterator[torch.Tensor]:
    if isinstance(owner, torch.nn.Module):
        yield from owner.parameters()
        yield from owner.buffers()
    elif isinstance(owner, torch.optim.Optimizer):
        for state in owner.state.values():
            yield from (x for x in state.values() if isinstance(x, torch.Tensor))
    elif isinstance(getattr(owner, "average", None), dict):
        yield from owner.average.values()


def _numbers(state: Any) -> Any:
    """The numbers and strings of a state, tensors left out."""
    if isinstance(state, Mapping):
        return {k: _numbers(v) for k, v in state.items() if not isinstance(v, torch.Tensor)}
    if isinstance(state, (list, tuple)):
        return [_numbers(v) for v in state if not isinstance(v, torch.Tensor)]
    return state
