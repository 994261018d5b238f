"""The command line ``trueness``: verify, list, bugs, show, calibrate, doctor.

Exit status: 0 all right, 1 something is wrong, 2 the request was.
"""

from __future__ import annotations

import sys
from typing import Any

try:
    import click
except ModuleNotFoundError:  # pip install trueness brings torch and NumPy alone
    print("trueness: the command line needs the verify extra: pip install 'trueness[verify]'", file=sys.stderr)
    sys.exit(2)

NAMES = ("float32", "float16", "bfloat16", "float64")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="trueness")
def cli() -> None:
    """Is a fast implementation of a formula right, how right, and why not."""


@cli.command()
@click.argument("formulas", nargs=-1, metavar="[FORMULA …]")
@click.option(
    "--impl", "impls", multiple=True, metavar="[FORMULA=]MODULE:CALLABLE", help="Your implementation; repeatable."
)
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(NAMES), help="Repeatable; all four unless given.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option(
    "--peers/--no-peers", default=None, help="Third-party implementations too [default: unless --impl is given]"
)
@click.option("--profile", type=click.Choice(["quick", "ci", "deep"]), default="ci", show_default=True)
@click.option("--report", metavar="DIR", help="Write an HTML page there.")
@click.option("--junit", metavar="FILE", help="Write JUnit XML.")
@click.option("--json", "json_file", metavar="FILE", help="Write the verdicts as JSON.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Worker processes.")
@click.option(
    "--timeout", type=click.FloatRange(0.1), default=60.0, show_default=True, help="Seconds without an answer."
)
@click.option(
    "--framework", type=click.Choice(["torch", "numpy", "jax"]), default=None, help="Of --impl; guessed unless given."
)
@click.option(
    "--limit", type=click.Choice(["fused", "eager", "exact"]), default="fused", show_default=True, help="For --impl."
)
@click.option("--case", default="", metavar="JSON", help="Look at one case again, as a failure printed it.")
def verify(**options: Any) -> None:
    """Try implementations against the reference: ours, third parties', your own."""
    from trueness.tools.report import terminal

    sys.exit(terminal.verify(**options))


@cli.command(name="list")
@click.option("--write", metavar="FILE", help="Write them all as Markdown (docs/formulas.md is made this way).")
def list_(write: str | None) -> None:
    """Print the declared formulas."""
    from trueness.tools.report import terminal

    terminal.list_formulas(write)


@cli.command()
@click.option("--write", metavar="FILE", help="Write the whole ledger as Markdown (docs/ledger.md is made this way).")
@click.option("--check", is_flag=True, help="Re-run the evidence of every entry and count what is shown, by verdict.")
def bugs(write: str | None, check: bool) -> None:
    """Print the ledger of documented bugs and claims."""
    from trueness.tools.report import terminal

    if check:
        sys.exit(terminal.check_bugs())
    terminal.list_bugs(write)


@cli.command()
@click.argument("formula")
def show(formula: str) -> None:
    """Print one formula: equation, source, arguments, bound, implementations, bugs."""
    from trueness.tools.report import terminal

    terminal.show(formula)


@cli.command()
@click.option("--profile", type=click.Choice(["quick", "full"]), default="full", show_default=True)
@click.option("--write", metavar="FILE", help="Write the table as Markdown (docs/calibration.md is made this way).")
def calibrate(profile: str, write: str | None) -> None:
    """Measure false accepts and false rejects of the bound on attention, random features and Fisher."""
    from trueness.tools.report import terminal

    sys.exit(terminal.calibrate(profile, write))


@cli.command()
def doctor() -> None:
    """Print what this machine can check, what is missing, and how to get it."""
    from trueness.tools.report import terminal

    terminal.doctor()


def main() -> None:
    """Entry point: a wrong request ends in one sentence and status 2."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as wrong:
        click.echo(f"trueness: {wrong.format_message()}", err=True)
        sys.exit(2)
    except ValueError as wrong:
        click.echo(f"trueness: {wrong}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("trueness: stopped.", err=True)
        sys.exit(130)
