"""Steps that wait: a generator that yields what it waits for, so that one thread can drive many of them.

An environment writes such a step once, as ``step_in_parts(action)``, and its ``step`` is
``finish(self.step_in_parts(action))``, which waits here. A rollout starts what the steps of all its episodes wait for,
in threads, and goes on with each when that is done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Protocol, TypeVar

R = TypeVar("R")


class Job(Protocol):
    """Something that may take long.

    Attributes:
        limit: seconds that it may take; None for any time.
        aside: whether it must not run where it is waited for, even if nothing else does.
        began, ended: when, by ``time.perf_counter``; 0 before that.
        late: it was given up.
        error: what it raised.
    """

    limit: float | None
    began: float
    ended: float
    late: bool
    error: BaseException | None

    @property
    def aside(self) -> bool: ...

    def run(self) -> None:
        """Do it here and now; it raises nothing."""

    def start(self, done: Callable[[], object]) -> None:
        """Do it elsewhere, and call ``done`` there."""

    def give_up(self) -> None:
        """It is out of time."""


Waiting = Generator[Sequence[Job], None, R]
"""Yields jobs, side by side, and is to be resumed when each has ended or is ``late``."""


def finish(steps: Waiting[R]) -> R:
    """What the generator returns, or raises; its jobs are waited for here."""
    try:
        while True:
            wait_for(next(steps))
    except StopIteration as over:
        result: R = over.value
        return result


def wait_for(jobs: Sequence[Job]) -> None:
    """Do the jobs, side by side if they are several; each is given up when its time is over."""
    if len(jobs) == 1 and not jobs[0].aside:
        jobs[0].run()
        return
    begin = time.perf_counter()
    started = []
    for job in jobs:
        over = threading.Lock()  # one lock wakes the one that waits; a Future would take three
        over.acquire()
        job.start(over.release)
        started.append((job, over))
    for job, over in started:
        left = -1.0 if job.limit is None else max(0.0, begin + job.limit - time.perf_counter())
        if not over.acquire(timeout=left):
            job.give_up()
