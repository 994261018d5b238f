"""Checkpoints that resume to the identical state, or are refused before anything is changed.

    save_checkpoint("run.pt", {"model": model, "optimizer": optimizer, "ema": ema}, step=k)
    step = load_checkpoint("run.pt", {"model": model, "optimizer": optimizer, "ema": ema}).step
    load_weights("run.pt", model, which="ema")                # for inference

A file is written beside its target, flushed to the disk and moved over it in one step (POSIX rename is atomic), so an
interrupted write leaves the old file. It holds tensors, numbers, strings and containers of them, and is read with
``weights_only=True``: no code in a file is ever run.
"""

from __future__ import annotations

import copy
import os
import pickle
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from trueness.optimized._lib.validation import is_integer
from trueness.optimized.training.rng import Generators, check_random_state, random_state, restore_random_state

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "check_state",
    "load_checkpoint",
    "load_weights",
    "replacing",
    "save_checkpoint",
    "select_weights",
]

FORMAT = 1
LISTED = 5
PLAIN_TYPES = (bool, int, float, complex, str, bytes, type(None), torch.Size, torch.dtype, torch.device)
AVERAGED, PLAIN = ("ema", "ema_model"), ("model", "state_dict")


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit; nothing was changed."""


@dataclass(frozen=True)
class Checkpoint:
    """What was loaded: the number of completed steps, what the caller had added, and where it was read from."""

    step: int
    extra: Any
    path: Path
    names: tuple[str, ...] = field(default=())


# -- what fits --------------------------------------------------------------------------------------------------------


def listed(names: list[str]) -> str:
    """The first five, and how many more."""
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")


def differences(own: Mapping[str, Any], found: Any) -> str:
    """What keeps the tensors ``found`` from standing where ``own`` stand, in one clause; "" if nothing does.

    Missing and unexpected names, other shapes and other dtypes, at most five of each.
    """
    if not isinstance(found, Mapping):
        return f"it was {type(found).__name__} and not a mapping of names to tensors"
    both = [k for k in own if k in found and isinstance(own[k], torch.Tensor)]
    clauses = {
        "missing": [k for k in own if k not in found],
        "unexpected": [str(k) for k in found if k not in own],
        "no tensor": [k for k in both if not isinstance(found[k], torch.Tensor)],
    }
    both = [k for k in both if isinstance(found[k], torch.Tensor)]
    clauses["other shape"] = [
        f"{k} {tuple(found[k].shape)} for {tuple(own[k].shape)}" for k in both if found[k].shape != own[k].shape
    ]
    clauses["other dtype"] = [
        f"{k} {found[k].dtype} for {own[k].dtype}" for k in both if found[k].dtype != own[k].dtype
    ]
    return "; ".join(f"{what}: {listed(names)}" for what, names in clauses.items() if names)


def _check_optimizer(optimizer: torch.optim.Optimizer, found: Any) -> str:
    """What keeps ``found`` from being the state of this optimizer; "" if nothing does."""
    if not isinstance(found, Mapping) or set(found) != {"state", "param_groups"}:
        return "it was not the state of an optimizer"
    own = optimizer.state_dict()
    sizes, given = ([len(g["params"]) for g in s["param_groups"]] for s in (own, found))
    if sizes != given:
        return f"it had param groups of {given} parameters for {sizes}"
    for at, (mine, theirs) in enumerate(zip(own["param_groups"], found["param_groups"], strict=True)):
        if set(mine) != set(theirs):
            return f"param group {at} had {listed(sorted(set(theirs) ^ set(mine)))} on one side only"
    order = [p for group in optimizer.param_groups for p in group["params"]]
    indices = [i for group in found["param_groups"] for i in group["params"]]
    wrong = [str(i) for i in found["state"] if i not in indices]
    for i, p in zip(indices, order, strict=True):
        for name, value in found["state"].get(i, {}).items():
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != p.shape:
                wrong.append(f"{name} of parameter {i} {tuple(value.shape)} for {tuple(p.shape)}")
    return f"other shape: {listed(wrong)}" if wrong else ""


def check_state(owner: Any, found: Any, name: str) -> None:
    """Raise CheckpointError, naming ``name``, unless ``found`` is a state that ``owner`` takes; changes nothing.

    A module takes just its own names, shapes and dtypes; an optimizer its own groups and shapes; anything else is asked
    through its method ``check_state``, where it has one.
    """
    if isinstance(owner, torch.nn.Module):
        why = differences(owner.state_dict(), found)
    elif isinstance(owner, torch.optim.Optimizer):
        why = _check_optimizer(owner, found)
    else:
        why = ""
        try:
            getattr(owner, "check_state", lambda state: None)(found)
        except ValueError as error:
            why = str(error).rstrip(".")
    if why:
        raise CheckpointError(f"the checkpoint does not fit {name}: {why}.")


# -- files ------------------------------------------------------------------------------------------------------------


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Any]:
    """A binary file that becomes ``path`` when the block ends; after an error ``path`` is what it was."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__


def _read(path: Path) -> dict[str, Any]:
    """The content of a file, on the CPU; CheckpointError says why it cannot be had."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}.") from None
    except Exception as error:  # whatever a reader of foreign bytes may raise
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise CheckpointError(f"{path} holds more than tensors, numbers and strings, and was not read.") from None
        raise CheckpointError(f"{path} is damaged or no checkpoint: {_first_line(error)}.") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds {type(found).__name__}; it must hold a mapping.")
    return found


def save_checkpoint(
    path: str | os.PathLike[str],
    objects: Mapping[str, Any],
    *,
    step: int,
    extra: Any = None,
    generators: Generators | None = None,
    random: Mapping[str, Any] | None = None,
) -> Path:
    """Write the state of every object, the random numbers and the step in one atomic move; returns the path.

    path        the file; its folder must exist
    objects     name → module, optimizer, EMA, schedule, accumulator, scaler: whatever has a state_dict
    step        optimiser steps completed
    extra       numbers, strings, tensors and containers of them: a loss curve, a configuration
    generators  name → torch.Generator or numpy.random.Generator of the caller, such as the data loader's
    random      what ``random_state(generators)`` returned earlier, in place of the state of now
    raises      ValueError if step is not an integer ≥ 0, an object has no state_dict, or something could not be read
                again without running code
    """
    if not is_integer(step) or step < 0:
        raise ValueError(f"step was {step!r}; it must be an integer of at least 0, the steps completed.")
    for name, owner in objects.items():
        if not hasattr(owner, "state_dict"):
            raise ValueError(f"{name} was {type(owner).__name__}; it must have a state_dict.")
    content = {
        "format": FORMAT,
        "step": step,
        "objects": {name: owner.state_dict() for name, owner in objects.items()},
        "random": dict(random) if random is not None else random_state(generators),
        "extra": extra,
    }
    path = Path(path)
    _require_plain(content, "the checkpoint")
    with replacing(path) as file:
        torch.save(content, file)
    return path


def _require_plain(value: Any, place: str) -> None:
    """Refuse what could not be read again without running code."""
    if isinstance(value, Mapping):
        if type(value) not in (dict, OrderedDict):
            raise ValueError(f"{place} was {type(value).__name__}; it must be a dict.")
        for key, item in value.items():
            _require_plain(key, f"a key of {place}")
            _require_plain(item, f"{place}[{key!r}]")
    elif type(value) in (list, tuple, set):
        for i, item in enumerate(value):
            _require_plain(item, f"{place}[{i}]")
    elif not isinstance(value, torch.Tensor) and type(value) not in PLAIN_TYPES:
        raise ValueError(
            f"{place} was {type(value).__name__}; it must be a tensor, a number, a string, or made of them."
        )


def load_checkpoint(
    path: str | os.PathLike[str],
    objects: Mapping[str, Any],
    *,
    generators: Generators | None = None,
    restore_random: bool = True,
) -> Checkpoint:
    """Bring every object and the random numbers to the saved state; training goes on as if never interrupted.

    All of it is checked before any of it is changed: names, shapes and dtypes of every module, groups and shapes of
    every optimizer, whatever the others check themselves.

    path            a file of ``save_checkpoint``
    objects         the same names as were saved
    generators      the same names as were saved
    restore_random  False leaves the random numbers alone
    returns         Checkpoint with the steps completed and ``extra``
    raises          CheckpointError with one sentence if the file is missing, damaged, or does not fit
    """
    path = Path(path)
    content = _read(path)
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no file of save_checkpoint; load_weights reads weights from other files.")
    saved = content["objects"]
    if set(saved) != set(objects):
        raise CheckpointError(
            f"{path} holds {listed(sorted(saved)) or 'nothing'}; {listed(sorted(objects)) or 'nothing'} was asked for."
        )
    for name, owner in objects.items():
        check_state(owner, saved[name], name)
    if restore_random:
        try:
            check_random_state(content["random"], generators)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None
    before = {name: copy.deepcopy(owner.state_dict()) for name, owner in objects.items() if not _checked(owner)}
    try:
        for name in [*before, *(name for name in objects if name not in before)]:
            objects[name].load_state_dict(saved[name])
    except Exception as error:
        for name, state in before.items():
            objects[name].load_state_dict(state)
        raise CheckpointError(f"{path} was refused by {name}: {_first_line(error)}.") from error
    if restore_random:
        restore_random_state(content["random"], generators)
    return Checkpoint(content["step"], content["extra"], path, tuple(saved))


def _checked(owner: Any) -> bool:
    """Whether ``check_state`` says all there is to say about it."""
    return isinstance(owner, (torch.nn.Module, torch.optim.Optimizer)) or hasattr(owner, "check_state")


# -- weights for inference --------------------------------------------------------------------------------------------


def _require_which(which: str) -> None:
    if which not in ("ema", "model", "any"):
        raise ValueError(f"which was {which!r}; it must be 'ema', 'model' or 'any'.")


def select_weights(content: Mapping[str, Any], which: Literal["ema", "model", "any"]) -> tuple[Any, str]:
    """(weights, where they stood): the average or the model's own, out of a file's content.

    which   "ema", "model", or "any": the average where there is one
    raises  CheckpointError if that is not in it: an average that was asked for is never replaced by something else
    """
    _require_which(which)
    inside = content.get("objects", content)
    found = {"ema": [k for k in AVERAGED if k in inside], "model": [k for k in PLAIN if k in inside]}
    bare = bool(inside) and all(isinstance(v, torch.Tensor) for v in inside.values())
    if bare and which != "ema":
        return inside, "the file itself"
    wanted = ("ema", "model") if which == "any" else (which,)
    for name in wanted:
        if found[name]:
            key = found[name][0]
            state = inside[key]
            average = isinstance(state, Mapping) and set(state) == {"decay", "updates", "average"}
            return (state["average"] if average else state), key
    there = "weights without a name" if bare else listed([str(k) for k in inside]) or "nothing"
    raise CheckpointError(f"{' or '.join(wanted)} was asked for; the checkpoint holds {there}.")


def load_weights(
    path: str | os.PathLike[str], module: torch.nn.Module, *, which: Literal["ema", "model", "any"]
) -> str:
    """Load weights for inference, checked as a whole before any is changed; returns the key they stood under.

    path    a file of ``save_checkpoint``, or of anyone who saved a state dict, alone or as model, ema, ema_model
    module  takes just its own names, shapes and dtypes; an average kept in float32 for half weights is rounded
    which   "ema": the average or an error; "model": the weights of the last step; "any": the average if there is one
    raises  CheckpointError with one sentence
    """
    _require_which(which)
    content = _read(Path(path))
    weights, key = select_weights(content, which)
    own = module.state_dict()
    if key in AVERAGED and isinstance(weights, Mapping):
        weights = _as_state(module, weights)
    why = differences(own, weights)
    if why:
        raise CheckpointError(f"{path}, {key}, does not fit: {why}.")
    module.load_state_dict(weights)
    return key


def _as_state(module: torch.nn.Module, average: Mapping[str, Any]) -> dict[str, Any]:
    """An average, which has each tied tensor once and half weights in float32, as the module's state dict has them."""
    own = module.state_dict(keep_vars=True)
    names = {id(x): name for name, x in (*module.named_parameters(), *module.named_buffers())}
    found = {k: v for k, v in average.items() if k not in own}
    for name, x in own.items():
        source = name if name in average else names.get(id(x), name)
        if source in average:
            value = average[source]
            half = isinstance(x, torch.Tensor) and x.dtype in (torch.float16, torch.bfloat16)
            wide = half and isinstance(value, torch.Tensor) and value.dtype == torch.float32
            found[name] = value.to(x.dtype) if wide else value
        elif not isinstance(x, torch.Tensor):
            found[name] = x
    return found
