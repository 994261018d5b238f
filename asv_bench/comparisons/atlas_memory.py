"""Pairs of the Omega rule against its own token loop, and how its cost grows with the sequence:

python asv_bench/comparisons atlas_memory
python asv_bench/comparisons/atlas_memory.py --fit
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

if __name__ == "__main__":
    HERE = Path(__file__).resolve().parent
    sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() not in (HERE, HERE.parent.parent))]

from comparisons.harness import Comparison, Contender, memory, threads
from trueness.tools.spec import registry

HEADS, WIDTH, CHUNK, LENGTH = 4, 64, 64, 2048
JUDGED = CHUNK + 16  # tokens, of one head: past a chunk's end
FEW = 8  # of the separable weights, whose reference goes through 512 tokens for each
Tensors = list[Any]


def builtin(name: str) -> Callable[..., Any]:
    """Our own implementation of a formula of the family, as a function of its flat arguments."""
    formula = registry.formula(f"atlas_memory.{name}")
    return formula.bind(formula.implementations[0].load())


OMEGA, SEPARABLE = builtin("omega"), builtin("omega_separable")


# -- tensors ----------------------------------------------------------------------------------------------------------


def tensors(rng: np.random.Generator, length: int, window: int) -> Tensors:
    """Unit keys, gates of a trained layer's size, weights that sum to one: q … v_window of ``omega``"""
    size = 1, length, HEADS
    k = rng.standard_normal((*size, WIDTH))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    gates = [rng.uniform(*span, size) for span in ((0.9, 1.0), (0.05, 0.1), (0.3, 0.9))]
    state = [0.1 * rng.standard_normal((1, HEADS, WIDTH, WIDTH)) for _ in range(2)]
    past = [np.zeros((1, window - 1, HEADS, WIDTH)) for _ in range(2)]
    q, v = rng.standard_normal((2, *size, WIDTH))
    return [q / np.sqrt(WIDTH), k, v, *gates, np.full((*size, window), 1 / window), *state, *past]


def chunked(window: int, chunk_size: int = CHUNK) -> Callable[[np.random.Generator], Tensors]:
    return lambda rng: [*tensors(rng, LENGTH, window), chunk_size, "l2", "gd", False, False, None]


def cotangents(rng: np.random.Generator) -> Tensors:
    """Of the judged tokens alone, so that their gradients are those of a sequence that ends there"""
    g = rng.standard_normal((1, LENGTH, HEADS, WIDTH))
    g[:, JUDGED:] = 0
    state = np.zeros((1, HEADS, WIDTH, WIDTH))
    return [g, state, 0 * state]


def first_tokens(values: Tensors, before: int = 0) -> Tensors:
    """One head of the first tokens: tokens stand second, but not in states and what was before the first"""
    tokens, states = set(range(7)), {7, 8}

    def part(i: int, x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        if i in states:
            return x[:, :1]
        return x[:, :JUDGED, :1] if i in tokens else x[:, :, :1]

    return [part(i, x) for i, x in enumerate(values)]


def forward_part(values: Tensors) -> tuple[Tensors, Callable[[list[np.ndarray]], list[Any]]]:
    return first_tokens(values), lambda outs: [outs[0][:, :JUDGED, :1], None, None]


def backward_part(values: Tensors) -> tuple[Tensors, Callable[[list[np.ndarray]], list[Any]]]:
    g, *states = values[:3]
    before = [g[:, :JUDGED, :1], *(x[:, :1] for x in states)]
    return [*before, *first_tokens(values[3:])], lambda outs: first_tokens(list(outs))


# -- sides ------------------------------------------------------------------------------------------------------------


def whole(*arguments: Any) -> Callable[[], Any]:
    return lambda: OMEGA(*arguments)


def token_loop(*arguments: Any) -> Callable[[], Any]:
    """The recurrence as it is written, one token at a time, all heads and the whole window at once"""
    return lambda: looped(*arguments)


def looped(
    q: Any, k: Any, v: Any, alpha: Any, eta: Any, theta: Any, gamma: Any, M: Any, S: Any, kw: Any, vw: Any, *modes: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chunk_size, window = modes[0], gamma.shape[-1]
    q, k, v = (x.transpose(1, 2) for x in (q, torch.cat([kw, k], 1), torch.cat([vw, v], 1)))
    alpha, eta, theta = (x.transpose(1, 2)[..., None, None] for x in (alpha, eta, theta))
    gamma = gamma.flip(-1).transpose(1, 2)[..., None]
    reads, M_hat = [], M
    for t in range(q.shape[2]):
        M_hat = M if t % chunk_size == 0 else M_hat
        keys, values = k[:, :, t : t + window], v[:, :, t : t + window]
        errors = gamma[:, :, t] * (keys @ M_hat - values)
        S = theta[:, :, t] * S + keys.mT @ errors
        M = alpha[:, :, t] * M - eta[:, :, t] * S
        reads.append(q[:, :, t : t + 1] @ M)
    return torch.cat(reads, 2).transpose(1, 2), M, S


def titans(q: torch.Tensor, *_: Any) -> Callable[[], Any]:
    """A linear memory with momentum, gradients at the start of 64 tokens; with its projections and norms around it"""
    from titans_pytorch import MemoryMLP, NeuralMemory

    layer = NeuralMemory(
        HEADS * WIDTH, chunk_size=1, batch_size=CHUNK, dim_head=WIDTH, heads=HEADS, model=MemoryMLP(WIDTH, depth=1)
    )
    x = q.detach().flatten(-2).float()

    def call() -> Any:
        with torch.no_grad():
            return layer(x)

    return call


def gradients(function: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
    def prepare(g_o: Any, g_memory: Any, g_momentum: Any, *arguments: Any) -> Callable[[], Any]:
        natives = [x.detach().requires_grad_() if isinstance(x, torch.Tensor) else x for x in arguments]
        leaves = [x for x in natives if isinstance(x, torch.Tensor)]

        def call() -> Any:
            return torch.autograd.grad(function(*natives), leaves, (g_o, g_memory, g_momentum))

        return call

    return prepare


def separated(rng: np.random.Generator) -> Tensors:
    """A window of 512 tokens whose weights fall with the source alone"""
    *tokens, gamma, M, S, kw, vw = tensors(rng, LENGTH, 512)
    sources = rng.uniform(0.2, 1.0, (1, LENGTH + 511, HEADS)) / 512
    scale = np.ones(gamma.shape[:-1])
    kw, vw = (rng.standard_normal(x.shape) / np.sqrt(WIDTH) for x in (kw, vw))
    return [*tokens, scale, sources[:, 511:], M, S, kw, vw, sources[:, :511], CHUNK, "l2", False, False]


def separable_part(values: Tensors) -> tuple[Tensors, Callable[[list[np.ndarray]], list[Any]]]:
    tokens = [x[:, :FEW, :1] for x in values[:8]]
    state = [*(x[:, :1] for x in values[8:10]), *(x[:, :, :1] for x in values[10:13])]
    return [*tokens, *state, *values[13:]], lambda outs: [outs[0][:, :FEW, :1], None, None]


def with_every_weight(*arguments: Any) -> Callable[[], Any]:
    """γ (B, T, H, c) written out for ``omega``"""
    *tokens, scale, source, M, S, kw, vw, before, chunk_size, objective, inside, early = arguments
    reach, length = before.shape[1], source.shape[1]
    sources = torch.cat([before, source], 1)
    gamma = torch.stack([scale * sources[:, reach - j : reach - j + length] for j in range(reach + 1)], -1)
    return lambda: OMEGA(*tokens, gamma, M, S, kw, vw, chunk_size, objective, "gd", inside, early, None)


OURS, LOOP = Contender("trueness", whole), Contender("token loop", token_loop)
TITANS = Contender("titans-pytorch", titans, needs=("titans_pytorch",), judged=False)
FIVE = {("token loop", 1): 5.0, ("token loop", 2): 5.0}
TWENTY = {("titans-pytorch", 1): 20.0, ("titans-pytorch", 2): 20.0}
SHAPE = f"1×{LENGTH}×{HEADS}×{WIDTH}, chunks of {CHUNK}"

COMPARISONS = (
    Comparison(
        f"Omega by chunks, {SHAPE}",
        "atlas_memory.omega",
        chunked(1),
        OURS,
        (LOOP, TITANS),
        goals=FIVE | TWENTY,
        part=forward_part,
    ),
    Comparison(
        f"Omega by chunks, {SHAPE}, windows of 16",
        "atlas_memory.omega",
        chunked(16),
        OURS,
        (LOOP,),
        goals=FIVE,
        part=forward_part,
    ),
    Comparison(
        f"Omega exact, 1×{LENGTH}×{HEADS}×{WIDTH}",
        "atlas_memory.omega",
        chunked(1, 1),
        OURS,
        (LOOP,),
        part=forward_part,
    ),
    Comparison(
        f"Omega by chunks, all gradients, {SHAPE}",
        "atlas_memory.omega",
        lambda rng: [*cotangents(rng), *chunked(1)(rng)],
        Contender("trueness", gradients(OMEGA)),
        (Contender("token loop, autograd", gradients(looped)),),
        part=backward_part,
        gradient=True,
    ),
    Comparison(
        f"Omega of separable weights, {SHAPE}, windows of 512",
        "atlas_memory.omega_separable",
        separated,
        Contender("trueness", lambda *a: lambda: SEPARABLE(*a)),
        (Contender("every weight", with_every_weight),),
        part=separable_part,
    ),
)


# -- how the cost grows -----------------------------------------------------------------------------------------------


def natives(length: int, window: int) -> Tensors:
    return [torch.from_numpy(x).float() for x in tensors(np.random.default_rng(1), length, window)]


def fit(lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192), rounds: int = 5) -> None:
    """Time on one thread and memory of a call for every length, and the exponents of T that fit them"""
    forms = {"chunks of 64": (1, CHUNK), "chunks of 64, windows of 16": (16, CHUNK), "exact": (1, 1)}
    with threads(1):
        for name, (window, chunk_size) in forms.items():
            for what in ("forward", "all gradients"):
                calls = [fit_call(length, window, chunk_size, what != "forward") for length in lengths]
                taken = [[timed(call) for call in calls] for _ in range(rounds)]
                show(name, what, "ms", lengths, 1e3 * np.min(taken, axis=0))
                rises = [memory(call) for call in calls]
                if None not in rises:
                    show(name, what, "MB", lengths, np.array(rises, dtype=float) / 1e6)


def fit_call(length: int, window: int, chunk_size: int, backward: bool) -> Callable[[], Any]:
    arguments = [*natives(length, window), chunk_size, "l2", "gd", False, False, None]
    if not backward:
        return lambda: OMEGA(*arguments)
    ends = torch.zeros(1, HEADS, WIDTH, WIDTH)
    return gradients(OMEGA)(torch.ones(1, length, HEADS, WIDTH), ends, ends, *arguments)


def timed(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def show(name: str, what: str, unit: str, lengths: tuple[int, ...], found: np.ndarray) -> None:
    exponent = np.polyfit(np.log(lengths), np.log(np.maximum(found, 1e-9)), 1)[0]
    row = "  ".join(f"{length}: {x:8.1f}" for length, x in zip(lengths, found, strict=True))
    print(f"{name}, {what}: {unit}  {row}   ∝ T^{exponent:.2f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", action="store_true", required=True, help="how time and memory grow with the sequence")
    parser.parse_args()
    fit()
