"""The Omega rule on CUDA, backward: one pass from the last chunk to the first, between those that look at all at once.

With the gradients M̄', S̄' after a chunk, Ō of its reads and the errors E of the forward pass:

    Z  = −(Gᵀ ∘ K Qᵀ) Ō                                                            all chunks at once
    Ē  = Z − g ∘ K M̄' + r ∘ K S̄'                                                   from chunk to chunk
    M̄  = a_C M̄' + Qᵀ (a ∘ Ō) + Xᵀ Ē,    S̄ = b_C S̄' − f_C M̄' − Qᵀ (f ∘ Ō) − Yᵀ Ē    (X = K and Y = 0 for "l2")
    D  = Ō Eᵀ,    Ḡ = −Q Kᵀ ∘ D                                                    all chunks at once
    K̄  = −g ∘ E M̄'ᵀ + r ∘ E S̄'ᵀ − (G ∘ D)ᵀ Q,    X̄ = Ē Mᵀ,    Ȳ = −Ē Sᵀ
    Q̄  = a ∘ Ō Mᵀ − f ∘ Ō Sᵀ − (G ∘ D) K

and sums of rows for the gates, one for every block of features. Every number is written by one program: no atomics,
and no order is left to chance.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trueness.optimized.atlas_memory.cuda.forward import (
    Layout,
    blocks,
    empty,
    loaded,
    mixed,
    parallel,
    place_of,
    put,
    put_blocks,
    scaled,
    sequential,
    tile,
    turned,
    updated,
    vector,
)


@triton.jit
def seen_kernel(
    grad, q, k, weights, out, T, H, N,
    P: tl.constexpr, V: tl.constexpr, C: tl.constexpr, R: tl.constexpr, WINDOW: tl.constexpr, MODE: tl.constexpr,
    BC: tl.constexpr, BR: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Z: what the reads ask of the errors."""
    at = tl.program_id(0).to(tl.int64)
    head, n = at // N, at % N
    r, cv = tl.program_id(1) * BR + tl.arange(0, BR), tl.program_id(2) * BV + tl.arange(0, BV)
    q += ((head // H * T + n * C) * H + head % H) * P
    k += ((head // H * (T + WINDOW - 1) + n * C) * H + head % H) * P
    grad += ((head // H * T + n * C) * H + head % H) * V
    stop, left = tl.minimum(T - n * C, C).to(tl.int32), (T + WINDOW - 1 - n * C).to(tl.int32)
    place = place_of(r, left, R, WINDOW, MODE)
    Z = tl.zeros((BR, BV), tl.float32)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        X_t = tl.zeros((BR, BC), tl.float32)
        for first in range(0, P, BK):
            p = first + tl.arange(0, BK)
            K, Q_t = tile(k, place, p, H * P, left, P), turned(q, c, p, H * P, stop, P)
            X_t += tl.dot(K, Q_t, input_precision=PRECISION)
        X_t *= turned(weights + at * C * R, c, r, R, C, R)
        Z -= tl.dot(X_t, tile(grad, c, cv, H * V, stop, V).to(tl.float32), input_precision=PRECISION)
    put(out + at * R * V, r, cv, V, R, V, Z)


@triton.jit
def reverse_kernel(
    grad, grad_memory, grad_momentum, q, k, lead, lag, rows, columns, ends, seen, pulled, pushed_memory,
    pushed_momentum, first_memory, first_momentum, T, H, N,
    P: tl.constexpr, V: tl.constexpr, C: tl.constexpr, R: tl.constexpr, WINDOW: tl.constexpr, MODE: tl.constexpr,
    BP: tl.constexpr, BV: tl.constexpr, BR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Ē, and M̄', S̄' of every chunk."""
    head = tl.program_id(0).to(tl.int64)
    cv = tl.program_id(1) * BV + tl.arange(0, BV)
    long, step = T + WINDOW - 1, tl.full((), C, tl.int64) * H
    q += ((head // H * T + tl.full((), C, tl.int64) * N) * H + head % H) * P
    k += ((head // H * long + tl.full((), C, tl.int64) * N) * H + head % H) * P
    grad += ((head // H * T + tl.full((), C, tl.int64) * N) * H + head % H) * V
    M = blocks(grad_memory + head * P * V, cv, P, V, BP)
    S = blocks(grad_momentum + head * P * V, cv, P, V, BP)
    for back in range(N):
        n = N - 1 - back
        at = head * N + n
        q -= step * P
        k -= step * P
        grad -= step * V
        put_blocks(pushed_memory + at * P * V, cv, P, V, BP, M)
        put_blocks(pushed_momentum + at * P * V, cv, P, V, BP, S)
        if len(M) > 1:
            tl.debug_barrier()  # before other threads read it
        a_end, b_end, f_end = tl.load(ends + at * 3), tl.load(ends + at * 3 + 1), tl.load(ends + at * 3 + 2)
        M_next = scaled(a_end, M)
        S_next = mixed(b_end, S, -f_end, M)
        stop, left = tl.minimum(T - n * C, C), long - n * C
        for start in range(0, C, BR):
            c = start + tl.arange(0, BR)
            G = tile(grad, c, cv, H * V, stop, V).to(tl.float32)
            a, f = vector(columns, at, 0, c, 2, C)[:, None], vector(columns, at, 1, c, 2, C)[:, None]
            M_next = updated(M_next, q, c, H * P, stop, P, BP, a * G, PRECISION)
            S_next = updated(S_next, q, c, H * P, stop, P, BP, -f * G, PRECISION)
        for start in range(0, R, BR):
            r = start + tl.arange(0, BR)
            place = place_of(r, left, R, WINDOW, MODE)
            E = tile(seen + at * R * V, r, cv, V, R, V)
            if len(M) == 1:
                K = tile(k, place, tl.arange(0, BP), H * P, left, P).to(tl.float32)
                by_M = tl.dot(K, M[0], input_precision=PRECISION)
                by_S = tl.dot(K, S[0], input_precision=PRECISION)
            else:
                by_M, by_S = tl.zeros((BR, BV), tl.float32), tl.zeros((BR, BV), tl.float32)
                for first in range(0, P, BP):
                    p = first + tl.arange(0, BP)
                    K = tile(k, place, p, H * P, left, P).to(tl.float32)
                    by_M += tl.dot(K, tile(pushed_memory + at * P * V, p, cv, V, P, V), input_precision=PRECISION)
                    by_S += tl.dot(K, tile(pushed_momentum + at * P * V, p, cv, V, P, V), input_precision=PRECISION)
            E -= vector(rows, at, 0, r, 2, R)[:, None] * by_M
            E += vector(rows, at, 1, r, 2, R)[:, None] * by_S
            put(pulled + at * R * V, r, cv, V, R, V, E)
            if MODE == 1:
                M_next = updated(M_next, k, place, H * P, left, P, BP, E, PRECISION)
            if MODE == 2:
                M_next = updated(M_next, lead + at * R * P, r, P, R, P, BP, E, PRECISION)
                S_next = updated(S_next, lag + at * R * P, r, P, R, P, BP, -E, PRECISION)
        M, S = M_next, S_next
    put_blocks(first_memory + head * P * V, cv, P, V, BP, M)
    put_blocks(first_momentum + head * P * V, cv, P, V, BP, S)


@triton.jit
def weights_kernel(
    grad, q, k, weights, errors, weighted, grad_weights, T, H, N,
    P: tl.constexpr, V: tl.constexpr, C: tl.constexpr, R: tl.constexpr, WINDOW: tl.constexpr, MODE: tl.constexpr,
    BC: tl.constexpr, BR: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """G ∘ D and Ḡ."""
    at = tl.program_id(0).to(tl.int64)
    head, n = at // N, at % N
    c, r = tl.program_id(1) * BC + tl.arange(0, BC), tl.program_id(2) * BR + tl.arange(0, BR)
    q += ((head // H * T + n * C) * H + head % H) * P
    k += ((head // H * (T + WINDOW - 1) + n * C) * H + head % H) * P
    grad += ((head // H * T + n * C) * H + head % H) * V
    stop, left = tl.minimum(T - n * C, C).to(tl.int32), (T + WINDOW - 1 - n * C).to(tl.int32)
    place = place_of(r, left, R, WINDOW, MODE)
    X, D = tl.zeros((BC, BR), tl.float32), tl.zeros((BC, BR), tl.float32)
    for first in range(0, P, BK):
        p = first + tl.arange(0, BK)
        Q, K_t = tile(q, c, p, H * P, stop, P), turned(k, place, p, H * P, left, P)
        X += tl.dot(Q, K_t, input_precision=PRECISION)
    for first in range(0, V, BV):
        cv = first + tl.arange(0, BV)
        G, E_t = tile(grad, c, cv, H * V, stop, V).to(tl.float32), turned(errors + at * R * V, r, cv, V, R, V)
        D += tl.dot(G, E_t, input_precision=PRECISION)
    put(weighted + at * C * R, c, r, R, C, R, tile(weights + at * C * R, c, r, R, C, R) * D)
    put(grad_weights + at * C * R, c, r, R, C, R, -X * D)


@triton.jit
def rows_kernel(
    q, k, weighted, rows, errors, pulled, memory, momentum, pushed_memory, pushed_momentum, grad_k, grad_lead, grad_lag,
    grad_rows, T, H, N,
    P: tl.constexpr, V: tl.constexpr, C: tl.constexpr, R: tl.constexpr, WINDOW: tl.constexpr, MODE: tl.constexpr,
    BC: tl.constexpr, BR: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """K̄ of every row, X̄ and Ȳ for "exact", and what these features add to the gradients of g and r."""
    at = tl.program_id(0).to(tl.int64)
    head, n = at // N, at % N
    r, p = tl.program_id(1) * BR + tl.arange(0, BR), tl.program_id(2) * BK + tl.arange(0, BK)
    q += ((head // H * T + n * C) * H + head % H) * P
    k += ((head // H * (T + WINDOW - 1) + n * C) * H + head % H) * P
    stop, left = tl.minimum(T - n * C, C).to(tl.int32), (T + WINDOW - 1 - n * C).to(tl.int32)
    by_M, by_S = tl.zeros((BR, BK), tl.float32), tl.zeros((BR, BK), tl.float32)
    for first in range(0, V, BV):
        cv = first + tl.arange(0, BV)
        E = tile(errors + at * R * V, r, cv, V, R, V)
        by_M += tl.dot(E, turned(pushed_memory + at * P * V, p, cv, V, P, V), input_precision=PRECISION)
        by_S += tl.dot(E, turned(pushed_momentum + at * P * V, p, cv, V, P, V), input_precision=PRECISION)
    K = tile(k, place_of(r, left, R, WINDOW, MODE), p, H * P, left, P).to(tl.float32)
    base, inside = grad_rows + (at * tl.num_programs(2) + tl.program_id(2)) * 2 * R + r, r < R
    tl.store(base, -tl.sum(K * by_M, 1), mask=inside)
    tl.store(base + R, tl.sum(K * by_S, 1), mask=inside)
    by_K = vector(rows, at, 1, r, 2, R)[:, None] * by_S - vector(rows, at, 0, r, 2, R)[:, None] * by_M
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        Q = tile(q, c, p, H * P, stop, P).to(tl.float32)
        by_K -= tl.dot(turned(weighted + at * C * R, c, r, R, C, R), Q, input_precision=PRECISION)
    if MODE == 1:
        by_K += from_state(pulled + at * R * V, memory + at * P * V, r, p, P, V, R, BR, BK, BV, PRECISION)
    if MODE == 2:
        by_X = from_state(pulled + at * R * V, memory + at * P * V, r, p, P, V, R, BR, BK, BV, PRECISION)
        put(grad_lead + at * R * P, r, p, P, R, P, by_X)
        by_Y = from_state(pulled + at * R * V, momentum + at * P * V, r, p, P, V, R, BR, BK, BV, PRECISION)
        put(grad_lag + at * R * P, r, p, P, R, P, -by_Y)
    put(grad_k + at * R * P, r, p, P, R, P, by_K)


@triton.jit
def from_state(
    pulled, state, r, p, P: tl.constexpr, V: tl.constexpr, R: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Ē Mᵀ, a tile of it"""
    found = tl.zeros((BR, BK), tl.float32)
    for first in range(0, V, BV):
        cv = first + tl.arange(0, BV)
        E, M_t = tile(pulled, r, cv, V, R, V), turned(state, p, cv, V, P, V)
        found += tl.dot(E, M_t, input_precision=PRECISION)
    return found


@triton.jit
def queries_kernel(
    grad, q, k, weighted, columns, memory, momentum, pushed_memory, pushed_momentum, grad_q, grad_columns, grad_ends,
    T, H, N,
    P: tl.constexpr, V: tl.constexpr, C: tl.constexpr, R: tl.constexpr, WINDOW: tl.constexpr, MODE: tl.constexpr,
    BC: tl.constexpr, BR: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Q̄, and what these features add to the gradients of a, f and of the chunk's three numbers."""
    at = tl.program_id(0).to(tl.int64)
    head, n = at // N, at % N
    c, p = tl.program_id(1) * BC + tl.arange(0, BC), tl.program_id(2) * BK + tl.arange(0, BK)
    q += ((head // H * T + n * C) * H + head % H) * P
    k += ((head // H * (T + WINDOW - 1) + n * C) * H + head % H) * P
    grad += ((head // H * T + n * C) * H + head % H) * V
    grad_q += ((head // H * T + n * C) * H + head % H) * P
    stop, left = tl.minimum(T - n * C, C).to(tl.int32), (T + WINDOW - 1 - n * C).to(tl.int32)
    by_M, by_S = tl.zeros((BC, BK), tl.float32), tl.zeros((BC, BK), tl.float32)
    for first in range(0, V, BV):
        cv = first + tl.arange(0, BV)
        G = tile(grad, c, cv, H * V, stop, V).to(tl.float32)
        by_M += tl.dot(G, turned(memory + at * P * V, p, cv, V, P, V), input_precision=PRECISION)
        by_S += tl.dot(G, turned(momentum + at * P * V, p, cv, V, P, V), input_precision=PRECISION)
    Q = tile(q, c, p, H * P, stop, P).to(tl.float32)
    part = at * tl.num_programs(2) + tl.program_id(2)
    tl.store(grad_columns + part * 2 * C + c, tl.sum(Q * by_M, 1), mask=c < C)
    tl.store(grad_columns + part * 2 * C + C + c, -tl.sum(Q * by_S, 1), mask=c < C)
    by_Q = vector(columns, at, 0, c, 2, C)[:, None] * by_M - vector(columns, at, 1, c, 2, C)[:, None] * by_S
    for start in range(0, R, BR):
        r = start + tl.arange(0, BR)
        K = tile(k, place_of(r, left, R, WINDOW, MODE), p, H * P, left, P).to(tl.float32)
        by_Q -= tl.dot(tile(weighted + at * C * R, c, r, R, C, R), K, input_precision=PRECISION)
    put(grad_q, c, p, H * P, stop, P, by_Q)
    if tl.program_id(1) == 0:
        by_a, by_b, by_f = tl.zeros((BK,), tl.float32), tl.zeros((BK,), tl.float32), tl.zeros((BK,), tl.float32)
        for first in range(0, V, BV):
            cv = first + tl.arange(0, BV)
            S, M_bar = tile(momentum + at * P * V, p, cv, V, P, V), tile(pushed_memory + at * P * V, p, cv, V, P, V)
            by_a += tl.sum(M_bar * tile(memory + at * P * V, p, cv, V, P, V), 1)
            by_b += tl.sum(tile(pushed_momentum + at * P * V, p, cv, V, P, V) * S, 1)
            by_f -= tl.sum(M_bar * S, 1)
        tl.store(grad_ends + part * 3, tl.sum(by_a, 0))
        tl.store(grad_ends + part * 3 + 1, tl.sum(by_b, 0))
        tl.store(grad_ends + part * 3 + 2, tl.sum(by_f, 0))


def backward(
    layout: Layout,
    grads: tuple[torch.Tensor, ...],
    tokens: tuple[torch.Tensor, ...],
    solved: tuple[torch.Tensor, ...],
    gates: tuple[torch.Tensor, ...],
    kept: tuple[torch.Tensor, ...],
    errors: torch.Tensor,
    precision: str,
) -> tuple[torch.Tensor, ...]:
    """Gradients in float32: of q (B, T, H, P), the keys of the rows (B, H, N, R, P), E (B, H, N, R, V), memory,
    momentum, X, Y (empty unless EXACT), and of the four gates

    grads    of the first three results of ``forward``; tokens: q and k; kept: M and S at the start of every chunk;
    the rest as there
    """
    q, k = (loaded(x) for x in tokens)
    grad, grad_memory, grad_momentum = loaded(grads[0]), *grads[1:]
    weights, rows, columns, ends = gates
    B, T, H, P, V, N, C, R = layout[:8]
    tiles, options = parallel(layout)
    blocks = [triton.cdiv(n, tiles[name]) for n, name in ((C, "BC"), (R, "BR"), (V, "BV"), (P, "BK"))]
    seen, pulled = empty(q, B, H, N, R, V), empty(q, B, H, N, R, V)
    pushed = [empty(q, B, H, N, P, V) for _ in range(2)]
    first = [empty(q, B, H, P, V) for _ in range(2)]
    by_solved = [torch.empty_like(x) for x in solved]
    weighted, by_weights = empty(q, B, H, N, C, R), empty(q, B, H, N, C, R)
    by_q, by_k = empty(q, B, T, H, P), empty(q, B, H, N, R, P)
    by_rows = empty(q, B, H, N, blocks[3], 2, R)
    by_columns, by_ends = empty(q, B, H, N, blocks[3], 2, C), empty(q, B, H, N, blocks[3], 3)
    common = {"T": T, "H": H, "N": N, **layout.lengths, "PRECISION": precision}
    each = {**common, **tiles, **options}
    carried, steps = sequential(layout)
    if B * H:
        seen_kernel[(B * H * N, blocks[1], blocks[2])](grad, q, k, weights, seen, **each)
        reverse_kernel[(B * H, triton.cdiv(V, carried["BV"]))](
            grad, grad_memory, grad_momentum, q, k, *solved, rows, columns, ends, seen, pulled, *pushed, *first,
            **common, **carried, **steps,
        )  # fmt: skip
        weights_kernel[(B * H * N, blocks[0], blocks[1])](grad, q, k, weights, errors, weighted, by_weights, **each)
        rows_kernel[(B * H * N, blocks[1], blocks[3])](
            q, k, weighted, rows, errors, pulled, *kept, *pushed, by_k, *by_solved, by_rows, **each
        )
        queries_kernel[(B * H * N, blocks[0], blocks[3])](
            grad, q, k, weighted, columns, *kept, *pushed, by_q, by_columns, by_ends, **each
        )
    gates_by = (by_weights, by_rows.sum(3), by_columns.sum(3), by_ends.sum(3))
    return (by_q, by_k, pulled, *first, *by_solved, *gates_by)
