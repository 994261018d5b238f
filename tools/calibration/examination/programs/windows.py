"""Windows of images, relative positions, and TMSA window by window."""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch

from trueness.tools.calibration.examination.program import HALVES, WIDE, Program, Witness, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, wide


def window_partition(x: Tensor, window: int, *, fault: str = "") -> Tensor:
    """Window after window copied out"""
    batch, height, width, channels = x.shape
    down, across = height // window, width // window
    found = []
    for b in range(batch):
        for r in range(down):
            for c in range(across):
                n = len(found)
                if fault == "12 windows" and n >= 12:
                    found.append(torch.zeros_like(found[0]))
                    continue
                if fault == "columns first for square grids" and down == across:
                    r_, c_ = c, r
                else:
                    r_, c_ = r, c
                part = x[b, r_ * window : (r_ + 1) * window, c_ * window : (c_ + 1) * window]
                if fault == "window's rows and columns exchanged from 4 on" and window >= 4:
                    part = part.transpose(0, 1)
                found.append(part.reshape(window * window, channels))
    return torch.stack(found)


def window_unpartition(windows: Tensor, window: int, height: int, width: int, *, fault: str = "") -> Tensor:
    down, across = height // window, width // window
    batch = len(windows) // (down * across)
    tiles = windows.reshape(batch, down, across, window, window, -1)
    if fault == "images beyond the second repeat it" and batch > 2:
        tiles = torch.cat([tiles[:2], tiles[1:2].expand(batch - 2, *tiles.shape[1:])])
    if fault == "last column of windows from the first" and across > 2:
        tiles = torch.cat([tiles[:, :, :-1], tiles[:, :, :1]], 2)
    return tiles.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, -1).contiguous()


def index_of(window: int, fault: str) -> Tensor:
    place = torch.arange(window * window)
    y, x = place // window, place % window
    step = 2 * window - 1
    index = (y[:, None] - y + window - 1) * step + (x[:, None] - x + window - 1)
    if fault == "index in a signed byte":
        index = index.to(torch.int8).long() % (step * step)
    if fault == "index in a byte":
        index = index.to(torch.uint8).long()
    if fault == "rows and columns exchanged":
        index = (x[:, None] - x + window - 1) * step + (y[:, None] - y + window - 1)
    if fault == "differences held at 7":
        dy, dx = (y[:, None] - y).clamp(-7, 7), (x[:, None] - x).clamp(-7, 7)
        index = (dy + window - 1) * step + (dx + window - 1)
    return index


def relative_position_index(window: int, *, device: Any = None, fault: str = "") -> Tensor:
    return index_of(window, fault)


class Gathered(torch.autograd.Function):
    """T by index; the backward adds pair after pair"""

    @staticmethod
    def forward(ctx: Any, table: Tensor, window: int, fault: str) -> Tensor:  # type: ignore[override]
        index = index_of(window, fault)
        ctx.save_for_backward(index)
        ctx.rows, ctx.fault = len(table), fault
        return table[index].permute(2, 0, 1).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        (index,) = ctx.saved_tensors
        flat, place = wide(grad).reshape(len(grad), -1).T, index.reshape(-1)
        if ctx.fault == "gradient of 256 pairs":
            flat, place = flat[:256], place[:256]
        if ctx.fault == "gradient by assignment":
            found = torch.zeros((ctx.rows, len(grad)), dtype=flat.dtype)
            found[place] = flat
        elif ctx.fault == "gradient summed in the half format":
            narrow = torch.zeros((ctx.rows, len(grad)), dtype=grad.dtype)
            for i, row in zip(place.tolist(), flat.to(grad.dtype), strict=True):
                narrow[i] += row
            found = narrow.to(flat)
        else:
            found = torch.zeros((ctx.rows, len(grad)), dtype=flat.dtype).index_add(0, place, flat)
        return found.to(grad.dtype), None, None


def relative_position_bias(table: Tensor, window: int, *, fault: str = "") -> Tensor:
    return Gathered.apply(table, window, fault)


def tmsa(
    x: Tensor, t: Tensor, qs: Tensor, ks: Tensor, vs: Tensor, qt: Tensor, kt: Tensor, vt: Tensor, o: Tensor,
    table: Tensor, window: int, heads: int, *, fault: str = "",
) -> Tensor:  # fmt: skip
    """Window after window; a head's softmax by log-sum-exp"""
    batch, height, width, channels = x.shape
    z, moment = wide(x), wide(t)
    qs, ks, vs, qt, kt, vt, o = (wide(w) for w in (qs, ks, vs, qt, kt, vt, o))
    bias = wide(table)[index_of(window, fault)].permute(2, 0, 1)
    d = channels // heads
    windows = window_partition(z, window)
    each = len(windows) // batch
    found = []
    for n, tokens in enumerate(windows):
        image = n // each
        if fault == "time of the first image":
            image = 0
        if fault == "time of the window's number" and n < batch:
            image = n
        if fault == "12 windows" and n >= 12:
            found.append(torch.zeros_like(tokens))
            continue
        q, k, v = (
            (tokens @ s + moment[image] @ m).reshape(-1, heads, d).transpose(0, 1)
            for s, m in ((qs, qt), (ks, kt), (vs, vt))
        )
        if fault == "W_vt dropped":
            v = (tokens @ vs).reshape(-1, heads, d).transpose(0, 1)
        score = q @ k.mT / sqrt(d if fault != "√C for √d" else channels) + bias
        p = torch.exp(score - torch.logsumexp(score, -1, keepdim=True))
        if fault == "32 channels of a head":
            v = torch.cat([v[..., :32], 0 * v[..., 32:]], -1)
        found.append((p @ v).transpose(0, 1).reshape(-1, channels) @ o)
    return window_unpartition(torch.stack(found), window, height, width).to(x.dtype)


def tmsa_by_sdpa(
    x: Tensor, t: Tensor, qs: Tensor, ks: Tensor, vs: Tensor, qt: Tensor, kt: Tensor, vt: Tensor, o: Tensor,
    table: Tensor, window: int, heads: int,
) -> Tensor:  # fmt: skip
    """All windows as one batch of torch's SDPA, the bias as its mask, in float64"""
    z, moment = x.double(), t.double()
    qs, ks, vs, qt, kt, vt, o = (w.double() for w in (qs, ks, vs, qt, kt, vt, o))
    windows = partition_by_unfold(z, window)
    each = len(windows) // len(x)
    times = moment.repeat_interleave(each, 0)[:, None]
    q, k, v = (
        (windows @ s + times @ m).unflatten(-1, (heads, -1)).transpose(1, 2) for s, m in ((qs, qt), (ks, kt), (vs, vt))
    )
    bias = table.double()[index_of(window, "")].permute(2, 0, 1)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias[None].expand(len(q), -1, -1, -1))
    return window_unpartition(out.transpose(1, 2).flatten(2) @ o, window, x.shape[1], x.shape[2]).to(x.dtype)


def partition_by_unfold(x: Tensor, window: int) -> Tensor:
    return x.unfold(1, window, window).unfold(2, window, window).permute(0, 1, 2, 4, 5, 3).flatten(3, 4).flatten(0, 2)


def unpartition_by_stack(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    rows = windows.reshape(-1, width // window, window, window, windows.shape[-1])
    return torch.cat(list(rows.unbind(1)), 2).reshape(-1, height, width, windows.shape[-1])


def bias_by_embedding(table: Tensor, window: int) -> Tensor:
    return torch.nn.functional.embedding(index_of(window, ""), table).permute(2, 0, 1).contiguous()


A = "attention."

PROGRAMS = (
    *sabotaged(
        f"{A}window_partition",
        "window after window",
        window_partition,
        {
            "12 windows": fault("grid too small", B=1, h=7, w=2, scalars={"window": 2}),
            "columns first for square grids": fault("wrong axis", B=1, h=3, w=3, scalars={"window": 2}),
            "window's rows and columns exchanged from 4 on": fault("order", h=2, w=2, scalars={"window": 4}),
        },
        limit="exact",
    ),
    Program(f"{A}window_partition", "unfold", partition_by_unfold, limit="exact"),
    *sabotaged(
        f"{A}window_unpartition",
        "permuted",
        window_unpartition,
        {
            "images beyond the second repeat it": fault("grid too small", B=3, h=2, w=2, scalars={"window": 2}),
            "last column of windows from the first": fault("last partial tile", B=1, h=2, w=3, scalars={"window": 2}),
        },
        limit="exact",
    ),
    Program(f"{A}window_unpartition", "concatenated", unpartition_by_stack, limit="exact"),
    *sabotaged(
        f"{A}relative_position_index",
        "differences",
        relative_position_index,
        {
            "index in a signed byte": fault("narrow index", scalars={"window": 7}),
            "index in a byte": fault("narrow index", scalars={"window": 9}),
            "rows and columns exchanged": fault("order", scalars={"window": 3}, names=("DIFFIT-04b",)),
            "differences held at 7": fault("far scalar", scalars={"window": 9}),
        },
        limit="exact",
    ),
    *sabotaged(
        f"{A}relative_position_bias",
        "gathered",
        relative_position_bias,
        {
            "index in a signed byte": fault("narrow index", scalars={"window": 7}),
            "rows and columns exchanged": fault("order", scalars={"window": 3}, names=("DIFFIT-04b",)),
            "gradient of 256 pairs": fault("gradient of first rows", "gradient", scalars={"window": 5}),
            "gradient by assignment": fault("gradient dropped or scaled", "gradient", scalars={"window": 3}),
            "gradient summed in the half format": fault(
                "half accumulator", "gradient", dtypes=HALVES, scalars={"window": 8}
            ),
        },
        remark="the gradient is a sum, the value a copy; it is held to a limit of rounding",
    ),
    Program(f"{A}relative_position_bias", "F embedding", bias_by_embedding, dtypes=WIDE),
    Program(
        f"{A}relative_position_bias",
        "F embedding in a half format",
        bias_by_embedding,
        "half accumulator",
        Witness(scalars={"window": 8}, looks="gradient"),
        HALVES,
        right_without=relative_position_bias,
        remark="torch's kernel for the CPU adds the gradient of a row in the half format",
    ),
    *sabotaged(
        f"{A}tmsa",
        "window after window",
        tmsa,
        {
            "time of the first image": fault("wrong axis", B=2, h=2, w=2, scalars={"window": 2, "num_heads": 2}),
            "time of the window's number": fault("wrong axis", B=3, h=2, w=1, scalars={"window": 2, "num_heads": 1}),
            "12 windows": fault("grid too small", B=1, h=7, w=2, scalars={"window": 1, "num_heads": 1}),
            "index in a signed byte": fault("narrow index", B=1, h=1, w=1, scalars={"window": 7, "num_heads": 1}),
            "32 channels of a head": fault("entries beyond n not read", d=40, h=1, w=1, B=1, scalars={"window": 2}),
            "√C for √d": fault("constant", h=1, w=2, d=3, scalars={"window": 2, "num_heads": 2}, names=("DIFFIT-02b",)),
            "W_vt dropped": fault("gradient dropped or scaled", h=1, w=2, scalars={"window": 2}, names=("DIFFIT-02a",)),
        },
    ),
    Program(f"{A}tmsa", "SDPA of all windows in float64", tmsa_by_sdpa),
)
