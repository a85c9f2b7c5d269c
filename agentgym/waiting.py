"""Waiting: steps that say what they wait for, and the threads in which what they wait for runs.

A step that waits is a generator that yields what it waits for, so that one thread can drive many of them. An
environment writes such a step once, as ``step_in_parts(action)``, and its ``step`` is
``finish(self.step_in_parts(action))``, which waits here. A rollout starts what the steps of all its episodes wait for,
in threads, and goes on with each when that is done.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
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


class OutOfTime(TimeoutError):
    """A call took longer than it may, and was left behind; its thread goes on for as long as it wants."""


class Threads:
    """Threads that are started when they are needed, wait for the next call, and never delay the end of the process.

    Starting a thread costs as much as a turn of an episode, and a thread that hangs in a call cannot be ended. So
    threads are used again, and one that hangs can be given up (:meth:`lose`): another one takes its place.

    Args:
        name: of the threads, in tracebacks and debuggers.
        most: calls that run at the same time, the others wait for their turn; None for any number.
        idle: seconds that a thread waits for a further call before it ends.
    """

    def __init__(self, name: str, most: int | None = None, *, idle: float = 30.0) -> None:
        self._name, self._idle = name, idle
        self._begin(most)

    def _begin(self, most: int | None) -> None:
        self._most, self._pid, self._closed = most, os.getpid(), False
        self._lock = threading.Lock()
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._count = 0  #: threads
        self._free = 0  #: of these, how many have no call to make
        self._late = 0  #: calls that no thread is there for

    def start(self, work: Callable[[], object]) -> None:
        """Call ``work`` in a thread; what it returns or raises is lost."""
        if self._pid != os.getpid():  # a forked child has none of the threads
            self._begin(self._most)
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the threads {self._name!r} were closed")
            if self._free:
                self._free -= 1
            elif not self._add():
                self._late += 1
            self._work.put(work)

    def submit(self, work: Callable[[], R]) -> Future[R]:
        """Call ``work`` in a thread; the future can be cancelled until it begins, and is by :meth:`close`."""
        future: Future[R] = Future()

        def body() -> None:
            if self._closed:
                future.cancel()
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = work()
            except BaseException as error:  # handed to whoever waits
                future.set_exception(error)
            else:
                future.set_result(result)

        self.start(body)
        return future

    def lose(self) -> None:
        """A call hangs: its thread counts no longer, and another one may be started in its place."""
        with self._lock:
            if self._most is not None:
                self._most += 1
            if self._late and self._add():
                self._late -= 1

    def close(self) -> None:
        """Let every thread end after its call; no further one can be started."""
        with self._lock:
            self._closed = True
            for _ in range(self._count):
                self._work.put(None)

    def _add(self) -> bool:
        """One more thread, where there may be one and the system still gives one."""
        if self._most is not None and self._count >= self._most:
            return False
        try:
            threading.Thread(target=self._run, args=(self._work,), name=self._name, daemon=True).start()
        except RuntimeError:  # the system's limit; the threads that there are take turns
            if not self._count:
                raise
            return False
        self._count += 1
        return True

    def _run(self, calls: SimpleQueue[Callable[[], object] | None]) -> None:
        while True:
            try:
                work = calls.get(timeout=self._idle)
            except Empty:
                with self._lock:
                    if self._free:
                        self._free -= 1
                        self._count -= 1
                        return
                continue  # a call was meant for this thread in this very moment
            if work is None:
                return
            try:  # noqa: SIM105 (this is faster)
                work()
            except BaseException:  # noqa: S110 (whoever wants to know asks for a future)
                pass
            del work  # it may hold on to an environment
            with self._lock:
                if self._late:
                    self._late -= 1
                else:
                    self._free += 1


def limited(work: Callable[[], R], seconds: float | None, threads: Threads) -> R:
    """What ``work`` returns or raises; with a limit it is called in a thread, which is given up when time is over.

    Raises:
        OutOfTime: it took longer than ``seconds``.
    """
    if seconds is None:
        return work()
    call = threads.submit(work)
    try:
        return call.result(seconds)
    except TimeoutError:
        if call.done():  # in this very moment, or the error is its own
            return call.result()
    if not call.cancel():
        threads.lose()
    raise OutOfTime(f"it took longer than {seconds:g} s and was left behind")
