"""Many scenarios on a few processes: order does not matter, results are kept as they come, Ctrl-C ends it cleanly.

Worker processes are started anew (no fork of a process that holds a solver), run at low priority and leave Ctrl-C
to the parent, which drops what has not begun, waits for what is in hand and keeps what was finished.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Final, TypeVar

NICENESS: Final = 10
AHEAD: Final = 2
"""Pieces of work handed out per process; more only delays the end after Ctrl-C."""

R = TypeVar("R")


def spread(work: Callable[[int], R], numbers: Sequence[int], jobs: int) -> Iterator[R]:
    """Results of ``work`` for each number, as they come. With one job everything happens in this process."""
    if jobs == 1:
        yield from map(work, numbers)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_settle_in)
    try:
        waiting = list(reversed(numbers))
        running: set[Future[R]] = set()
        while waiting or running:
            while waiting and len(running) < AHEAD * jobs:
                running.add(pool.submit(work, waiting.pop()))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _settle_in() -> None:
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
