"""The report: one HTML page that needs nothing but itself.

The page is filled in from tools/report/report.html.j2, which escapes everything that comes from a user's module; its
content security policy also allows no script but ours and no network.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from trueness.tools.report.results import Results, in_order, printable
from trueness.tools.report.sections import cards, failures, skips, summary
from trueness.tools.report.wording import exact, names, number, plural, several
from trueness.tools.spec.model import DTYPES
from trueness.tools.spec.tables import DEFAULT_DEVICE, FORMATS, LIMITS

PAGE = "index.html"
SCRIPT = """
for (const button of document.querySelectorAll("button.copy")) {
  const text = button.parentElement.querySelector("pre");
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
    } catch {
      getSelection().selectAllChildren(text);
      document.execCommand("copy");
    }
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
}
"""


# -- where it goes --------------------------------------------------------------------------------------------------


def require_writable(directory: str | Path, option: str = "--report") -> Path:
    """``directory``, made if need be; ValueError, before any work is done, when nothing can be written there."""
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"{option} was {str(directory)!r}, where nothing can be written: {reason}.") from None


def write_report(results: Results, directory: str | Path) -> Path:
    """Write the page into ``directory``; returns its path. ValueError when that cannot be done."""
    page = require_writable(directory) / PAGE
    text = to_html(results)
    try:
        page.write_text(text, "utf-8")
    except OSError as error:
        raise ValueError(f"{str(page)!r} cannot be written: {(error.strerror or str(error)).lower()}.") from None
    return page


def to_html(results: Results) -> str:
    """The page."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda x: printable(x) if type(x) is str else x,
    )
    environment.filters.update(number=number, exact=exact, plural=plural, names=names, several=several)
    source = resources.files(__package__).joinpath("report.html.j2").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return environment.from_string(source).render(
        run=results,
        when=results.started.replace("T", " ").replace("+00:00", " UTC"),
        summary=summary(results),
        cards=cards(results),
        failures=failures(results),
        skips=skips(in_order(results.verdicts, results.formulas)),
        limits=LIMITS,
        formats=[FORMATS[name] for name in DTYPES],
        default_device=DEFAULT_DEVICE,
        script=Markup(SCRIPT),
        script_hash=digest,
    )
