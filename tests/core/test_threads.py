"""Threads that are kept for the next call, and given up where they hang."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

import pytest

from agentgym.waiting import OutOfTime, Threads, limited


@pytest.fixture
def threads() -> Iterator[Callable[..., Threads]]:
    made: list[Threads] = []

    def make(*arguments: object, **options: object) -> Threads:
        made.append(Threads("test", *arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_calls_one_after_the_other_share_a_thread(threads: Callable[..., Threads]) -> None:
    pool = threads()
    seen = {pool.submit(threading.get_ident).result(30) for _ in range(20) if not time.sleep(0.002)}
    assert len(seen) == 1


def test_calls_that_wait_run_side_by_side(threads: Callable[..., Threads]) -> None:
    pool, together = threads(), threading.Barrier(8)
    calls = [pool.submit(lambda: together.wait(30)) for _ in range(8)]
    assert sorted(call.result(30) for call in calls) == list(range(8))


def test_at_most_so_many_run_and_none_is_forgotten(threads: Callable[..., Threads]) -> None:
    pool, lock = threads(3), threading.Lock()
    running = most = 0

    def work() -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1
        return 1

    assert sum(f.result(30) for f in [pool.submit(work) for _ in range(30)]) == 30
    assert most == 3


def test_what_is_raised_comes_back_and_ends_no_thread(threads: Callable[..., Threads]) -> None:
    pool = threads(1)

    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        pool.submit(leave).result(30)
    pool.start(leave)
    assert pool.submit(lambda: "still there").result(30) == "still there"


def test_a_thread_that_hangs_is_replaced(threads: Callable[..., Threads]) -> None:
    pool, go = threads(1), threading.Event()
    with pytest.raises(OutOfTime, match=r"longer than 0\.05 s"):
        limited(lambda: go.wait(60), 0.05, pool)
    assert limited(lambda: "next", 30, pool) == "next"
    late = pool.submit(lambda: "while another one hung")
    assert late.result(30) == "while another one hung"
    go.set()


def test_a_call_that_waits_takes_the_place_of_one_that_is_lost(threads: Callable[..., Threads]) -> None:
    pool, go = threads(1), threading.Event()
    pool.start(lambda: go.wait(60))
    waits = pool.submit(lambda: "at last")
    assert not waits.done()
    pool.lose()
    assert waits.result(30) == "at last"
    go.set()


def test_an_own_timeout_is_no_limit(threads: Callable[..., Threads]) -> None:
    def impatient() -> None:
        raise TimeoutError("the server")

    with pytest.raises(TimeoutError, match="the server") as raised:
        limited(impatient, 30, threads())
    assert not isinstance(raised.value, OutOfTime)


def test_idle_threads_end_and_others_take_over(threads: Callable[..., Threads]) -> None:
    pool = threads(idle=0.02)
    first = pool.submit(threading.current_thread).result(30)
    first.join(30)
    assert not first.is_alive()
    assert pool.submit(threading.current_thread).result(30) is not first


def test_closed_threads_end_and_take_nothing(threads: Callable[..., Threads]) -> None:
    pool, began, go = threads(1), threading.Event(), threading.Event()
    busy = pool.submit(lambda: (began.set(), go.wait(30), threading.current_thread())[2])
    waits = pool.submit(lambda: "never")
    assert began.wait(30)
    pool.close()
    go.set()
    busy.result(30).join(30)
    with pytest.raises(CancelledError):
        waits.result(30)
    with pytest.raises(RuntimeError, match="were closed"):
        pool.start(print)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_threads_of_its_own(threads: Callable[..., Threads]) -> None:
    pool = threads()
    pool.submit(print).result(30)
    child = os.fork()
    if child == 0:
        os._exit(pool.submit(lambda: 7).result(30))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_thread_that_hangs_does_not_keep_the_process() -> None:
    code = (
        "import threading; from agentgym.waiting import Threads; "
        "Threads('t').start(threading.Event().wait); print('the end')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "the end\n")
