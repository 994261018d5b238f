"""Evidence for ATLAS-11: where LoRA's dropout stands, by what its noise does; scales; targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from trueness.optimized import adapters as fast
from trueness.properties import adapters as declared
from trueness.regressions import adapters as wrong
from trueness.regressions.adapters import LAYER, LORA_A, LORA_B, MASK, WEIGHT, X

FORMULAS = {formula.name: formula for formula in declared.FORMULAS}
lora, merge = (FORMULAS[name].reference for name in ("adapters.lora", "adapters.merge"))  # arguments by position

PLACES = (lora, wrong.dropout_in_the_middle, wrong.dropout_on_the_output)
M = 4.0 * LORA_B @ LORA_A


def test_without_dropout_the_three_placements_are_one_ATLAS_11_ATLAS_11b() -> None:
    """p = 0 with everything kept, exactly: whole numbers and halves. So a test in eval mode sees nothing."""
    found = [place(X, WEIGHT, LORA_A, LORA_B, np.ones_like(MASK), 8.0, 0.0) for place in PLACES]
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()
    assert (found[0] == X @ (WEIGHT + M).T).all()


def drawn(place: Any, n: int) -> np.ndarray:
    """n samples of h for the first row of x, each with its mask."""
    generator = np.random.default_rng(0)
    x = np.broadcast_to(X[0], (n, 3))
    return place(x, WEIGHT, LORA_A, LORA_B, generator.random((n, 3)) < 0.5, 8.0, 0.5)  # type: ignore[no-any-return]


def test_the_means_agree_and_the_covariances_do_not_ATLAS_11_ATLAS_11b() -> None:
    """p = ½, so q = 1. A mean has the standard deviation σ/√n; a covariance of bounded samples at most R²/√n each."""
    n = 40_000
    x, s_b = X[0], 4.0 * LORA_B
    want = {
        lora: M @ np.diag(x**2) @ M.T,
        wrong.dropout_in_the_middle: s_b @ np.diag((LORA_A @ x) ** 2) @ s_b.T,
        wrong.dropout_on_the_output: np.diag((M @ x) ** 2),
    }
    for place, covariance in want.items():
        h = drawn(place, n)
        assert (np.abs(h.mean(0) - (WEIGHT + M) @ x) <= 5 * np.sqrt(np.diag(covariance) / n)).all()
        centred = h - (WEIGHT + M) @ x
        products = centred[:, :, None] * centred[:, None, :]
        assert (np.abs(products.mean(0) - covariance) <= 5 * np.abs(products).max() / math.sqrt(n)).all()
    correlated = want[lora][0, 1] / math.sqrt(np.prod(np.diag(want[lora])))
    assert abs(correlated) > 0.5 and want[wrong.dropout_on_the_output][0, 1] == 0


@pytest.mark.ledger_fact
def test_peft_and_loralib_drop_the_input_ATLAS_11_ATLAS_11b() -> None:
    """With their own dropout modules: an input whose every element is dropped leaves W_0 x, whatever A and B are."""
    peft_layers, loralib = pytest.importorskip("peft.tuners.lora.layer"), pytest.importorskip("loralib.layers")
    from peft import LoraConfig

    config = LoraConfig(r=2, lora_alpha=8, lora_dropout=0.5)
    theirs: Any = peft_layers.Linear(torch.nn.Linear(3, 2), "default", config, r=2, lora_alpha=8)
    older = loralib.Linear(3, 2, r=2, lora_alpha=8, lora_dropout=0.5)
    for dropout in (theirs.lora_dropout["default"], older.lora_dropout):
        shapes: list[tuple[int, ...]] = []
        dropout.register_forward_hook(lambda module, inputs, output, shapes=shapes: shapes.append(inputs[0].shape))
        owner = theirs if dropout is theirs.lora_dropout["default"] else older
        owner(torch.ones(5, 3))
        assert shapes == [(5, 3)], "the input's width, not the rank's, nor the output's"


def test_a_kept_input_is_scaled_up_ATLAS_11c() -> None:
    everything = np.ones_like(MASK)
    kept = lora(X, 0 * WEIGHT, LORA_A, LORA_B, everything, 8.0, 0.5)
    assert (kept == 2 * wrong.not_rescaled(X, 0 * WEIGHT, LORA_A, LORA_B, everything, 8.0, 0.5)).all()


def test_alpha_counts_by_rank_ATLAS_11d() -> None:
    """A rank that is doubled by repeating A and B doubles B A: α/r keeps the layer what it was."""
    twice = (np.concatenate([LORA_A, LORA_A]), np.concatenate([LORA_B, LORA_B], 1))
    assert (lora(X, WEIGHT, *twice, MASK, 8.0, 0.5) == lora(*LAYER)).all()
    assert (wrong.not_divided_by_rank(X, WEIGHT, *twice, MASK, 8.0, 0.5) != wrong.not_divided_by_rank(*LAYER)).any()
    assert (
        wrong.not_divided_by_rank(X, WEIGHT, LORA_A[:1], LORA_B[:, :1], MASK, 8.0, 0.5)
        == lora(X, WEIGHT, LORA_A[:1], LORA_B[:, :1], MASK, 8.0, 0.5)
    ).all(), "invisible at rank one"


def test_merging_without_the_scale_is_right_for_alpha_equal_rank_alone_ATLAS_11e() -> None:
    assert (wrong.merged_without_scale(WEIGHT, LORA_A, LORA_B, 2.0) == merge(WEIGHT, LORA_A, LORA_B, 2.0)).all()
    assert (wrong.merged_without_scale(WEIGHT, LORA_A, LORA_B, 8.0) != merge(WEIGHT, LORA_A, LORA_B, 8.0)).all()


def test_a_layer_merged_at_every_evaluation_drifts_and_ours_does_not_ATLAS_11f() -> None:
    """loralib merges in eval() and unmerges in train(): in float16 its frozen weight moves; LoRALinear keeps it."""
    loralib = pytest.importorskip("loralib.layers")
    torch.manual_seed(0)
    theirs = loralib.Linear(16, 16, r=2, lora_alpha=8).half()
    torch.nn.init.normal_(theirs.lora_B)
    ours = fast.LoRALinear(torch.nn.Linear(16, 16).half(), r=2, alpha=8)
    torch.nn.init.normal_(ours.lora_B)
    theirs_before, ours_before = theirs.weight.clone(), ours.base.weight.clone()
    for _ in range(20):
        theirs.eval(), theirs.train()
        ours.merge(), ours.unmerge()
    assert not torch.equal(theirs.weight, theirs_before)
    assert torch.equal(ours.base.weight, ours_before)


def test_a_list_of_targets_that_selects_nothing_is_refused_ATLAS_11g() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())
    for names in ([], ["query"], ["1"]):
        with pytest.raises(ValueError, match="names"):
            fast.adapt(model, names, r=1, alpha=1)
    assert type(model[0]) is torch.nn.Linear, "and nothing was changed before"
    assert fast.adapt(model, ["0"], r=1, alpha=1) == ["0"]


def test_the_frozen_path_sees_the_whole_input_ATLAS_11h() -> None:
    nothing = 0 * LORA_B
    assert (lora(X, WEIGHT, LORA_A, nothing, MASK, 8.0, 0.5) == X @ WEIGHT.T).all()
    assert (wrong.dropout_on_everything(X, WEIGHT, LORA_A, nothing, MASK, 8.0, 0.5) != X @ WEIGHT.T).any()
