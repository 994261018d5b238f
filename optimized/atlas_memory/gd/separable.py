"""Large windows of separable weights γ_{t,j} = r_t u_{t−j}: the whole chunks of a window enter as two matrices.

Of the c tokens of a window some chunks lie in the windows of all tokens of a chunk. They enter its gradients as

    r_t (H M − B),        H = Σ_i u_i k_i k_iᵀ,        B = Σ_i u_i k_i v_iᵀ

and only the oldest tokens and the chunk's own are looked at one by one: the cost does not depend on c.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from trueness.optimized._lib.workspace import Workspace
from trueness.optimized.atlas_memory.chunk_terms import Parts, filled, gated, lay, longer, read_at, windows


def running_sums(x: torch.Tensor, count: int) -> torch.Tensor:
    """Σ of ``count`` neighbours along the first axis, (N + count − 1, …) → (N, …)

    Blocks of ``count`` are summed from either end, and every sum is the end of one and the start of the next: no
    difference of long sums, in which a small one would drown.
    """
    number = x.shape[0] - count + 1
    if count == 1:
        return x
    blocks = pad(x, (0, 0) * (x.ndim - 1) + (0, -x.shape[0] % count)).unflatten(0, (-1, count))
    starts = blocks.cumsum(1).flatten(0, 1)[count - 1 : count - 1 + number]
    ends = blocks.flip(1).cumsum(1).flip(1)
    inside = torch.arange(count, device=x.device).view(-1, *(1,) * (x.ndim - 1)) > 0
    return starts + torch.where(inside, ends, torch.zeros_like(ends)).flatten(0, 1)[:number]


def separable(
    q: torch.Tensor,
    alpha: torch.Tensor,
    eta: torch.Tensor,
    theta: torch.Tensor,
    scale: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    source: torch.Tensor,
    size: int,
    window: int,
    placement: str,
    read: str,
    squares: bool,
    workspace: Workspace | None = None,
) -> Parts:
    """The parts of some chunks. k, v and the source u have the c − 1 tokens before the first of q."""
    g = gated(alpha, eta, theta, size, placement, workspace)
    whole = max(window // size - 1, 0)  # chunks that lie in all windows of a chunk
    old = window - 1 - whole * size  # tokens before them
    more, source = -q.shape[1] % size, source[..., None]
    k, v, source = (longer(x, more) for x in (k, v, source))
    number, tokens = (q.shape[1] + more) // size, torch.arange(size, device=q.device)
    own = [lay(x[:, window - 1 :], size) for x in (k, v, source)]
    rows = own
    if old:
        oldest = (windows(x[:, : old + (number - 1) * size], size, old) for x in (k, v, source))
        rows = [torch.cat(pair, -2) for pair in zip(oldest, own, strict=True)]
    age = tokens[:, None] - torch.cat([torch.arange(old, device=q.device) - (window - 1), tokens])
    seen = (age >= 0) & (age < window)
    mask = seen.to(q.dtype)
    r = lay(filled(scale, size), size)
    r = r if g.into is None else r * g.into
    u = rows[2][..., 0]
    rho = g.rho * r[..., None, :]
    weight = (rho @ mask) * u[..., None, :]
    last = torch.stack([g.down, g.up], -2) * r[..., None, :]
    down, up = ((last @ mask) * u[..., None, :]).unbind(-2)
    a_end, b_end, f_end = (x[..., -1] for x in (g.a, g.b, g.f))
    a, f, read_weight = read_at(g, weight, read)
    q = lay(filled(q, size), size, workspace, "q")
    parts = Parts(q, rows[0], rows[1], a, f, read_weight, a_end, b_end, f_end, down, up)
    if not whole:
        return parts
    start, stop = window - 1 - whole * size, window - 1 + (number - 1) * size
    k, v, source = (lay(x[:, start:stop], size) for x in (k, v, source))
    weighted = (k * source).mT
    y = rho.sum(-1)
    y_end, x_end = last.sum(-1).unbind(-1)
    return parts._replace(
        gram=running_sums(weighted @ k, whole) if squares else None,
        sums=running_sums(weighted @ v, whole),
        y=y if read == "post" else pad(y[..., :-1], (1, 0)),
        y_end=y_end,
        x_end=x_end,
    )
