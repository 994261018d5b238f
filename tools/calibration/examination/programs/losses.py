"""The losses of diffusion by partial sums of 1024."""

from __future__ import annotations

import torch

from trueness.tools.calibration.examination.program import HALVES, Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, wide

BLOCK = 1024


def mean_of(terms: Tensor, fault: str, storage: torch.dtype) -> Tensor:
    """Partial sums of 1024, then their sum"""
    flat = terms.reshape(-1)
    n = flat.numel()
    if fault == "mean of 4096 elements" and n > 4096:
        return flat[:4096].mean()
    parts = [flat[i : i + BLOCK].sum() for i in range(0, n, BLOCK)]
    if fault == "last partial sum lost" and len(parts) > 1 and n % BLOCK:
        parts = parts[:-1]
    count = len(parts) * BLOCK if fault == "divided by full blocks" and len(parts) > 1 else n
    total = flat[:0].sum()
    for part in parts:
        total = total + part
        if fault == "sum in the half format":
            total = total.to(storage).to(part)
    return total / count


def p_losses(prediction: Tensor, noise: Tensor, *, fault: str = "") -> Tensor:
    difference = wide(prediction) - wide(noise)
    if fault == "sum of squares divided by rows":
        return (difference.square().sum() / prediction.shape[0]).to(prediction.dtype)
    return mean_of(difference * difference, fault, prediction.dtype).to(prediction.dtype)


def p_losses_l1(prediction: Tensor, noise: Tensor, *, fault: str = "") -> Tensor:
    difference = wide(prediction) - wide(noise)
    if fault == "Huber below 0.01":
        return torch.nn.functional.huber_loss(wide(prediction), wide(noise), delta=0.01).div(0.01).to(prediction.dtype)
    return mean_of(difference.abs(), fault, prediction.dtype).to(prediction.dtype)


# -- right programs of other algorithms --------------------------------------------------------------------------------


def losses_by_torch(prediction: Tensor, noise: Tensor) -> Tensor:
    return torch.nn.functional.mse_loss(wide(prediction), wide(noise)).to(prediction.dtype)


def losses_by_dot(prediction: Tensor, noise: Tensor) -> Tensor:
    difference = (wide(prediction) - wide(noise)).reshape(-1)
    return (torch.dot(difference, difference) / difference.numel()).to(prediction.dtype)


def losses_by_kahan(prediction: Tensor, noise: Tensor) -> Tensor:
    """Row after row with a compensation        (Kahan 1965)"""
    terms = (wide(prediction) - wide(noise)).square()
    total, lost = terms.new_zeros(()), terms.new_zeros(())
    for row in terms.reshape(-1, terms.shape[-1]).sum(0):
        y = row - lost
        following = total + y
        lost, total = (following - total) - y, following
    return (total / terms.numel()).to(prediction.dtype)


def l1_by_torch(prediction: Tensor, noise: Tensor) -> Tensor:
    return torch.nn.functional.l1_loss(wide(prediction), wide(noise)).to(prediction.dtype)


D = "diffusion."

PROGRAMS = (
    *sabotaged(
        f"{D}p_losses",
        "partial sums of 1024",
        p_losses,
        {
            "mean of 4096 elements": fault("entries beyond n not read", N=5000, sizes={"...": ()}),
            "last partial sum lost": fault("last partial tile", N=1500, sizes={"...": ()}),
            "divided by full blocks": fault("last partial tile", N=1500, sizes={"...": ()}),
            "sum of squares divided by rows": fault("reduction", N=5, sizes={"...": (3,)}),
            "sum in the half format": fault("half accumulator", dtypes=HALVES, N=300000, sizes={"...": ()}),
        },
    ),
    Program(f"{D}p_losses", "torch mse_loss", losses_by_torch),
    Program(f"{D}p_losses", "dot product", losses_by_dot),
    Program(f"{D}p_losses", "Kahan sum", losses_by_kahan),
    *sabotaged(
        f"{D}p_losses_l1",
        "partial sums of 1024",
        p_losses_l1,
        {
            "Huber below 0.01": fault("ties and zeros", N=5, scale=-2.0, factor=0.1, spread=0.0),
            "last partial sum lost": fault("last partial tile", N=1500, sizes={"...": ()}),
        },
    ),
    Program(f"{D}p_losses_l1", "torch l1_loss", l1_by_torch),
)
