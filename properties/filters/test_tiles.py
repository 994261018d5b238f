"""Laws of tiles, windows and blending: the identity stays the identity, no pixel is lost, no tile comes twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy import signal

from trueness.optimized import filters as fast
from trueness.properties.filters import WINDOWS
from trueness.reference import filters as true
from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks.core import settings_for

F64 = precision("float64")
seeds = st.integers(0, 2**16)
windows = st.sampled_from(WINDOWS)
overlaps = st.sampled_from((0.0, 0.125, 0.3, 0.5, 0.9))
sides = st.integers(1, 20)


def given(**strategies: Any) -> Callable[[Any], Any]:
    """As everywhere in the project: derandomized, without a clock."""
    return lambda law: settings_for(30)(hypothesis.given(**strategies)(law))


def tiled_by_torch(model: Any, x: np.ndarray, tile: int, **options: Any) -> np.ndarray:
    return fast.tiled(lambda t: torch.from_numpy(model(t.numpy())), torch.from_numpy(x), tile, **options).numpy()


def starts_by_torch(*arguments: Any) -> np.ndarray:
    return fast.tile_starts(*arguments).numpy()


def window_by_torch(n: int, kind: str) -> np.ndarray:
    return fast.tile_window(n, kind).numpy()


def both(name: str, torch_version: Any) -> Any:
    return pytest.mark.parametrize("function", [getattr(true, name), torch_version], ids=["reference", "ours"])


TILED = both("tiled", tiled_by_torch)


def image(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, height, width))


def mean_rounding(x: np.ndarray, most: int) -> Any:
    """A weighted mean of at most ``most`` equal values: per term a product and a sum, in two sums, and a division."""
    return (4 * most + 1) * F64.u * np.abs(x)


def overlapping(height: int, width: int, tile: int, overlap: float) -> int:
    """How many tiles there are at all, which no pixel lies in more of."""
    return math.prod(len(true.tile_starts(n, min(tile, n), overlap)) for n in (height, width))


# -- windows ----------------------------------------------------------------------------------------------------------


@both("tile_window", window_by_torch)
@given(n=st.integers(1, 300), kind=windows)
def test_windows_are_symmetric_and_nowhere_zero(function: Any, n: int, kind: str) -> None:
    w = function(n, kind)
    assert w.shape == (n,) and (w > 0).all() and (w <= 1).all()
    if kind == "triangular":
        assert (w == w[::-1]).all()
    else:  # sin(π − a) and sin(a) differ by the rounding of the angle, up to π, and of the square
        assert (np.abs(w - w[::-1]) <= 2 * (3 * math.pi * F64.u * 2 + 2 * F64.u)).all()


@both("tile_window", window_by_torch)
@given(n=st.integers(1, 300))
def test_the_triangular_window_is_scipys_triang_bit_for_bit(function: Any, n: int) -> None:
    assert (function(n, "triangular") == signal.windows.triang(n)).all()


@both("tile_window", window_by_torch)
@given(n=st.integers(2, 300))
def test_the_triangular_window_is_bartlett_two_longer_without_its_zeros(function: Any, n: int) -> None:
    """For odd n; for even n triang is another window."""
    bartlett = signal.windows.bartlett(n + 2)[1:-1]
    gap = np.abs(function(n, "triangular") - bartlett)
    assert (gap <= 2 * F64.u).all() if n % 2 else gap.max() > 1 / (n + 1) ** 2


@both("tile_window", window_by_torch)
@given(n=st.integers(1, 300))
def test_the_hann_window_is_scipys_two_longer_without_its_zeros(function: Any, n: int) -> None:
    """scipy writes ½ − ½ cos: both angles, up to 2π, are rounded, and both functions."""
    want = signal.windows.hann(n + 2)[1:-1]
    assert (np.abs(function(n, "hann") - want) <= (4 * 2 * math.pi + 4) * F64.u).all()


@pytest.mark.parametrize("n", [8, 16, 64])
def test_copies_of_the_triangular_window_at_half_its_length_sum_to_a_constant(n: int) -> None:
    """scipy's check_COLA has a tolerance of its own; the sum itself is exact here."""
    w = true.tile_window(n, "triangular")
    assert signal.check_COLA(w, n, n // 2)
    assert np.ptp(w[: n // 2] + w[n // 2 :]) == 0
    assert not signal.check_COLA(signal.windows.hann(n, sym=True), n, n // 2)
    assert signal.check_COLA(signal.windows.hann(n, sym=False), n, n // 2)


# -- starts -----------------------------------------------------------------------------------------------------------


@both("tile_starts", starts_by_torch)
@given(length=st.integers(1, 200), tile=st.integers(1, 64), overlap=overlaps)
def test_tiles_begin_at_zero_end_with_the_axis_and_leave_nothing_out(
    function: Any, length: int, tile: int, overlap: float
) -> None:
    tile = min(tile, length)
    starts = function(length, tile, overlap)
    assert starts[0] == 0 and starts[-1] == length - tile
    assert (np.diff(starts) > 0).all() and (np.diff(starts) <= tile).all()


@both("tile_starts", starts_by_torch)
@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        ((40, 16, 0.25), [0, 12, 24]),
        ((41, 16, 0.25), [0, 12, 24, 25]),
        ((16, 16, 0.5), [0]),
        ((17, 16, 0.0), [0, 1]),
        ((5, 2, 0.9), [0, 1, 2, 3]),
    ],
)
def test_starts_counted_by_hand(function: Any, arguments: Any, starts: list[int]) -> None:
    assert function(*arguments).tolist() == starts


@both("tile_starts", starts_by_torch)
@given(length=st.integers(1, 200), tile=st.integers(1, 64), overlap=overlaps)
def test_no_fewer_tiles_of_this_stride_would_do(function: Any, length: int, tile: int, overlap: float) -> None:
    tile = min(tile, length)
    stride = max(1, int(tile * (1 - overlap)))
    count = len(function(length, tile, overlap))
    assert (count - 1) * stride >= length - tile > (count - 2) * stride


# -- models -----------------------------------------------------------------------------------------------------------


@TILED
@given(seed=seeds, height=sides, width=sides, tile=st.integers(1, 12), overlap=overlaps, window=windows)
def test_the_identity_model_gives_the_image_back(
    function: Any, seed: int, height: int, width: int, tile: int, overlap: float, window: str
) -> None:
    """Partition of unity."""
    x = image(seed, height, width)
    y = function(lambda t: t, x, tile, overlap=overlap, window=window)
    assert (np.abs(y - x) <= mean_rounding(x, overlapping(height, width, tile, overlap))).all()


@TILED
@given(seed=seeds, height=sides, width=sides, tile=st.integers(1, 12), overlap=overlaps, window=windows)
def test_a_pointwise_model_gives_what_it_gives_of_the_whole_image(
    function: Any, seed: int, height: int, width: int, tile: int, overlap: float, window: str
) -> None:
    x = image(seed, height, width)
    whole = np.tanh(x) + x * x
    y = function(lambda t: np.tanh(t) + t * t, x, tile, overlap=overlap, window=window)
    assert (np.abs(y - whole) <= mean_rounding(whole, overlapping(height, width, tile, overlap))).all()


@TILED
@given(height=sides, width=sides, tile=st.integers(1, 12), overlap=overlaps, window=windows)
def test_a_constant_model_gives_a_constant(
    function: Any, height: int, width: int, tile: int, overlap: float, window: str
) -> None:
    y = function(lambda t: 0 * t + 3.7, image(0, height, width), tile, overlap=overlap, window=window)
    assert (np.abs(y - 3.7) <= mean_rounding(np.array(3.7), overlapping(height, width, tile, overlap))).all()


@TILED
@given(seed=seeds, height=sides, width=sides, tile=st.integers(1, 12), overlap=overlaps, window=windows)
def test_every_pixel_is_a_mean_of_what_the_tiles_say(
    function: Any, seed: int, height: int, width: int, tile: int, overlap: float, window: str
) -> None:
    """A model that answers with numbers between −1 and 1, of no relation between tiles, stays between −1 and 1."""
    generator = np.random.default_rng(seed)
    y = function(
        lambda t: generator.uniform(-1, 1, t.shape), image(seed, height, width), tile, overlap=overlap, window=window
    )
    assert (np.abs(y) <= 1 + mean_rounding(np.array(1.0), overlapping(height, width, tile, overlap))).all()


@TILED
@pytest.mark.parametrize("window", WINDOWS)
def test_seams_are_softer_the_more_tiles_overlap(function: Any, window: str) -> None:
    """Tiles that differ by one: the largest step between neighbouring pixels falls from one to about 1/overlap."""

    def step(overlap: float) -> float:
        numbers = iter(range(100))
        y = function(lambda t: 0 * t + next(numbers), np.zeros((1, 1, 64)), 16, overlap=overlap, window=window)
        return float(np.abs(np.diff(y)).max())

    steps = [step(overlap) for overlap in (0.0, 0.25, 0.5)]
    assert steps[0] == 1 and steps[0] > steps[1] > steps[2] and steps[2] < 4 / 8


@TILED
def test_an_axis_shorter_than_a_tile_is_one_tile_and_the_other_is_still_cut(function: Any) -> None:
    seen: list[tuple[int, ...]] = []

    def model(t: np.ndarray) -> np.ndarray:
        seen.append(t.shape)
        return t

    function(model, image(0, 10, 400), 16, overlap=0.25, window="hann")
    assert set(seen) == {(2, 10, 16)} and len(seen) == 33


@given(seed=seeds, height=sides, width=sides, tile=st.integers(1, 9), overlap=overlaps, window=windows)
def test_the_optimized_tiling_is_the_references(
    seed: int, height: int, width: int, tile: int, overlap: float, window: str
) -> None:
    """With a model that knows where its tile begins, so that tiles disagree."""
    x = image(seed, height, width)

    def model(t: np.ndarray) -> np.ndarray:
        return t + t[..., :1, :1]

    left, right = (
        tiled_by_torch(model, x, tile, overlap=overlap, window=window),
        true.tiled(model, x, tile, overlap=overlap, window=window),
    )
    size = np.abs(x).max() * 2
    assert (np.abs(left - right) <= 2 * mean_rounding(size, overlapping(height, width, tile, overlap))).all()


# -- what only the optimized side promises ----------------------------------------------------------------------------


def test_a_model_may_change_the_channels_and_gradients_reach_the_image() -> None:
    model = torch.nn.Conv2d(3, 5, 1)
    x = torch.randn(2, 3, 20, 30, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = fast.tiled(model, x, 8, overlap=0.25, window="hann")
    y.sum().backward()
    whole = model(x)
    assert y.shape == whole.shape
    (want,) = torch.autograd.grad(whole.sum(), x)
    u = precision("float32").u
    tolerance = 2 * u * (4 * 9 + 8) * model.weight.detach().abs().sum()
    assert x.grad is not None and (x.grad - want).abs().max() <= tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_result_has_the_dtype_of_what_the_model_returns(dtype: torch.dtype) -> None:
    y = fast.tiled(lambda t: t.to(dtype), torch.ones(1, 9, 9), 4, overlap=0.5, window="triangular")
    assert y.dtype == dtype and (y == 1).all()


def test_the_model_sees_one_tile_at_a_time() -> None:
    alive: list[int] = []
    x = torch.zeros(1, 64, 64)
    fast.tiled(lambda t: alive.append(t.numel()) or t, x, 16, overlap=0.25, window="triangular")  # type: ignore[func-returns-value]
    assert len(alive) == 25 and set(alive) == {256}


TILE = torch.ones(1, 2, 2)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: fast.tile_window(0, "hann"), "n was 0"),
        (lambda: fast.tile_window(3, "boxcar"), "window was 'boxcar'; allowed are triangular, hann"),
        (lambda: fast.tile_starts(5, 6, 0.5), "tile was 6; it must not exceed the length 5"),
        (lambda: fast.tile_starts(5, 3, 1.0), r"overlap was 1.0; it must be a number in \[0, 1\)"),
        (lambda: fast.tile_starts(5, 0, 0.5), "tile was 0"),
        (lambda: fast.blend(torch.ones(2, 2), [0], [0], height=2, width=2), r"tiles had shape \(2, 2\)"),
        (
            lambda: fast.blend(TILE, [0, 1], [0, 0], height=2, width=2),
            "rows and columns were 2 and 2 long; both must be 1",
        ),
        (lambda: fast.blend(TILE, [0], [0], height=2, width=3), "tiles left a pixel of the 2×3 image uncovered"),
        (lambda: fast.blend(TILE, [0], [0], height=2, width=2, out=TILE[0]), "out shared memory with tiles"),
        (lambda: fast.blend(TILE.expand(2, 2, 2), [0, 1], [0, 0], height=2, width=2), r"a tile of 2×2 was at \(1, 0\)"),
        (lambda: fast.tiled(lambda t: t[..., :1], TILE, 2, window="hann"), "it must keep the last two axes"),
        (lambda: fast.tiled(lambda t: t, TILE, 0, window="hann"), "tile was 0"),
        (lambda: fast.tiled(lambda t: t, TILE, 2, window="none"), "window was 'none'"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()
