"""Evidence for MEM-24 … MEM-29, MEM-31 and MEM-32: settings, logs, rates, clipping, workers and plots."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trueness.optimized import training as fast
from trueness.reference import training as true
from trueness.regressions.training import variants as wrong
from trueness.regressions.training.settings import JsonLines, override

U = 2.0**-53


# -- MEM-24 … MEM-27: settings and logs -------------------------------------------------------------------------------

SETTINGS = {"model": {"width": 64, "depth": 2, "name": "atlas"}, "lr": 1e-3, "clip": None, "compile": False}


def test_a_misspelt_setting_is_an_error_and_not_a_default_MEM_24() -> None:
    with pytest.raises(ValueError, match=r"'lrr=1' names no setting; there are model\.width, model\.depth"):
        override(SETTINGS, ["lrr=1"])


def test_an_override_reaches_its_setting_and_keeps_its_type_MEM_25() -> None:
    found = override(SETTINGS, ["model.width=128", "lr=1", "clip=0.5", "compile=true", "model.name=17"])
    assert found == {"model": {"width": 128, "depth": 2, "name": "17"}, "lr": 1.0, "clip": 0.5, "compile": True}
    assert type(found["lr"]) is float
    assert SETTINGS["model"]["width"] == 64  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("model.width=wide", "was str; the setting is int"),
        ("model.width=1.5", "was float; the setting is int"),
        ("compile=1", "was int; the setting is bool"),
        ("lr", "was no override; write name=value"),
        ("model=3", "names no setting"),
        ("model.width.more=3", "names no setting"),
    ],
)
def test_an_override_of_another_kind_is_refused_MEM_25(change: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        override(SETTINGS, [change])


def test_of_several_overrides_the_last_wins_and_no_part_is_changed_MEM_26() -> None:
    before = json.dumps(SETTINGS)
    found = override(SETTINGS, ["model.depth=3", "model.depth=4"])
    assert found["model"]["depth"] == 4
    found["model"]["width"] = 0
    assert json.dumps(SETTINGS) == before


def test_a_log_needs_no_network_and_is_whole_after_every_line_MEM_27(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setattr(socket, "socket", refuse)
    path = tmp_path / "run.jsonl"
    for start in (0, 2):  # the second time as a resumed run does
        with JsonLines(path) as log:
            for k in range(start, start + 2):
                log(step=k, loss=torch.tensor(0.5), norm=math.inf)
                assert json.loads(path.read_text().splitlines()[-1])["step"] == k
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["step"] for r in rows] == [0, 1, 2, 3]
    assert rows[0] == {"step": 0, "loss": 0.5, "norm": "inf"}


# -- MEM-28: warm-up --------------------------------------------------------------------------------------------------


def rates(before: bool, updates: int) -> list[float]:
    """The rates of the first updates, in a loop that sets them before the update or after it."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = fast.WarmupCosine(optimizer, 5, 20, 0.1)
    used = []
    for _ in range(updates):
        if before:
            schedule.before_step()
        used.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if not before:
            schedule.before_step()
    return used


def test_set_after_the_update_the_first_one_runs_at_the_full_rate_MEM_28a() -> None:
    late = rates(before=False, updates=20)
    assert [round(r, 3) for r in late[:7]] == [1.0, 0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert (np.abs(wrong.set_after_the_step(np.arange(20), 5, 20, 0.1) - late) <= 4 * U).all()
    early = rates(before=True, updates=20)
    assert early[0] == 0
    assert (
        np.abs(true.warmup_cosine_factor(np.arange(20), warmup_steps=5, total_steps=20, min_lr_ratio=0.1) - early)
        <= 4 * U
    ).all()


def test_the_recursion_of_the_cosine_never_reaches_the_peak_MEM_28b() -> None:
    """torch's CosineAnnealingLR, stepped after the warm-up had left (W − 1)/W behind."""
    found = wrong.cosine_from_the_last_warm_up_rate(np.arange(20), 5, 20, 0.1)
    assert [round(float(f), 3) for f in found[:7]] == [1.0, 0, 0.2, 0.4, 0.6, 0.8, 0.796]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.1)
    optimizer.param_groups[0]["lr"] = 0.8
    for k in range(6, 20):
        optimizer.step()
        cosine.step()
        assert abs(optimizer.param_groups[0]["lr"] - found[k]) <= 16 * (k - 4) * U
    assert found[1:].max() < 1, "the full rate comes once, and before the warm-up"


def test_longer_than_announced_the_rate_of_the_libraries_rises_again_MEM_28c() -> None:
    k = np.arange(20, 36)
    risen, kept = (
        wrong.rebounding(k, 5, 20, 0.0),
        true.warmup_cosine_factor(k, warmup_steps=5, total_steps=20, min_lr_ratio=0.0),
    )
    assert risen[0] == kept[0] == 0
    assert (np.diff(risen) > 0).all()
    assert risen[-1] == 1 > kept[-1] == 0


# -- MEM-29: clipping -------------------------------------------------------------------------------------------------

LONG = np.array([[3.0, -4.0], [0.5, 12.0]])


def norm_of(g: np.ndarray) -> float:
    return float(np.sqrt((g * g).sum()))


def test_a_loop_that_clips_is_told_from_one_that_does_not_MEM_29a() -> None:
    for c, moved in ((1.0, 1.0), (None, 13.0)):
        w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        accumulator = fast.GradientAccumulator(torch.optim.SGD([w], lr=1.0), 1, max_norm=c)
        accumulator.backward(w @ torch.tensor([5.0, 12.0], dtype=torch.float64))
        assert abs(norm_of(w.detach().numpy()) - moved) <= 13e-6 if c is None else norm_of(w.detach().numpy()) <= moved
    assert norm_of(wrong.not_clipped(LONG, 1.0)) == norm_of(LONG)


def test_clamping_elements_changes_the_direction_MEM_29b() -> None:
    clamped = wrong.clamped_elements(LONG, 1.0)
    cosine = (clamped * LONG).sum() / norm_of(clamped) / norm_of(LONG)
    assert cosine < 0.9 < 1 - 8 * U
    assert norm_of(wrong.clamped_elements(9 * LONG, 1.0)) == np.sqrt(LONG.size), "√n c and not c"


def test_a_norm_for_every_parameter_is_no_global_norm_MEM_29c() -> None:
    apart = wrong.each_parameter_clipped(LONG, 1.0)
    assert norm_of(apart) > 1.4 > 1.0 >= norm_of(true.clip_by_global_norm(LONG, max_norm=1.0))
    parameters = [torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    accumulator = fast.GradientAccumulator(torch.optim.SGD(parameters, lr=1.0), 1, max_norm=1.0)
    accumulator.backward(sum((w @ torch.from_numpy(g) for w, g in zip(parameters, LONG, strict=True)), torch.zeros(())))
    moved = -np.stack([w.detach().numpy() for w in parameters])
    assert (np.abs(moved - true.clip_by_global_norm(LONG, max_norm=1.0)) <= 16 * U * np.abs(LONG)).all()


def test_small_gradients_are_left_small_MEM_29d() -> None:
    g = np.array([0.03, -0.04])
    assert (true.clip_by_global_norm(g, max_norm=1.0) == g).all()
    assert norm_of(wrong.always_scaled(g, 1.0)) > 0.99


# -- MEM-31, MEM-32: workers and plots --------------------------------------------------------------------------------


class Numbers(torch.utils.data.Dataset[torch.Tensor]):
    """Ten numbers with noise: of the global generator, or of one that belongs to the index."""

    def __init__(self, own: bool) -> None:
        self.own = own

    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(i) if self.own else None
        return i + torch.rand((), generator=generator)


def batches(own: bool, workers: int) -> torch.Tensor:
    with fast.deterministic(0, strict=False):
        order = torch.Generator().manual_seed(3)
        loader = torch.utils.data.DataLoader(
            Numbers(own), batch_size=4, shuffle=True, generator=order, num_workers=workers, timeout=60 * bool(workers)
        )
        return torch.cat(list(loader))


def test_the_number_of_workers_changes_no_batch_MEM_31() -> None:
    assert torch.equal(batches(True, 0), batches(True, 2)), "noise that belongs to the index"
    assert not torch.equal(batches(False, 0), batches(False, 2)), "noise of the global generator depends on the worker"
    assert torch.equal(batches(False, 0).floor(), batches(False, 2).floor()), "the order does not"


DRAW = """
import sys
from pathlib import Path
from trueness.optimized.training import accumulate
from trueness.tools.report.plots import pictures
from trueness.tools.run.api import check

found = check("training.accumulate", accumulate, dtype="float32", profile="quick", checks=["value"])
drawn = pictures("training.accumulate", found.verdicts, "f")
assert "matplotlib.pyplot" not in sys.modules
Path(sys.argv[1]).write_text(repr(drawn), "utf-8")
"""


def test_the_pictures_of_a_report_are_drawn_without_a_display_MEM_32(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'trueness[plots]'")
    path = tmp_path / "pictures.txt"
    bare = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment = {**bare, "MPLBACKEND": "TkAgg", "MPLCONFIGDIR": str(tmp_path)}
    command = [sys.executable, "-P", "-c", DRAW, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "<svg" in path.read_text("utf-8")
