"""The states of all random number generators of a program, in a form that a file can hold without code."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["random_state", "restore_random_state"]

Generators = Mapping[str, torch.Generator | np.random.Generator]


def random_state(generators: Generators | None = None) -> dict[str, Any]:
    """The states of torch's, NumPy's and Python's global generators, of every CUDA device, and of ``generators``."""
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": plain(np.random.get_state(legacy=False)),  # noqa: NPY002
        "python": random.getstate(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "generators": {},
    }
    for name, generator in (generators or {}).items():
        own = generator.get_state() if isinstance(generator, torch.Generator) else generator.bit_generator.state
        state["generators"][name] = plain(own)
    return state


def restore_random_state(state: Mapping[str, Any], generators: Generators | None = None) -> None:
    """Put back what ``random_state`` returned.

    raises  ValueError, before anything is changed, if a generator is missing on either side
    """
    check_random_state(state, generators)
    torch.set_rng_state(state["torch"].cpu())
    np.random.set_state(arrays(state["numpy"]))  # noqa: NPY002
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    for name, generator in (generators or {}).items():
        saved = state["generators"][name]
        if isinstance(generator, torch.Generator):
            generator.set_state(saved.cpu())
        else:
            generator.bit_generator.state = arrays(saved)


def check_random_state(state: Mapping[str, Any], generators: Generators | None = None) -> None:
    """Raise ValueError unless ``restore_random_state`` would take ``state``; changes nothing."""
    own, saved = set(generators or {}), set(state["generators"])
    if own != saved:
        raise ValueError(
            f"the checkpoint has generators {', '.join(sorted(saved)) or 'none'}; "
            f"{', '.join(sorted(own)) or 'none'} were given."
        )
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if state["cuda"] and devices and len(state["cuda"]) != devices:
        raise ValueError(f"the checkpoint has random states of {len(state['cuda'])} CUDA devices; {devices} are here.")


def plain(value: Any) -> Any:
    """NumPy arrays as tensors and NumPy numbers as Python's, so that the file needs no code to be read."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v) for v in value)
    if isinstance(value, np.ndarray):
        return {"__array__": torch.from_numpy(value.astype(np.int64)), "dtype": value.dtype.str}
    return value.item() if isinstance(value, np.generic) else value


def arrays(value: Any) -> Any:
    if isinstance(value, Mapping) and "__array__" in value:
        return value["__array__"].numpy().astype(value["dtype"])
    return {k: arrays(v) for k, v in value.items()} if isinstance(value, Mapping) else value
