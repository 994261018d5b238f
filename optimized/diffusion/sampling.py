"""The sampling loop and its parts: times, noise, the start, the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch

from trueness.optimized._lib.modes import evaluating
from trueness.optimized._lib.validation import is_integer

Model = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Step = Callable[[torch.Tensor, torch.Tensor, int, int], torch.Tensor]
Progress = Callable[[int, int], None]


def sampling_loop(
    model: Model, x: torch.Tensor, pairs: Sequence[tuple[int, int]], step: Step, progress: Progress | None
) -> torch.Tensor:
    """x after ``x = step(x, model(x, t), t, t_prev)`` for every (t, t_prev); no gradients, the model in eval mode."""
    with torch.no_grad(), evaluating(model) if isinstance(model, torch.nn.Module) else nullcontext():
        for done, (t, t_prev) in enumerate(pairs, 1):
            eps = model(x, timestep_batch(x, t))
            if not isinstance(eps, torch.Tensor) or eps.shape != x.shape:
                got = tuple(eps.shape) if isinstance(eps, torch.Tensor) else type(eps).__name__
                raise ValueError(f"model returned {got} for x of shape {tuple(x.shape)}; it must return noise like x.")
            x = step(x, eps.to(x.dtype), t, t_prev)
            if progress is not None:
                progress(done, len(pairs))
    return x


def timestep_batch(x: torch.Tensor, t: int) -> torch.Tensor:
    """The step t for every sample of x: (B,) in int64."""
    return torch.full((x.shape[0],), t, dtype=torch.int64, device=x.device)


def spaced_timesteps(total: int, steps: int) -> list[int]:
    """``steps`` of the times 0 … total − 1, evenly spaced in falling order, with the first and the last."""
    if not is_integer(steps) or not 1 <= steps <= total:
        raise ValueError(f"steps was {steps!r}; it must be an integer of 1 to {total}, the length of the schedule.")
    return [total - 1] if steps == 1 else [(total - 1) * i // (steps - 1) for i in range(steps - 1, -1, -1)]


def standard_normal(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device, generator: torch.Generator | None
) -> torch.Tensor:
    """Standard normal numbers, drawn in float32 or float64 on the device of the generator, then moved and rounded."""
    home = device if generator is None else generator.device
    working = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.randn(tuple(shape), generator=generator, device=home, dtype=working).to(device=device, dtype=dtype)


def initial_noise(
    shape: Sequence[int],
    x_T: torch.Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """x_T, given or drawn."""
    shape = tuple(shape)
    if not shape:
        raise ValueError("shape was (); it must have a first axis of samples, (B, ...).")
    if x_T is None:
        return standard_normal(shape, dtype, device, generator)
    if not isinstance(x_T, torch.Tensor) or tuple(x_T.shape) != shape:
        got = tuple(x_T.shape) if isinstance(x_T, torch.Tensor) else type(x_T).__name__
        raise ValueError(f"x_T was {got}; it must be a torch.Tensor of shape {shape}.")
    return x_T.to(device=device, dtype=dtype)


def device_of(model: object, device: torch.device | str | None) -> torch.device:
    """``device``, or where the model's parameters are, or the CPU."""
    if device is not None:
        return torch.device(device)
    parameters = model.parameters() if isinstance(model, torch.nn.Module) else iter(())
    first = next(parameters, None)
    return torch.device("cpu") if first is None else first.device
