"""Which tasks are played."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from agentgym import keyed_random
from agentgym.records import Task
from agentgym.trainers.parts import sampler

#: ``(run_key, update, count, num_tasks) -> tasks``: so many, drawn by key, so the same for a resumed run.
#: ``num_tasks``: how many exist, if finite.
TaskSampler: TypeAlias = Callable[[int, int, int, int | None], list[Task]]


@sampler
def uniform() -> TaskSampler:
    """Tasks without preference: fresh seeds where tasks are generated, shuffled passes where they are finitely many."""

    def sample(run_key: int, update: int, count: int, num_tasks: int | None) -> list[Task]:
        if num_tasks is None:
            return [Task(keyed_random.key(run_key, "task", update, i) >> 33) for i in range(count)]
        return [_numbered(run_key, update * count + i, num_tasks) for i in range(count)]

    return sample


def _numbered(run_key: int, position: int, num_tasks: int) -> Task:
    """The task at a position of an endless sequence of shuffled passes over all tasks."""
    epoch, place = divmod(position, num_tasks)
    index = int(_shuffled(run_key, epoch, num_tasks)[place])
    return Task(index, {"task": index})


@functools.lru_cache(maxsize=8)
def _shuffled(run_key: int, epoch: int, num_tasks: int) -> NDArray[np.intp]:
    """One pass over all tasks [num_tasks]; kept, because it is made for every task drawn from it."""
    return np.argsort([keyed_random.key(run_key, "epoch", epoch, i) for i in range(num_tasks)])
