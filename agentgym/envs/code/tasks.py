"""Generated tasks: a family draws a draft for a level, and the draft's own text decides the split it belongs to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from agentgym.env import digest
from agentgym.envs.tool_env import Question
from agentgym.errors import UsageError

LEVELS = (1, 5)  #: easiest and hardest of train and test
HARDER = 2  #: levels that ``unseen`` adds
_SIDES = {"train": range(6), "test": range(6, 7), "unseen": range(7, 8)}
_TRIES = 2000

_T = TypeVar("_T")


@dataclass(frozen=True)
class Draft:
    """A task before its answer is worked out.

    Attributes:
        text: the task.
        solve: computes the answer independently of ``program``.
        program: prints the answer; what the expert runs. For a program to be written: an accepted one.
        files: relative path -> text, for the session.
        tests: for a program to be written: hidden inputs and the outputs that they must give; ``solve`` is not used.
    """

    text: str
    program: str
    solve: Callable[[], str] = str
    files: Mapping[str, str] = field(default_factory=dict)
    tests: Callable[[], Sequence[tuple[str, str]]] | None = None


Family = Callable[[np.random.Generator, int], Draft]


def side(text: str, files: Mapping[str, str | bytes]) -> str:
    """The split that a task belongs to: six of eight hashes are train, one is test, one is unseen."""
    place = int(digest(text, sorted(files.items())), 16) % 8
    return next(split for split, places in _SIDES.items() if place in places)


def generate(rng: np.random.Generator, split: str, families: Mapping[str, Family], levels: Sequence[int]) -> Question:
    """A task of that split, of one of the families and levels; in ``unseen`` of a level that is higher by two."""
    name = choose(rng, list(families))
    level = choose(rng, levels) + (HARDER if split == "unseen" else 0)
    for _ in range(_TRIES):
        draft = families[name](rng, level)
        if side(draft.text, draft.files) == split:
            return finished(draft, name, level)
    raise UsageError(f"family {name!r} has no task of level {level} in split {split!r}; choose a higher level")


def finished(draft: Draft, family: str, level: int) -> Question:
    """The draft with its answer."""
    data: dict[str, object] = {"family": family, "level": level, "program": draft.program}
    if draft.files:
        data["files"] = dict(draft.files)
    name = f"{family}-{level}-{digest(draft.text, sorted(draft.files.items()))}"
    if draft.tests is None:
        return Question(draft.text, (draft.solve(),), id=name, data=data)
    data["tests"] = [list(test) for test in draft.tests()]
    return Question(draft.text, id=name, data=data)


def whole(rng: np.random.Generator, low: int, high: int) -> int:
    """An integer from ``low`` to ``high``, both included."""
    return int(rng.integers(low, high + 1))


def choose(rng: np.random.Generator, items: Sequence[_T]) -> _T:
    """One of the items."""
    return items[int(rng.integers(len(items)))]


def some(rng: np.random.Generator, items: Sequence[_T], count: int) -> list[_T]:
    """``count`` different ones of the items, in random order."""
    return [items[int(i)] for i in rng.permutation(len(items))[:count]]


def literal(value: object) -> str:
    """A value of JSON types as Python source."""
    return repr(json.loads(json.dumps(value)))
