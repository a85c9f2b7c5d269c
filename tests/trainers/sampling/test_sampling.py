"""Which tasks are played, and which groups are kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentgym.errors import UsageError
from agentgym.models import contexts
from agentgym.records import Episode, StopReason, Task, Turn
from agentgym.trainers.sampling.contexts import full_history, window, workspace
from agentgym.trainers.sampling.selection import keep_all, nonzero_variance
from agentgym.trainers.sampling.tasks import uniform


def group(*rewards):
    return [Episode(str(n), "e", Task(0), (Turn("o", "a", r),), StopReason.TERMINATED) for n, r in enumerate(rewards)]


def test_generated_tasks_are_fresh_seeds():
    draw = uniform()
    seen = [t.seed for update in range(1, 6) for t in draw(7, update, 50, None)]
    assert len(set(seen)) == 250
    assert all(0 <= seed < 2**31 for seed in seen)
    assert draw(7, 3, 50, None) == draw(7, 3, 50, None)
    assert draw(8, 3, 50, None) != draw(7, 3, 50, None)


def test_finite_tasks_come_in_shuffled_passes():
    draw = uniform()
    tasks = [t for update in range(6) for t in draw(1, update, 5, 10)]  # three passes over ten tasks
    passes = [[t.options["task"] for t in tasks[i : i + 10]] for i in (0, 10, 20)]
    assert all(sorted(p) == list(range(10)) for p in passes)
    assert passes[0] != passes[1] != passes[2]
    assert all(t.seed == t.options["task"] for t in tasks)


def test_a_batch_larger_than_the_tasks_wraps_around():
    tasks = [t.options["task"] for t in uniform()(1, 0, 7, 3)]
    assert sorted(tasks[:3]) == sorted(tasks[3:6]) == [0, 1, 2]


def test_selections():
    assert keep_all()(group(1.0, 1.0))
    assert keep_all().function.rollouts == 1
    differing = nonzero_variance(4)
    assert differing.function.rollouts == 4
    assert differing(group(0.0, 1.0))
    assert not differing(group(1.0, 1.0))
    assert not differing(group(1.0))
    cut = [replace(e, stop=StopReason.TURN_LIMIT) for e in group(0.0, 0.5)]  # nothing said, none solved
    assert not nonzero_variance(of="success")([*cut, replace(cut[0], success=False)])
    assert nonzero_variance(of="success")([*cut, replace(cut[0], success=True)])
    with pytest.raises(UsageError, match=r"nonzero_variance: rollouts: input should be greater than 0 \(got 0\)"):
        nonzero_variance(0)


@pytest.mark.parametrize(
    ("context", "text"),
    [
        (full_history(), "full_history()"),
        (window(4), "window(4)"),
        (workspace(instructions=False), "workspace(instructions=False)"),
    ],
)
def test_contexts_as_parts_are_shown_with_their_arguments(context, text):
    assert repr(context) == text
    assert context.stage == "context"
    plain = getattr(contexts, text.partition("(")[0])
    assert context.function.__qualname__.startswith(f"{plain.__name__}.")
    with pytest.raises(UsageError, match=r"window: turns: input should be a valid integer \(got 'two'\)"):
        window("two")
