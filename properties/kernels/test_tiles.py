"""Laws of the tiles: no result depends on them, on the number of threads, or on where it is written."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from trueness.optimized import kernels as fast
from trueness.optimized._lib import matmul as products
from trueness.optimized._lib.threads import parallel
from trueness.optimized.kernels.cpu import tiles
from trueness.properties.kernels.test_laws import cloud, flat, given, seeds
from trueness.reference import kernels as true
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision

N, M, D, P, LONG = 7, 5, 11, 3, 4
WEIGHTS, COUNTS = np.array([0.3, 0.7]), (4, 7)


def drawn(name: str, seed: int, d: int) -> list[Any]:
    """Arguments of a function of features."""
    x, y, v = cloud(seed, N, d), cloud(seed + 1, M, d), cloud(seed + 2, M, P)
    w, b = cloud(seed + 3, d, D), cloud(seed + 4, 1, D)[0]
    signs = np.where(cloud(seed + 5, 6, 8) > 0, 1.0, -1.0).reshape(2, 3, 8)
    return {
        "rff_features": [x, w, b],
        "rff_features_paired": [x, w],
        "rff_features_multiscale": [x, w, b, WEIGHTS, COUNTS],
        "rff_gram": [x, y, w, b],
        "rff_matvec": [x, y, v, w, b],
        "rff_matvec_multiscale": [x, y, v, w, b, WEIGHTS, COUNTS],
        "structured_features": [x, signs, b, 0.9],
    }[name]


NAMES = (
    "rff_features",
    "rff_features_paired",
    "rff_features_multiscale",
    "rff_gram",
    "rff_matvec",
    "rff_matvec_multiscale",
)
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)


def judge(name: str, arguments: list[Any], dtype: torch.dtype, **options: Any) -> None:
    """Value and gradients lie within the bound of the reference."""
    fmt = precision(str(dtype).removeprefix("torch."))
    learned = [isinstance(a, np.ndarray) and a is not WEIGHTS and a.ndim < 3 for a in arguments]
    natives = [
        torch.from_numpy(a).to(torch.float64 if a is WEIGHTS else dtype) if isinstance(a, np.ndarray) else a
        for a in arguments
    ]
    leaves = [a.clone().requires_grad_() if k else a for a, k in zip(natives, learned, strict=True)]
    out = flat(getattr(fast, name))(*leaves, **options)
    cotangent = torch.from_numpy(cloud(99, *out.shape)).to(dtype)
    found = [out, *torch.autograd.grad(out, [a for a, k in zip(leaves, learned, strict=True) if k], cotangent)]
    values = [a.double().numpy() if isinstance(a, torch.Tensor) else a for a in natives]
    units = [
        fmt.u if k else 2.0**-53 if isinstance(a, np.ndarray) else 0.0 for a, k in zip(values, learned, strict=True)
    ]
    with np.errstate(all="ignore"):
        truth = bounds(flat(getattr(true, name)), values, units, fmt, M + LONG + D)
        vjp = getattr(true, f"{name}_vjp")
        truth += bounds(vjp, [cotangent.double().numpy(), *values], [fmt.u, *units], fmt, N + M + D)
    for a, b in zip(found, truth, strict=True):
        assert b.ratio(a.detach().double().numpy()).max() <= LIMITS["fused"]


@dtypes
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("row_tile, feature_tile", [(1, 1), (2, 4), (3, 11), (100, 5), (None, None)])
def test_value_and_gradients_do_not_depend_on_the_tile(
    name: str, row_tile: int | None, feature_tile: int | None, dtype: torch.dtype
) -> None:
    for d in (1, 2, LONG):
        judge(name, drawn(name, 0, d), dtype, row_tile=row_tile, feature_tile=feature_tile)


@pytest.mark.skipif(products.ONEDNN is None, reason="this torch was built without oneDNN, which multiplies large tiles")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("row_tile, feature_tile", [(2, 4), (None, None)])
def test_nor_on_the_library_that_multiplies_a_tile(
    name: str, row_tile: int | None, feature_tile: int | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, product = [], products.ONEDNN
    monkeypatch.setattr(products, "ONEDNN", lambda *arguments: (asked.append(1), product(*arguments))[1])
    monkeypatch.setattr(tiles, "MIN_ONEDNN_DIMENSIONS", 1)
    monkeypatch.setattr(products, "SMALL", 1)
    for d in (2, LONG):
        judge(name, drawn(name, 0, d), dtype, row_tile=row_tile, feature_tile=feature_tile)
    assert asked


@dtypes
@pytest.mark.parametrize("row_tile", [1, 3, 100])
def test_structured_features_do_not_depend_on_the_tile(row_tile: int, dtype: torch.dtype) -> None:
    judge("structured_features", drawn("structured_features", 0, 6), dtype, row_tile=row_tile)


# -- threads ----------------------------------------------------------------------------------------------------------


@contextmanager
def threads(count: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So many threads, whatever the size."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    monkeypatch.setattr(tiles, "MIN_THREADED_COSINES", 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", [*NAMES, "structured_features"])
def test_value_and_gradients_do_not_depend_on_the_threads(
    name: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    submit = ThreadPoolExecutor.submit
    monkeypatch.setattr(ThreadPoolExecutor, "submit", lambda *a: (given.append(a), submit(*a))[1])
    with threads(count, monkeypatch):
        judge(name, drawn(name, 0, LONG), torch.float32, row_tile=2)
        assert len(given) >= 2 * count, "there were threads, forward and backward"


def test_the_threads_of_the_process_are_as_many_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """here, and on a thread that is new; and inside every worker there is one"""
    inside: list[int] = []
    with threads(2, monkeypatch):
        parallel(lambda start, stop: inside.append(torch.get_num_threads()), 4, 2)
        other: list[int] = []
        worker = threading.Thread(target=lambda: other.append(torch.get_num_threads()))
        worker.start()
        worker.join()
        assert inside == [1, 1] and other == [2] and torch.get_num_threads() == 2


def test_what_fails_on_a_thread_is_raised_and_every_range_is_taken_once() -> None:
    def fails(start: int, stop: int) -> None:
        raise ValueError("on a thread")

    with pytest.raises(ValueError, match="on a thread"):
        parallel(fails, 4, 2)
    for points in (0, 1, 5):
        ranges = parallel(lambda start, stop: range(start, stop), points, 3)
        assert [k for r in ranges for k in r] == list(range(points))


def test_a_forked_process_starts_threads_of_its_own() -> None:
    parallel(lambda start, stop: None, 2, 2)
    child = os.fork()
    if not child:
        found = parallel(lambda start, stop: stop - start, 4, 2)
        os._exit(0 if found == [2, 2] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_inference_mode_reaches_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [torch.from_numpy(a).float() for a in drawn("rff_matvec", 0, LONG)]
    with threads(2, monkeypatch), torch.inference_mode():
        found = fast.rff_matvec(*arguments)
    assert found.is_inference() and torch.isfinite(found).all()


# -- where the result is written, and what is refused -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [*NAMES, "structured_features"])
def test_a_result_is_the_same_in_memory_that_was_given(name: str, dtype: torch.dtype) -> None:
    """bit for bit, also where its rows are not contiguous"""
    arguments = [
        torch.from_numpy(a).to(torch.float64 if a is WEIGHTS else dtype) if isinstance(a, np.ndarray) else a
        for a in drawn(name, 0, LONG)
    ]
    function = flat(getattr(fast, name))
    fresh = function(*arguments)
    for out in (torch.empty_like(fresh), torch.empty_like(fresh.T).T, torch.empty(N, 60, dtype=dtype)[:, ::2]):
        place = out[:, : fresh.shape[1]]
        assert function(*arguments, out=place) is place and torch.equal(place, fresh)


X, Y, V, W, B = torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(4, 1), torch.zeros(2, 6), torch.zeros(6)
SIGNS = torch.ones(2, 3, 4)
REFUSED: dict[str, Callable[[], Any]] = {
    "precision was 'tf32x3'": lambda: fast.rff_matvec(X, Y, V, W, B, precision="tf32x3"),
    r"out was \(3, 5\)": lambda: fast.rff_features(X, W, B, out=torch.empty(3, 5)),
    r"out was \(3, 6\) torch.float64": lambda: fast.rff_features(X, W, B, out=torch.empty(3, 6).double()),
    "out was list": lambda: fast.rff_gram(X, Y, W, B, out=[]),
    "out was given where": lambda: fast.rff_features_paired(X, W.clone().requires_grad_(), out=torch.empty(3, 12)),
    "row_tile was 0": lambda: fast.rff_features(X, W, B, row_tile=0),
    r"signs had shape \(2, 3, 3\)": lambda: fast.structured_features(X, torch.ones(2, 3, 3), B, lengthscale=1.0),
    r"signs had shape \(2, 3, 1\)": lambda: fast.structured_features(X, torch.ones(2, 3, 1), B, lengthscale=1.0),
    r"offsets had shape \(9,\)": lambda: fast.structured_features(X, SIGNS, torch.zeros(9), lengthscale=1.0),
    r"offsets had shape \(4,\)": lambda: fast.structured_features(X, SIGNS, torch.zeros(4), lengthscale=1.0),
    "lengthscale was 0": lambda: fast.structured_features(X, SIGNS, B, lengthscale=0),
    "v had 4 rows": lambda: fast.nystrom_matvec(X, Y, V, lengthscale=1.0, reg=0.1),
    "dimensions was 0": lambda: fast.sample_signs(0, 3, generator=torch.Generator()),
}


@pytest.mark.parametrize("sentence, call", REFUSED.items())
def test_what_does_not_fit_is_refused_in_one_sentence(sentence: str, call: Any) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        call()
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


# -- gradients that not everybody wants -------------------------------------------------------------------------------


@given(seed=seeds, wanted=st.sets(st.integers(0, 4), min_size=1, max_size=4))
def test_a_gradient_is_the_same_whichever_others_are_wanted(seed: int, wanted: set[int]) -> None:
    arguments = [torch.from_numpy(a) for a in drawn("rff_matvec", seed, LONG)]
    leaves = [a.clone().requires_grad_() for a in arguments]
    every = torch.autograd.grad(fast.rff_matvec(*leaves).sum(), leaves)
    few = [a.clone().requires_grad_(k in wanted) for k, a in enumerate(arguments)]
    some = torch.autograd.grad(fast.rff_matvec(*few).sum(), [few[k] for k in sorted(wanted)])
    assert all(torch.equal(a, every[k]) for a, k in zip(some, sorted(wanted), strict=True))


def test_the_shares_of_scales_have_a_gradient_too() -> None:
    """by autograd of the equation in plain torch, to counted roundings: at most 64 in a row, of terms of either sign"""
    for name in ("rff_features_multiscale", "rff_matvec_multiscale"):
        arguments = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in drawn(name, 0, LONG)]
        weights = arguments[-2].clone().requires_grad_()
        found = getattr(fast, name)(*arguments[:-2], weights=weights, counts=COUNTS)
        (by_weights,) = torch.autograd.grad(found.square().sum(), weights)
        plain = weights.detach().clone().requires_grad_()
        shares = torch.cat([(2 * plain[s] / c).expand(c) for s, c in enumerate(COUNTS)])
        w, b = arguments[-4:-2]
        cosines = [torch.cos(points @ w + b) for points in arguments[: 1 if "features" in name else 2]]
        wanted = (
            cosines[0] * shares.sqrt()
            if "features" in name
            else cosines[0] @ (shares[:, None] * (cosines[1].T @ arguments[2]))
        )
        (want,) = torch.autograd.grad(wanted.square().sum(), plain)
        size = 64 * 2.0**-53 * wanted.detach().square().sum() * 8
        assert ((by_weights - want).abs() <= size).all() and want.abs().min() > 1e6 * size


@pytest.mark.parametrize(
    "name", ["rff_features", "rff_features_paired", "rff_gram", "rff_matvec", "structured_features"]
)
def test_gradients_can_be_taken_again(name: str) -> None:
    arguments = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in drawn(name, 0, LONG)]
    learned = [k for k, a in enumerate(arguments) if isinstance(a, torch.Tensor) and a.ndim < 3]

    def function(*chosen: torch.Tensor) -> Any:
        given = list(arguments)
        for k, a in zip(learned, chosen, strict=True):
            given[k] = a
        return flat(getattr(fast, name))(*given)

    leaves = tuple(
        arguments[k][:2].clone().requires_grad_() if k == 0 else arguments[k].clone().requires_grad_() for k in learned
    )
    assert torch.autograd.gradgradcheck(function, leaves)


# -- memory -----------------------------------------------------------------------------------------------------------


def peak(call: Callable[[], Any]) -> int:
    """Most bytes that torch had allocated on the CPU at a time during a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kept = call()
    del kept
    now = most = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize("d, features, p", [(8, 600, 4), (2, 512, 1)])
def test_extra_memory_is_the_result_two_tiles_and_what_belongs_to_the_features(d: int, features: int, p: int) -> None:
    """4 (n p + p rows + 4 p D + 2 D + 8 D) bytes and two tiles; twice the points add their result alone."""
    w, b = torch.zeros(d, features), torch.zeros(features)
    rows = tiles.COSINES // tiles.FEATURES
    found = []
    for n in (1024, 2048):
        x, v = torch.zeros(n, d), torch.zeros(n, p)
        with torch.no_grad():
            found.append(peak(lambda x=x, v=v: fast.rff_matvec(x, x, v, w, b)))
        constant = 4 * (2 * tiles.COSINES + (p + 8) * rows + (4 * p + 10) * features)
        assert 4 * tiles.COSINES <= found[-1] <= 4 * n * p + constant < 4 * n * features, "less than the features"
    assert found[1] - found[0] == 4 * 1024 * p


def test_the_backward_of_a_product_adds_gradients_and_tiles_alone() -> None:
    d, features, p = 8, 600, 4
    rows = tiles.COSINES // tiles.FEATURES
    found = []
    for n in (1024, 2048):
        leaves = [
            torch.zeros(n, d),
            torch.zeros(n, d),
            torch.zeros(n, p),
            torch.zeros(d, features),
            torch.zeros(features),
        ]
        leaves = [a.requires_grad_() for a in leaves]
        out = fast.rff_matvec(*leaves)
        cotangent = torch.ones_like(out)
        found.append(peak(lambda out=out, leaves=leaves, g=cotangent: torch.autograd.grad(out, leaves, g)))
        constant = 4 * (2 * tiles.COSINES + (p + d + 16) * rows + (8 * p + 3 * d + 10) * features)
        assert found[-1] <= 4 * n * (2 * d + p) + constant
    assert found[1] - found[0] == 4 * 1024 * (2 * d + p)
