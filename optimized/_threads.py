"""Threads of our own, for work whose parts are independent: torch's own wait on each other at every operation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Found = TypeVar("Found")


def parallel(work: Callable[[int, int], Found], points: int, threads: int) -> list[Found]:
    """``work(start, stop)`` for as many ranges of 0 … ``points`` as there are threads, each on a thread of its own.

    A thread tells torch to stay on it; the number of threads of the process is put back before the work begins.
    """
    if threads == 1:
        return [work(0, points)]
    found: list[Any] = [None] * threads
    failed: list[BaseException] = []
    before, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()
    ready, begin = threading.Barrier(threads + 1), threading.Event()

    def run(k: int) -> None:
        torch.get_num_threads()  # the number of the process is taken over once, here, and not later in the work
        torch.set_num_threads(1)
        ready.wait()
        begin.wait()
        try:
            with torch.inference_mode(inference), torch.no_grad():
                found[k] = work(points * k // threads, points * (k + 1) // threads)
        except BaseException as error:
            failed.append(error)

    workers = [threading.Thread(target=run, args=(k,)) for k in range(threads)]
    for worker in workers:
        worker.start()
    ready.wait()
    torch.set_num_threads(before)
    begin.set()
    for worker in workers:
        worker.join()
    if failed:
        raise failed[0]
    return found
