"""Random features on CUDA as operators of torch: φ, φ(x) φ(y)ᵀ and φ(x) (φ(y)ᵀ v), each with its backward.

    trueness::rff_features, rff_features_paired, rff_gram, rff_matvec        float32, float16 and bfloat16

The arguments are saved and, for the product, φ(y)ᵀv (p, D); the backward computes the angles again. float64 takes
the plain path on every device. On the CPU the kernels run only under Triton's interpreter.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from trueness.optimized.kernels.sincos import in_turns

FEATURE_TILE = 1024  # features of a Gram matrix's backward at a time
Tensor = torch.Tensor


def _in_turns(frequencies: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
    """W and b in turns, contiguous and in float32."""
    w = in_turns(frequencies.float()).contiguous()
    return w, w.new_zeros(w.shape[1]) if offsets is None else in_turns(offsets.float()).contiguous()


def _require_kernel(x: Tensor) -> None:
    if x.dtype == torch.float64:
        raise ValueError("x had dtype torch.float64; the kernel computes in float32 (use the plain path).")


def _amplitudes(scales: Tensor | None, count: int, like: Tensor) -> Tensor:
    """√(2/D) for every feature, or the given ones."""
    if scales is not None:
        return scales.float().contiguous()
    return torch.full((count,), math.sqrt(2 / count), dtype=torch.float32, device=like.device)


def _nothing(x: Tensor) -> Tensor:
    """An empty tensor, in place of a gradient that is not needed; each its own, for outputs may not share memory."""
    return x.new_empty(0)


def _needs(ctx: Any, count: int) -> tuple[bool, ...]:
    """Which of the first ``count`` arguments want a gradient; one left at its default does not."""
    return (*ctx.needs_input_grad, *(False,) * count)[:count]


def _needed(ctx: Any, gradients: tuple[Tensor, ...], more: int) -> tuple[Any, ...]:
    found = [g if need else None for g, need in zip(gradients, _needs(ctx, len(gradients)), strict=True)]
    return (*found, *(None,) * more)


# -- features ---------------------------------------------------------------------------------------------------------


@torch.library.custom_op("trueness::rff_features", mutates_args=(), device_types=("cpu", "cuda"))
def features(
    x: Tensor, frequencies: Tensor, offsets: Tensor, scales: Tensor | None = None, tf32: bool = False
) -> Tensor:
    return features_into(x, frequencies, offsets, scales, tf32)


@torch.library.custom_op("trueness::rff_features_paired", mutates_args=(), device_types=("cpu", "cuda"))
def features_paired(x: Tensor, frequencies: Tensor, tf32: bool = False) -> Tensor:
    return features_into(x, frequencies, None, None, tf32)


def features_into(
    x: Tensor, frequencies: Tensor, offsets: Tensor | None, scales: Tensor | None, tf32: bool, out: Tensor | None = None
) -> Tensor:
    """scale · cos(x W + b), or [cos, sin] without offsets; written into ``out`` if given, no gradient then."""
    from trueness.optimized.kernels.cuda import forward as kernels

    _require_kernel(x)
    w, b = _in_turns(frequencies, offsets)
    paired = offsets is None
    amplitudes = _amplitudes(scales, w.shape[1] * (2 if paired else 1), x)
    return kernels.features(x, w, b, amplitudes, paired, kernels.tile(x, w, tf32=tf32), out)


@torch.library.custom_op("trueness::rff_features_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _features_backward(
    grad: Tensor,
    x: Tensor,
    frequencies: Tensor,
    offsets: Tensor | None,
    scales: Tensor | None,
    tf32: bool,
    by_x: bool,
    by_w: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    from trueness.optimized.kernels.cuda import backward
    from trueness.optimized.kernels.cuda import forward as kernels

    w, b = _in_turns(frequencies, offsets)
    kind = backward.PAIRS if offsets is None else backward.COSINES
    count = w.shape[1] * (2 if offsets is None else 1)
    arguments = (x, grad, _amplitudes(scales, count, x), w, b, kind, kernels.tile(x, w, tf32=tf32))
    first = backward.by_points(*arguments).to(x.dtype) if by_x else _nothing(x)
    if not by_w:
        return first, _nothing(x), _nothing(x)
    of_w, of_b = backward.by_frequencies(*arguments)
    return first, of_w.to(x.dtype), of_b.to(x.dtype)


@features.register_fake
def _(x: Tensor, frequencies: Tensor, offsets: Tensor, scales: Tensor | None = None, tf32: bool = False) -> Tensor:
    return x.new_empty((x.shape[0], frequencies.shape[1]))


@features_paired.register_fake
def _(x: Tensor, frequencies: Tensor, tf32: bool = False) -> Tensor:
    return x.new_empty((x.shape[0], 2 * frequencies.shape[1]))


@_features_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    frequencies: Tensor,
    offsets: Tensor | None,
    scales: Tensor | None,
    tf32: bool,
    by_x: bool,
    by_w: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    of_w, of_b = (frequencies.shape, frequencies.shape[1:]) if by_w else ((0,), (0,))
    return x.new_empty(x.shape if by_x else (0,)), x.new_empty(of_w), x.new_empty(of_b)


def _save_features(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.tf32 = inputs
    ctx.save_for_backward(*tensors, *(None,) * (4 - len(tensors)))


def _pull_features(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, frequencies, offsets, scales = ctx.saved_tensors
    needs = _needs(ctx, 3 if offsets is not None else 2)
    found = _features_backward(grad, x, frequencies, offsets, scales, ctx.tf32, needs[0], any(needs[1:3]))
    return _needed(ctx, found, 2) if offsets is not None else _needed(ctx, found[:2], 1)


features.register_autograd(_pull_features, setup_context=_save_features)
features_paired.register_autograd(_pull_features, setup_context=_save_features)


# -- Gram matrix ------------------------------------------------------------------------------------------------------


@torch.library.custom_op("trueness::rff_gram", mutates_args=(), device_types=("cpu", "cuda"))
def gram(x: Tensor, y: Tensor, frequencies: Tensor, offsets: Tensor, tf32: bool = False) -> Tensor:
    from trueness.optimized.kernels.cuda import forward as kernels

    _require_kernel(x)
    w, b = _in_turns(frequencies, offsets)
    return kernels.gram(x, y, w, b, 2 / w.shape[1], kernels.tile(x, w, tf32=tf32))


@torch.library.custom_op("trueness::rff_gram_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _gram_backward(
    grad: Tensor, x: Tensor, y: Tensor, frequencies: Tensor, offsets: Tensor, tf32: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The backward of φ(x) at Ḡ φ(y), and of φ(y) at Ḡᵀ φ(x), a tile of features at a time."""
    from trueness.optimized.kernels.cuda import backward
    from trueness.optimized.kernels.cuda import forward as kernels

    w, b = _in_turns(frequencies, offsets)
    count, t, g = w.shape[1], kernels.tile(x, w, tf32=tf32), grad.float()
    by_points = [x.new_zeros(x.shape, dtype=torch.float32), y.new_zeros(y.shape, dtype=torch.float32)]
    by_w, by_b = torch.zeros_like(w), torch.zeros_like(b)
    for start in range(0, count, FEATURE_TILE):
        part = slice(start, min(start + FEATURE_TILE, count))
        w_part, b_part = w[:, part].contiguous(), b[part].contiguous()
        ones, shares = torch.ones_like(b_part), torch.full_like(b_part, 2 / count)
        for i, (points, other, pull) in enumerate(((x, y, g), (y, x, g.T))):
            phi = kernels.features(other.float(), w_part, b_part, ones, False, t)
            arguments = (points, pull @ phi, shares, w_part, b_part, backward.COSINES, t)
            by_points[i] += backward.by_points(*arguments)
            of_w, of_b = backward.by_frequencies(*arguments)
            by_w[:, part] += of_w
            by_b[part] += of_b
    return by_points[0].to(x.dtype), by_points[1].to(x.dtype), by_w.to(x.dtype), by_b.to(x.dtype)


@gram.register_fake
def _(x: Tensor, y: Tensor, frequencies: Tensor, offsets: Tensor, tf32: bool = False) -> Tensor:
    return x.new_empty((x.shape[0], y.shape[0]))


@_gram_backward.register_fake
def _(
    grad: Tensor, x: Tensor, y: Tensor, frequencies: Tensor, offsets: Tensor, tf32: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(y.shape), x.new_empty(frequencies.shape), x.new_empty(offsets.shape)


def _save_gram(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.tf32 = inputs
    ctx.save_for_backward(*tensors)


def _pull_gram(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return _needed(ctx, _gram_backward(grad, *ctx.saved_tensors, ctx.tf32), 1)


gram.register_autograd(_pull_gram, setup_context=_save_gram)


# -- products ---------------------------------------------------------------------------------------------------------


@torch.library.custom_op("trueness::rff_matvec", mutates_args=(), device_types=("cpu", "cuda"))
def matvec(
    x: Tensor,
    y: Tensor,
    v: Tensor,
    frequencies: Tensor,
    offsets: Tensor,
    shares: Tensor | None = None,
    tf32: bool = False,
) -> tuple[Tensor, Tensor]:
    """(u, (cos(y W + b)ᵀ v)ᵀ); the second, in float32, is for the backward and has no gradient."""
    from trueness.optimized.kernels.cuda import forward as kernels

    _require_kernel(x)
    w, b = _in_turns(frequencies, offsets)
    t = kernels.tile(x, w, v.shape[1], tf32)
    pulled = kernels.pull(y, v, w, b, t)
    return kernels.push(x, pulled * _shares(shares, pulled), w, b, t).to(x.dtype), pulled


def _shares(shares: Tensor | None, pulled: Tensor) -> Tensor | float:
    return 2 / pulled.shape[1] if shares is None else shares.float()


@torch.library.custom_op("trueness::rff_matvec_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _matvec_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    v: Tensor,
    frequencies: Tensor,
    offsets: Tensor,
    shares: Tensor | None,
    pulled: Tensor,
    tf32: bool,
    by_x: bool,
    by_y: bool,
    by_v: bool,
    by_w: bool,
    by_shares: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """With c = share · cos(y W + b)ᵀ v and e = share · cos(x W + b)ᵀ ū: by x from (ū, c), by y and v from (v, e)."""
    from trueness.optimized.kernels.cuda import backward
    from trueness.optimized.kernels.cuda import forward as kernels

    w, b = _in_turns(frequencies, offsets)
    t = kernels.tile(x, w, v.shape[1], tf32)
    amounts = _shares(shares, pulled)
    right = pulled * amounts
    used = by_y or by_v or by_w or by_shares
    back = kernels.pull(x, grad, w, b, t) if used else _nothing(pulled)
    left = back * amounts if used else back
    of_x = backward.by_points(x, grad, right, w, b, backward.PRODUCT, t).to(x.dtype) if by_x else _nothing(x)
    of_y = backward.by_points(y, v, left, w, b, backward.PRODUCT, t).to(x.dtype) if by_y else _nothing(x)
    of_v = kernels.push(y, left, w, b, t).to(x.dtype) if by_v else _nothing(x)
    of_shares = (pulled * back).sum(0) if by_shares else _nothing(pulled)
    if not by_w:
        return of_x, of_y, of_v, _nothing(x), _nothing(x), of_shares
    of_w, of_b = backward.by_frequencies(x, grad, right, w, b, backward.PRODUCT, t)
    more_w, more_b = backward.by_frequencies(y, v, left, w, b, backward.PRODUCT, t)
    return of_x, of_y, of_v, (of_w + more_w).to(x.dtype), (of_b + more_b).to(x.dtype), of_shares


@matvec.register_fake
def _(
    x: Tensor,
    y: Tensor,
    v: Tensor,
    frequencies: Tensor,
    offsets: Tensor,
    shares: Tensor | None = None,
    tf32: bool = False,
) -> tuple[Tensor, Tensor]:
    pulled = x.new_empty((v.shape[1], frequencies.shape[1]), dtype=torch.float32)
    return x.new_empty((x.shape[0], v.shape[1])), pulled


@_matvec_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    v: Tensor,
    frequencies: Tensor,
    offsets: Tensor,
    shares: Tensor | None,
    pulled: Tensor,
    tf32: bool,
    by_x: bool,
    by_y: bool,
    by_v: bool,
    by_w: bool,
    by_shares: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    def empty(like: Tensor, wanted: bool) -> Tensor:
        return x.new_empty(like.shape if wanted else (0,))

    of_shares = x.new_empty(offsets.shape if by_shares else (0,), dtype=torch.float32)
    by_both = empty(frequencies, by_w), empty(offsets, by_w)
    return empty(x, by_x), empty(y, by_y), empty(v, by_v), *by_both, of_shares


def _save_matvec(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.tf32 = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _pull_matvec(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    needs = _needs(ctx, 6)
    flags = (*needs[:3], needs[3] or needs[4], needs[5])
    found = _matvec_backward(grad, *ctx.saved_tensors, ctx.tf32, *flags)
    shares = ctx.saved_tensors[5]
    last = found[5] if shares is None else found[5].to(shares.dtype)
    return _needed(ctx, (*found[:5], last), 1)


matvec.register_autograd(_pull_matvec, setup_context=_save_matvec)
