"""A thread pool for independent parts of a computation: torch's own threads synchronize at every operation.

The threads are started once and reused, because torch and oneDNN take about a millisecond to set up a new one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

import torch

Result = TypeVar("Result")


@dataclass
class ThreadPool:
    """The threads started so far; a forked process starts with none."""

    pool: ThreadPoolExecutor | None = None
    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        self.pool, self.count, self.lock = None, 0, threading.Lock()

    def at_least(self, threads: int) -> ThreadPoolExecutor:
        """A pool of at least so many threads."""
        with self.lock:
            if self.pool is None or self.count < threads:
                self.pool, self.count = _started(threads), threads
            return self.pool


def _started(threads: int) -> ThreadPoolExecutor:
    """A pool in which every thread runs torch on one thread; the thread count of the process is restored."""
    before, ready = torch.get_num_threads(), threading.Barrier(threads + 1)

    def single_threaded() -> None:
        torch.get_num_threads()  # initializes the count of this thread now, so that it does not override the next line
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, "trueness", single_threaded)
    for _ in range(threads):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(before)
    return pool


_POOL = ThreadPool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.reset)


def parallel(work: Callable[[int, int], Result], points: int, threads: int) -> list[Result]:
    """``work(start, stop)`` for as many ranges of 0 … ``points`` as there are threads, each range on its own thread.

    A single range runs on the calling thread. An exception is raised after all ranges have ended.
    """
    if threads == 1:
        return [work(0, points)]
    inference = torch.is_inference_mode_enabled()

    def part(k: int) -> Result:
        with torch.inference_mode(inference), torch.no_grad():
            return work(points * k // threads, points * (k + 1) // threads)

    pool = _POOL.at_least(threads)
    parts = [pool.submit(part, k) for k in range(threads)]
    wait(parts)
    return [p.result() for p in parts]
