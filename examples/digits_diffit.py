"""A small DiffiT learns scikit-learn's handwritten digits: cosine schedule, windowed TMSA, guidance, DDIM.

    min E |ε − ε_θ(√ᾱ_t x_0 + √(1 − ᾱ_t) ε, t, y)|²,      samples by Song et al. 2021 eq. 12 with ε_u + w (ε_c − ε_u)

Judged by the Fréchet distance of pixels to digits held out, beside the same model untrained and beside independent
Gaussian pixels of the right means and variances.

    python examples/digits_diffit.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch
from _run import Curve, Line, bar, digest, report, run
from sklearn.datasets import load_digits

from trueness.optimized import attention, diffusion, metrics, training

NAME = "digits_diffit"
BATCH, WINDOW = 64, 2  # images a micro-batch, micro-batches an optimiser step
DROPPED, GUIDANCE = 0.1, 1.5  # labels withheld in training, w in sampling
TIMES, SAMPLER_STEPS = 1000, 50


def images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Digits to learn from in [−1, 1], their labels, and digits held out; split by a fixed shuffle."""
    pixels, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 8 - 1
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    learn, held = order[:1300], order[1300:]
    return x[learn], torch.from_numpy(labels)[learn], x[held]


def model() -> attention.DiffiT:
    torch.manual_seed(0)
    return attention.DiffiT(8, channels=1, embed_dim=32, multipliers=(1, 2), num_heads=4, window=4, classes=10)


def sample(net: torch.nn.Module, schedule: diffusion.GaussianDiffusion, labels: torch.Tensor, title: str) -> Any:
    """One digit per label, guided."""

    def guided(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        both = net(torch.cat([x, x]), torch.cat([t, t]), torch.cat([labels, torch.full_like(labels, 10)]))
        return diffusion.classifier_free_guidance(*both.chunk(2), GUIDANCE)

    progress, move = bar(title, SAMPLER_STEPS)
    with progress, training.evaluating(net):
        return schedule.ddim(
            guided,
            (len(labels), 1, 8, 8),
            steps=SAMPLER_STEPS,
            eta=1.0,
            clip=True,
            recompute_eps=True,
            generator=torch.Generator().manual_seed(1),
            progress=lambda done, total: move(done, ""),
        )


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """The Fréchet distance of two sets of images, on their pixels."""
    sets = (metrics.mean_and_covariance(z.flatten(1).double()) for z in (x, y))
    return float(metrics.frechet_distance(*(part for pair in sets for part in pair)))


def gaussian_pixels(x: torch.Tensor, count: int) -> torch.Tensor:
    noise = torch.randn(count, *x.shape[1:], generator=torch.Generator().manual_seed(2))
    return x.mean(0) + x.std(0) * noise


def picture(samples: torch.Tensor, labels: torch.Tensor, real: torch.Tensor, file: Path) -> None:
    """Samples, a row for every label, and a row of real digits below."""
    from matplotlib.figure import Figure

    rows = [samples[labels == k][:12, 0] for k in range(10)] + [real[:12, 0]]
    figure = Figure(figsize=(6, 5.5))
    axes = figure.subplots(len(rows), 12, squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for k, cell in enumerate(line):
            cell.axis("off")
            if k < len(row):
                cell.imshow(row[k], cmap="gray_r", vmin=-1, vmax=1)
    figure.suptitle("sampled 0 … 9; below, real digits", fontsize=10)
    figure.savefig(file, dpi=120)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("report/examples"), show_default=True)
@click.option("--steps", type=click.IntRange(2), default=1500, show_default=True, help="Optimiser steps.")
@click.option("--samples", type=click.IntRange(2), default=500, show_default=True)
@click.option("--stop", type=int, default=None, help="Leave off after so many steps; the next run goes on from there.")
def main(out: Path, steps: int, samples: int, stop: int | None) -> None:
    x, y, held = images()
    schedule = diffusion.GaussianDiffusion(diffusion.cosine_betas(TIMES))
    net, curve, generator = model(), Curve(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    warmup = training.WarmupCosine(optimizer, warmup_steps=min(50, steps // 2), total_steps=steps, min_lr_ratio=0.05)
    ema = training.EMA(net, 0.99)
    accumulator = training.GradientAccumulator(optimizer, WINDOW, max_norm=1.0, schedule=warmup, ema=ema)
    parts = {"net": net, "optimizer": optimizer, "warmup": warmup, "ema": ema, "accumulator": accumulator}
    objects = {**parts, "curve": curve}

    def step(k: int) -> str:
        losses = []
        for _ in range(WINDOW):
            chosen = torch.randint(len(x), (BATCH,), generator=generator)
            x_t, t, noise = schedule.training_pair(x[chosen], generator=generator)
            dropped = torch.rand(BATCH, generator=generator) < DROPPED
            loss = diffusion.p_losses(net(x_t, t, y[chosen], dropped), noise)
            accumulator.backward(loss, samples=BATCH)
            losses.append(float(loss.detach()))
        return f"loss {curve.add(sum(losses) / WINDOW):.3f}"

    if not run(NAME, out, objects, steps, step, every=100, generators={"batches": generator}, stop=stop):
        return
    labels = torch.arange(samples) % 10
    with ema.averaged():
        drawn = sample(net, schedule, labels, "samples")
    picture(drawn, labels, held, out / f"{NAME}.png")
    model_distance = distance(drawn, held)
    report(
        NAME,
        out,
        [
            Line("loss of the last tenth of the steps / of the first", curve.last() / curve.first(), "<", 1.0),
            Line(
                "Fréchet distance to held-out digits", model_distance, "<", distance(gaussian_pixels(x, samples), held)
            ),
            Line(
                "the same, beside the untrained model",
                model_distance,
                "<",
                distance(sample(model(), schedule, labels, "untrained"), held),
            ),
        ],
        digest(objects),
    )


if __name__ == "__main__":
    main()
