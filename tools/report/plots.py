"""The report's pictures, as SVG that sits in an HTML page: T by implementation, and T against size.

matplotlib draws with one stand-in colour per role; they become CSS variables, so the page's light and dark
palettes apply. Marks differ in shape as well as in colour.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from trueness.tools.report.results import MEASURED, badness, grouped, printable
from trueness.tools.spec.model import DTYPES, Verdict
from trueness.tools.spec.tables import FORMATS, SUPERSCRIPT

INK, FAINT, WRONG = "#000001", "#000002", "#000003"
MARKS = {name: (f"#0000{16 + k:02x}", FORMATS[name].marker) for k, name in enumerate(DTYPES)}
"""dtype → (stand-in colour, marker)"""
VARIABLES = {INK: "currentColor", FAINT: "var(--line)", WRONG: "var(--wrong)"} | {
    colour: f"var(--{dtype})" for dtype, (colour, _) in MARKS.items()
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "trueness",
    "path.simplify": False,
    "text.parse_math": False,
    "font.size": 8.5,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
LINEAR = 4.0  # T up to here is drawn to scale, beyond it in decades
FAR = 1e18  # what is beyond this, and inf and nan, lies on the edge
THIN = 48  # ticks per lane at most: quantiles when there are more cases
DIGITS = re.compile(r"-?\d+\.\d+")
WIDTH = 5.6  # inches; 72 points each
SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"


@dataclass(frozen=True)
class Lane:
    """T of every measured case of one implementation in one dtype, and of the failing ones."""

    implementation: str
    dtype: str
    samples: tuple[tuple[int, float], ...]
    failures: tuple[float, ...]
    limit: float | None

    @property
    def worst(self) -> float:
        return max((badness(T) for T in (*(t for _, t in self.samples), *self.failures)), default=0.0)


@dataclass(frozen=True)
class Picture:
    """An SVG element and what it shows, in words."""

    svg: str
    title: str
    description: str = field(repr=False)


def lanes(verdicts: Sequence[Verdict]) -> list[Lane]:
    """One lane per implementation and dtype of one formula that was measured at all."""
    found = []
    measured = [v for v in verdicts if v.check in MEASURED and not v.skipped]
    for (name, dtype), group in grouped(measured, lambda v: (v.implementation, v.dtype)).items():
        samples = tuple(s for v in group for s in v.samples)
        failures = tuple(v.T for v in group if not v.passed and v.T is not None)
        if samples or failures:
            found.append(
                Lane(name, dtype, samples, failures, next((v.limit for v in group if v.limit is not None), None))
            )
    return found


def pictures(formula: str, verdicts: Sequence[Verdict], key: str) -> list[Picture]:
    """The pictures of one formula; ``key`` makes their ids unique in the page."""
    drawn = lanes(verdicts)
    if not drawn:
        return []
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that matplotlib's font lacks: the browser's has it
        both = [distribution(formula, drawn, f"{key}-t")]
        if any(n for lane in drawn for n, _ in lane.samples):
            both.append(against_size(formula, drawn, f"{key}-n"))
        return both


# -- T by implementation ----------------------------------------------------------------------------------------------


def distribution(formula: str, drawn: Sequence[Lane], key: str) -> Picture:
    """A lane per implementation and dtype: a tick per case, the worst marked, the limit as a bar."""
    names = list(dict.fromkeys(lane.implementation for lane in drawn))
    dtypes = [d for d in DTYPES if any(lane.dtype == d for lane in drawn)]
    pitch = 1.0 / (len(dtypes) + 1)
    height = 0.13 * len(names) * (len(dtypes) + 1) + 0.85
    figure, (axes,) = canvas(height, 1, 1, left=1.28, top=0.36, bottom=0.46)
    for row, name in enumerate(names):
        mine = [lane for lane in drawn if lane.implementation == name]
        if row:
            axes.axhline(row - 0.5, color=FAINT, linewidth=0.6)
        for limit in limits(mine):
            axes.plot([limit, limit], [row - 0.47, row + 0.47], color=INK, linewidth=1.4, solid_capstyle="butt")
        for lane in mine:
            draw_lane(axes, lane, row + (dtypes.index(lane.dtype) - (len(dtypes) - 1) / 2) * pitch, pitch)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.tick_params(axis="y", length=0)
    scale_T(axes.xaxis, axes.set_xscale, axes.set_xlim, [lane.worst for lane in drawn], limits(drawn))
    axes.set_xlabel("T, one tick per case; the mark is the worst, the bar the limit")
    legend(figure, dtypes, any(lane.failures for lane in drawn))
    words = (f"{name}: {worst_of([lane for lane in drawn if lane.implementation == name])}" for name in names)
    return picture(figure, key, f"T by implementation and dtype, {formula}", "; ".join(words) + ".")


def draw_lane(axes: Axes, lane: Lane, y: float, pitch: float) -> None:
    colour, mark = MARKS[lane.dtype]
    values = thinned([shown(T) for _, T in lane.samples])
    ticks = np.stack([values, values, np.full_like(values, np.nan)], 1).ravel()
    heights = np.tile([y - 0.34 * pitch, y + 0.34 * pitch, np.nan], len(values))
    axes.plot(ticks, heights, color=colour, linewidth=0.7, alpha=0.75)
    if len(values):
        axes.plot([values[-1]], [y], mark, color=colour, markersize=4.4, clip_on=False)
    for T in lane.failures:
        axes.plot([shown(T)], [y], "x", color=WRONG, markersize=5, markeredgewidth=1.5, clip_on=False)


def thinned(values: Sequence[float]) -> np.ndarray:
    """The values in order, those a reader can tell apart; their quantiles from least to largest when there are many."""
    apart = np.unique(np.round(values, 2))  # finer than a pixel
    return apart if len(apart) <= THIN else np.quantile(apart, np.linspace(0, 1, THIN))


# -- T against size ---------------------------------------------------------------------------------------------------


def against_size(formula: str, drawn: Sequence[Lane], key: str) -> Picture:
    """A panel per implementation, its limit at the top: a dot per case, and the worst T of every octave of sizes."""
    drawn = [lane for lane in drawn if any(n for n, _ in lane.samples)]
    names = list(dict.fromkeys(lane.implementation for lane in drawn))
    columns = 2 if len(names) > 1 else 1
    down = math.ceil(len(names) / columns)
    figure, panels = canvas(1.12 * down + 0.62, down, columns, left=0.3, top=0.5, bottom=0.46)
    sizes = [n for lane in drawn for n, _ in lane.samples if n]
    for i, axes in enumerate(panels):
        if i >= len(names):
            axes.set_axis_off()
            continue
        mine = [lane for lane in drawn if lane.implementation == names[i]]
        for lane in mine:
            colour, mark = MARKS[lane.dtype]
            dots(axes, lane.samples, colour)
            octaves = list(by_octave(lane.samples))
            ns, Ts = [n for n, _ in octaves], [T for _, T in octaves]
            axes.plot(ns, Ts, f"-{mark}", color=colour, linewidth=0.9, markersize=2.8)
        for limit in limits(mine):
            axes.axhline(limit, color=INK, linewidth=1.3)
        axes.set_title(short(names[i], 30), loc="left", fontsize=8.5, pad=4)
        scale_T(axes.yaxis, axes.set_yscale, axes.set_ylim, [T for lane in mine for _, T in lane.samples], limits(mine))
        scale_size(axes, sizes, labels=i + columns >= len(names))
    figure.text(
        0.5, 0.02 / down, "output elements; lines join the worst T of every octave, the bar is the limit", ha="center"
    )
    legend(figure, [d for d in DTYPES if any(lane.dtype == d for lane in drawn)], wrong=False)
    words = [f"{name}: {trend([lane for lane in drawn if lane.implementation == name])}" for name in names]
    return picture(figure, key, f"T against size, {formula}", "; ".join(words) + ".")


def limits(drawn: Sequence[Lane]) -> set[float]:
    return {lane.limit for lane in drawn if lane.limit is not None}


def dots(axes: Axes, samples: Sequence[tuple[int, float]], colour: str) -> None:
    """A round dot per case, all of them one path: a thinned lot when there are many."""
    points = sorted({(n, round(shown(T), 2)) for n, T in samples if n})
    points = points[:: math.ceil(len(points) / THIN) or 1]
    flat = [p for point in points for p in (point, point, (np.nan, np.nan))]
    if flat:
        axes.plot(*np.array(flat).T, color=colour, linewidth=2.0, solid_capstyle="round", alpha=0.35)


def by_octave(samples: Sequence[tuple[int, float]]) -> Iterator[tuple[int, float]]:
    """(size, T) of the worst case of every octave."""
    octaves: dict[int, tuple[int, float]] = {}
    for n, T in samples:
        if n and shown(T) >= octaves.get(n.bit_length(), (0, -1.0))[1]:
            octaves[n.bit_length()] = (n, shown(T))
    yield from sorted(octaves.values())


def scale_size(axes: Axes, sizes: Sequence[int], labels: bool) -> None:
    low, high = min(sizes, default=1), max(sizes, default=1)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.4, max(high, 10) * 1.4)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator([10.0**k for k in range(0, 13) if low / 1.4 <= 10**k <= max(high, 10)]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: tick(n)))
    axes.tick_params(axis="x", labelbottom=labels)


# -- what both share --------------------------------------------------------------------------------------------------


def canvas(height: float, down: int, across: int, left: float, top: float, bottom: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasSVG(figure)
    panels = figure.subplots(down, across, squeeze=False)
    figure.subplots_adjust(
        left=left / WIDTH,
        right=1 - 0.16 / WIDTH,
        top=1 - top / height,
        bottom=bottom / height,
        hspace=0.42,
        wspace=0.12,
    )
    return figure, list(panels.ravel())


def shown(T: float) -> float:
    """Where T is drawn: on the edge when it is off every scale."""
    return min(badness(T), FAR)


def scale_T(axis: Axis, set_scale: Any, set_limits: Any, values: Sequence[float], limits: Iterable[float]) -> None:
    """To scale up to LINEAR, which holds every limit; decades on the other half where something lies beyond it."""
    worst = max((shown(T) for T in (*values, *limits)), default=1.0)
    if worst <= LINEAR:
        set_limits(-0.03 * max(worst, 1), 1.07 * max(worst, 1))
        axis.set_major_locator(FixedLocator([0, 1, 2, 3, 4]))
        return
    decades = math.ceil(math.log10(worst))
    set_scale("symlog", linthresh=LINEAR, linscale=math.log10(10.0**decades / LINEAR))
    set_limits(-0.06, 10.0**decades)
    every = math.ceil(decades / 4)
    axis.set_major_locator(FixedLocator([0, 1, 2, 3] + [10.0**k for k in range(decades, 0, -every)]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda T, _: tick(T)))


def tick(x: float) -> str:
    return f"{x:.0f}" if x < 1e4 else ("≥ " if x >= FAR else "") + power_of_ten(x)


def power_of_ten(x: float) -> str:
    return "10" + str(round(math.log10(x))).translate(SUPERSCRIPT)


def legend(figure: Figure, dtypes: Sequence[str], wrong: bool) -> None:
    handles = [Line2D([], [], marker=MARKS[d][1], color=MARKS[d][0], linestyle="", markersize=4.4) for d in dtypes]
    labels = list(dtypes)
    if wrong:
        handles.append(Line2D([], [], marker="x", color=WRONG, linestyle="", markersize=5, markeredgewidth=1.5))
        labels.append("wrong")
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2, "frameon": False}
    figure.legend(handles, labels, ncols=5, handletextpad=0.1, columnspacing=1.1, **place)


def short(name: str, length: int = 18) -> str:
    """A name as a label: the callable of module:callable, cut in the middle when it is still long."""
    text = printable(" ".join(name.split()))
    if len(text) > length and ":" in text:
        text = text.rpartition(":")[2]
    return text if len(text) <= length else f"{text[: length // 2]}…{text[-(length // 2 - 1) :]}"


def worst_of(mine: Sequence[Lane]) -> str:
    parts = [f"{lane.dtype} worst {lane.worst:.3g} of {len(lane.samples) + len(lane.failures)} cases" for lane in mine]
    limit = next((lane.limit for lane in mine if lane.limit is not None), None)
    return ", ".join(parts) + (f", limit {limit:g}" if limit is not None else "")


def trend(mine: Sequence[Lane]) -> str:
    points = list(by_octave([s for lane in mine for s in lane.samples]))
    if not points:
        return "no case passed"
    (n, first), (m, last) = points[0], points[-1]
    return f"worst T {first:.2g} at {n} elements, {last:.2g} at {m}"


# -- SVG into HTML ----------------------------------------------------------------------------------------------------


def picture(figure: Figure, key: str, title: str, description: str) -> Picture:
    buffer = StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    return Picture(inline(buffer.getvalue(), key, title, description), title, description)


def inline(text: str, key: str, title: str, description: str) -> str:
    """matplotlib's SVG as an element of a page: unique ids, the page's colours and font, a name and a description."""
    root = ElementTree.fromstring(text)
    label = f"{title}. {description}"
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": printable(label), "class": "plot"}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{SVG}metadata" or is_empty(child):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        attributes: Mapping[str, str] = dict(element.attrib)
        element.attrib.clear()
        for name, value in attributes.items():
            element.attrib[name.removeprefix(LINK[:-4]) if name == LINK else name] = adapted(name, value, key)
        if element.tag != "text" and not (element.text or "").strip():
            element.text = None
        element.tail = None
    keep = {a for e in root.iter() for a in references(e)}
    for element in root.iter():
        if element.attrib.get("id") not in keep:
            element.attrib.pop("id", None)
        hoist_style(element)
    named = ElementTree.Element("title")
    named.text = printable(title)
    root.insert(0, named)
    return ElementTree.tostring(root, encoding="unicode")


def hoist_style(group: ElementTree.Element) -> None:
    """Say once what all the marks of a group share."""
    marks = group.findall("use")
    styles = {mark.attrib.get("style", "") for mark in marks}
    if len(marks) > 1 and len(styles) == 1 and "style" not in group.attrib:
        group.attrib["style"] = styles.pop()
        for mark in marks:
            mark.attrib.pop("style", None)


def is_empty(element: ElementTree.Element) -> bool:
    return element.tag == f"{SVG}defs" and all(child.tag == f"{SVG}style" for child in element)


def references(element: ElementTree.Element) -> Iterator[str]:
    """The ids that an element points to."""
    for name, value in element.attrib.items():
        if name == "href":
            yield value.removeprefix("#")
        elif value.startswith("url(#"):
            yield value[5:-1]


def adapted(name: str, value: str, key: str) -> str:
    """One attribute: ids made unique, stand-in colours replaced, the font left to the page."""
    if name == "id":
        return f"{key}-{value}"
    if name == LINK and value.startswith("#"):
        return f"#{key}-{value[1:]}"
    if value.startswith("url(#"):
        return f"url(#{key}-{value[5:]}"
    if name == "style":
        for colour, variable in VARIABLES.items():
            value = value.replace(colour, variable)
        return "; ".join(d for d in value.split("; ") if not d.startswith("font-family:"))
    if name in ("d", "x", "y", "transform"):
        return DIGITS.sub(lambda number: f"{float(number.group()):.2f}".rstrip("0").rstrip("."), value).strip()
    return value
