"""Wrong variants of the family training, as they were shipped or as the checks must reject them."""

from __future__ import annotations

import numpy as np

from trueness.reference import training as true

# -- accumulation -----------------------------------------------------------------------------------------------------


def remainder_dropped(micro_batches, window):
    """⌊N/A⌋: the optimiser steps only where (j + 1) mod A = 0"""
    return np.asarray(micro_batches // window)


def divided_by_window(gradients, counts):
    """The short last window of k micro-batches is divided by A, here 4, as every loss was"""
    k = gradients.shape[0]
    return true.accumulate(gradients, counts) * (k / (-(-k // 4) * 4))


def mean_of_means(gradients, counts):
    """(1/k) Σ g_j: a short last micro-batch counts as much as a full one"""
    return np.sum(gradients, axis=0) / gradients.shape[0]


def clipped_before_dividing(gradients, counts, max_norm):
    """clip(Σ n_j g_j / n̄) / k: the sum is clipped, then divided"""
    k = gradients.shape[0]
    return true.clip_by_global_norm(true.accumulate(gradients, counts) * k, max_norm=max_norm) / k


def each_clipped(gradients, counts, max_norm):
    """Every micro-batch is clipped on its own, and the mean not at all"""
    return true.accumulate(np.stack([true.clip_by_global_norm(g, max_norm=max_norm) for g in gradients]), counts)


def decay_of_the_window(average, parameter, decay):
    """d^k for a window of k = 4 micro-batches: 0.9999 becomes 0.99960006"""
    return true.ema_update(average, parameter, decay=decay**4) if decay else average + 0 * parameter


def swapped_decay(average, parameter, decay):
    """d x + (1 − d) a: the weights change places"""
    return true.ema_update(average, parameter, decay=1 - decay)


# -- clipping ---------------------------------------------------------------------------------------------------------


def not_clipped(gradient, max_norm):
    """g"""
    return gradient + 0.0


def clamped_elements(gradient, max_norm):
    """Every element is held in [−c, c]: another direction, and a norm of up to √n c"""
    return np.minimum(np.maximum(gradient, -max_norm), max_norm)


def each_parameter_clipped(gradient, max_norm):
    """One norm per parameter (here: per first index) and not one for all of them"""
    if gradient.ndim < 2:
        return np.minimum(np.maximum(gradient, -max_norm), max_norm)
    return np.stack([true.clip_by_global_norm(g, max_norm=max_norm) for g in gradient]).reshape(gradient.shape)


def always_scaled(gradient, max_norm):
    """g c/(‖g‖ + ε): small gradients are blown up to the norm c"""
    return gradient * (max_norm / (np.sqrt(np.sum(gradient * gradient)) + 1e-6))


# -- rate -------------------------------------------------------------------------------------------------------------


def set_after_the_step(step, warmup_steps, total_steps, min_lr_ratio):
    """The rate is set after the update: the first one runs at the full rate, every other one update late"""
    late = true.warmup_cosine_factor(
        np.maximum(step - 1, 0), warmup_steps=warmup_steps, total_steps=total_steps, min_lr_ratio=min_lr_ratio
    )
    return np.where(step == 0, 1.0, late)


def cosine_from_the_last_warm_up_rate(step, warmup_steps, total_steps, min_lr_ratio):
    """Late as well, and the cosine, a recursion, starts from the (W − 1)/W that the warm-up had reached"""
    reached = (warmup_steps - 1) / max(warmup_steps, 1)
    decayed = min_lr_ratio + (reached - min_lr_ratio) * np.cos((step - warmup_steps) / total_steps * (np.pi / 2)) ** 2
    return np.where(step == 0, 1.0, np.where(step <= warmup_steps, (step - 1) / max(warmup_steps, 1), decayed))


def rebounding(step, warmup_steps, total_steps, min_lr_ratio):
    """The cosine goes on after T, and the rate rises again"""
    share = np.maximum(step - warmup_steps, 0) / (total_steps - warmup_steps)
    decayed = min_lr_ratio + (1 - min_lr_ratio) * (1 + np.cos(share * np.pi)) / 2
    return np.where(step < warmup_steps, step / max(warmup_steps, 1), decayed)


# -- rules ------------------------------------------------------------------------------------------------------------


def old_estimate(batch, resolution, base_channels, levels, kernel_cache, mixed_precision, clip_model):
    """(150 | 300) + batch · (250 | 500): whatever the resolution, the channels and the cache"""
    return np.asarray(150.0 + batch * 250 if mixed_precision else 300.0 + batch * 500)


def width_squared(batch, resolution, base_channels, levels, kernel_cache, mixed_precision, clip_model):
    """Parameters growing with the square of the channels, as the docstring has it and the code has not"""
    estimate = true.legacy_memory_heuristic(
        batch,
        resolution,
        base_channels=base_channels,
        levels=levels,
        kernel_cache=kernel_cache,
        mixed_precision=mixed_precision,
        clip_model=clip_model,
    )
    c = np.maximum(np.asarray(base_channels) / 192, 0.5)
    parameters = 300 * c * np.maximum(np.asarray(levels) / 4, 0.5) * (0.5 if mixed_precision else 1.0)
    return estimate + parameters * (c - 1)


def old_tiers(free):
    """8, 4, 2, 1 from 20, 14, 10, 0 GiB: never more than the new tiers, half of them in four ranges"""
    return 1 + np.where(free >= 10, 1, 0) + np.where(free >= 14, 2, 0) + 4 * (free >= 20)
