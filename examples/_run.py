"""What the examples share: a run that can be interrupted and resumed, a progress bar, and the lines it must meet."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from trueness.optimized.training import Checkpointing

COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
    TextColumn("{task.fields[note]}"),
)


@dataclass(frozen=True)
class Line:
    """Something an example must show: what was measured, and what it has to be; without a relation, only shown."""

    what: str
    measured: float
    relation: str
    wanted: float

    @property
    def met(self) -> bool:
        return {"<": self.measured < self.wanted, ">": self.measured > self.wanted, "": True}[self.relation]


class Curve:
    """The losses of a run, saved with it."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def add(self, loss: float) -> float:
        self.losses.append(loss)
        return loss

    def first(self) -> float:
        """The mean of the first tenth."""
        part = self.losses[: max(1, len(self.losses) // 10)]
        return sum(part) / len(part)

    def last(self) -> float:
        """The mean of the last tenth."""
        part = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(part) / len(part)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses = list(state["losses"])


def bar(title: str, total: int, done: int = 0) -> tuple[Progress, Callable[[int, str], None]]:
    """A progress bar on the error stream, and the function that moves it to a step with a note."""
    progress = Progress(*COLUMNS, console=Console(stderr=True))
    task = progress.add_task(title, total=total, completed=done, note="")
    return progress, lambda step, note: progress.update(task, completed=step, note=note)


def run(
    name: str,
    folder: Path,
    objects: Mapping[str, Any],
    total: int,
    step: Callable[[int], str],
    *,
    every: int = 100,
    generators: Mapping[str, Any] | None = None,
    stop: int | None = None,
) -> bool:
    """Do ``step(k)`` for k up to ``total``, from wherever the checkpoint in ``folder`` left off; False if stopped.

    Ctrl-C and ``stop``, a number of steps, end the run with everything saved: the next one goes on from there to the
    state that an uninterrupted one reaches, bit for bit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with Checkpointing(folder / f"{name}.pt", objects, every=every, generators=generators) as checkpoint:
        progress, move = bar(name, total, checkpoint.step)
        with progress:
            for k in range(checkpoint.step, total):
                if k == stop:
                    return False
                note = step(k)
                checkpoint.completed(k + 1)
                move(k + 1, note)
    return True


def digest(objects: Mapping[str, Any]) -> str:
    """A short hash of every state: equal for two runs that reached the same one."""
    found = hashlib.blake2b(digest_size=8)

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.update(value.detach().numpy().tobytes())
        elif isinstance(value, Mapping):
            for key in value:
                found.update(str(key).encode())
                add(value[key])
        elif isinstance(value, (list, tuple)):
            for item in value:
                add(item)
        else:
            found.update(repr(value).encode())

    for name in sorted(objects):
        add(objects[name].state_dict())
    return found.hexdigest()


def report(name: str, folder: Path, lines: list[Line], state: str) -> None:
    """Print the lines, write them as JSON, and exit with 1 if one is not met."""
    table = Table(title=name, title_justify="left", box=None, header_style="bold")
    for column in ("what", "measured", "must be", ""):
        table.add_column(column, justify="left" if column == "what" else "right")
    for line in lines:
        sign = ("[green]met[/]" if line.met else "[bold red]missed[/]") if line.relation else "shown"
        table.add_row(line.what, f"{line.measured:.4g}", f"{line.relation or 'beside'} {line.wanted:.4g}", sign)
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    console.print(f"state {state}; written to {folder}", highlight=False)
    content = {"lines": [{**asdict(line), "met": line.met} for line in lines], "state": state}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if not all(line.met for line in lines):
        sys.exit(1)
