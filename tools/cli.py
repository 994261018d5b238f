"""The command line ``trueness``.

Exit status: 0: no fault was found; 1: a fault was found; 2: invalid request, or nothing was judged.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

try:
    import click
except ModuleNotFoundError:  # pip install trueness brings torch and NumPy alone
    print("trueness: the command line needs the verify extra: pip install 'trueness[verify]'", file=sys.stderr)
    sys.exit(2)

from trueness.tools.gpu.options import Options
from trueness.tools.spec.tables import (
    AUTO,
    CALIBRATION_PROFILES,
    DEFAULT_DEVICE,
    DEFAULT_PROFILE,
    DEVICES,
    FORMATS,
    FRAMEWORKS,
    LIMITS,
    POLICIES,
    PROFILES,
    USER_CLAIMS,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="trueness")
def cli() -> None:
    """Verify fast implementations of formulas against their references."""


@cli.command()
@click.argument("formulas", nargs=-1, metavar="[FORMULA …]")
@click.option(
    "--impl", "impls", multiple=True, metavar="[FORMULA=]MODULE:CALLABLE", help="Your implementation; repeatable."
)
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(list(FORMATS)), help="Repeatable.  [default: all]")
@click.option("--device", type=click.Choice(list(DEVICES)), default=DEFAULT_DEVICE, show_default=True)
@click.option(
    "--peers/--no-peers", default=None, help="Third-party implementations, too.  [default: unless --impl is given]"
)
@click.option("--profile", type=click.Choice(list(PROFILES)), default=DEFAULT_PROFILE, show_default=True)
@click.option("--report", metavar="DIR", help="Write an HTML report to this folder.")
@click.option("--junit", metavar="FILE", help="Write JUnit XML.")
@click.option("--json", "json_file", metavar="FILE", help="Write the verdicts as JSON.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Worker processes.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1),
    default=60.0,
    show_default=True,
    help="Seconds without an answer after which an implementation has timed out.",
)
@click.option(
    "--framework", type=click.Choice(FRAMEWORKS), default=None, help="Framework of --impl.  [default: guessed]"
)
@click.option(
    "--limit", type=click.Choice(list(LIMITS)), default="fused", show_default=True, help="Limit on T for --impl."
)
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    default=None,
    help="Name what is done with NaN, inf, overflow and subnormals, or demand the reference's policy.  "
    "[default: strict for built-in implementations, observe for all others]",
)
@click.option(
    "--claims",
    multiple=True,
    metavar="LIST",
    help=f"What --impl promises beside the value: {', '.join(USER_CLAIMS)}, or {AUTO} to try each and see.",
)
@click.option("--no-gradient", is_flag=True, help="--impl is forward only.")
@click.option("--case", default="", metavar="JSON", help="Run one case again, as a failure printed it.")
def verify(**options: Any) -> None:
    """Verify implementations of formulas: built-in ones, third-party ones, and your own."""
    from trueness.tools.report import terminal

    sys.exit(terminal.verify(**options))


@cli.command(name="list")
@click.option("--write", metavar="FILE", help="Write all of them as Markdown (docs/formulas.md).")
def list_(write: str | None) -> None:
    """Print the declared formulas."""
    from trueness.tools.report import listing

    listing.list_formulas(write)


@cli.command()
@click.argument("formula")
def show(formula: str) -> None:
    """Print one formula: equation, source, arguments, bound, implementations, known bugs."""
    from trueness.tools.report import listing

    listing.show(formula)


def print_ledger(write: str | None, check: bool) -> None:
    from trueness.tools.report import listing, terminal

    if check:
        sys.exit(terminal.check_ledger())
    listing.list_ledger(write)


LEDGER_OPTIONS = (
    click.option("--write", metavar="FILE", help="Write the whole ledger as Markdown (docs/ledger.md)."),
    click.option("--check", is_flag=True, help="Run the evidence of every entry again, and count by verdict."),
)


@cli.command()
@LEDGER_OPTIONS[0]
@LEDGER_OPTIONS[1]
def ledger(write: str | None, check: bool) -> None:
    """Print the ledger of documented bugs, fixes and claims, each with a verdict."""
    print_ledger(write, check)


@cli.command(hidden=True)
@LEDGER_OPTIONS[0]
@LEDGER_OPTIONS[1]
def bugs(write: str | None, check: bool) -> None:
    """The former name of `trueness ledger`."""
    click.echo("trueness bugs is now trueness ledger; the former name will be removed in the next version.", err=True)
    print_ledger(write, check)


@cli.command()
@click.option("--profile", type=click.Choice(list(CALIBRATION_PROFILES)), default="full", show_default=True)
@click.option("--write", metavar="FILE", help="Write the tables as Markdown (docs/calibration.md).")
@click.option("--examination", is_flag=True, help="Only the examination of the verifier by right and wrong programs.")
@click.option("--only", default="", metavar="TEXT", help="With --examination: programs whose name contains this text.")
@click.option(
    "--dtype", "dtypes", multiple=True, type=click.Choice(list(FORMATS)), help="Of the examination; repeatable."
)
@click.option("--records", default="", metavar="FILE", help="Keep what the examination finds, and go on from there.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes of the examination.")
def calibrate(**options: Any) -> None:
    """Measure the false accepts and false rejects of the bound, and of the verifier."""
    from trueness.tools.report import terminal

    sys.exit(terminal.calibrate(**options))


@cli.command()
@click.argument("formulas", nargs=-1, metavar="[FORMULA …]")
@click.option("--dtype", type=click.Choice(list(FORMATS)), default="float32", show_default=True)
@click.option("--profile", type=click.Choice(list(PROFILES)), default=DEFAULT_PROFILE, show_default=True)
@click.option("--write", metavar="FILE", help="Write the tables as Markdown (docs/sabotage.md).")
def sabotage(formulas: tuple[str, ...], dtype: str, profile: str, write: str | None) -> None:
    """Plant generic faults into the references: each must be rejected by the cases of a run."""
    from trueness.tools.report import terminal

    sys.exit(terminal.sabotage(formulas, dtype, profile, write))


@cli.command()
@click.option("--triton", default="", metavar="FOLDER", help="Compile under the Triton unpacked there, too.")
@click.option("--only", default="", metavar="TEXT", help="Kernels whose name contains this text.")
@click.option("--write", default="", metavar="FOLDER", help="Update kernels.json and kernels.md there.")
@click.option("--check", default="", metavar="FOLDER", help="Compare with the table written there.")
@click.option("--all", "every", is_flag=True, help="With --check: compile all kernels, not one of every function.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def kernels(triton: str, only: str, write: str, check: str, every: bool, as_json: bool) -> None:
    """Compile the declared Triton kernels for GPUs; neither a GPU nor a driver is needed."""
    from trueness.tools.triton import command

    try:
        sys.exit(command.run(triton, only, write, check, every, as_json))
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None


@cli.command()
@click.argument("names", nargs=-1, metavar="[ID or FORMULA …]")
@click.option("--ledger", "of_ledger", is_flag=True, help="Put known wrong variants (ID …, or all) in our place.")
@click.option(
    "--references", is_flag=True, help="Change the references (FORMULA …, or all): the cases of a run must show it."
)
@click.option("--only", multiple=True, type=click.IntRange(0), metavar="N", help="The Nth mutation; repeatable.")
@click.option("--write", default="", metavar="FILE", help="With --references: write the table (docs/mutants.md).")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes of --references.")
def mutate(
    names: tuple[str, ...], of_ledger: bool, references: bool, only: tuple[int, ...], write: str, jobs: int
) -> None:
    """Run mutation tests: each wrong change of the library or of a reference must be noticed."""
    from trueness.tools.ledger import mutate as mutations

    if references:
        from trueness.tools.mutants import command

        sys.exit(command.run(names, write, jobs))
    if names and not of_ledger:
        raise click.UsageError("an ID needs --ledger.")
    sys.exit(mutations.ledger(names) if of_ledger else mutations.run(only))


def gpu_options(command: Any) -> Any:
    """The fields of ``Options`` as options of a command."""
    for f in reversed(fields(Options)):
        kind: dict[str, Any] = {"is_flag": True} if f.default is False else {"show_default": f.default != ""}
        name = f"--{f.name.replace('_', '-')}"
        command = click.option(name, default=f.default, help=f.metadata["help"], **kind)(command)
    return command


@cli.command()
@gpu_options
def gpu(**options: Any) -> None:
    """Run everything that needs a GPU: correctness, then timing."""
    from trueness.tools.gpu.run import run

    sys.exit(run(Options(**options)))


@cli.command()
def doctor() -> None:
    """Print what this machine can check, what is missing, and how to install it."""
    from trueness.tools.report import listing

    listing.doctor()


@cli.command(hidden=True)
def schemas() -> None:
    """Write the JSON Schemas, generated from the types, into the checkout."""
    from pathlib import Path

    from trueness.tools.gpu import document
    from trueness.tools.report import results
    from trueness.tools.spec.schema import as_file

    for module, name in ((results, "verdicts"), (document, "gpu")):
        path = Path(module.__file__ or "").with_name(f"{name}.schema.json")
        path.write_text(as_file(module.schema()), encoding="utf-8")
        click.echo(f"written: {path}")


def main() -> None:
    """Entry point: an invalid request ends with one sentence and status 2."""
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


if __name__ == "__main__":
    main()
