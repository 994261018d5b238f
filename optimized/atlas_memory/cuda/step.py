"""One token of the Omega rule with gradient descent on CUDA: one launch that reads the state once and writes it once.

    g = Σ_j γ_j i k_j (k_jᵀM̂ − v_j)ᵀ,  or −Σ_j γ_j i k_j v_jᵀ for "dot"        over the c tokens of the window
    S' = θ S + g,    M' = α M − w S',    o = qᵀM' or qᵀM                              grid (B H, V / BV)

Columns of the memory never meet, so that a program may write over what it has read. Arithmetic is float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ELEMENTS = 2048  # of a state in a program: M, M̂, S and the gradient stay in registers, and few heads fill a GPU
SECTOR = 8  # columns: 32 bytes are read at a time


def tiles(width: int, values: int) -> tuple[dict[str, int], dict[str, int]]:
    """(tile, options) of a program: all P features of some columns"""
    features = triton.next_power_of_2(max(width, 2))
    columns = min(triton.next_power_of_2(max(values, 2)), max(ELEMENTS // features, SECTOR))
    if triton.knobs.runtime.interpret:
        columns = min(columns, 2)  # short values fill several programs
    return {"BP": features, "BV": columns}, {"num_warps": 4 if features * columns <= ELEMENTS else 8}


@triton.jit
def with_token(g, M_hat, k, v, weight, p, cv, P: tl.constexpr, V: tl.constexpr, SQUARES: tl.constexpr):
    """g + weight k (kᵀM̂ − v)ᵀ"""
    key = tl.load(k + p, mask=p < P, other=0.0)
    error = -tl.load(v + cv, mask=cv < V, other=0.0)
    if SQUARES:
        error += tl.sum(key[:, None] * M_hat, 0)
    return g + key[:, None] * (weight * error)[None, :]


@triton.jit
def step_kernel(
    q, k, v, alpha, eta, theta, gamma, memory, momentum, start, k_window, v_window,
    read, next_memory, next_momentum, H, WINDOW,
    P: tl.constexpr, V: tl.constexpr, SQUARES: tl.constexpr, INNER: tl.constexpr, POST: tl.constexpr,
    BP: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0).to(tl.int64)
    p, cv = tl.arange(0, BP), tl.program_id(1) * BV + tl.arange(0, BV)
    at = head * P * V + p[:, None] * V + cv[None, :]
    inside = (p < P)[:, None] & (cv < V)[None, :]
    M, S = tl.load(memory + at, mask=inside, other=0.0), tl.load(momentum + at, mask=inside, other=0.0)
    M_hat = tl.load(start + at, mask=inside, other=0.0)
    step, last = tl.load(eta + head), WINDOW - 1
    g = tl.zeros((BP, BV), tl.float32)
    for j in range(0, last):  # the oldest first
        row = (head // H * last + j) * H + head % H
        weight = tl.load(gamma + head * WINDOW + last - j)
        g = with_token(g, M_hat, k_window + row * P, v_window + row * V, weight, p, cv, P, V, SQUARES)
    g = with_token(g, M_hat, k + head * P, v + head * V, tl.load(gamma + head * WINDOW), p, cv, P, V, SQUARES)
    if INNER:
        g *= step
        step = 1.0
    S_next = tl.load(theta + head) * S + g
    M_next = tl.load(alpha + head) * M - step * S_next
    query = tl.load(q + head * P + p, mask=p < P, other=0.0)
    seen = tl.sum(query[:, None] * (M_next if POST else M), 0)
    tl.store(read + head * V + cv, seen, mask=cv < V)
    tl.store(next_memory + at, M_next, mask=inside)
    tl.store(next_momentum + at, S_next, mask=inside)


def step(
    tokens: tuple[torch.Tensor, ...],
    state: tuple[torch.Tensor, ...],
    after: tuple[torch.Tensor, torch.Tensor],
    squares: bool,
    inner: bool,
    post: bool,
) -> torch.Tensor:
    """o (B, 1, H, V), and M and S after the token into ``after``, which may be those before it.

    tokens  q, k (B, 1, H, P), v (B, 1, H, V), α, η, θ (B, 1, H), γ (B, 1, H, c)
    state   M, S, M̂ (B, H, P, V), k_window (B, c − 1, H, P), v_window (B, c − 1, H, V); all contiguous float32
    """
    B, H, P, V = state[0].shape
    read = torch.empty((B, 1, H, V), dtype=torch.float32, device=state[0].device)
    if B * H:
        tile, options = tiles(P, V)
        step_kernel[(B * H, triton.cdiv(V, tile["BV"]))](
            *tokens, *state, read, *after, H, tokens[-1].shape[-1], P, V, squares, inner, post, **tile, **options
        )
    return read
