"""Whatever a user's implementation does, it gets its verdict in one sentence, and the others get theirs.

No test depends on how fast the machine is: one that is about a time limit replaces the pool's clock by one that an
event moves, or gives a limit that is exceeded in any case; all others give FOREVER. No process outlives its test.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trueness.tools.run import pool
from trueness.tools.run.api import check
from trueness.tools.run.pool import Gone, TimedOut, Worker, run_groups
from trueness.tools.run.runner import Job
from trueness.tools.spec.model import Verdict
from trueness.tools.spec.records import to_record
from trueness.tools.tests.processes import FOREVER, HAS_PROC, Process, none_left, wait_for_end, wait_until

pytestmark = pytest.mark.xdist_group("user")  # the hostile ones run once
Running = Callable[[], list[Process]]

HOSTILE = """
import ctypes, os, signal, subprocess, sys, threading, time
import numpy as np
import torch

def right(s, a):
    return s * s + (1e-4 + 1e-3 * (1 - a))

def hangs():
    open("hangs", "w").close()

def spins(s, a):
    hangs()
    while True:
        pass

def sleeps(s, a):
    hangs()
    while True:
        time.sleep(1000)

def segfaults(s, a):
    ctypes.string_at(0)

def aborts(s, a):
    os.write(2, b"terminate called after throwing <b>\\x1b[31mbad_alloc\\n")
    os.abort()

def is_killed(s, a):
    os.kill(os.getpid(), signal.SIGKILL)

def ends(s, a):
    os._exit(0)

def exits(s, a):
    sys.exit(0)

def raises(s, a):
    raise ZeroDivisionError("no\\nluck")

def lists(s, a):
    return [s]

def drops_an_axis(s, a):
    return right(s, a).reshape(-1)[:1].repeat(2)

def widens(s, a):
    return right(s, a).double()

def returns_nan(s, a):
    return right(s, a) * float("nan")

def prints(s, a):
    while True:
        print("x" * 100_000)

def chatters(s, a):
    printed = threading.Event()
    def forever():
        for _ in range(2**28 // 100_000):
            print("x" * 100_000)
        printed.set()
    threading.Thread(target=forever).start()
    printed.wait()
    return right(s, a)

def murmurs(s, a):
    def forever():
        while True:
            print("still here", flush=True)
            time.sleep(0.05)
    threading.Thread(target=forever).start()
    return right(s, a)

def negates_its_input(s, a):
    y = right(s, a)
    s.detach().neg_()
    return y

seen = {}
def remembers_addresses(s, a):
    if s.requires_grad:
        return right(s, a)
    key = (s.data_ptr(), s.shape, a)
    return seen.setdefault(key, right(s, a)).clone()

def returns_its_input(s, a):
    return s.detach().mul_(s.detach()).add_(1e-4 + 1e-3 * (1 - a))

def hoards(s, a):
    hoard = []
    while True:
        hoard.append(torch.empty(2**26))

def closes_everything(s, a):
    os.closerange(0, 1024)
    return right(s, a)

def closes_and_hangs(s, a):
    os.closerange(0, 1024)
    while True:
        time.sleep(1000)

def scribbles(s, a):
    for fd in range(3, 32):
        try:
            os.write(fd, b"garbage\\n")
        except OSError:
            pass
    return right(s, a)

def loses_its_output(s, a):
    sys.stdin = sys.stdout = sys.stderr = None
    return right(s, a)

def forks(s, a):
    if os.fork() == 0:
        time.sleep(1000)
    return right(s, a)

started = []
def leaves_a_daemon(s, a):
    if not started:
        started.append(subprocess.Popen(["sleep", "1000"], start_new_session=True))
    return right(s, a)

def patches_the_judge(s, a):
    np.abs = lambda x: np.zeros_like(x)
    return s

def breaks_the_judge(s, a):
    from trueness.tools.run.trial import Trial
    def judge(outs, truth):
        raise KeyError("judge")
    Trial.judge = staticmethod(judge)
    return s
"""

CHECKED_BY_VALUE = ("murmurs", "loses_its_output", "forks", "leaves_a_daemon", "right")

SENTENCES: dict[str, str | tuple[str, ...]] = {
    "segfaults": "crashed with SIGSEGV, in the check “value”.",
    "aborts": "crashed with SIGABRT; the last line it printed was "
    "“terminate called after throwing <b> [31mbad_alloc”, in the check “value”.",
    "is_killed": "was killed by the system (SIGKILL, most likely out of memory), in the check “value”.",
    "ends": "ended its process with exit status 0, in the check “value”.",
    "exits": "called sys.exit(0).",
    "raises": "raised ZeroDivisionError: no luck",
    "lists": "returned a list, expected a torch.Tensor.",
    "drops_an_axis": "returned shape (2,), expected ().",
    "widens": "returned dtype float64 for float32 input.",
    "returns_nan": "output is nan, the reference",
    "prints": "printed more than 16 MiB and was stopped, in the check “value”.",
    "chatters": "printed more than 16 MiB and was stopped, in the check “",
    "negates_its_input": "wrote to its input score.",
    "remembers_addresses": ("output[", "after an in-place change of its input: output["),
    "returns_its_input": "wrote to its input score.",
    "hoards": "raised RuntimeError: [enforce fail at alloc_cpu.cpp",
    "closes_everything": "closed file descriptors that are not its own, in the check “value”.",
    "closes_and_hangs": "closed file descriptors that are not its own, in the check “value”.",
    "scribbles": "wrote into a file descriptor that is not its own, in the check “value”.",
    "patches_the_judge": "replaced numpy.abs, which the checks use: no verdict of this process counts.",
    "breaks_the_judge": "replaced Trial.judge, which the checks use: no verdict of this process counts.",
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with hostile.py and mine.py in it, where the person stands who asks."""
    folder, before = tmp_path_factory.mktemp("hostile"), Path.cwd()
    (folder / "hostile.py").write_text(HOSTILE)
    (folder / "mine.py").write_text(
        "import torch\n"
        "def absolute(score, alpha):\n    return score.abs() + (1e-4 + 1e-3 * (1 - alpha))\n"
        "def gain(score, alpha):\n    return 1.02 * (score * score + (1e-4 + 1e-3 * (1 - alpha)))\n"
    )
    (folder / "resource.py").write_text(
        "raise RuntimeError('a file of the user got in the way of the standard library')"
    )
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module", autouse=True)
def running() -> Iterator[Running]:
    """What the tests of this file have started and what is still running."""
    with none_left() as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_outlives_its_test(running: Running) -> Iterator[None]:
    yield
    assert running() == []


class EventClock(pool.Clock):
    """A clock for one worker. It stands still; every answer takes ``tick`` seconds, and waiting takes as long as it may
    once there is the file ``event``, by which an implementation says that it hangs now.
    """

    def __init__(self, event: Path, tick: float = 0.0) -> None:
        event.unlink(missing_ok=True)
        self.event, self.tick, self.time = event, tick, 0.0

    def now(self) -> float:
        return self.time

    def wait(self, readable: selectors.BaseSelector, seconds: float) -> list[int]:
        while True:
            hangs = self.event.exists()  # asked first: what was answered before it can be read now
            ready = super().wait(readable, 0.01)
            if ready or hangs:
                self.time += self.tick if ready else seconds
                return ready


def job(name: str, dtype: str = "float32", *checks: str) -> Job:
    spec = name if ":" in name else f"hostile:{name}"
    return Job("fisher.diagonal", spec, dtype, profile="quick", user=True, checks=checks)


@pytest.fixture(scope="module")
def one_run(here: Path) -> dict[str, list[Verdict]]:
    """All of them in one run, two at a time, with 3 GiB of memory each."""
    chosen = [[job(n)] for n in SENTENCES] + [[job(n, "float32", "value")] for n in CHECKED_BY_VALUE]
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    threads = threading.active_count()
    verdicts = run_groups(chosen, 2, FOREVER, memory=3 * 2**30)
    assert threading.active_count() == threads
    if descriptors:
        assert len(os.listdir("/proc/self/fd")) == descriptors
    found: dict[str, list[Verdict]] = {}
    for v in verdicts:
        found.setdefault(v.implementation.removeprefix("hostile:"), []).append(v)
    return found


def test_a_run_with_all_of_them_completes(one_run: dict[str, list[Verdict]]) -> None:
    assert len(SENTENCES) > 10
    assert set(one_run) == {*SENTENCES, *CHECKED_BY_VALUE}


@pytest.mark.parametrize("name", SENTENCES)
def test_it_gets_its_verdict_in_one_sentence(one_run: dict[str, list[Verdict]], name: str) -> None:
    failures = [v for v in one_run[name] if not v.passed]
    assert any(v.message.startswith(SENTENCES[name]) for v in failures), [v.message for v in failures]
    assert all("\n" not in v.message and "\x1b" not in v.message for v in failures)
    assert all(v.origin == "user" for v in failures)


@pytest.mark.parametrize("name", CHECKED_BY_VALUE)
def test_what_is_odd_but_right_passes(one_run: dict[str, list[Verdict]], name: str) -> None:
    assert [(v.check, v.passed) for v in one_run[name]] == [("value", True)], one_run[name]


def test_a_cache_by_address_fails(one_run: dict[str, list[Verdict]]) -> None:
    assert {"value", "layouts", "no stale cache"} & {v.check for v in one_run["remembers_addresses"] if not v.passed}


def test_an_implementation_that_overwrites_its_input_with_the_result_fails_for_both(
    one_run: dict[str, list[Verdict]],
) -> None:
    failures = {v.check for v in one_run["returns_its_input"] if not v.passed}
    assert {"inputs unchanged", "no aliasing"} <= failures


@pytest.mark.skipif(not HAS_PROC, reason="needs /proc")
@pytest.mark.usefixtures("one_run")
def test_nothing_is_left_running(running: Running) -> None:
    assert running() == []
    children = subprocess.run(["ps", "--no-headers", "--ppid", str(os.getpid())], capture_output=True, text=True)
    assert "defunct" not in children.stdout


@pytest.mark.skipif(not HAS_PROC, reason="needs /proc")
def test_a_process_that_is_left_is_seen_and_ended() -> None:
    """The parent ends at once; its child has a session of its own, so that nothing but its parents leads to it."""
    with pytest.raises(AssertionError, match=r"^left running: \d+ \(.*sleep 1000"), none_left() as started:
        subprocess.run(["sh", "-c", "setsid sleep 1000 &"], check=True)
        wait_until(lambda: [p.command for p in started()] == ["sleep 1000"])
    with none_left() as started:
        assert started() == []


# -- time limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spins", "sleeps"])
def test_a_hang_is_ended_by_the_time_limit(here: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(pool, "CLOCK", EventClock(here / "hangs"))
    (verdict,) = [v for v in run_groups([[job(name)]], 1, 6.0) if not v.passed]
    assert verdict.message == "timed out: no answer within 6 s, in the check “value”."
    assert verdict.origin == "user"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("wanted", ["", "3"])
def test_products_of_a_worker_have_one_thread_unless_the_caller_says_otherwise(
    here: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if wanted:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", wanted)
    program = "import os\nfrom hostile import right\nassert os.environ['OPENBLAS_NUM_THREADS'] == {!r}\n"
    (here / f"threads{wanted}.py").write_text(program.format(wanted or "1"))
    assert check("fisher.diagonal", f"threads{wanted}:right", dtype="float32", profile="quick", checks=["value"])


@pytest.mark.usefixtures("here")
def test_an_implementation_that_timed_out_is_not_tried_in_other_dtypes() -> None:
    outcome = check("fisher.diagonal", "hostile:sleeps", timeout=0.5)
    assert [(v.dtype, v.message if v.skipped else "") for v in outcome.verdicts] == [
        ("float64", ""),
        *((d, "not run: it timed out in float64") for d in ("float32", "float16", "bfloat16")),
    ] or [(v.dtype, v.message if v.skipped else "") for v in outcome.verdicts] == [
        ("float32", ""),
        *((d, "not run: it timed out in float32") for d in ("float16", "bfloat16", "float64")),
    ]
    assert not outcome


@pytest.mark.usefixtures("here")
def test_a_crash_is_tried_again_in_the_next_dtype() -> None:
    outcome = check("fisher.diagonal", "hostile:segfaults", dtype=("float32", "float16"), timeout=FOREVER)
    assert [(v.dtype, v.message) for v in outcome.verdicts] == [
        (d, "crashed with SIGSEGV, in the check “value”.") for d in ("float32", "float16")
    ]


@pytest.mark.usefixtures("here")
def test_a_slow_one_is_ended_though_it_answers(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "TIMEOUT_FACTOR", 0.1)
    monkeypatch.setattr(pool, "CLOCK", EventClock(here / "never", tick=0.3))
    verdicts = run_groups([[job("right")]], 1, 20.0)
    assert verdicts[-1].message == "timed out: not done after 2 s, in the check “value”."


# -- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("nosuch:fn", "--impl was 'nosuch:fn': there is no module 'nosuch' here or installed."),
        ("hostile:nosuch", "--impl was 'hostile:nosuch': module 'hostile' has no attribute 'nosuch'."),
        ("hostile:HOSTILE.x", "--impl was 'hostile:HOSTILE.x': module 'hostile' has no attribute 'HOSTILE.x'."),
        ("hostile:started", "--impl was 'hostile:started': 'started' is list, not a callable."),
        ("hostile:", "--impl was 'hostile:'; it must look like module:callable or FORMULA=module:callable."),
    ],
)
def test_a_callable_that_is_not_there_is_a_wrong_request(spec: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        check("fisher.diagonal", spec, dtype="float32", timeout=FOREVER)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1 / 0", "importing {} raised ZeroDivisionError: division by zero"),
        ("import nosuchpackage", "importing {} raised ModuleNotFoundError: No module named 'nosuchpackage'"),
        ("def f(:", "importing {} raised SyntaxError: "),
        ("import sys; sys.exit('bye')", "importing {} called sys.exit('bye')."),
        ("import os; os._exit(3)", "ended its process with exit status 3, while it was being loaded."),
        ("import ctypes; ctypes.string_at(0)", "crashed with SIGSEGV, while it was being loaded."),
        pytest.param("while True: pass", "timed out: no answer within 1 s, while it was being loaded.", id="hangs"),
    ],
)
def test_what_a_module_does_when_it_is_imported_is_its_verdict(here: Path, text: str, sentence: str) -> None:
    name = f"imported_{abs(hash(text))}"
    (here / f"{name}.py").write_text(text)
    (verdict,) = check(
        "fisher.diagonal", f"{name}:f", dtype="float32", timeout=1 if text.startswith("while") else FOREVER
    ).verdicts
    assert not verdict.passed
    assert verdict.message.startswith(sentence.format(name)), verdict.message


# -- the pool itself --------------------------------------------------------------------------------------------------


def started(here: Path) -> Worker:
    worker = Worker({})
    assert worker.receive(FOREVER) == ("ready", None)
    return worker


def test_a_worker_that_cannot_start_is_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (verdict,) = run_groups([[Job("fisher.diagonal", "trueness", "float32")]], 1)
    assert verdict.message == "ended its process with exit status 1, before its worker process was ready."
    assert (verdict.check, verdict.passed, verdict.origin) == ("value", False, "builtin")


def test_a_job_sent_to_a_dead_worker_does_not_block(here: Path) -> None:
    worker = started(here)
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    with pytest.raises(Gone, match="was killed by the system"):
        worker.send(to_record(job("right")))
        worker.receive(FOREVER)
    worker.close()
    worker.close()


def test_a_worker_that_died_between_jobs_costs_the_next_job_nothing(here: Path) -> None:
    (here / "between.py").write_text(
        "import os, threading\nfrom hostile import right\n"
        "def f(s, a):\n    open('between', 'w').write(str(os.getpid()))\n    return right(s, a)\n"
        "def die():\n    open('die').read()\n    os._exit(7)\n"
        "threading.Thread(target=die).start()\n"
    )
    os.mkfifo(here / "die")  # to open it is to wait for the other side

    def wait(job: Job, found: list[Verdict]) -> None:
        if job.dtype == "float32":
            (here / "die").write_text("now")
            wait_for_end(int((here / "between").read_text()))

    jobs = [job("between:f", d, "determinism") for d in ("float32", "float16")]
    verdicts = run_groups([jobs], 1, FOREVER, pool.Progress(finished=wait))
    assert [(v.dtype, v.passed, v.message) for v in verdicts] == [("float32", True, ""), ("float16", True, "")]


def test_jobs_of_one_implementation_share_a_process_and_of_two_do_not(here: Path) -> None:
    (here / "who.py").write_text(
        "import os\nfrom hostile import right\n"
        "def f(s, a):\n    open('pids', 'a').write(f'f {os.getpid()}\\n')\n    return right(s, a)\n"
        "def g(s, a):\n    open('pids', 'a').write(f'g {os.getpid()}\\n')\n    return right(s, a)\n"
    )
    run_groups([[job(f"who:{n}", d, "determinism") for n in "fg" for d in ("float32", "float64")]], 1, FOREVER)
    pids = {tuple(line.split()) for line in (here / "pids").read_text().splitlines()}
    assert {name for name, _ in pids} == {"f", "g"}
    assert len(pids) == len({pid for _, pid in pids}) == 2


def test_an_error_of_the_caller_ends_the_run(here: Path, running: Running) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("the display broke")

    with pytest.raises(RuntimeError, match="the display broke"):
        run_groups([[job("right", "float32", "determinism")]] * 3, 2, FOREVER, pool.Progress(finished=fails))
    assert running() == []


PROGRAM = """
import signal
from trueness.tools.run.pool import run_groups
from trueness.tools.run.runner import Job
signal.signal(signal.SIGINT, signal.default_int_handler)
jobs = [[Job("fisher.diagonal", "naps:f", "float32", user=True)]] * 2
run_groups(jobs, 2, 3600.0)
"""

NAPS = """
import os, signal, subprocess, time

def f(s, a):
    if os.path.exists("with-children"):
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
    os.rename(open(f"{os.getpid()}.started", "w").name, f"{os.getpid()}.nap")
    while True:
        time.sleep(1000)
"""


@pytest.mark.skipif(not HAS_PROC, reason="needs /proc")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda sent: sent.name)
def test_no_worker_outlives_who_asked(here: Path, running: Running, sent: signal.Signals) -> None:
    """After Ctrl-C what the workers have started has ended as well, though it is in sessions of its own."""
    (here / "naps.py").write_text(NAPS)
    for old in here.glob("*.nap"):
        old.unlink()
    children = here / "with-children"
    children.touch() if sent == signal.SIGINT else children.unlink(missing_ok=True)
    asked = subprocess.Popen([sys.executable, "-P", "-c", PROGRAM], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(list(here.glob("*.nap"))) == 2, alive=lambda: asked.poll() is None)
    assert len(running()) == (5 if sent == signal.SIGINT else 3)
    asked.send_signal(sent)
    _, said = asked.communicate()
    assert asked.returncode == -sent
    assert ("KeyboardInterrupt" in said) == (sent == signal.SIGINT), said
    assert running() == []


@pytest.mark.skipif(not HAS_PROC, reason="needs /proc")
@pytest.mark.parametrize("moment", ["before", "while"])
def test_no_worker_is_started_after_an_interrupt(
    here: Path, running: Running, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The caller's thread is interrupted while another thread is about to start a worker, or has just begun to."""
    reached = threading.Event()
    start = Worker.__init__

    def starts(self: Worker, *arguments: Any) -> None:
        if moment == "while":
            start(self, *arguments)
        interrupt()
        if moment == "before":
            start(self, *arguments)

    def interrupt() -> None:
        reached.set()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    monkeypatch.setattr(Worker, "__init__", starts)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_groups([[job("right")]], 1, FOREVER)
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached.is_set()
    assert running() == []


def test_a_worker_that_ended_because_of_an_interrupt_is_not_replaced(here: Path) -> None:
    slot = pool.WorkerSlot(0)
    slot.stop()
    with pytest.raises(Gone, match=r"^the run was interrupted$"):
        slot.run(job("right"), FOREVER)
    assert slot.worker is None


def test_a_worker_ends_when_its_parent_has_ended_before_it_could_ask_to_follow(running: Running) -> None:
    """The number of a process that is not its parent stands for one that has died."""
    command = [sys.executable, "-P", "-m", "trueness.tools.run.worker", "0", "1", "0", "1", "[]"]
    done = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_time_out_says_how_long(here: Path) -> None:
    worker = started(here)
    with pytest.raises(TimedOut, match=r"^timed out: no answer within 0\.25 s$"):
        worker.receive(0.25)
    worker.close()


# -- on the command line ----------------------------------------------------------------------------------------------


def test_the_command_line_gives_each_its_row_and_ends_with_one(here: Path) -> None:
    names = ("segfaults", "ends", "right")
    chosen = [word for name in names for word in ("--impl", f"hostile:{name}")]
    (here / "resource.py").unlink(missing_ok=True)
    command = [sys.executable, "-P", "-c", "from trueness.tools.cli import main; main()", "verify", "fisher.diagonal"]
    options = ["--dtype", "float32", "--profile", "quick", "--json", "verdicts.json"]
    done = subprocess.run(
        [*command, *chosen, *options, "--timeout", str(FOREVER)], cwd=here, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads((here / "verdicts.json").read_text())["verdicts"]
    wrong = {v["implementation"]: v["message"] for v in found if v["status"] == "fail"}
    assert set(wrong) == {f"hostile:{name}" for name in names[:-1]}
    assert {v["implementation"] for v in found} >= {f"hostile:{name}" for name in names}
    assert all(name in done.stdout for name in names)
    hangs = ["--impl", "hostile:sleeps", "--timeout", "0.5"]
    done = subprocess.run([*command, *hangs, *options], cwd=here, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "timed out: no answer within 0.5 s" in done.stdout


# -- seen again -------------------------------------------------------------------------------------------------------


def again(verdict: Verdict, here: Path) -> str:
    here.joinpath("resource.py").unlink(missing_ok=True)  # a person who pastes is not protected from their own files
    done = subprocess.run([sys.executable, "-c", verdict.reproduction], cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["segfaults", "lists", "negates_its_input", "returns_nan"])
def test_the_reproduction_of_a_verdict_shows_the_same(here: Path, one_run: dict[str, list[Verdict]], name: str) -> None:
    (failure, *_) = [v for v in one_run[name] if not v.passed]
    assert failure.message in again(failure, here)
    assert not failure.case or json.loads(failure.case) is not None


def test_a_copy_of_ours_with_the_absolute_value_is_shrunk_named_and_shown_again(here: Path) -> None:
    value = check("fisher.diagonal", "mine:absolute", dtype="float32", timeout=FOREVER).failures[0]
    assert value.check == "value"
    assert value.bugs == ("FSB-01",)
    assert json.loads(value.case)["sizes"] == {"...": []}
    assert re.search(r"for score = -?[\d.e-]+, alpha = [\d.e-]+", value.message), value.message
    shown = again(value, here)
    assert value.message in shown
    assert "behaves like FSB-01" in shown


def test_a_gain_of_two_percent_is_wrong_and_behaves_like_no_known_bug(here: Path) -> None:
    outcome = check("fisher.diagonal", "mine:gain", dtype="float32", timeout=FOREVER)
    assert not outcome
    assert [v.bugs for v in outcome.failures] == [()] * len(outcome.failures)
    assert outcome.failures[0].message in again(outcome.failures[0], here)
