"""Two further forms of the Omega rule by gradient descent: windows of separable weights, and Picard's iteration."""

from __future__ import annotations

import torch

from trueness.optimized import _atlas_arguments as _require
from trueness.optimized import _atlas_descent as _descent
from trueness.optimized._arguments import require_count


def omega_separable(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    alpha: torch.Tensor,
    eta: torch.Tensor,
    theta: torch.Tensor,
    scale: torch.Tensor,
    source: torch.Tensor,
    memory: torch.Tensor,
    momentum: torch.Tensor,
    k_window: torch.Tensor,
    v_window: torch.Tensor,
    source_window: torch.Tensor,
    chunk_size: int,
    objective: str,
    placement: str,
    read: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``omega`` by gradient descent with γ_{t,j} = r_t u_{t−j}, at a cost that does not grow with the window

    The chunks that lie in all windows of a chunk enter as two matrices, Σ u k kᵀ and Σ u k vᵀ.

    q              q   (B, T, H, P)    as in ``omega``, and so are
    k, v, alpha, eta, theta, memory, momentum, k_window, v_window, chunk_size, objective, placement, read
    scale          r   (B, T, H)       weight of all that token t looks at
    source         u   (B, T, H)       weight of token t wherever it is looked at
    source_window      (B, c−1, H)     that of the last c − 1 tokens before the first
    returns        o   (B, T, H, V)    dtype of q
                   M_T (B, H, P, V)
                   S_T (B, H, P, V)
    raises         ValueError if a tensor does not fit the others, or a mode is not one of those named
    """
    _require.require_shapes(
        {
            "q": (q, "B T H P"),
            "k": (k, "B T H P"),
            "v": (v, "B T H V"),
            "alpha": (alpha, "B T H"),
            "eta": (eta, "B T H"),
            "theta": (theta, "B T H"),
            "scale": (scale, "B T H"),
            "source": (source, "B T H"),
            "memory": (memory, "B H P V"),
            "momentum": (momentum, "B H P V"),
            "k_window": (k_window, "B W H P"),
            "v_window": (v_window, "B W H V"),
            "source_window": (source_window, "B W H"),
        },
        "q",
    )
    _require.require_modes(chunk_size, objective, "gd", placement, read, None)
    tokens, state = (q, k, v, alpha, eta, theta, scale, source), (memory, momentum, k_window, v_window, source_window)
    return _descent.descend_separable(*tokens, *state, chunk_size, objective, placement, read)


def omega_picard(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    alpha: torch.Tensor,
    eta: torch.Tensor,
    theta: torch.Tensor,
    gamma: torch.Tensor,
    memory: torch.Tensor,
    momentum: torch.Tensor,
    k_window: torch.Tensor,
    v_window: torch.Tensor,
    placement: str,
    read: str,
    tile: int,
    sweeps: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """M⁰_t = memories of a tile without gradients;  g^i_t = ∇L_t(M^i_{t−1}),  M^{i+1} = memories with the gradients g^i

    Picard's iteration for the rule of every token, ``omega`` with C = 1 on squared errors: between a linearisation at
    the tile's start (no sweep) and the rule itself (as many sweeps as the tile has tokens), in matrix products alone.

    q         q   (B, T, H, P)  as in ``omega``, and so are
    k, v, alpha, eta, theta, gamma, memory, momentum, k_window, v_window, placement, read
    tile      n   int           tokens that are run together, at least 1
    sweeps    s   int           at least 0; more than n change nothing
    returns   o   (B, T, H, V)  dtype of q
              M_T (B, H, P, V)
              S_T (B, H, P, V)
    raises    ValueError if a tensor does not fit the others, or a mode is not one of those named
    """
    _require.require_shapes(
        {
            "q": (q, "B T H P"),
            "k": (k, "B T H P"),
            "v": (v, "B T H V"),
            "alpha": (alpha, "B T H"),
            "eta": (eta, "B T H"),
            "theta": (theta, "B T H"),
            "gamma": (gamma, "B T H c"),
            "memory": (memory, "B H P V"),
            "momentum": (momentum, "B H P V"),
            "k_window": (k_window, "B c-1 H P"),
            "v_window": (v_window, "B c-1 H V"),
        },
        "q",
    )
    _require.require_modes(1, "l2", "gd", placement, read, None)
    require_count(tile, "tile", 1)
    require_count(sweeps, "sweeps", 0)
    tokens, state = (q, k, v, alpha, eta, theta, gamma), (memory, momentum, k_window, v_window)
    return _descent.descend_picard(*tokens, *state, placement, read, tile, sweeps)
