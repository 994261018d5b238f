"""Threads of our own, for work whose parts are independent: torch's own wait on each other at every operation.

They are started once and kept: what torch and oneDNN set up on a new thread takes a millisecond.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

import torch

Found = TypeVar("Found")


@dataclass
class ThreadPool:
    """The threads so far; a forked process has none."""

    pool: ThreadPoolExecutor | None = None
    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def forget(self) -> None:
        self.pool, self.count, self.lock = None, 0, threading.Lock()

    def at_least(self, threads: int) -> ThreadPoolExecutor:
        with self.lock:
            if self.pool is None or self.count < threads:
                self.pool, self.count = _started(threads), threads
            return self.pool


def _started(threads: int) -> ThreadPoolExecutor:
    """Each of them tells torch to stay on it; the number of threads of the process is put back before any work."""
    before, ready = torch.get_num_threads(), threading.Barrier(threads + 1)

    def alone() -> None:
        torch.get_num_threads()  # the number of the process is taken over once, here, and not later in the work
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, "trueness", alone)
    for _ in range(threads):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(before)
    return pool


_POOL = ThreadPool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.forget)


def parallel(work: Callable[[int, int], Found], points: int, threads: int) -> list[Found]:
    """``work(start, stop)`` for as many ranges of 0 … ``points`` as there are threads, each on a thread of its own.

    With one thread it is the caller's. An exception is raised once all have ended.
    """
    if threads == 1:
        return [work(0, points)]
    inference = torch.is_inference_mode_enabled()

    def part(k: int) -> Found:
        with torch.inference_mode(inference), torch.no_grad():
            return work(points * k // threads, points * (k + 1) // threads)

    pool = _POOL.at_least(threads)
    parts = [pool.submit(part, k) for k in range(threads)]
    wait(parts)
    return [p.result() for p in parts]
