"""MEM-02 … MEM-05: polynomial features."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.properties.atlas_memory.flat import TOKENS
from trueness.properties.atlas_memory.flat import reference as true
from trueness.regressions.atlas_memory.common import (
    ATTENTION,
    CHANGELOG,
    FEATURES,
    FOUR_AXES,
    OMEGA,
    PAPER,
    TAYLOR,
    Arguments,
    discriminating_input,
    entry,
    named,
)

CLAMPS = "the powers are clamped for stability: x to ±10, every term to ±1e6"


def harmonic_coefficients(degree: int) -> Any:
    """a_i = 1/i, a_0 = 1"""
    return 1 / np.maximum(np.arange(degree + 1), 1)


def factorials_twice(x: Any, degree: int) -> Any:
    """x^{⊗i}/i! on both sides, so that the kernel is Σ (q·k)^i/(i!)²"""
    powers = true._tensors(x, degree)
    coefficients = true.taylor_coefficients(degree)
    return np.concatenate([a * x_i for a, x_i in zip(coefficients, powers, strict=True)], axis=-1)


def rooted_coefficients(x: Any, coefficients: Any, clamp: Any) -> Any:
    """√a_i on each side: the coefficients of the paper's kernel, not of the project's features"""
    return true.elementwise_features(x, np.sqrt(np.maximum(coefficients, -coefficients)), clamp)


def constant_of_width_one(x: Any, coefficients: Any, clamp: Any) -> Any:
    """One constant for all elements: 1 + p D features where the buffers have (p + 1) D"""
    phi, width = true.elementwise_features(x, coefficients, clamp), x.shape[-1]
    return np.concatenate([phi[..., :1], phi[..., width:]], axis=-1)


def clip_after_the_power(x: Any, coefficients: Any, clamp: Any) -> Any:
    """a_i clip(x^i): the terms are held and not x"""
    terms = [x * 0 + 1]
    for _ in range(len(coefficients) - 1):
        terms = [*terms, terms[-1] * x]
    held = [np.minimum(np.maximum(t, -clamp), clamp) for t in terms]
    return np.concatenate([a * t for a, t in zip(coefficients, held, strict=True)], axis=-1)


def no_clip(x: Any, coefficients: Any, clamp: Any) -> Any:
    """Powers of x however large"""
    return true.elementwise_features(x, coefficients, np.inf)


def unscaled_features(p: Arguments) -> Any:
    """φ(q) and φ(k) as they are, of a length that grows with D and p"""
    features = {x: true.elementwise_features(p[x], p["coefficients"], p["clamp"]) for x in "qk"}
    tokens = [{**p, **features}[name] for name in TOKENS]
    whole = {**p, **features, **true._zero_state(tokens, len(p["q"]))._asdict()}
    return true.omega(*(whole[name] for name in OMEGA))[0]


def heads_unpacked_as_width(x: Any, coefficients: Any, clamp: Any) -> Any:
    """(B, T, H, D) unpacked three ways, (B, T, H D): the powers of all heads stand together"""
    if np.ndim(x) < 3:
        return true.elementwise_features(x, coefficients, clamp)
    *lead, heads, width = x.shape
    phi = true.elementwise_features(x.reshape(*lead, heads * width), coefficients, clamp)
    return phi.reshape(*lead, heads, len(coefficients) * width)


BUGS = (
    entry(
        "MEM-02",
        "factorial of a float tensor",
        "coefficients 1/i! failed with a TypeError and are fixed",
        "real bug, right fix",
        "math.factorial of a float tensor raises TypeError; of an integer it is exact up to i = 170 in float64.",
        source=f"{PAPER} eq. 5",
    ),
    entry(
        "MEM-02a",
        "1/i! on the features of both sides",
        "coefficients 1/i! make the kernel that of exp",
        "real bug, wrong fix",
        "The coefficients of eq. 5 belong to the kernel; features carry their roots (eq. 22). With 1/i! on both sides "
        "the kernel is Σ (q·k)^i/(i!)², and stays 8.3e-2 below exp at q·k = 0.5 however many powers there are.",
        "tensor_features",
        factorials_twice,
        (np.array([0.5, -1.0]), 3),
        f"{PAPER} eq. 5, 22",
    ),
    entry(
        "MEM-02c",
        "1/i for 1/i!",
        "coefficients 1/i! are those of exp",
        "no bug",
        "Nobody shipped it: it shows that the check of the coefficients can fail, from the second power on.",
        "taylor_coefficients",
        harmonic_coefficients,
        (3,),
        f"{PAPER} eq. 5",
    ),
    entry(
        "MEM-02b",
        "roots of the coefficients in the elementwise map",
        "coefficients 1/i! on the features",
        "convention",
        "With 1/i! the elementwise kernel is Σ_d 0F1(; 1; q_d k_d), with 1/√i! it is Σ_d exp(q_d k_d). Both are right "
        "under their name; neither is exp(q·k).",
        "elementwise_features",
        rooted_coefficients,
        (FEATURES / 11, TAYLOR, 10.0),
        "scipy.special.hyp0f1",
    ),
    entry(
        "MEM-03",
        "a constant of width one",
        "the constant term has width head_dim",
        "real bug, right fix",
        "1 + p d features do not fit buffers of (p + 1) d. The d constants of the fix have rank one: they are one "
        "constant of weight √d and add no capacity.",
        "elementwise_features",
        constant_of_width_one,
        (FEATURES, TAYLOR, 10.0),
    ),
    entry(
        "MEM-04",
        "a second clamp that never acts",
        CLAMPS,
        "no bug",
        "With x in ±10 and coefficients 1/i! no term exceeds 10^10/10! = 2755.7: the clamp to ±1e6 changes no bit. "
        "Kept as a wrong variant: features without any clamp.",
        "elementwise_features",
        no_clip,
        (FEATURES * 2, TAYLOR, 10.0),
        "max_i 10^i/i!",
    ),
    entry(
        "MEM-04a",
        "the power is clamped and not its base",
        CLAMPS,
        "no bug",
        "Not the project's. x^i held in ±10 is flat from |x| = 10^(1/i) on, so that higher powers say less and less.",
        "elementwise_features",
        clip_after_the_power,
        (FEATURES, TAYLOR, 10.0),
        CHANGELOG,
    ),
    entry(
        "MEM-04b",
        "features that grow with their number",
        "clamping makes the memory stable",
        "claim false",
        "What diverges is the step and not the power: the constant block makes |φ|² ≥ D, and with steps that suit unit "
        "vectors the memory grows without bound. Here features are divided by √P.",
        "atlas_attention",
        named(ATTENTION, unscaled_features),
        discriminating_input(ATTENTION),
        "gradient descent needs a step below 2/λ_max",
    ),
    entry(
        "MEM-05",
        "four axes unpacked as three",
        "polynomial features take 3-D and 4-D input",
        "real bug, right fix",
        "batch, length, width = x.shape raises ValueError for (B, T, H, D). Flattening heads into width instead puts "
        "the powers of all heads together and hands them back to the wrong heads.",
        "elementwise_features",
        heads_unpacked_as_width,
        (FOUR_AXES, TAYLOR, 10.0),
        "φ acts on the last axis",
    ),
)
