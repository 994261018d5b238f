"""Laws of the checkpoints: what fits, what a refusal leaves alone, what an interruption leaves behind."""

from __future__ import annotations

import copy
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trueness.optimized import training as fast


def network(width: int = 4, seed: int = 0) -> torch.nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Linear(3, width), torch.nn.BatchNorm1d(width), torch.nn.Dropout(0.5), torch.nn.Linear(width, 2)
        )


class Run:
    """A training run that draws from every generator there is."""

    def __init__(self, seed: int = 0) -> None:
        self.model = network(seed=seed)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        schedule = fast.WarmupCosine(self.optimizer, 3, 20, 0.1)
        ema = fast.EMA(self.model, 0.9)
        accumulator = fast.GradientAccumulator(self.optimizer, 2, max_norm=1.0, schedule=schedule, ema=ema)
        self.generators: dict[str, Any] = {
            "numpy": np.random.default_rng(seed),
            "torch": torch.Generator().manual_seed(seed),
        }
        self.objects: dict[str, Any] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "schedule": schedule,
            "ema": ema,
            "accumulator": accumulator,
        }

    def step(self, fail: int = 9) -> None:
        """One optimiser step of two micro-batches; KeyboardInterrupt before micro-batch number ``fail``."""
        for k, n in enumerate((4, 3)):
            if k == fail:
                raise KeyboardInterrupt
            x = torch.randn(n, 3, generator=self.generators["torch"]) + torch.rand(())
            x = x + float(self.generators["numpy"].random() + np.random.rand() + random.random())  # noqa: NPY002
            self.objects["accumulator"].backward(self.model(x).square().mean(), n)

    def bits(self) -> list[Any]:
        return [frozen(owner.state_dict()) for owner in self.objects.values()]


def frozen(value: Any) -> Any:
    """A state by its bits."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.detach().flatten().view(torch.uint8).numpy().tobytes())
    if isinstance(value, dict):
        return {k: frozen(v) for k, v in value.items()}
    return [frozen(v) for v in value] if isinstance(value, (list, tuple)) else value


@pytest.fixture(autouse=True)
def _seeded() -> Any:
    with fast.deterministic(7, strict=False):
        yield


# -- resuming ---------------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(tmp_path: Path) -> None:
    whole = Run()
    for _ in range(4):
        whole.step()
    fast.save_checkpoint(tmp_path / "a.pt", whole.objects, step=4, extra={"loss": [0.5]}, generators=whole.generators)
    for _ in range(4):
        whole.step()
    draws = torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    resumed = Run(seed=3)
    fast.seed(99)
    found = fast.load_checkpoint(tmp_path / "a.pt", resumed.objects, generators=resumed.generators)
    assert (found.step, found.extra) == (4, {"loss": [0.5]})
    for _ in range(4):
        resumed.step()
    assert resumed.bits() == whole.bits()
    again = torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    assert torch.equal(draws[0], again[0])
    assert (draws[1] == again[1]).all()
    assert draws[2] == again[2]


@pytest.mark.parametrize("missing", ["optimizer", "schedule", "random"])
def test_what_is_left_out_of_the_checkpoint_shows_in_the_bits(tmp_path: Path, missing: str) -> None:
    """The law above has power over every part of the state."""
    whole = Run()
    for _ in range(4):
        whole.step()
    kept = {k: v for k, v in whole.objects.items() if k != missing}
    fast.save_checkpoint(tmp_path / "a.pt", kept, step=4, generators=whole.generators)
    for _ in range(4):
        whole.step()
    resumed = Run(seed=3)
    fast.seed(99)
    kept = {k: v for k, v in resumed.objects.items() if k != missing}
    fast.load_checkpoint(tmp_path / "a.pt", kept, generators=resumed.generators, restore_random=missing != "random")
    for _ in range(4):
        resumed.step()
    assert resumed.bits()[0] != whole.bits()[0]


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.Philox, np.random.MT19937, np.random.SFC64])
def test_every_numpy_generator_survives_the_file(tmp_path: Path, kind: Any) -> None:
    generator = np.random.Generator(kind(5))
    generator.standard_normal(3, dtype=np.float32)
    fast.save_checkpoint(tmp_path / "a.pt", {}, step=0, generators={"data": generator})
    want = generator.random(5)
    fresh = np.random.Generator(kind(6))
    fast.load_checkpoint(tmp_path / "a.pt", {}, generators={"data": fresh})
    assert (fresh.random(5) == want).all()


# -- what fits --------------------------------------------------------------------------------------------------------

NAMES = sorted(network().state_dict())


def broken(state: dict[str, torch.Tensor], name: str, how: str) -> dict[str, torch.Tensor]:
    state = dict(state)
    if how == "missing":
        del state[name]
    elif how == "unexpected":
        state[f"{name}_extra"] = torch.zeros(1)
    elif how == "other shape":
        state[name] = torch.zeros((*state[name].shape, 1), dtype=state[name].dtype)
    elif how == "other dtype":
        state[name] = state[name].to(torch.float16)
    else:
        state[name] = "weights"  # type: ignore[assignment]
    return state


@given(
    name=st.sampled_from(NAMES),
    how=st.sampled_from(("missing", "unexpected", "other shape", "other dtype", "no tensor")),
)
@settings(max_examples=40, deadline=None)
def test_a_module_takes_just_its_own_state_and_a_refusal_changes_no_bit(name: str, how: str) -> None:
    model, state = network(seed=1), network(seed=2).state_dict()
    before = frozen(model.state_dict())
    fast.check_state(model, state, "model")
    with pytest.raises(fast.CheckpointError, match=f"^the checkpoint does not fit model: .*{how}: .*{re.escape(name)}"):
        fast.check_state(model, broken(state, name, how), "model")
    assert frozen(model.state_dict()) == before


def test_load_state_dict_itself_would_take_another_dtype_and_leave_a_half_loaded_module() -> None:
    """Why the check is not left to torch: strict=True casts, and copies what fits before it raises."""
    model = network(seed=1)
    model.load_state_dict({k: v.to(torch.float64) for k, v in network(seed=2).state_dict().items()})
    with pytest.raises(RuntimeError):
        model.load_state_dict(broken(network(seed=3).state_dict(), "3.bias", "other shape"))
    assert torch.equal(model[0].weight, network(seed=3)[0].weight)


@pytest.mark.parametrize("at", ["model", "optimizer", "schedule", "ema", "accumulator"])
def test_one_part_that_does_not_fit_leaves_all_parts_alone(tmp_path: Path, at: str) -> None:
    run = Run()
    run.step()
    fast.save_checkpoint(tmp_path / "a.pt", run.objects, step=1, generators=run.generators)
    other = Run(seed=3)
    other.step()
    wider = network(width=5)
    wrong: dict[str, Any] = {
        "model": wider,
        "optimizer": torch.optim.AdamW(list(wider.parameters())[:3]),
        "schedule": fast.WarmupCosine(torch.optim.SGD([{"params": [p]} for p in wider.parameters()], lr=1.0), 1, 5),
        "ema": fast.EMA(wider, 0.9),
        "accumulator": fast.EMA(wider, 0.9),
    }
    objects = {**other.objects, at: wrong[at]}
    before = {k: frozen(v.state_dict()) for k, v in objects.items()}
    noise = fast.random_state(other.generators)
    with pytest.raises(fast.CheckpointError, match=f"does not fit {at}: ") as refusal:
        fast.load_checkpoint(tmp_path / "a.pt", objects, generators=other.generators)
    assert str(refusal.value).endswith(".")
    assert "\n" not in str(refusal.value)
    assert {k: frozen(v.state_dict()) for k, v in objects.items()} == before
    assert frozen(fast.random_state(other.generators)) == frozen(noise)


def test_an_object_that_refuses_late_is_put_back() -> None:
    class Picky:
        def __init__(self) -> None:
            self.state = {"a": 1}

        def state_dict(self) -> dict[str, int]:
            return dict(self.state)

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.state = dict(state)
            if state["a"] == 2:
                raise KeyError("no twos")

    def check(folder: Path) -> None:
        saved, mine, model = Picky(), Picky(), network(seed=1)
        saved.state["a"] = 2
        fast.save_checkpoint(folder / "a.pt", {"picky": saved, "model": network(seed=2)}, step=0)
        before = frozen(model.state_dict())
        with pytest.raises(fast.CheckpointError, match="was refused by picky"):
            fast.load_checkpoint(folder / "a.pt", {"picky": mine, "model": model})
        assert mine.state == {"a": 1}
        assert frozen(model.state_dict()) == before

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder))


def test_at_most_five_names_are_listed() -> None:
    with pytest.raises(fast.CheckpointError, match="missing: ") as refusal:
        fast.check_state(network(), {}, "model")
    assert "and 4 more" in str(refusal.value)
    assert str(refusal.value).count(",") == 4


@pytest.mark.parametrize(
    ("objects", "generators", "sentence"),
    [
        ({"model": 0, "optimizer": 0}, {}, "holds model; model, optimizer was asked for"),
        ({}, {}, "holds model; nothing was asked for"),
        ({"model": 0}, {"data": np.random.default_rng(0)}, "has generators none; data were given"),
    ],
)
def test_names_on_one_side_only_are_refused(tmp_path: Path, objects: Any, generators: Any, sentence: str) -> None:
    fast.save_checkpoint(tmp_path / "a.pt", {"model": network()}, step=0)
    run = Run()
    with pytest.raises(fast.CheckpointError, match=sentence):
        fast.load_checkpoint(tmp_path / "a.pt", {k: run.objects[k] for k in objects}, generators=generators)


# -- files ------------------------------------------------------------------------------------------------------------


def test_an_interrupted_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast.save_checkpoint(tmp_path / "a.pt", {"model": network()}, step=1)
    before = (tmp_path / "a.pt").read_bytes()
    whole = torch.save

    def torn(content: Any, file: Any) -> None:
        whole(content, file)
        file.truncate(100)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(KeyboardInterrupt):
        fast.save_checkpoint(tmp_path / "a.pt", {"model": network(seed=1)}, step=2)
    assert (tmp_path / "a.pt").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_the_file_appears_under_its_name_only_when_it_is_whole_and_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    seen: list[str] = []
    move, flush = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append("flush"), flush(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append("move"), move(a, b))[1])
    fast.save_checkpoint(tmp_path / "a.pt", {}, step=0)
    assert seen == ["flush", "move", "flush"], "the content, the name, the folder"


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploded"),))


def test_no_code_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Bomb()}, tmp_path / "bomb.pt")
    for load in (lambda p: fast.load_checkpoint(p, {}), lambda p: fast.load_weights(p, network(), which="any")):
        with pytest.raises(fast.CheckpointError, match="holds more than tensors"):
            load(tmp_path / "bomb.pt")
    assert not (tmp_path / "exploded").exists()
    torch.load(tmp_path / "bomb.pt", weights_only=False)
    assert (tmp_path / "exploded").exists(), "the bomb works"


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
def test_a_damaged_file_is_refused_with_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(fast.CheckpointError, match=r"a\.pt is damaged or no checkpoint: ."):
        fast.load_checkpoint(tmp_path / "a.pt", {})


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, cut: float) -> None:
    whole = fast.save_checkpoint(tmp_path / "a.pt", {"model": network()}, step=1).read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(fast.CheckpointError, match="damaged or no checkpoint"):
        fast.load_checkpoint(tmp_path / "a.pt", {"model": network()})


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda p: fast.save_checkpoint(p, {}, step=-1), "step was -1; it must be an integer of at least 0"),
        (lambda p: fast.save_checkpoint(p, {"x": 3}, step=0), "x was int; it must have a state_dict"),
        (lambda p: fast.save_checkpoint(p, {}, step=0, extra={"f": len}), r"\['f'\] was builtin_function_or_method"),
        (
            lambda p: fast.save_checkpoint(p, {}, step=0, extra=np.float64(1)),
            "was float64; it must be a tensor",
        ),
        (lambda p: fast.load_checkpoint(p, {}), "there is no checkpoint"),
        (lambda p: fast.load_weights(p, network(), which="best"), "which was 'best'; it must be 'ema'"),
        (lambda p: fast.Checkpointing(p, {}, every=0), "every was 0"),
    ],
)
def test_bad_input_is_refused_and_no_file_is_written(tmp_path: Path, call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call(tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


# -- weights for inference --------------------------------------------------------------------------------------------


def test_the_average_is_loaded_where_it_is_asked_for(tmp_path: Path) -> None:
    run = Run()
    for _ in range(3):
        run.step()
    fast.save_checkpoint(tmp_path / "a.pt", run.objects, step=3, generators=run.generators)
    for which, want in (("model", run.model.state_dict()), ("ema", run.objects["ema"].weights())):
        fresh = network(seed=5)
        assert fast.load_weights(tmp_path / "a.pt", fresh, which=which) == which  # type: ignore[arg-type]
        assert frozen(fresh.state_dict()) == frozen(want)
    assert fast.load_weights(tmp_path / "a.pt", network(), which="any") == "ema"


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_an_average_kept_wide_is_rounded_once_for_half_weights(tmp_path: Path, half: torch.dtype) -> None:
    model = torch.nn.Linear(3, 3).to(half)
    ema = fast.EMA(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1.0)
    ema.update()
    fast.save_checkpoint(tmp_path / "a.pt", {"model": model, "ema": ema}, step=1)
    fresh = torch.nn.Linear(3, 3).to(half)
    fast.load_weights(tmp_path / "a.pt", fresh, which="ema")
    assert torch.equal(fresh.weight, ema.average["weight"].to(half))


def test_tied_weights_of_an_average_find_both_their_names(tmp_path: Path) -> None:
    def tied() -> torch.nn.Sequential:
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    model = tied()
    ema = fast.EMA(model, 0.9)
    fast.save_checkpoint(tmp_path / "a.pt", {"model": model, "ema": ema}, step=1)
    fresh = tied()
    fast.load_weights(tmp_path / "a.pt", fresh, which="ema")
    assert torch.equal(fresh[1].weight, model[0].weight)


@pytest.mark.parametrize(
    ("content", "which", "found"),
    [
        ({"model": 1, "ema": 2}, "ema", "ema"),
        ({"model": 1, "ema_model": 2}, "ema", "ema_model"),
        ({"model": 1}, "any", "model"),
        ({"state_dict": 1}, "model", "state_dict"),
        ({"w": 1}, "model", "the file itself"),
    ],
)
def test_files_of_others_are_read_under_their_names(content: Any, which: Any, found: str) -> None:
    tensors = {k: {"w": torch.full((1,), float(v))} for k, v in content.items()}
    given: Any = tensors if found != "the file itself" else {"w": torch.ones(1)}
    weights, key = fast.select_weights(given, which)
    assert key == found
    assert float(weights["w"]) == (2 if "ema" in found else 1)


def test_an_average_that_is_not_there_is_never_replaced_by_something_else() -> None:
    with pytest.raises(fast.CheckpointError, match="ema was asked for; the checkpoint holds model"):
        fast.select_weights({"model": {"w": torch.ones(1)}}, "ema")
    with pytest.raises(fast.CheckpointError, match="ema was asked for; the checkpoint holds weights without a name"):
        fast.select_weights({"w": torch.ones(1)}, "ema")


# -- always saved at the end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 3, 10, 11])
def test_a_finished_run_is_on_the_disk_whatever_the_interval(tmp_path: Path, steps: int) -> None:
    run = Run()
    with fast.Checkpointing(tmp_path / "a.pt", run.objects, every=5, generators=run.generators) as kept:
        for k in range(kept.step, steps):
            run.step()
            kept.completed(k + 1)
    fresh = Run(seed=2)
    assert fast.load_checkpoint(tmp_path / "a.pt", fresh.objects, generators=fresh.generators).step == steps
    assert fresh.bits() == run.bits()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError, SystemExit])
@pytest.mark.parametrize("where", ["between steps", "after a draw"])
def test_a_run_that_stops_resumes_to_the_identical_state(tmp_path: Path, stop: Any, where: str) -> None:
    whole = Run()
    for _ in range(8):
        whole.step()
    fast.seed(7)
    run = Run()
    with (
        pytest.raises(stop),
        fast.Checkpointing(tmp_path / "a.pt", run.objects, every=100, generators=run.generators) as kept,
    ):
        for k in range(5):
            run.step()
            kept.completed(k + 1, extra={"k": k})
        if where == "after a draw":  # the next batch had been drawn already
            torch.rand(5), random.random(), run.generators["numpy"].random(3)
        raise stop
    fast.seed(1)
    again = Run(seed=9)
    with fast.Checkpointing(tmp_path / "a.pt", again.objects, generators=again.generators) as kept:
        assert kept.step == 5 and kept.extra == {"k": 4}
        for k in range(kept.step, 8):
            again.step()
            kept.completed(k + 1)
    assert again.bits() == whole.bits()


def test_a_run_that_stops_in_the_middle_of_a_step_keeps_its_last_whole_checkpoint_apart(tmp_path: Path) -> None:
    """The first micro-batch has moved the running statistics: what is in memory is no whole step."""
    run = Run()
    with (
        pytest.warns(UserWarning, match="stopped inside of step 4; .*a.pt.interrupted"),
        pytest.raises(KeyboardInterrupt),
        fast.Checkpointing(tmp_path / "a.pt", run.objects, every=2, generators=run.generators) as kept,
    ):
        for k in range(10):
            run.step(fail=1 if k == 3 else 9)
            kept.completed(k + 1)
    whole = Run(seed=4)
    assert fast.load_checkpoint(tmp_path / "a.pt", whole.objects, generators=whole.generators).step == 2
    torn = Run(seed=4)
    aside = tmp_path / "a.pt.interrupted"
    assert fast.load_checkpoint(aside, torn.objects, generators=torn.generators).step == 3
    assert torch.equal(torn.model[0].weight, run.model[0].weight)


def test_a_window_that_was_not_finished_is_repeated_where_the_model_keeps_no_statistics(tmp_path: Path) -> None:
    def start() -> dict[str, Any]:
        model = torch.nn.Linear(3, 1)
        with torch.no_grad():
            model.weight.fill_(0.5)
            model.bias.zero_()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return {"model": model, "accumulator": fast.GradientAccumulator(optimizer, 2)}

    objects = start()
    before = copy.deepcopy(objects["model"].state_dict())
    with pytest.raises(KeyboardInterrupt), fast.Checkpointing(tmp_path / "a.pt", objects):
        objects["accumulator"].backward(objects["model"](torch.ones(2, 3)).mean(), 2)
        raise KeyboardInterrupt
    fresh = start()
    assert fast.load_checkpoint(tmp_path / "a.pt", fresh).step == 0
    assert frozen(fresh["model"].state_dict()) == frozen(before)
    assert fresh["accumulator"].micro_batches == 0


def test_an_accumulator_is_not_saved_in_the_middle_of_its_window() -> None:
    model = torch.nn.Linear(3, 1)
    accumulator = fast.GradientAccumulator(torch.optim.SGD(model.parameters(), lr=0.1), 2)
    accumulator.backward(model(torch.ones(2, 3)).mean(), 2)
    with pytest.raises(RuntimeError, match="1 micro-batches were not stepped yet"):
        accumulator.state_dict()
