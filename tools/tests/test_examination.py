"""The examination's own honesty, sampled: its wrong programs are wrong, its right ones right, and each is told so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trueness.tools.arithmetic.formats import precision, round_to
from trueness.tools.calibration.examination import command, run
from trueness.tools.calibration.examination.collection import programs, third_parties
from trueness.tools.calibration.examination.eager import eagerly
from trueness.tools.calibration.examination.fields import accepted, known, lengths, normal
from trueness.tools.calibration.examination.honesty import agreement, examined_in, ordinary, shown, trial_of
from trueness.tools.calibration.examination.page import problems, render, wrongly_named
from trueness.tools.calibration.examination.program import KINDS, Program, Witness, fault
from trueness.tools.calibration.examination.rules import RULES, Compared, Rule, compared
from trueness.tools.calibration.examination.run import Record, Task, compare, examine, judged, read, tasks
from trueness.tools.checks.contract import simplest
from trueness.tools.run.runner import Job, run_job
from trueness.tools.spec import registry
from trueness.tools.spec.model import Case, Verdict
from trueness.tools.spec.records import to_record

ALL = tuple(programs().values())
WRONG, RIGHT = [p for p in ALL if not p.right], [p for p in ALL if p.right]


def first_of(kind: str) -> Program:
    """The first wrong program of a kind."""
    return next(p for p in WRONG if p.kind == kind)


def narrowest_shown(program: Program) -> str:
    """float32 where it is examined in it, else the widest of its formats."""
    return "float32" if "float32" in program.dtypes else min(program.dtypes, key=lambda d: precision(d).u)


def test_every_kind_has_a_program() -> None:
    assert {p.kind for p in WRONG} == set(KINDS)


def test_every_program_belongs_to_a_formula_that_exists() -> None:
    assert {p.formula for p in ALL} <= set(registry.formulas())


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_program_differs_on_its_witness_and_without_its_fault_does_not(kind: str) -> None:
    program = first_of(kind)
    assert shown(program, narrowest_shown(program)).honest


@pytest.mark.parametrize("program", RIGHT[::12], ids=lambda p: p.key)
def test_a_right_program_agrees_with_the_reference(program: Program) -> None:
    worst, limit = agreement(program, ordinary(registry.formula(program.formula), ())[:2], examined_in(program))
    assert worst <= limit


def test_a_program_called_wrong_that_is_right_is_found_out() -> None:
    program = first_of("last partial tile")
    assert program.right_without is not None
    assert not shown(replace(program, function=program.right_without), "float32").honest


def test_a_program_called_right_that_is_wrong_is_found_out() -> None:
    program = first_of("constant")
    assert program.witness is not None
    worst, limit = agreement(program, [program.witness], "float32")
    assert worst > limit


def test_a_witness_of_a_symbol_that_does_not_exist_is_refused() -> None:
    program = replace(first_of("last partial tile"), witness=Witness({"Q": 40}))
    with pytest.raises(ValueError, match=r"^sizes were \['Q'\]; "):
        shown(program, "float32")


def test_a_wrong_program_needs_a_witness_and_a_kind_that_exists() -> None:
    with pytest.raises(ValueError, match="a wrong program needs a kind and a witness"):
        Program("attention.silu", "wrong", abs, kind="constant")
    with pytest.raises(ValueError, match="kind was 'bad luck'"):
        Program("attention.silu", "wrong", abs, kind="bad luck", witness=fault("constant").witness)


# -- the verifier, sampled ------------------------------------------------------------------------------------------

REJECTED = {
    "attention.layer_norm · tiles merged, variance divided by n − 1",
    "attention.masked_attention · online softmax, TF32 inputs",
    "diffusion.q_sample · blocks of 1024, one factor per block",
    "fisher.diagonal · blocks of 1024, ᾱ for 1 − ᾱ",
    "kernels.gaussian · tiles of 32, gradient of y dropped",
    "filters.blur · tiles of 16 with a halo, border pixel repeated",
    "training.ema_update · step towards the weights, decay and share exchanged",
}
ACCEPTED = {
    "attention.layer_norm · Welford",
    "attention.masked_attention · online softmax",
    "diffusion.classifier_free_guidance · lerp",
    "kernels.gaussian · one factor per dimension",
    "training.accumulate · einsum",
}


@pytest.mark.parametrize("key", sorted(REJECTED | ACCEPTED))
def test_a_program_is_told_what_it_is(key: str) -> None:
    program = programs()[key]
    job = Job(program.formula, program.name, "float32", profile="quick", limit=program.limit)
    record = judged(Task(program, "float32", "trueness, quick"), run_job(job, candidate=program.implementation()))
    assert record.accepted == (key in ACCEPTED), record.said
    assert not wrongly_named(record)


def test_a_worker_examines_a_third_party_without_its_waivers(tmp_path: Path) -> None:
    name = "attention.masked_attention · third party, torch scaled_dot_product_attention"
    declared = third_parties()[name].implementation()
    assert declared.waived == {} and declared.origin == "third_party"
    wanted = tasks(("float32",), ("quick",), only=name, rules=False)
    records = tmp_path / "records.jsonl"
    (record,) = examine(wanted, records, workers=1)
    assert not record.skipped
    assert read(records) == [record]


def test_an_examination_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = tasks(("float32",), ("quick",), only="attention.silu · torch silu", rules=False)
    kept = [t.record(True, said="kept") for t in wanted]
    path = tmp_path / "records.jsonl"
    lines = [json.dumps(to_record(r)) for r in kept]
    path.write_text("\n".join([*lines, lines[0][:20]]), encoding="utf-8")  # the last line was cut short
    monkeypatch.setattr(run, "run_groups", lambda groups, *_: pytest.fail("run again") if groups else None)
    assert len(kept) == 1 and examine(wanted, path) == kept


def test_what_a_framework_does_not_hold_is_no_task_of_a_rule() -> None:
    found = tasks(("bfloat16",), ("quick",), only="square of a cosine")
    assert {t.judge for t in found} == {"trueness, quick"}, "NumPy has no bfloat16; the verifier says so itself"
    assert {t.judge for t in tasks(("float32",), ("quick",), only="square of a cosine")} > set(RULES)


def test_an_error_of_a_judge_loses_nothing_of_the_others() -> None:
    known_one = Task(programs()["training.warmup_cosine_factor · square of a cosine"], "float32", "fla")
    missing = Task(replace(known_one.program, name="there is none"), "float16", "fla")
    kept: list[Record] = []
    with pytest.raises(KeyError):
        run.by_others([missing, known_one], 1, kept.extend)
    assert [r.place for r in kept] == [known_one.place]


def test_only_asks_for_programs_that_exist() -> None:
    with pytest.raises(ValueError, match=r"^only was 'no such text'"):
        command.run("quick", "no such text")


def verdict(status: str, check: str = "value", **fields: Any) -> Verdict:
    return Verdict("attention.silu", "x", "float32", check, status, **fields)  # type: ignore[arg-type]


def test_a_record_tells_acceptance_rejection_and_skip_apart() -> None:
    task = Task(first_of("constant"), "float32", "trueness, quick")
    passed, skipped = verdict("pass"), verdict("skip", "layouts", message="no")
    failed = verdict("fail", "gradient", message="far off", bugs=("FSB-02",))
    assert judged(task, [passed, skipped]).accepted
    assert judged(task, [skipped]).skipped
    rejected = judged(task, [passed, failed])
    assert (rejected.accepted, rejected.by, rejected.said, rejected.names) == (
        False,
        "gradient",
        "far off",
        ("FSB-02",),
    )


# -- the rules of the field -----------------------------------------------------------------------------------------


def seen(out: np.ndarray, true: np.ndarray, dtype: str) -> Compared:
    return compared(out, round_to(true, dtype), true, dtype, gradient=False)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rule_accepts_what_is_rounded_and_rejects_what_is_doubled(rule: Rule, dtype: str) -> None:
    true = np.random.default_rng(0).standard_normal((7, 9))
    assert rule.accepts(seen(round_to(true, dtype), true, dtype))
    assert not rule.accepts(seen(2 * true, true, dtype))
    assert not rule.accepts(seen(np.full_like(true, np.nan), true, dtype))


def test_a_rule_looks_at_gradients_where_its_project_does() -> None:
    program = programs()["attention.silu · blocks of 1024, slope of the saved output"]
    said = {name: accepted(rule, program, "float32")[0] for name, rule in RULES.items()}
    assert said == {name: not rule.gradient for name, rule in RULES.items()}


@pytest.mark.parametrize("name", sorted({p.formula for p in ALL}))
def test_every_formula_has_inputs_that_a_project_would_take(name: str) -> None:
    trial = trial_of(next(p for p in ALL if p.formula == name), "float64")
    trial = replace(trial, formula=normal(trial.formula))
    values = trial.arguments_f64(Case(lengths(trial.formula, 5), scalars=simplest(trial)))
    true, eager = known(trial, trial.formula.reference, values, [])
    assert [y.shape for y in true] == [y.shape for y in eager]
    assert all(np.array_equal(e, y, equal_nan=True) for e, y in zip(eager, true, strict=True))  # nothing is rounded


def test_eager_arithmetic_rounds_every_operation_as_torch_does() -> None:
    x = np.random.default_rng(1).standard_normal((5, 6))
    (found,) = eagerly(lambda x: x / (1 + np.exp(-x)) * 3.0, [x], [True], "bfloat16")
    z = torch.from_numpy(x).bfloat16()
    assert np.array_equal(found, (z / (1 + torch.exp(-z)) * 3.0).double().numpy())
    assert not np.array_equal(found, round_to(x / (1 + np.exp(-x)) * 3.0, "bfloat16"))


# -- the page -------------------------------------------------------------------------------------------------------


def page_records() -> list[Record]:
    wrong, right = first_of("constant"), RIGHT[0]
    named = ("FSB-02",) if "FSB-02" not in wrong.names else ("FSB-01",)
    return [
        Task(wrong, "float32", "trueness, quick").record(True),
        Task(wrong, "float32", "witness").record(False),
        Task(wrong, "bfloat16", "trueness, quick").record(True),
        Task(wrong, "bfloat16", "witness").record(True),  # its fault cannot be seen there
        Task(first_of("epsilon"), "float32", "trueness, quick").record(False, names=named),
        Task(right, "float32", "trueness, quick").record(False, by="layouts", said="no"),
        Task(right, "float32", "KernelBench").record(True),
        Task(right, "bfloat16", "trueness, quick").record(True),
    ]


def test_the_page_counts_false_accepts_false_rejects_and_wrong_names() -> None:
    text = render(page_records())
    assert "| fp32 | quick | 1 of 2 (50 %) | 1 of 1 (100 %) |  | 1 | 0 |" in text
    assert "| bf16 | quick |  | 0 of 1 (0 %) |  | 0 | 1 |" in text
    assert "| KernelBench | – / 0 |  |" in text
    assert f"| {RIGHT[0].formula} | {RIGHT[0].name} | fp32 | layouts: no |" in text


def test_a_problem_is_a_false_accept_too_many_a_false_reject_or_a_wrong_name() -> None:
    found = problems(page_records(), command.MOST)
    assert [p.split(": ")[1] for p in found] == [
        "50 % of the wrong programs were accepted.",
        "1 of 1 right programs were rejected.",
        "1 programs were given a name that is not theirs.",
    ]
    good = [r for r in page_records() if r.dtype == "bfloat16" and not r.kind]
    assert problems(good, command.MOST) == ()


def test_a_program_that_is_not_what_it_is_said_to_be_is_a_problem() -> None:
    wrong, right = first_of("constant"), RIGHT[0]
    hidden = Task(wrong, "bfloat16", "witness").record(True)
    found = problems([hidden, Task(right, "float64", "witness").record(False, said="T 9 of 1.5")], command.MOST)
    assert found == (
        f"examination: {wrong.formula}, {wrong.name}: its fault shows in no format.",
        f"examination: {right.formula}, {right.name}: it is no right program, T 9 of 1.5.",
    )
    assert problems([hidden, Task(wrong, "float32", "witness").record(False)], command.MOST) == ()


def test_the_reference_is_asked_of_wrong_programs_everywhere_and_of_right_ones_once() -> None:
    wanted = tasks(("float64", "float32"), (), only="attention.silu")
    asked = {(t.program.key, t.dtype) for t in wanted if t.judge == "witness"}
    silu = [p for p in ALL if p.formula == "attention.silu"]
    every = {(p.key, d) for p in silu for d in ("float64", "float32") if d in p.dtypes and not p.right}
    assert asked == every | {(p.key, examined_in(p)) for p in silu if p.right}
    assert compare([(RIGHT[0].attribute, examined_in(RIGHT[0]), "witness")])[0].accepted
