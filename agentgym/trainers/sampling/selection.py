"""Which of the played groups are learned from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from pydantic import PositiveInt

from agentgym.records import Episode
from agentgym.trainers.parts import selection


@dataclass(frozen=True)
class Selection:
    """Which groups are kept, and how many rollouts may be spent to fill the batch with kept ones.

    Attributes:
        keep: whether a group's episodes (failed ones left out) are learned from.
        rollouts: at most so many rollouts an update; 1 never rolls out again.
    """

    keep: Callable[[Sequence[Episode]], bool]
    rollouts: int = 1

    def __call__(self, group: Sequence[Episode]) -> bool:
        return self.keep(group)


@selection
def keep_all() -> Selection:
    """Every group."""
    return Selection(lambda group: True)


@selection
def nonzero_variance(rollouts: PositiveInt = 1, of: Literal["reward", "success"] = "reward") -> Selection:
    """Only groups whose episode rewards differ: where all are equal, a group baseline leaves no signal.

    Args:
        rollouts: DAPO's dynamic sampling (2503.14476): roll out again, at most so often, until the batch is full; what
            is kept beyond the batch is dropped. 1: train on what is left.
        of: what must differ; ``success`` (:attr:`Episode.solved`) where rewards are never quite equal.
    """
    what = attrgetter("solved" if of == "success" else "reward")
    return Selection(lambda group: len(set(map(what, group))) > 1, rollouts)
