"""Which tasks are played, and which of the played groups are learned from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from agentgym import draws
from agentgym.errors import UsageError
from agentgym.records import Episode, Task
from agentgym.trainers.turns import named


class TaskSampling(Protocol):
    """Chooses the tasks of an update."""

    def __call__(self, run_key: int, update: int, count: int, num_tasks: int | None) -> list[Task]:
        """``count`` tasks; drawn by key, so the same for a resumed run. ``num_tasks``: how many exist, if finite."""


@dataclass(frozen=True)
class _Uniform:
    name: str = "uniform"

    def __call__(self, run_key: int, update: int, count: int, num_tasks: int | None) -> list[Task]:
        if num_tasks is None:
            return [Task(draws.key(run_key, "task", update, i) >> 33) for i in range(count)]
        return [_numbered(run_key, update * count + i, num_tasks) for i in range(count)]

    def __repr__(self) -> str:
        return self.name


def _numbered(run_key: int, position: int, num_tasks: int) -> Task:
    """The task at a position of an endless sequence of shuffled passes over all tasks."""
    epoch, place = divmod(position, num_tasks)
    index = int(_shuffled(run_key, epoch, num_tasks)[place])
    return Task(index, {"task": index})


@functools.lru_cache(maxsize=8)
def _shuffled(run_key: int, epoch: int, num_tasks: int) -> NDArray[np.intp]:
    """One pass over all tasks [num_tasks]; kept, because it is made for every task drawn from it."""
    return np.argsort([draws.key(run_key, "epoch", epoch, i) for i in range(num_tasks)])


@named
def uniform() -> TaskSampling:
    """Tasks without preference: fresh seeds where tasks are generated, shuffled passes where they are finitely many."""
    return _Uniform()


@dataclass(frozen=True)
class Selection:
    """Which groups are kept, and how many rollouts may be spent to fill the batch with kept ones.

    Attributes:
        keep: whether a group's episodes (failed ones left out) are learned from.
        rollouts: at most so many rollouts an update; 1 never rolls out again.
    """

    keep: Callable[[Sequence[Episode]], bool]
    rollouts: int = 1
    name: str = "selection"

    def __repr__(self) -> str:
        return self.name


@named
def everything() -> Selection:
    """Every group."""
    return Selection(lambda group: True)


@named
def with_spread(rollouts: int = 1, of: Literal["reward", "success"] = "reward") -> Selection:
    """Only groups whose episode rewards differ: where all are equal, a group baseline leaves no signal.

    Args:
        rollouts: DAPO's dynamic sampling (2503.14476): roll out again, at most so often, until the batch is full; what
            is kept beyond the batch is dropped. 1: train on what is left.
        of: what must differ; ``success`` (:attr:`Episode.solved`) where rewards are never quite equal.
    """
    if rollouts < 1:
        raise UsageError(f"rollouts must be at least 1, got {rollouts}")
    what = attrgetter("solved" if of == "success" else "reward")
    return Selection(lambda group: len(set(map(what, group))) > 1, rollouts)
