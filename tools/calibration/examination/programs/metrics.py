"""Cross-entropy by a streaming log-sum-exp with its backward, perplexities, and the needle's score."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.examination.program import HALVES, IN_JAX, Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, tiles, wide

VOCABULARY, ROWS = 64, 16
"""entries of the vocabulary in one tile, tokens in one block"""


class Losses(torch.autograd.Function):
    """(Σ −log p, tokens that count) of logits (n, V); the backward computes p again, tile by tile"""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, ignored: int, fault: str) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        z = wide(logits)
        n, size = z.shape
        top, total = z.new_full((n,), -torch.inf), z.new_zeros(n)
        end = (
            size // VOCABULARY * VOCABULARY if fault == "last vocabulary tile not read" and size > VOCABULARY else size
        )
        for at in tiles(end, VOCABULARY):
            part = z[:, at]
            if fault == "second tile repeats the first" and at.start == VOCABULARY and at.stop == 2 * VOCABULARY:
                part = z[:, :VOCABULARY]
            higher = torch.maximum(top, part.amax(-1))
            if fault == "no maximum subtracted":
                higher = torch.zeros_like(higher)
            shrink = torch.exp(top - higher) if fault != "sum not rescaled" else (top > -torch.inf).to(z)
            total = total * shrink + torch.exp(part - higher[:, None]).sum(-1)
            if fault == "sum in the half format":
                total = total.to(logits.dtype).to(z)
            top = higher
        counts = labels != ignored
        if fault == "label 0 ignored":
            counts = counts & (labels != 0)
        place = torch.where(counts, labels, 0)
        if fault == "label in 8 bits":
            place = place.to(torch.int8).long() % size
        right = z.gather(-1, place[:, None])[:, 0]
        normaliser = top + torch.log(total)
        each = torch.where(counts, normaliser - right, 0.0)
        if fault == "last block of tokens lost" and n > ROWS:
            each = each[: n // ROWS * ROWS]
        if fault == "1024 tokens":
            each = each[:1024]
        ctx.save_for_backward(logits, labels, normaliser, counts)
        ctx.fault = fault
        count = counts.sum()
        ctx.mark_non_differentiable(count)
        return each.sum(), count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> Any:  # type: ignore[override]
        logits, labels, normaliser, counts = ctx.saved_tensors
        fault, z = ctx.fault, wide(logits)
        p = torch.exp(z - normaliser[:, None])
        if fault == "p of the first vocabulary tile" and z.shape[1] > VOCABULARY:
            p = torch.cat([p[:, :VOCABULARY], 0 * p[:, VOCABULARY:]], 1)
        chosen = labels[:, None] == torch.arange(z.shape[1])
        slope = torch.where(chosen, p - 1, p)
        if fault != "ignored tokens pulled":
            slope = torch.where(counts[:, None], slope, 0.0)
        if fault == "gradient of 64 tokens":
            slope = torch.cat([slope[:64], 0 * slope[64:]])
        return (grad * slope).to(logits.dtype), None, None, None


def sums(logits: Tensor, labels: Tensor, ignored: int, fault: str) -> tuple[Tensor, Tensor]:
    return Losses.apply(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignored, fault)


def token_losses(logits: Tensor, labels: Tensor, ignore_index: int, *, fault: str = "") -> tuple[Tensor, Tensor]:
    total, count = sums(logits, labels, ignore_index, fault)
    return total.to(logits.dtype), count


def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int, *, fault: str = "") -> Tensor:
    total, count = sums(logits, labels, ignore_index, fault)
    if fault == "mean over all tokens":
        return (total / labels.numel()).to(logits.dtype)
    if fault == "count of tokens in 8 bits":
        count = count.to(torch.uint8).long()
    return (total / count).to(logits.dtype)


def perplexity(logits: Tensor, labels: Tensor, ignore_index: int, *, fault: str = "") -> Tensor:
    if fault == "mean of the rows' perplexities":
        rows = [sums(z, w, ignore_index, "") for z, w in zip(logits, labels, strict=True)]
        return torch.stack([torch.exp(s / n.clamp(min=1)) for s, n in rows]).mean().to(logits.dtype)
    total, count = sums(logits, labels, ignore_index, fault)
    loss = total / count
    if fault == "loss held at 5":
        loss = loss.clamp(max=5.0)
    return torch.exp(loss).to(logits.dtype)


def corpus_perplexity(losses: Tensor, tokens: Tensor, *, fault: str = "") -> Tensor:
    s, n = wide(losses).double(), tokens.double()
    if fault == "mean of the batches":
        return torch.exp((s / n.clamp(min=1)).mean()).to(losses.dtype)
    if fault == "eight batches":
        s, n = s[:8], n[:8]
    if fault == "empty batches count one":
        n = n.clamp(min=1)
    return torch.exp(s.sum() / n.sum()).to(losses.dtype)


def needle_score(logits: Tensor, position: Tensor, answer: Tensor, *, fault: str = "") -> tuple[Tensor, Tensor]:
    each = torch.arange(len(logits))
    if fault == "position in 8 bits":
        position = position.to(torch.int8).long() % logits.shape[1]
    if fault == "position of the next token":
        position = (position + 1).clamp(max=logits.shape[1] - 1)
    score = wide(logits)[each, position]
    right = score[each, answer][:, None]
    rank = (~(score < right)).sum(-1) if fault != "ties for the answer" else 1 + (score > right).sum(-1)
    if fault == "rank of 64 at most":
        rank = rank.clamp(max=64)
    return (right[:, 0] - torch.logsumexp(score, -1)).to(logits.dtype), rank


# -- right programs of other algorithms -------------------------------------------------------------------------------


def losses_by_torch(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    flat = wide(logits).reshape(-1, logits.shape[-1]), labels.reshape(-1)
    total = torch.nn.functional.cross_entropy(*flat, ignore_index=ignore_index, reduction="sum")
    return total.to(logits.dtype), (labels != ignore_index).sum()


def entropy_by_log_softmax(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    logp = torch.log_softmax(wide(logits), -1)
    counts = labels != ignore_index
    chosen = logp.gather(-1, torch.where(counts, labels, 0)[..., None])[..., 0]
    return (-torch.where(counts, chosen, 0.0).sum() / counts.sum()).to(logits.dtype)


def entropy_by_one_hot(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """logsumexp minus the product with a one-hot matrix, in float64"""
    counts = labels != ignore_index
    hot = torch.nn.functional.one_hot(torch.where(counts, labels, 0), logits.shape[-1]).double()
    z = logits.double()
    each = torch.logsumexp(z, -1) - (z * hot).sum(-1)
    return (torch.where(counts, each, 0.0).sum() / counts.sum()).to(logits.dtype)


def entropy_by_jax(logits: Any, labels: Any, ignore_index: int) -> Any:
    import jax
    import jax.numpy as jnp

    counts = labels != ignore_index
    z = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(z, jnp.where(counts, labels, 0)[..., None], -1)[..., 0]
    each = jax.scipy.special.logsumexp(z, -1) - chosen
    return (jnp.where(counts, each, 0.0).sum() / counts.sum()).astype(logits.dtype)


def entropy_by_scipy(logits: Any, labels: Any, ignore_index: int) -> Any:
    from scipy.special import log_softmax

    counts = labels != ignore_index
    logp = log_softmax(logits.astype(np.float64), -1)
    chosen = np.take_along_axis(logp, np.where(counts, labels, 0)[..., None], -1)[..., 0]
    return logits.dtype.type(-chosen[counts].mean())


def needle_by_sorting(logits: Tensor, position: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    score = wide(logits)[torch.arange(len(logits)), position]
    logp = torch.log_softmax(score, -1).gather(-1, answer[:, None])[:, 0]
    below = (score < score.gather(-1, answer[:, None])).sum(-1)
    return logp.to(logits.dtype), score.shape[-1] - below


M = "metrics."
LARGE = {"scale": 0.0, "spread": 0.0}
STREAM = {
    "last vocabulary tile not read": fault("last partial tile", V=80, **LARGE),
    "second tile repeats the first": fault("tile repeated", V=130, **LARGE),
    "sum not rescaled": fault("running value not rescaled", V=130, **LARGE),
    "label in 8 bits": fault("narrow index", V=200, L=20, **LARGE),
    "last block of tokens lost": fault("last partial tile", B=2, L=10, **LARGE),
    "no maximum subtracted": fault("overflow", factor=300.0, V=5, **LARGE),
}

PROGRAMS = (
    *sabotaged(
        f"{M}cross_entropy",
        "streaming log-sum-exp",
        cross_entropy,
        {
            **STREAM,
            "1024 tokens": fault("entries beyond n not read", B=3, L=400, **LARGE),
            "count of tokens in 8 bits": fault("narrow index", B=3, L=150, **LARGE),
            "mean over all tokens": fault("reduction", L=9, **LARGE),
            "sum in the half format": fault("half accumulator", "gradient", dtypes=HALVES, V=3000, B=2, L=3, **LARGE),
            "p of the first vocabulary tile": fault("gradient of first rows", "gradient", V=80, **LARGE),
            "gradient of 64 tokens": fault("gradient of first rows", "gradient", B=2, L=40, **LARGE),
            "ignored tokens pulled": fault("gradient dropped or scaled", "gradient", L=9, **LARGE),
        },
    ),
    Program(f"{M}cross_entropy", "log_softmax and gather", entropy_by_log_softmax),
    Program(f"{M}cross_entropy", "one-hot in float64", entropy_by_one_hot),
    Program(f"{M}cross_entropy", "JAX logsumexp", entropy_by_jax, framework="jax", dtypes=IN_JAX),
    Program(f"{M}cross_entropy", "SciPy log_softmax", entropy_by_scipy, framework="numpy"),
    *sabotaged(
        f"{M}token_losses",
        "streaming log-sum-exp",
        token_losses,
        {
            "last vocabulary tile not read": STREAM["last vocabulary tile not read"],
            "label 0 ignored": fault("constant", L=9, V=3, **LARGE),
            "gradient of 64 tokens": fault("gradient of first rows", "gradient", B=2, L=40, **LARGE),
        },
    ),
    Program(f"{M}token_losses", "torch cross_entropy", losses_by_torch),
    *sabotaged(
        f"{M}perplexity",
        "exponential of the loss",
        perplexity,
        {
            "mean of the rows' perplexities": fault("reduction", B=3, L=5, **LARGE),
            "loss held at 5": fault("long sums and powers", V=300, **LARGE),
        },
    ),
    *sabotaged(
        f"{M}corpus_perplexity",
        "sums in float64",
        corpus_perplexity,
        {
            "mean of the batches": fault("reduction", K=4),
            "eight batches": fault("entries beyond n not read", K=12),
            "empty batches count one": fault("ties and zeros", K=40),
        },
    ),
    *sabotaged(
        f"{M}needle_score",
        "logsumexp",
        needle_score,
        {
            "ties for the answer": fault("ties and zeros", zeros=0.7, V=6, B=20, names=("MEM-34d",)),
            "position in 8 bits": fault("narrow index", L=200, B=20),
            "position of the next token": fault("constant", L=6, B=4),
            "rank of 64 at most": fault("long sums and powers", V=300, B=4),
        },
    ),
    Program(f"{M}needle_score", "log_softmax and counting", needle_by_sorting),
)
