"""Generators of what is waited for, driven where they are called."""

from __future__ import annotations

import threading

import pytest

from agentgym.tools.execution import Execution
from agentgym.waiting import OutOfTime, Waiting, finish

LONG = 60


def names() -> str:
    return threading.current_thread().name


def test_one_job_without_a_limit_runs_here_and_others_elsewhere() -> None:
    def steps() -> Waiting[list[str]]:
        alone, limited, one, two = Execution(names), Execution(names, LONG), Execution(names), Execution(names)
        yield (alone,)
        yield (limited,)
        yield (one, two)
        return [job.result() for job in (alone, limited, one, two)]

    assert finish(steps()) == [names(), "agentgym-tool", "agentgym-tool", "agentgym-tool"]


def test_jobs_of_one_wait_run_side_by_side() -> None:
    barrier = threading.Barrier(3)

    def steps() -> Waiting[int]:
        jobs = [Execution(lambda: barrier.wait(LONG)) for _ in range(3)]
        yield jobs
        return sum(job.result() for job in jobs)

    assert finish(steps()) == 0 + 1 + 2


def test_a_job_that_is_late_is_given_up_and_what_it_returns_then_is_lost() -> None:
    go, over = threading.Event(), threading.Event()

    def slow() -> str:
        go.wait(LONG)
        over.set()
        return "late"

    job, quick = Execution(slow, 0.05), Execution(lambda: "there", LONG)

    def steps() -> Waiting[None]:
        yield (job, quick)
        assert job.running
        assert quick.result() == "there"
        job.result()

    with pytest.raises(OutOfTime):
        finish(steps())
    go.set()
    assert over.wait(LONG)
    with pytest.raises(OutOfTime):
        job.result()


def test_what_a_job_raises_is_raised_where_its_result_is_read() -> None:
    def steps() -> Waiting[str]:
        job = Execution(lambda: 1 / 0)
        yield (job,)
        try:
            job.result()
        except ZeroDivisionError:
            return "caught"
        return "not caught"

    assert finish(steps()) == "caught"


def test_nothing_to_wait_for() -> None:
    def steps() -> Waiting[int]:
        yield ()
        return 3

    assert finish(steps()) == 3
