"""A noise schedule with the training pairs and the samplers that follow from it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch

from trueness.optimized._lib.validation import require_floating
from trueness.optimized.diffusion.sampling import (
    Model,
    Progress,
    device_of,
    initial_noise,
    sampling_loop,
    spaced_timesteps,
    standard_normal,
    timestep_batch,
)
from trueness.optimized.diffusion.schedules import alphas_cumprod
from trueness.optimized.diffusion.steps import ddim_step, p_sample, q_sample
from trueness.optimized.diffusion.validation import Device, require_share, require_table

__all__ = ["GaussianDiffusion"]


class GaussianDiffusion:
    """A noise schedule with the training pairs and the samplers that follow from it.

        diffusion = GaussianDiffusion(cosine_betas(1000))
        x_t, t, noise = diffusion.training_pair(x_0)
        loss = p_losses(model(x_t, t), noise)
        x = diffusion.ddim(model, (16, 1, 8, 8), steps=50)

    A model is any callable ``model(x_t, t) → ε``, t (B,) in int64. A torch.nn.Module is in eval mode while it samples;
    afterwards, also after an error, every submodule is back in its mode. Random numbers are drawn on the device of the
    generator and then moved, so that a CPU generator gives the same numbers on every device. The object holds two
    tensors and no module: it can be copied and pickled, and ``to`` returns a copy whose tables are on another device.
    """

    def __init__(self, betas: torch.Tensor) -> None:
        """betas (T,) in float64; ValueError otherwise."""
        require_table(betas, "betas")
        self.betas = betas
        self.alphas_cumprod = alphas_cumprod(betas)

    def __repr__(self) -> str:
        return f"GaussianDiffusion(steps={self.steps}, device={self.betas.device})"

    @property
    def steps(self) -> int:
        return int(self.betas.shape[0])

    def to(self, device: Device) -> GaussianDiffusion:
        """The same schedule with its tables on ``device``."""
        moved = copy.copy(self)
        moved.betas, moved.alphas_cumprod = self.betas.to(device), self.alphas_cumprod.to(device)
        return moved

    def training_pair(
        self, x_0: torch.Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(x_t, t, noise) of Ho et al. 2020 Alg. 1: t uniform in 0 … T − 1, one per sample; x_t by ``q_sample``.

        x_0  (B, ...)  clean data, floating, on any device; ValueError otherwise
        """
        require_floating(x_0, "x_0")
        if x_0.ndim < 1:
            raise ValueError("x_0 had shape (); it must have a first axis of samples, (B, ...).")
        home = x_0.device if generator is None else generator.device
        t = torch.randint(self.steps, x_0.shape[:1], generator=generator, device=home).to(x_0.device)
        noise = standard_normal(x_0.shape, x_0.dtype, x_0.device, generator)
        return q_sample(x_0, t, noise, self.alphas_cumprod.to(x_0.device)), t, noise

    def ddpm(
        self,
        model: Model,
        shape: Sequence[int],
        *,
        clip: bool | float = True,
        x_T: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: Device = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """x_0 of Ho et al. 2020 Alg. 2: every step from T − 1 down to 0, the last one without noise.

        model      ε_θ(x_t, t)
        shape      (B, ...) of the samples
        clip       as in ``p_sample``: True for data in [−1, 1]
        x_T        noise to start from; drawn by default
        generator  of all random numbers; torch's global one by default
        device     where to sample; by default where the model's parameters are
        progress   called as progress(done, total) after every step
        """

        def step(x: torch.Tensor, eps: torch.Tensor, t: int, t_prev: int) -> torch.Tensor:
            noise = standard_normal(x.shape, x.dtype, x.device, generator) if t else torch.zeros_like(x)
            return p_sample(x, timestep_batch(x, t), eps, noise, betas, clip=clip)

        where = device_of(model, device)
        betas = self.betas.to(where)
        pairs = [(t, t - 1) for t in range(self.steps - 1, -1, -1)]
        x = initial_noise(shape, x_T, dtype, where, generator)
        return sampling_loop(model, x, pairs, step, progress)

    def ddim(
        self,
        model: Model,
        shape: Sequence[int],
        *,
        steps: int = 50,
        eta: float = 0.0,
        clip: bool | float = True,
        recompute_eps: bool = False,
        x_T: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: Device = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """x_0 of Song et al. 2021 eq. 12 over ``steps`` of the T times, evenly spaced from T − 1 to 0, then to x_0.

        steps  1 … T; eta, clip and recompute_eps as in ``ddim_step``; the rest as in ``ddpm``
        """

        def step(x: torch.Tensor, eps: torch.Tensor, t: int, t_prev: int) -> torch.Tensor:
            noise = None
            if eta:  # the step to the data, t_prev = −1, adds none
                noise = standard_normal(x.shape, x.dtype, x.device, generator) if t_prev >= 0 else torch.zeros_like(x)
            now, before = timestep_batch(x, t), timestep_batch(x, t_prev)
            return ddim_step(x, now, before, eps, table, noise=noise, eta=eta, clip=clip, recompute_eps=recompute_eps)

        require_share(eta, "eta")
        where = device_of(model, device)
        table = self.alphas_cumprod.to(where)
        times = [*spaced_timesteps(self.steps, steps), -1]
        x = initial_noise(shape, x_T, dtype, where, generator)
        return sampling_loop(model, x, list(pairwise(times)), step, progress)
