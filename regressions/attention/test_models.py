"""Evidence for DIFFIT-01, 06 … 08, 13 and 16: what the report claims of the modules, their names and presets."""

from __future__ import annotations

import builtins
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trueness.optimized import attention as fast
from trueness.optimized.attention import presets
from trueness.reference import attention as true

# -- modules ----------------------------------------------------------------------------------------------------------


def models() -> dict[str, tuple[torch.nn.Module, tuple[torch.Tensor, ...]]]:
    """Every module of the family, with input."""
    torch.manual_seed(0)
    tokens, images, time = torch.randn(2, 4, 4, 8), torch.randn(2, 8, 4, 4), torch.randn(2, 6)
    pictures, steps, labels = torch.randn(2, 1, 8, 8), torch.tensor([3, 700]), torch.tensor([0, 9])
    return {
        "TMSA": (fast.TMSA(8, 2, 2, 6), (tokens, time)),
        "DiffiTBlock": (fast.DiffiTBlock(8, 2, 2, 6), (tokens, time)),
        "DiffiTResBlock": (fast.DiffiTResBlock(8, 2, 2, 6, groups=4), (images, time)),
        "DiffiT": (fast.DiffiT(8, 1, 16, (1, 2), num_heads=2, classes=10, groups=4), (pictures, steps, labels)),
        "LatentDiffiT": (fast.LatentDiffiT(8, 1, 16, num_heads=2, classes=10), (pictures, steps, labels)),
    }


MODULES = tuple(models())


@pytest.mark.parametrize("name", MODULES)
def test_a_forward_and_a_backward_pass_write_no_file_and_print_nothing_DIFFIT_01(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    opened: list[Any] = []
    plain = builtins.open
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtins, "open", lambda file, *a, **k: (opened.append(file), plain(file, *a, **k))[1])
    model, arguments = models()[name]
    model(*arguments).square().sum().backward()
    assert not opened and not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")
    Path("seen.txt").write_text("so that the check can fail")
    with open("seen.txt"):
        assert opened == ["seen.txt"] and list(tmp_path.iterdir())


# -- names and presets ------------------------------------------------------------------------------------------------


def test_every_weight_has_the_name_of_its_symbol_DIFFIT_06() -> None:
    """A projection W is the layer of that name."""
    layers = {name.removesuffix(".weight").removesuffix(".bias") for name in models()["TMSA"][0].state_dict()}
    assert layers == set(true.TMSAWeights._fields)
    for name, equation in (("TMSA", "self-attention"), ("DiffiTBlock", "MLP(LN(x̂)) + x̂"), ("DiffiTResBlock", "+ x")):
        assert equation in (getattr(fast, name).__doc__ or "")


REPORTED = {
    "cifar10": {
        "width": 128,
        "multipliers": (1, 2, 2),
        "num_patches": 4,
        "window": 4,
        "batch": 512,
        "iterations": 390625,
    },
    "ffhq64": {
        "width": 128,
        "multipliers": (1, 2, 2, 2),
        "num_patches": 2,
        "window": 8,
        "batch": 256,
        "iterations": 781250,
    },
    "imagenet256": {
        "width": 1152,
        "multipliers": (),
        "num_patches": 2,
        "window": None,
        "batch": 256,
        "iterations": 3906250,
    },
}


@pytest.mark.parametrize("name", ["cifar10", "ffhq64", "imagenet256"])
def test_a_grid_side_of_patches_leaves_no_window_DIFFIT_07(name: str) -> None:
    """num_patches is the side of the grid of tokens: every stage is one window. In ours there is something to cut."""

    def windows(side: int, stages: int, window: int | None) -> list[int]:
        return [(s // presets.stage_window(window, s)) ** 2 for s in presets.stage_sides(side, stages) if s]

    reported, preset = REPORTED[name], fast.PRESETS[name]
    stages = max(len(preset.multipliers), 1)
    assert set(windows(reported["num_patches"], stages, reported["window"])) == {1}
    assert preset.window is None or max(windows(preset.sides[0], stages, preset.window)) > 1


@pytest.mark.parametrize("name", ["cifar10", "ffhq64", "imagenet256"])
def test_thousands_of_images_are_not_iterations_DIFFIT_07(name: str) -> None:
    preset = fast.PRESETS[name]
    claimed = 200_000 if preset.kimg == 200_000 else 1_000_000
    assert preset.batch == REPORTED[name]["batch"]
    assert preset.iterations == REPORTED[name]["iterations"]
    assert f"{preset.iterations / claimed:.2f}" == {512: "1.95", 256: "3.91"}[preset.batch]


def parameters(depth: int) -> int:
    preset = replace(fast.PRESETS["imagenet256"], blocks=depth)
    with torch.device("meta"):
        model = fast.LatentDiffiT(
            preset.resolution,
            preset.channels,
            preset.embed_dim,
            blocks=preset.blocks,
            num_heads=preset.num_heads,
            window=preset.window,
            patch=preset.patch,
            classes=preset.classes,
            learn_sigma=preset.learn_sigma,
        )
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("depth, millions", [(28, "561.04"), (30, "600.91")])
def test_the_published_size_belongs_to_depth_28_and_not_to_30_DIFFIT_07_DIFFIT_08(depth: int, millions: str) -> None:
    assert f"{parameters(depth) / 1e6:.2f}" == millions
    assert (round(parameters(depth) / 1e6) == 561) == (depth == 28 == fast.PRESETS["imagenet256"].blocks)


@pytest.mark.parametrize("name", fast.PRESETS)
def test_the_presets_keep_their_own_rules_DIFFIT_08(name: str) -> None:
    p = fast.PRESETS[name]

    def broken(**changed: Any) -> list[str]:
        q = replace(p, **changed)
        options = {"num_heads": q.num_heads, "window": q.window, "patch": q.patch}
        return fast.inconsistencies(q.resolution, q.embed_dim, q.multipliers, **options)

    assert broken() == []
    for field, value in (("resolution", p.resolution + 1), ("num_heads", 7), ("window", 5)):
        assert broken(**{field: value}), f"{field} = {value} cannot be built"


@pytest.mark.parametrize("name, blocks", [("cifar10", 2 * 5), ("ffhq64", 4 * 7)])
def test_the_presets_of_images_can_be_built_DIFFIT_08(name: str, blocks: int) -> None:
    """Down and up at every stage but the last: 2 · 3 − 1 and 2 · 4 − 1 groups of ResBlocks."""
    p = fast.PRESETS[name]
    with torch.device("meta"):
        model = fast.DiffiT(
            p.resolution,
            p.channels,
            p.embed_dim,
            p.multipliers,
            blocks=p.blocks,
            num_heads=p.num_heads,
            window=p.window,
        )
        x = torch.empty(2, p.channels, p.resolution, p.resolution)
        assert model(x, torch.empty(2)).shape == x.shape
    assert sum(isinstance(m, fast.DiffiTResBlock) for m in model.modules()) == blocks


def test_a_configuration_that_breaks_a_rule_is_refused_with_its_sentence_DIFFIT_08() -> None:
    with pytest.raises(ValueError, match="window was 5 on a stage of 32 × 32"):
        fast.DiffiT(32, 3, 64, window=5)
    with pytest.raises(ValueError, match="num_heads was 7 for a stage of 64 channels"):
        fast.DiffiT(32, 3, 64, num_heads=7)
    with pytest.raises(ValueError, match="cannot be halved 3 times"):
        fast.DiffiT(20, 3, 64, (1, 1, 1, 1), window=None)
    with pytest.raises(ValueError, match="patch was 3"):
        fast.LatentDiffiT(32, patch=3)


# -- the checklist ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_what_a_checklist_asks_for_is_run_DIFFIT_13(name: str, tmp_path: Path) -> None:
    """Shape, finite gradients that reach every weight, the same from a saved state, the bits of a second call."""
    model, arguments = models()[name]
    for p in model.parameters():  # the head starts at zero, and nothing would reach what lies before it
        torch.nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(p.numel()))
    out = model(*arguments)
    assert out.shape == arguments[0].shape and out.isfinite().all()
    assert torch.equal(out, model(*arguments))
    out.square().sum().backward()
    for where, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), where
        assert "w_kt" in where or p.grad.any(), f"nothing reaches {where}"
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other, _ = models()[name]
    other.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert torch.equal(other(*arguments), out)


@pytest.mark.parametrize("name", ["DiffiT", "LatentDiffiT"])
def test_labels_matter_and_a_dropped_label_is_no_label_DIFFIT_13(name: str) -> None:
    model, (x, t, labels) = models()[name]
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(p.numel()))
    with_labels, without = model(x, t, labels), model(x, t)
    assert not torch.equal(with_labels, without)
    mixed = model(x, t, labels, torch.tensor([True, False]))
    assert torch.equal(mixed[0], without[0]) and torch.equal(mixed[1], with_labels[1])
    assert not torch.equal(model(x, t + 100), without), "and so does time"


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_models_run_in_half_precision_DIFFIT_13(name: str, dtype: torch.dtype) -> None:
    model, arguments = models()[name]
    halves = [a.to(dtype) if a.is_floating_point() else a for a in arguments]
    out = model.to(dtype)(*halves)
    assert out.dtype == dtype and out.isfinite().all()


@pytest.mark.parametrize("name", ["DiffiT", "LatentDiffiT"])
def test_a_few_steps_of_training_lower_the_loss_DIFFIT_13(name: str) -> None:
    model, (x, t, labels) = models()[name]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = (model(x, t, labels) - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] and all(np.isfinite(losses))


def test_the_denoiser_of_latents_that_was_missing_DIFFIT_16() -> None:
    """8 × 8 × 4 latents in patches of 2: 16 tokens; and the variance beside the mean where it is asked for."""
    for sigma, channels in ((False, 4), (True, 8)):
        model = fast.LatentDiffiT(8, 4, 16, num_heads=2, patch=2, learn_sigma=sigma)
        assert model(torch.randn(2, 4, 8, 8), torch.tensor([0, 999])).shape == (2, channels, 8, 8)
        assert model.positions.shape == (4, 4, 16)


def test_a_patch_goes_back_to_where_it_came_from_DIFFIT_16() -> None:
    """With one block of zeros and an identity for both ends, tokens are the pixels of their patch."""
    model = fast.LatentDiffiT(4, 1, 4, blocks=1, num_heads=1, patch=2)
    seen: list[torch.Tensor] = []
    model.out.register_forward_hook(lambda _, given, out: seen.append(out))
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    patches = x.reshape(1, 1, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(1, 2, 2, 4)
    model.out.register_forward_hook(lambda *_: patches)
    assert torch.equal(model(x, torch.zeros(1)), x)
    assert seen[0].shape == patches.shape


@pytest.mark.parametrize("side, window", [(16, 4), (32, 4), (8, 8)])
def test_windows_shrink_attention_by_the_share_of_their_area_DIFFIT_16(side: int, window: int) -> None:
    channels = 16
    dense, cut = (fast.multiply_adds(side, side, channels, w) for w in (side, window))
    projections = 4 * side**2 * channels**2
    assert (cut - projections) * side**2 == (dense - projections) * window**2
