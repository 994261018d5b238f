"""Gradient descent of the Omega rule from chunk to chunk, and its backward.

Only the state [M, S] goes from one chunk to the next. The terms that do not depend on it come prepared
(``chunk_terms``); reads and gradients are computed for all chunks of a segment at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from trueness.optimized._lib.workspace import Workspace
from trueness.optimized.atlas_memory.chunk_terms import ChunkTerms

Tensor = torch.Tensor


class Plan(NamedTuple):
    """How one call is computed.

    prepare        tensors of a segment → its terms
    size           C, tokens in a chunk
    squared_error  the objective: ½|kᵀM − v|², or −⟨kᵀM, v⟩
    sweeps         of Picard's iteration in place of the triangular solve, or None
    least          tokens that a segment should have at least
    """

    prepare: Callable[..., ChunkTerms]
    size: int
    squared_error: bool
    sweeps: int | None = None
    least: int = 1


class Run(NamedTuple):
    """States and errors of a segment."""

    states: Tensor  # (N + 1, G, P, 2 V): [M, S] before every chunk, and after the last
    U: Tensor  # (N, G, n, V): the rows' errors
    D: Tensor | None  # (N, G, P, V): of the whole chunks of a large window


def column(x: Tensor) -> Tensor:
    return x[..., None]


def matrix(x: Tensor) -> Tensor:
    return x[..., None, None]


def scaled_pair(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """[first x, second x] (…, n, 2 V): two factors for each row of x (…, n, V)"""
    return (torch.stack([first, second], -1)[..., None] * x[..., None, :]).flatten(-2)


def product(x: Tensor, y: Tensor) -> Tensor:
    """x y for all chunks and heads, (N, G, …)"""
    return torch.bmm(x.flatten(0, 1), y.flatten(0, 1)).unflatten(0, x.shape[:2])


def add_product(z: Tensor, x: Tensor, y: Tensor, alpha: float = 1) -> Tensor:
    """z ← z + alpha x y for all chunks and heads"""
    torch.baddbmm(z.flatten(0, 1), x.flatten(0, 1), y.flatten(0, 1), alpha=alpha, out=z.flatten(0, 1))
    return z


def coupling_matrix(p: ChunkTerms) -> Tensor | None:
    """L of (I + L) U = Y"""
    return None if p.coupling is None else product(p.k, p.k.mT) * p.coupling


def solve(L: Tensor, Y: Tensor, sweeps: int | None) -> Tensor:
    """U of (I + L) U = Y, or U ← Y − L U repeated ``sweeps`` times from U = Y"""
    if sweeps is None:
        return torch.linalg.solve_triangular(L, Y, upper=False, unitriangular=True)
    U = Y
    for _ in range(sweeps):
        U = torch.baddbmm(Y, L, U, alpha=-1)
    return U


def errors(p: ChunkTerms, n: int, state: Tensor, squared_error: bool) -> Tensor:
    """Y of chunk n"""
    if not squared_error:
        return -p.v[n]
    V = p.v.shape[-1]
    if p.p is None or p.s is None or p.w is None:
        return torch.baddbmm(p.v[n], p.k[n], state[..., :V], beta=-1)
    seen = torch.bmm(p.k[n], state)
    return column(p.p[n]) * seen[..., :V] - column(p.s[n]) * seen[..., V:] - column(p.w[n]) * p.v[n]


def run(p: ChunkTerms, state: Tensor, plan: Plan) -> Run:
    """All chunks of a segment from the state [M, S] (G, P, 2 V) before it."""
    V, L = p.v.shape[-1], coupling_matrix(p)
    kept, steps = torch.stack([p.a_end, p.b_end], -1), torch.stack([-p.down, p.up], -1)
    states, found, whole = [state], [], []
    for n in range(p.q.shape[0]):
        U = errors(p, n, state, plan.squared_error)
        if L is not None:
            U = solve(L[n], U, plan.sweeps)
        found.append(U)
        mixed = state.unflatten(-1, (2, V)) * kept[n, :, None, :, None]
        moved = p.f_end[n, :, None, None] * state[..., V:]
        mixed = torch.cat([mixed[..., 0, :] - moved, mixed[..., 1, :]], -1)
        if p.y_end is not None and p.x_end is not None:
            D = whole_chunks(p, n, state)
            whole.append(D)
            mixed = mixed + scaled_pair(D, -column(p.y_end[n]), column(p.x_end[n]))
        state = torch.baddbmm(mixed, p.k[n].mT, (steps[n][..., None] * U[..., None, :]).flatten(-2))
        states.append(state)
    return Run(torch.stack(states), torch.stack(found), torch.stack(whole) if whole else None)


def whole_chunks(p: ChunkTerms, n: int, state: Tensor) -> Tensor:
    """D of chunk n: Σ u k (kᵀM − v)ᵀ over the chunks that lie in all its windows"""
    assert p.sums is not None
    if p.gram is None:
        return -p.sums[n]
    return torch.baddbmm(p.sums[n], p.gram[n], state[..., : p.v.shape[-1]], beta=-1)


def read(p: ChunkTerms, r: Run) -> Tensor:
    """o (N, G, C, V) of every token"""
    V = r.U.shape[-1]
    seen = p.q @ r.states[:-1]
    out = column(p.a) * seen[..., :V] - column(p.f) * seen[..., V:] - ((p.q @ p.k.mT) * p.weight) @ r.U
    return out if r.D is None or p.y is None else out - column(p.y) * (p.q @ r.D)


# -- the same in place: without autograd and tracing ------------------------------------------------------------------


def run_in_place(p: ChunkTerms, state: Tensor, plan: Plan, workspace: Workspace) -> Run:
    """``run`` with one buffer for all states and one for all errors, which the next segment reuses"""
    (N, G, _, V), P = p.v.shape, p.k.shape[-1]
    L = coupling_matrix(p)
    kept, steps = torch.stack([p.a_end, p.b_end], -1), torch.stack([-p.down, p.up], -1)
    states, U = workspace("states", (N + 1, G, P, 2, V)), workspace("U", p.v.shape)
    D = None if p.sums is None else workspace("D", p.sums.shape)
    stepped = workspace("stepped", (G, p.v.shape[2], 2, V))
    states[0].copy_(state.unflatten(-1, (2, V)))
    flat = states.flatten(-2)
    direct = plan.squared_error and L is None
    if not plan.squared_error:
        torch.neg(p.v, out=U)
    for n in range(N):
        if direct:
            torch.baddbmm(p.v[n], p.k[n], flat[n, ..., :V], beta=-1, out=U[n])
        elif L is not None:
            U[n] = solve(L[n], errors(p, n, flat[n], True), plan.sweeps)
        mixed = torch.mul(states[n], kept[n, :, None, :, None], out=states[n + 1])
        mixed[..., 0, :].addcmul_(states[n, ..., 1, :], p.f_end[n, :, None, None], value=-1)
        if D is not None and p.y_end is not None and p.x_end is not None:
            D[n] = whole_chunks(p, n, flat[n])
            mixed += scaled_pair(D[n], -column(p.y_end[n]), column(p.x_end[n])).unflatten(-1, (2, V))
        torch.mul(steps[n][..., None], U[n][..., None, :], out=stepped)
        flat[n + 1].baddbmm_(p.k[n].mT, stepped.flatten(-2))
    return Run(flat, U, D)


def read_in_place(p: ChunkTerms, r: Run, workspace: Workspace) -> Tensor:
    """``read`` with fewer passes"""
    V = r.U.shape[-1]
    seen = workspace.product("seen", p.q, r.states[:-1])
    out = torch.mul(column(p.a), seen[..., :V], out=workspace("out", (*p.q.shape[:-1], V)))
    out.addcmul_(column(p.f), seen[..., V:], value=-1)
    if r.D is not None and p.y is not None:
        out.addcmul_(column(p.y), workspace.product("seen", p.q, r.D), value=-1)
    return add_product(out, workspace.product("scores", p.q, p.k.mT).mul_(p.weight), r.U, alpha=-1)


def row_sums(x: Tensor, y: Tensor) -> Tensor:
    """⟨x, y⟩ row by row"""
    return (x * y).sum(-1)


def reverse(p: ChunkTerms, r: Run, g_o: Tensor, g_state: Tensor, plan: Plan) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients by every term and by the state before the segment, of g_o (N, G, C, V) and g_state (G, P, 2 V).

    With Ȳ the gradient by the right-hand side of (I + L) U = Y, and h = −Ȳ:

        (I + L)ᵀ h = (weight ∘ q kᵀ)ᵀ ō + down k M̄ − up k S̄
        M̄ ← a_end M̄ − kᵀ (p h) + qᵀ (a ō),    S̄ ← b_end S̄ − f_end M̄ + kᵀ (s h) − qᵀ (f ō)
    """
    V, N, L = p.v.shape[-1], p.q.shape[0], coupling_matrix(p)
    kept = torch.stack([p.a_end, p.b_end], -1)
    scores = product(p.q, p.k.mT)
    h = product((scores * p.weight).mT, g_o)
    k_after = torch.empty((*p.v.shape[:-1], 2 * V), dtype=p.v.dtype, device=p.v.device)
    adjoint = torch.empty_like(r.states)
    adjoint[N] = g_state
    grad_state = product(p.q.mT, scaled_pair(g_o, p.a, -p.f))
    grad_lower = torch.zeros_like(L) if L is not None and plan.sweeps is not None else None
    grad_D = None if r.D is None or p.y is None else product(p.q.mT, column(-p.y) * g_o)
    for n in range(N - 1, -1, -1):
        after, seen = adjoint[n + 1], torch.bmm(p.k[n], adjoint[n + 1], out=k_after[n])
        h[n].addcmul_(column(p.down[n]), seen[..., :V]).addcmul_(column(p.up[n]), seen[..., V:], value=-1)
        if L is not None and grad_lower is None:
            h[n] = torch.linalg.solve_triangular(L[n].mT, h[n], upper=True, unitriangular=True)
        elif L is not None and grad_lower is not None:
            h[n], grad_lower[n] = reverse_sweeps(L[n], errors(p, n, r.states[n], True), h[n], plan.sweeps or 0)
        torch.addcmul(
            grad_state[n].unflatten(-1, (2, V)),
            after.unflatten(-1, (2, V)),
            kept[n, :, None, :, None],
            out=adjoint[n].unflatten(-1, (2, V)),
        )
        adjoint[n, ..., V:].addcmul_(after[..., :V], matrix(p.f_end[n]), value=-1)
        if grad_D is not None and p.y_end is not None and p.x_end is not None:
            grad_D[n].addcmul_(matrix(p.y_end[n]), after[..., :V], value=-1).addcmul_(
                matrix(p.x_end[n]), after[..., V:]
            )
            if p.gram is not None:
                adjoint[n, ..., :V] += p.gram[n].mT @ grad_D[n]
        if plan.squared_error and L is None:
            adjoint[n, ..., :V] -= torch.bmm(p.k[n].mT, h[n])
        elif p.p is not None and p.s is not None:
            adjoint[n].baddbmm_(p.k[n].mT, scaled_pair(h[n], -p.p[n], p.s[n]))
    found = gradients(p, r, g_o, scores, h, adjoint[1:], k_after, plan)
    if grad_D is not None and r.D is not None and p.y is not None:
        found["sums"] = -grad_D
        if p.gram is not None:
            found["gram"] = product(grad_D, r.states[:-1, ..., :V].mT)
        grad_q = product(g_o, r.D.mT)
        found["q"].addcmul_(column(p.y), grad_q, value=-1)
        found["y"] = -row_sums(grad_q, p.q)
        found["y_end"] = -(adjoint[1:, ..., :V] * r.D).sum((-2, -1))
        found["x_end"] = (adjoint[1:, ..., V:] * r.D).sum((-2, -1))
    if p.coupling is not None:
        grad_lower = product(h, r.U.mT) if grad_lower is None else grad_lower
        found["coupling"] = grad_lower * product(p.k, p.k.mT)
        symmetric = p.coupling * grad_lower
        add_product(found["k"], symmetric + symmetric.mT, p.k)
    return found, adjoint[0]


def reverse_sweeps(L: Tensor, Y: Tensor, g: Tensor, sweeps: int) -> tuple[Tensor, Tensor]:
    """−Ȳ and L̄ through the sweeps U ← Y − L U, the last one first; g = −Ū"""
    U = [Y]
    for _ in range(sweeps - 1):
        U.append(torch.baddbmm(Y, L, U[-1], alpha=-1))
    grad_Y, grad_L = g, torch.zeros_like(L)
    for x in U[:sweeps][::-1]:
        grad_L = torch.baddbmm(grad_L, g, x.mT)
        g = -(L.mT @ g)
        grad_Y = grad_Y + g
    return grad_Y, grad_L


def gradients(
    p: ChunkTerms, r: Run, g_o: Tensor, scores: Tensor, h: Tensor, after: Tensor, k_after: Tensor, plan: Plan
) -> dict[str, Tensor]:
    """Gradients by the terms of every rule, and by p, s, w: of h, the adjoint state after a chunk and k times it"""
    V, U, states = p.v.shape[-1], r.U, r.states[:-1]
    M, S = states[..., :V], states[..., V:]
    grad_M, grad_S = product(g_o, M.mT), product(g_o, S.mT)
    grad_a, grad_f = row_sums(grad_M, p.q), -row_sums(grad_S, p.q)
    grad_scores = product(g_o, U.mT)
    grad_weight = scores.mul_(grad_scores).neg_()
    masked = grad_scores.mul_(p.weight)
    grad_q = grad_M.mul_(column(p.a)).addcmul_(grad_S, column(p.f), value=-1)
    inner = (after * states).unflatten(-1, (2, V)).sum((-3, -1))
    grad_k = add_product(product(scaled_pair(U, -p.down, p.up), after.mT), masked.mT, p.q, alpha=-1)
    found = {
        "q": add_product(grad_q, masked, p.k, alpha=-1),
        "a": grad_a,
        "f": grad_f,
        "weight": grad_weight,
        "a_end": inner[..., 0],
        "b_end": inner[..., 1],
        "f_end": -(after[..., :V] * S).sum((-2, -1)),
        "down": -row_sums(U, k_after[..., :V]),
        "up": row_sums(U, k_after[..., V:]),
        "v": h if p.w is None else column(p.w) * h,
    }
    if p.p is not None and p.s is not None:
        add_product(grad_k, scaled_pair(h, -p.p, p.s), states.mT)
        seen = product(p.k, states)
        found["p"], found["s"] = -row_sums(h, seen[..., :V]), row_sums(h, seen[..., V:])
        found["w"] = row_sums(h, p.v)
    elif plan.squared_error:
        add_product(grad_k, h, M.mT, alpha=-1)
    found["k"] = grad_k
    return found
