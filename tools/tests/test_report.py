"""The report, the JSON and the JUnit file say what the verdicts say, and nothing a user's module wants them to say."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from junitparser import JUnitXml

from trueness.tools.report.html import require_writable, to_html, write_report
from trueness.tools.report.results import Results, rows, schema, to_json, to_junit
from trueness.tools.report.sections import skips
from trueness.tools.report.wording import number, several
from trueness.tools.run.runner import Job, run_job, user_implementation
from trueness.tools.spec import registry
from trueness.tools.spec.model import Verdict
from trueness.tools.spec.records import from_record, to_record
from trueness.tools.spec.schema import as_file

EVIL = "<script>alert('x')</script>&\"'\x1b[31m\x00\u202e"
RIGHT = Verdict(
    "fisher.diagonal", "trueness", "float32", "value", "pass", T=0.25, limit=1.5, cases=3, samples=((4, 0.25),)
)
WRONG = replace(
    RIGHT,
    implementation="mine:fn",
    status="fail",
    origin="user",
    T=2e7,
    message="output is 2, the reference 1: T = 2e+07 of 1.5.",
    where=(0, 1),
    got=2.0,
    want=1.0,
    width=5e-8,
    case='{"seed": 1}',
    bugs=("FSB-01",),
    reproduction="import trueness\nprint(1)",
    samples=(),
)
SKIPPED = replace(
    RIGHT, check="side stream", T=None, limit=None, cases=0, samples=(), status="skip", message="no CUDA device"
)
DETECTIONS = Verdict(
    "fisher.diagonal",
    "reference",
    "float32",
    "known bugs",
    "pass",
    limit=3.0,
    detections=(("FSB-01", 1e8), ("FSB-02", 0.5)),
)


def results(*verdicts: Verdict, **fields: Any) -> Results:
    return Results(verdicts, formulas=registry.formulas(), bugs=registry.bugs(), profile="quick", **fields)


@pytest.fixture(scope="module")
def real() -> Results:
    """Our own Fisher, the reference, and a copy with |s| for s²."""

    def absolute(score: Any, alpha: float) -> Any:
        return score.abs() + 1e-4 + 1e-3 * (1 - alpha)

    job = Job("fisher.diagonal", "trueness", "float32", profile="quick", checks=("value", "gradient", "side stream"))
    candidate = user_implementation("mine:absolute", absolute)
    found = run_job(job) + run_job(replace(job, implementation="mine:absolute"), candidate=candidate)
    return results(*found, *run_job(Job("fisher.diagonal", "reference", "float32", profile="quick")))


# -- rows -----------------------------------------------------------------------------------------------------------


def test_a_row_has_the_worst_T_of_its_measured_checks_and_the_sum_of_its_cases() -> None:
    gradient = replace(RIGHT, check="gradient", T=0.75, cases=4)
    (row,) = rows([RIGHT, gradient, replace(RIGHT, check="layouts", T=1.25, cases=2)])
    assert (row.T, row.limit, row.cases, row.verdict, row.passed) == (0.75, 1.5, 9, "right", True)


def test_a_failing_row_keeps_its_T_its_first_message_and_the_bugs_it_behaves_like() -> None:
    (row,) = rows([WRONG, replace(WRONG, check="shapes", message="second", bugs=())])
    assert (row.T, row.verdict, row.message) == (2e7, "wrong", WRONG.message)
    assert (row.behaves_like, row.failing) == (("FSB-01",), ("value", "shapes"))


def test_nan_is_worse_than_any_T() -> None:
    (row,) = rows([replace(WRONG, T=math.nan), replace(WRONG, check="gradient", T=5.0)])
    assert row.T is not None and math.isnan(row.T)


def test_kills_are_counted_for_every_implementation_of_the_formula_and_dtype() -> None:
    reference, row = rows([RIGHT, DETECTIONS])
    assert (reference.origin, row.implementation) == ("reference", "trueness")
    assert (row.detected, row.known, row.invisible) == (1, 2, 1)
    assert rows([RIGHT, replace(DETECTIONS, status="fail", message="missed")])[1].invisible == 0
    assert rows([RIGHT, replace(DETECTIONS, dtype="float16")])[1].known == 0


def test_a_row_is_skipped_only_if_all_of_it_is() -> None:
    assert rows([SKIPPED])[0].verdict == "skipped: no CUDA device"
    assert rows([RIGHT, SKIPPED])[0].verdict == "right"


def test_a_known_convention_is_named_and_wins_over_other_bugs_it_resembles() -> None:
    differs = replace(RIGHT, bugs=("DDPM-01", "DDPM-02"), status="convention", convention="DDPM-02")
    assert rows([differs])[0].verdict == "convention DDPM-02"
    assert rows([differs, replace(WRONG, implementation="trueness", check="shapes")])[0].verdict == "wrong"


def test_rows_come_in_the_declared_order_whatever_order_the_workers_ended_in() -> None:
    names = [i.name for i in registry.formula("fisher.diagonal").implementations]
    mixed = [replace(RIGHT, implementation=name, dtype=d) for d in ("bfloat16", "float64") for name in reversed(names)]
    ours = [r for r in results(*mixed).rows() if r.origin == "builtin"]
    assert [(r.implementation, r.dtype) for r in ours] == [(n, d) for n in names for d in ("float64", "bfloat16")]


# -- JSON -----------------------------------------------------------------------------------------------------------

REQUIRED = (
    "formula implementation dtype device cases T limit status where got want bugs reproduction "
    "check convention message origin"
).split()


def validate(document: Any) -> None:
    jsonschema.Draft202012Validator(schema(), format_checker=jsonschema.FormatChecker()).validate(document)


def test_the_schema_is_a_schema_and_its_file_is_the_generated_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    path = resources.files("trueness.tools.report").joinpath("verdicts.schema.json")
    assert path.read_text("utf-8") == as_file(schema()), "run: trueness schemas"


def test_a_verdict_survives_its_record() -> None:
    for verdict in (RIGHT, WRONG, SKIPPED, DETECTIONS):
        assert from_record(Verdict, json.loads(json.dumps(to_record(verdict)))) == verdict


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"status": "right"}, "status was 'right'; allowed are pass, fail, skip, convention."),
        ({"status": "fail", "message": ""}, "a fail needs a message"),
        ({"status": "skip", "message": ""}, "a skip needs a message"),
        ({"status": "convention"}, "one implies the other"),
        ({"convention": "DDPM-02"}, "one implies the other"),
    ],
)
def test_a_verdict_that_contradicts_itself_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(RIGHT, **change)


def test_what_a_run_writes_keeps_to_the_published_schema(real: Results) -> None:
    document = json.loads(to_json(real))
    validate(document)
    assert document["schema_version"] == 2
    assert document["passed"] is False
    assert {v["bugs"][0] for v in document["verdicts"] if v["bugs"]} == {"FSB-01"}
    assert len(document["verdicts"]) == len(real.verdicts)


def test_an_empty_run_keeps_to_the_schema() -> None:
    validate(json.loads(to_json(results())))


def test_numbers_that_json_does_not_have_are_words() -> None:
    text = to_json(results(replace(WRONG, T=math.inf, got=math.nan, want=-math.inf, width=0.0)))
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    validate(document)
    (v,) = document["verdicts"]
    assert (v["T"], v["got"], v["want"], v["width"]) == ("inf", "nan", "-inf", 0.0)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_verdict_that_lacks_a_field_is_rejected(name: str) -> None:
    document = json.loads(to_json(results(WRONG)))
    validate(document)
    del document["verdicts"][0][name]
    with pytest.raises(jsonschema.ValidationError, match=name):
        validate(document)


@pytest.mark.parametrize(
    "change",
    [
        {"T": -1.0},
        {"T": "large"},
        {"dtype": "float8"},
        {"message": ""},
        {"status": "right"},
        {"cases": -1},
        {"samples": [[1]]},
        {"x": 1},
    ],
)
def test_a_verdict_that_says_something_else_is_rejected(change: dict[str, Any]) -> None:
    document = json.loads(to_json(results(WRONG)))
    document["verdicts"][0].update(change)
    with pytest.raises(jsonschema.ValidationError):
        validate(document)


# -- JUnit ----------------------------------------------------------------------------------------------------------


def test_junit_has_a_suite_per_formula_and_counts_failures_and_skips() -> None:
    other = replace(RIGHT, formula="fisher.smooth")
    document = JUnitXml.fromstring(to_junit(results(RIGHT, WRONG, SKIPPED, other)).encode())
    assert [s.name for s in document] == ["fisher.diagonal", "fisher.smooth"]
    assert (document.tests, document.failures, document.skipped, document.errors) == (4, 1, 1, 0)
    (failure,) = [case.result[0] for suite in document for case in suite if case.is_failure]
    assert failure.message == WRONG.message
    assert WRONG.reproduction in failure.text and "behaves like FSB-01" in failure.text
    (skip,) = [case.result[0] for suite in document for case in suite if case.is_skipped]
    assert skip.message == "no CUDA device"


def test_junit_stays_well_formed_whatever_a_module_says() -> None:
    evil = replace(WRONG, implementation=EVIL, message=EVIL, reproduction=EVIL + "\ud800")
    document = JUnitXml.fromstring(to_junit(results(evil)).encode())
    (case,) = [case for suite in document for case in suite]
    assert case.result[0].message.startswith("<script>alert('x')</script>&")


def test_an_empty_run_is_junit_too() -> None:
    assert len(JUnitXml.fromstring(to_junit(results()).encode())) == 0


# -- the page -------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The tags of a page with their attributes, the text outside of scripts and styles, and the open tags left."""

    VOID = ("meta", "br", "wbr")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(real: Results) -> Page:
    return Page(to_html(real))


def test_every_tag_is_closed_and_every_id_is_unique(page: Page) -> None:
    assert page.open == []
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {a["href"] for _, a in page.tags if "href" in a} | {
        f"#{a['aria-labelledby']}" for _, a in page.tags if "aria-labelledby" in a
    }
    assert {t for t in targets if t} <= {f"#{i}" for i in ids}


def test_the_page_needs_nothing_but_itself(real: Results) -> None:
    html = to_html(real)
    assert not re.search(r"https?:|@import|//[a-z]", html.partition("<body>")[0] + html.partition("<script>")[2])
    tags = Page(html).tags
    assert all(a.get("href", "#").startswith("#") for _, a in tags)  # type: ignore[union-attr]
    assert not [a for _, a in tags if {"src", "srcset", "data", "action", "poster"} & set(a)]
    assert not [tag for tag, _ in tags if tag in ("link", "img", "iframe", "object", "base", "form", "foreignobject")]
    (policy,) = [a["content"] for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none';")


def test_every_picture_has_a_name_and_says_what_it_shows(page: Page) -> None:
    pictures = page.all("svg")
    assert len(pictures) == 2
    for picture in pictures:
        assert picture["role"] == "img"
        assert "trueness: " in (picture["aria-label"] or "")
    assert len(page.all("title")) == 1 + len(pictures)


def test_pictures_take_their_colours_from_the_page(real: Results) -> None:
    html = to_html(real)
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "currentColor" in drawn and "var(--float32)" in drawn and "var(--wrong)" in drawn
    assert not re.search(r"#0000[01]|<style|font-family", drawn)


def test_the_page_shows_the_counterexample_its_reproduction_and_the_bug(page: Page, real: Results) -> None:
    wrong = next(v for v in real.verdicts if not v.passed)
    assert wrong.message in page.text and wrong.reproduction in page.text and wrong.case in page.text
    assert "Behaves like FSB-01" in page.text
    assert registry.bugs()["FSB-01"].title in page.text
    assert "detected" in page.text and "no CUDA device" in page.text


def test_the_page_prints_equation_source_and_policy_of_each_formula(page: Page) -> None:
    formula = registry.formula("fisher.diagonal")
    assert formula.equation in page.text and formula.source in page.text and formula.special in page.text


def test_nothing_a_module_says_becomes_markup() -> None:
    fields = ("formula", "implementation", "check", "message", "case", "reproduction", "device", "origin")
    for name in fields:
        changed: Any = {name: EVIL}
        verdict = replace(WRONG, bugs=(EVIL,), **changed)
        skipped = replace(SKIPPED, message=EVIL)
        html = to_html(
            results(verdict, skipped, replace(DETECTIONS, detections=((EVIL, 9.0),)), platform=EVIL, seed=EVIL)
        )
        found = Page(html)
        assert len(found.all("script")) == 1, name
        assert "<script>alert('x')</script>" in found.text
        assert not {"\x00", "\x1b", "\u202e"} & set(html)


def test_measured_cases_of_a_module_with_a_hostile_name_are_drawn() -> None:
    for name in (EVIL, "$\\frac{", "名前:関数", "a" * 300, "x:" + "y\n" * 50):
        html = to_html(results(replace(RIGHT, implementation=name, origin="user")))
        assert len(Page(html).all("script")) == 1
        assert len(Page(html).all("svg")) == 2


@pytest.mark.parametrize("T", [0.0, 1e-300, 4.5, 1e30, math.inf, math.nan])
def test_any_T_can_be_drawn_and_written(T: float) -> None:
    html = to_html(results(replace(RIGHT, samples=((0, T), (1, T), (10**9, T)), T=T), replace(WRONG, T=T, got=T)))
    assert len(Page(html).all("svg")) == 2


def test_an_empty_run_has_a_page() -> None:
    page = Page(to_html(results()))
    assert "Nothing was run" in page.text and page.all("svg") == []


def test_a_run_in_which_all_was_skipped_has_a_page() -> None:
    page = Page(to_html(results(SKIPPED, replace(SKIPPED, dtype="float16"))))
    assert "Nothing was run" in page.text and "no CUDA device (2 checks)" in page.text


def test_a_verdict_on_a_formula_that_is_not_on_file_has_a_card() -> None:
    assert "fisher.diagonal" in Page(to_html(Results([RIGHT, WRONG, DETECTIONS]))).text


def test_a_missed_bug_is_said_in_words() -> None:
    missed = replace(DETECTIONS, status="fail", message="FSB-02 would pass in float32.")
    assert "✗ missed" in Page(to_html(results(RIGHT, missed))).text
    assert "✗ missed" not in Page(to_html(results(RIGHT, DETECTIONS))).text


def test_skips_are_grouped_by_reason_and_lose_nothing() -> None:
    verdicts = [replace(SKIPPED, dtype=d, check=c) for d in ("float32", "float16") for c in ("a", "b")]
    verdicts += [replace(SKIPPED, check="a", implementation="jax"), replace(SKIPPED, check="c", message="other")]
    first, second = skips(verdicts)
    assert (first.reason, first.count, second.reason, second.count) == ("no CUDA device", 5, "other", 1)
    assert first.lines == [
        (["a", "b"], ["float32", "float16"], [("fisher.diagonal", ["trueness"])]),
        (["a"], ["float32"], [("fisher.diagonal", ["jax"])]),
    ]


def test_numbers_are_short() -> None:
    written = {0.0: "0", 0.25: "0.25", 5200.4: "5200", 1.26e7: "1.26 × 10⁷", 3e-9: "3.00 × 10⁻⁹", math.inf: "∞"}
    assert {x: number(x) for x in written} == written
    assert (number(None), number(math.nan)) == ("–", "NaN")


def test_a_long_list_of_checks_is_cut_but_never_by_one() -> None:
    assert several(["b", "c", "value", "d"]) == "value, b, c, d"
    assert several(["b", "c", "value", "d", "e"]) == "value, b, c and 2 more"


# -- where it goes --------------------------------------------------------------------------------------------------


def test_the_report_is_written_as_index_html_into_a_new_folder(tmp_path: Path) -> None:
    path = write_report(results(RIGHT), tmp_path / "a" / "b")
    assert path == tmp_path / "a" / "b" / "index.html"
    assert path.read_text("utf-8").startswith("<!doctype html>")


def test_a_folder_that_is_a_file_is_refused_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    for refused in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(ValueError, match=r"^--report was '.*taken.*', where nothing can be written: .*\.$"):
            require_writable(refused)
        with pytest.raises(ValueError, match="--report was"):
            write_report(results(), refused)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="permission denied"):
        require_writable(tmp_path)
