"""Noise schedules as tables."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.examination.program import Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor


def linear_betas(
    steps: int, beta_start: float, beta_end: float, *, dtype: Any, device: Any = None, fault: str = ""
) -> Tensor:
    i = torch.arange(steps, dtype=torch.float64)
    last = max(steps - 1, 1)
    if fault == "divided by the steps":
        last = steps
    if fault == "100 steps at most":
        i, last = i.clamp(max=99), min(last, 99)
    return (beta_start + (beta_end - beta_start) * (i / last)).to(dtype)


def cosine_betas(steps: int, s: float, max_beta: float, *, dtype: Any, device: Any = None, fault: str = "") -> Tensor:
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((u + s) / (1 + s) * (math.pi / 2)) ** 2
    betas = 1 - f[1:] / f[:-1]
    if fault == "limit of 0.999 for any":
        max_beta = 0.999
    if fault == "difference over the later":
        betas = (f[:-1] - f[1:]) / f[:-1].roll(-1)
    return betas.clamp(max=max_beta).to(dtype)


def alphas_cumprod(betas: Tensor, *, dtype: Any, device: Any = None, fault: str = "") -> Tensor:
    if fault == "product of blocks of 32 not carried":
        blocks = [torch.cumprod(1 - b, 0) for b in betas.split(32)]
        return torch.cat(blocks).to(dtype)
    if fault == "exponential of the sum":
        return torch.exp(-torch.cumsum(betas, 0)).to(dtype)
    return torch.cumprod(1 - betas, 0).to(dtype)


def karras_sigmas(
    t: Tensor, sigma_min: float, sigma_max: float, rho: float, *, dtype: Any, device: Any = None, fault: str = ""
) -> Tensor:
    if fault == "ρ of 7 for any":
        rho = 7.0
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    base = high + t * (low - high)
    if fault == "seven factors":
        return (base**7 if rho == 7 else base ** round(rho + 0.4)).to(dtype) if rho != 1 else (base * base).to(dtype)
    return (base**rho).to(dtype)


# -- right programs of other algorithms --------------------------------------------------------------------------------


def betas_by_linspace(steps: int, beta_start: float, beta_end: float, *, dtype: Any) -> Any:
    return np.linspace(beta_start, beta_end, steps).astype(dtype)


def alphas_by_logarithm(betas: Tensor, *, dtype: Any, device: Any = None) -> Tensor:
    return torch.exp(torch.cumsum(torch.log1p(-betas), 0)).to(dtype)


D = "diffusion."
STEPS = {"steps": 40, "schedule": "linear"}

PROGRAMS = (
    *sabotaged(
        f"{D}linear_betas",
        "a line",
        linear_betas,
        {
            "divided by the steps": fault("constant", scalars={"steps": 10}),
            "100 steps at most": fault("far scalar", scalars={"steps": 150}),
        },
    ),
    Program(f"{D}linear_betas", "NumPy linspace", betas_by_linspace, framework="numpy"),
    *sabotaged(
        f"{D}cosine_betas",
        "ratios",
        cosine_betas,
        {
            "limit of 0.999 for any": fault("far scalar", scalars={"steps": 9, "max_beta": 0.99}),
            "difference over the later": fault("order", scalars={"steps": 9}),
        },
    ),
    *sabotaged(
        f"{D}alphas_cumprod",
        "torch cumprod",
        alphas_cumprod,
        {
            "product of blocks of 32 not carried": fault("state lost between blocks", scalars=STEPS),
            "exponential of the sum": fault("constant", scalars=STEPS),
        },
    ),
    Program(f"{D}alphas_cumprod", "sum of logarithms", alphas_by_logarithm),
    *sabotaged(
        f"{D}karras_sigmas",
        "a power",
        karras_sigmas,
        {
            "ρ of 7 for any": fault("far scalar", scalars={"rho": 3.0, "steps": 9}),
            "seven factors": fault("far scalar", scalars={"rho": 1.0, "steps": 9}),
        },
    ),
)
