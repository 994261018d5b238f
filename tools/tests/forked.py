"""Runs short programs, each in a process of its own that is forked from one which has imported what they need.

A fresh interpreter takes two processor seconds to import torch. What a program does to its process - its working
directory, environment, threads, exit - stays in it, as ever.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

SERVER = """
import json, multiprocessing, os, runpy, sys

def program(line, folder, environment, out, err):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in ((0, os.devnull), (1, out), (2, err)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), descriptor)
    if line[0] == "-c":
        sys.argv = ["-c", *line[2:]]
        exec(compile(line[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = line, os.path.dirname(line[0])
        runpy.run_path(line[0], run_name="__main__")

for request in sys.stdin:
    process = multiprocessing.get_context("fork").Process(target=program, args=json.loads(request))
    process.start()
    process.join()
    print(process.exitcode, flush=True)
"""


class Launcher:
    """The process that has imported the libraries, and waits for programs."""

    def __init__(self, server: subprocess.Popen[str], folder: Path) -> None:
        self.server, self.out, self.err = server, folder / "out", folder / "err"

    def run(
        self, *line: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """``python LINE`` - a script, or ``-c`` and a program - with its arguments, like ``subprocess.run``."""
        assert self.server.stdin is not None and self.server.stdout is not None
        environment = dict(os.environ if env is None else env)
        request = [line, str(cwd or Path.cwd()), environment, str(self.out), str(self.err)]
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        status = int(self.server.stdout.readline())
        return subprocess.CompletedProcess(line, status, self.out.read_text(), self.err.read_text())


@contextmanager
def launcher(before: str) -> Iterator[Launcher]:
    """A Launcher whose programs find done what the program ``before`` does: it imports what they need."""
    command = [sys.executable, "-c", f"{before}\n{SERVER}"]
    with TemporaryDirectory() as folder:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            yield Launcher(server, Path(folder))
