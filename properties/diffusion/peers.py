"""Textbook versions of the formulas of the family diffusion, and diffusers' schedulers as functions."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import torch

# -- textbook versions ------------------------------------------------------------------------------------------------


def column(c: Any, x: Any) -> Any:
    """c (B,) as (B, 1, …) in the type of x, torch or NumPy."""
    cast = c.to(x.dtype) if isinstance(x, torch.Tensor) else c.astype(x.dtype)
    return cast.reshape((*c.shape, *(1,) * (x.ndim - 1)))


def eager_q_sample(x_0: Any, t: Any, noise: Any, alphas_cumprod: Any) -> Any:
    return column(alphas_cumprod[t] ** 0.5, x_0) * x_0 + column((1 - alphas_cumprod[t]) ** 0.5, x_0) * noise


def eager_mean(x: Any) -> Any:
    """np.mean, NaN without a warning for no elements."""
    total = np.add.reduce(x, axis=None, dtype=np.result_type(x, np.float32))
    return (total / x.size).astype(x.dtype)


def eager_predict_x0(x_t: Any, t: Any, eps: Any, alphas_cumprod: Any) -> Any:
    return (x_t - column((1 - alphas_cumprod[t]) ** 0.5, x_t) * eps) / column(alphas_cumprod[t] ** 0.5, x_t)


def eager_posterior(x_0: Any, x_t: Any, t: Any, betas: Any) -> Any:
    c_0, c_t, variance = eager_coefficients(t, betas)
    return column(c_0, x_0) * x_0 + column(c_t, x_t) * x_t, column(variance, x_t)


def eager_coefficients(t: Any, betas: Any) -> Any:
    alpha_bar = torch.cumprod(1 - betas, 0)
    previous = torch.cat([torch.ones_like(alpha_bar[:1]), alpha_bar[:-1]])
    variance = betas * (1 - previous) / (1 - alpha_bar)
    c_0 = betas * previous.sqrt() / (1 - alpha_bar)
    c_t = (1 - previous) * (1 - betas).sqrt() / (1 - alpha_bar)
    return c_0[t], c_t[t], variance[t]


def eager_p_sample(x_t: Any, t: Any, eps: Any, noise: Any, betas: Any, clip: Any) -> Any:
    alpha_bar = torch.cumprod(1 - betas, 0)
    if clip is False:
        share = betas / (1 - alpha_bar).sqrt()
        mean = (x_t - column(share[t], x_t) * eps) / column((1 - betas[t]).sqrt(), x_t)
        variance = column(eager_coefficients(t, betas)[2], x_t)
    else:
        x_0 = eager_predict_x0(x_t, t, eps, alpha_bar).clamp(-float(clip), float(clip))
        mean, variance = eager_posterior(x_0, x_t, t, betas)
    return mean + column(t > 0, x_t) * variance.sqrt() * noise


# -- diffusers --------------------------------------------------------------------------------------------------------


def scheduler(betas: Any = None, alphas_cumprod: Any = None, **options: Any) -> Any:
    """A DDPMScheduler on given betas, which computes its own tables, or on a given table of ᾱ."""
    from diffusers import DDPMScheduler

    if betas is not None:
        return DDPMScheduler(num_train_timesteps=len(betas), trained_betas=betas.tolist(), **options)
    made: Any = DDPMScheduler(num_train_timesteps=len(alphas_cumprod), **options)
    made.alphas_cumprod = alphas_cumprod
    return made


def step(made: Any, output: Any, t: Any, x_t: Any, noise: Any) -> tuple[Any, Any]:
    """(x_{t−1}, x̂_0) of ``DDPMScheduler.step``, one sample at a time, its random numbers replaced by ``noise``."""
    from diffusers.schedulers import scheduling_ddpm

    rows = [a.reshape(a.shape[0], 1) if a.ndim == 1 else a.flatten(1) for a in (output, x_t, noise)]
    previous, estimate = [], []
    for i, (out, x, z) in enumerate(zip(*rows, strict=True)):
        with mock.patch.object(scheduling_ddpm, "randn_tensor", lambda *_, z=z, **__: z[None]):
            result = made.step(out[None], int(t[i]), x[None])
        previous.append(result.prev_sample)
        estimate.append(result.pred_original_sample)
    return torch.cat(previous).reshape(x_t.shape), torch.cat(estimate).reshape(x_t.shape)


def diffusers_alphas_cumprod(betas: Any, *, dtype: Any, device: Any) -> Any:
    return scheduler(betas).alphas_cumprod.to(device=device, dtype=dtype, copy=True)


def diffusers_q_sample(table: Any) -> Any:
    return lambda x_0, t, noise, alphas_cumprod: scheduler(alphas_cumprod=alphas_cumprod.to(table)).add_noise(
        x_0, noise, t
    )


def diffusers_predict_x0(table: Any) -> Any:
    def call(x_t: Any, t: Any, eps: Any, alphas_cumprod: Any) -> Any:
        return step(scheduler(alphas_cumprod=alphas_cumprod.to(table), clip_sample=False), eps, t, x_t, eps)[1]

    return call


def tables(betas: Any, table: Any) -> dict[str, Any]:
    """The betas, from which diffusers computes float32 tables, or the float64 table of ᾱ."""
    return {"betas": betas} if table is torch.float32 else {"alphas_cumprod": torch.cumprod(1 - betas, 0)}


def diffusers_posterior(table: Any) -> Any:
    def call(x_0: Any, x_t: Any, t: Any, betas: Any) -> Any:
        made = scheduler(**tables(betas, table), clip_sample=False, prediction_type="sample")
        mean, _ = step(made, x_0, t, x_t, torch.zeros_like(x_t))
        variance = torch.stack([made._get_variance(int(i)) if i > 0 else torch.zeros(()) for i in t])
        return mean, column(variance, x_t)  # step() adds none at t = 0, whatever _get_variance says

    return call


def diffusers_p_sample(table: Any) -> Any:
    def call(x_t: Any, t: Any, eps: Any, noise: Any, betas: Any, clip: Any) -> Any:
        options = {"clip_sample": clip is not False, "clip_sample_range": float(clip) or 1.0}
        return step(scheduler(**tables(betas, table), **options), eps, t, x_t, noise)[0]

    return call


def diffusers_defaults(x_t: Any, t: Any, eps: Any, noise: Any, betas: Any, clip: Any) -> Any:
    """With its default options: x̂_0 is clipped to [−1, 1]."""
    return step(scheduler(betas), eps, t, x_t, noise)[0]


def diffusers_betas(kind: str) -> Any:
    """The β of a DDPMScheduler, which are float32."""

    def call(steps: int, beta_start: float, beta_end: float, *, dtype: Any, device: Any) -> Any:
        from diffusers import DDPMScheduler

        options: Any = {"beta_start": beta_start, "beta_end": beta_end, "beta_schedule": kind}
        made: Any = DDPMScheduler(num_train_timesteps=steps, **options)
        return made.betas.to(device=device, dtype=dtype, copy=True)

    return call


def ddim_scheduler(alphas_cumprod: Any, clip: Any, to_one: bool = True) -> Any:
    """A DDIMScheduler on a given ᾱ; the data have ᾱ = 1 (``to_one``) or the ᾱ of the first step."""
    from diffusers import DDIMScheduler

    limits = {"clip_sample": clip is not False, "clip_sample_range": float(clip) or 1.0}
    made: Any = DDIMScheduler(num_train_timesteps=len(alphas_cumprod), set_alpha_to_one=to_one, **limits)
    made.alphas_cumprod = alphas_cumprod
    made.final_alpha_cumprod = alphas_cumprod.new_ones(()) if to_one else alphas_cumprod[0]
    return made


def diffusers_ddim_step(to_one: bool = True) -> Any:
    """``DDIMScheduler.step``, one sample at a time: it takes a stride for all samples, so that each sets its own."""

    def call(
        x_t: Any, t: Any, t_prev: Any, eps: Any, noise: Any, alphas_cumprod: Any, eta: Any, clip: Any, recompute: Any
    ) -> Any:
        made = ddim_scheduler(alphas_cumprod, clip, to_one)
        made.num_inference_steps = 1
        rows = []
        for i in range(len(x_t)):
            made.register_to_config(num_train_timesteps=int(t[i] - t_prev[i]))
            z = noise[i : i + 1] if eta else None
            options = {"eta": eta, "use_clipped_model_output": recompute, "variance_noise": z}
            rows.append(made.step(eps[i : i + 1], int(t[i]), x_t[i : i + 1], **options).prev_sample)
        return torch.cat(rows)

    return call


def diffusers_guidance(original: bool) -> Any:
    def call(eps_cond: Any, eps_uncond: Any, w: Any) -> Any:
        from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance

        made: Any = ClassifierFreeGuidance(guidance_scale=w, use_original_formulation=original)
        return made.forward(eps_cond, eps_uncond).pred

    return call
