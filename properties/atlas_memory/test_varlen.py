"""Laws of the Omega rule for sequences of any lengths in one row."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.optimized.atlas_memory import varlen as _varlen
from trueness.properties.atlas_memory.flat import MODES, STATE, TOKENS
from trueness.properties.atlas_memory.flat import optimized as fast
from trueness.properties.atlas_memory.problems import each_mode, given, places, problem, reduction, seeds, worst
from trueness.tools.arithmetic.bounds import LIMITS

sizes = st.fixed_dictionaries({x: st.integers(1, 2) for x in "BH"} | {x: st.integers(1, 3) for x in "PVc"})


def row(seed: int, ends: list[int], size: Any, **modes: Any) -> dict[str, Any]:
    """The arguments of ``omega`` with ``cu_seqlens``: sequences that end where ``ends`` says"""
    one = problem(seed, size | {"B": 1, "T": ends[-1]})
    state = problem(seed + 1, size | {"B": len(ends) - 1, "T": 1})
    tensors = {name: one[name] for name in TOKENS} | {name: state[name] for name in STATE}
    return tensors | {"cu_seqlens": np.array(ends)} | {name: (one | modes)[name] for name in MODES}


def varlen(p: dict[str, Any]) -> list[torch.Tensor]:
    natives = [torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) else x for x in p.values()]
    return list(fast.omega_varlen(*natives))


@each_mode
@given(
    seed=seeds,
    size=sizes,
    chunk=st.integers(1, 4),
    inside=places,
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4),
)
def test_sequences_in_one_row_are_calls_by_themselves(
    optimizer: str, clip: float | None, seed: int, size: Any, chunk: int, inside: bool, lengths: list[int]
) -> None:
    """Lengths so different that they are several batches, and empty ones; reads, memory and momentum."""
    ends = [0, *np.cumsum([*lengths, 1]).tolist()]
    p = row(seed, ends, size, chunk_size=chunk, optimizer=optimizer, clip=clip, lr_inside_momentum=inside)
    o, M, S = varlen(p)
    for i, (start, end) in enumerate(pairwise(ends)):
        one = {n: p[n][:, start:end] for n in TOKENS} | {n: p[n][i : i + 1] for n in STATE} | {n: p[n] for n in MODES}
        if start == end:
            assert torch.equal(M[i], torch.from_numpy(p["memory"][i]))
            assert torch.equal(S[i], torch.from_numpy(p["momentum"][i]))
            continue
        found = [o[:, start:end], M[i : i + 1], S[i : i + 1]]
        assert worst("omega", list(one.values()), found, reduction(one)) <= LIMITS["fused"]


@each_mode
@given(seed=seeds, size=sizes, chunk=st.integers(1, 4))
def test_sequences_in_one_row_do_not_see_each_other(
    optimizer: str, clip: float | None, seed: int, size: Any, chunk: int
) -> None:
    """NaN in all of one sequence, tokens and state: bit for bit the same in the others."""
    ends = [0, 3, 8, 9, 14]
    p = row(seed, ends, size, chunk_size=chunk, optimizer=optimizer, clip=clip)
    plain = varlen(p)
    p |= {name: p[name].copy() for name in (*TOKENS, *STATE)}
    for name in TOKENS:
        p[name][:, 3:8] = np.nan
    for name in STATE:
        p[name][1] = np.nan
    moved = varlen(p)
    kept = [t for t in range(14) if not 3 <= t < 8]
    assert torch.equal(plain[0][:, kept], moved[0][:, kept])
    assert all(torch.equal(a[[0, 2, 3]], b[[0, 2, 3]]) for a, b in zip(plain[1:], moved[1:], strict=True))
    assert moved[0][:, 3:8].isnan().all()


def test_the_number_of_batches_grows_with_the_logarithm_of_the_longest() -> None:
    """At most half of a batch is padding, whatever the lengths are."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        lengths = generator.integers(0, 2 ** int(generator.integers(1, 12)), int(generator.integers(1, 300))).tolist()
        found = _varlen.batches(lengths)
        assert sorted(i for batch in found for i in batch) == [i for i, n in enumerate(lengths) if n]
        assert len(found) <= max(lengths).bit_length()
        assert all(lengths[batch[0]] <= 2 * lengths[i] for batch in found for i in batch)


@pytest.mark.parametrize(
    ("ends", "sentence"),
    [
        (torch.tensor([0, 3, 2, 5]), "it must rise from 0 to the 5 tokens"),
        (torch.tensor([0, 2, 3, 4]), "it must rise from 0 to the 5 tokens"),
        (torch.tensor([1, 2, 3, 5]), "it must rise from 0 to the 5 tokens"),
        (torch.tensor([0, 5]), "cu_seqlens had shape"),
        (torch.tensor([0.0, 2, 3, 5]), "cu_seqlens was torch.float32"),
        ([0, 2, 3, 5], "cu_seqlens was list"),
    ],
)
def test_sequences_that_do_not_fill_the_row_are_refused(ends: Any, sentence: str) -> None:
    p = row(0, [0, 2, 3, 5], {"H": 1, "P": 2, "V": 2, "c": 2})
    natives = {name: torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) else x for name, x in p.items()}
    with pytest.raises(ValueError, match=sentence):
        fast.omega_varlen(*(natives | {"cu_seqlens": ends}).values())
    two = {name: torch.cat([x, x]) if name in TOKENS else x for name, x in natives.items()}
    with pytest.raises(ValueError, match="q had shape"):
        fast.omega_varlen(*two.values())
