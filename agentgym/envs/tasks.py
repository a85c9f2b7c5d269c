"""The tasks of a :class:`~agentgym.envs.tool_env.ToolEnv`: a list, a lazy sequence, or a generator without end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from agentgym.env import digest
from agentgym.errors import UsageError

_SAMPLES = 8  # tasks that stand for a lazy sequence or a generator in the fingerprint


@dataclass(frozen=True, slots=True)
class Question:
    """One task of a :class:`~agentgym.envs.tool_env.ToolEnv`.

    Attributes:
        text: the first observation.
        answers: accepted answers; for scores, rewards and advantages only, never shown.
        evidence: ids of the documents that support the answer; never shown.
        id: ``info["task_id"]``; a digest of the rest where it is left out.
        data: whatever else a scorer or an expert needs; JSON values; never shown.
    """

    text: str
    answers: Sequence[str] = ()
    evidence: Sequence[str] = ()
    id: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


class TaskSequence(Protocol):
    """Finitely many questions; each may be made when it is asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> Question: ...


Tasks = TaskSequence | Mapping[str, TaskSequence] | Callable[[np.random.Generator, str], Question]


class SplitQuestions:
    """Questions that belong to one split already: a lazy sequence, so they are neither split nor compared."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._questions = questions

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, number: int) -> Question:
        return self._questions[number]


class TaskSource:
    """The tasks of one split.

    Args:
        tasks, split: as in :class:`~agentgym.envs.tool_env.ToolEnv`.

    Attributes:
        sequence: the split's questions; None where they are generated without end.

    Raises:
        UsageError: the split has no tasks, or lists of different splits share a text.
    """

    def __init__(self, tasks: Tasks, split: str) -> None:
        self._split = split
        self._generate = tasks if callable(tasks) else None
        self.sequence = None if callable(tasks) else questions_of(tasks, split)

    @property
    def count(self) -> int | None:
        """How many tasks there are; None where they are generated without end."""
        return None if self.sequence is None else len(self.sequence)

    def pick(self, options: Mapping[str, Any], rng: np.random.Generator) -> Question:
        """The task that ``options["task"]`` names in a finite sequence; without a number, one drawn with ``rng``.

        Raises:
            UsageError: another option, a number out of range, or a number where tasks are generated without end.
        """
        if unknown := sorted(set(options) - {"task"}):
            raise UsageError(f"unknown reset option {unknown[0]!r}; 'task' is the only one")
        number = options.get("task")
        if self._generate is not None:
            if number is not None:
                raise UsageError("these tasks are generated without end; choose one by reset(seed=...)")
            return self._generate(rng, self._split)
        assert self.sequence is not None
        count = len(self.sequence)
        if number is None:
            number = int(rng.integers(count))
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or not 0 <= number < count:
            raise UsageError(f"task must be a number from 0 to {count - 1}, got {number!r}")
        return self.sequence[int(number)]

    def summary(self) -> Sequence[Question]:
        """What stands for the tasks in a fingerprint: all of a list, a few of a lazy sequence or a generator."""
        if isinstance(self.sequence, tuple):
            return self.sequence
        return [self.pick({}, np.random.default_rng(seed)) for seed in range(_SAMPLES)]


def questions_of(tasks: TaskSequence | Mapping[str, TaskSequence], split: str) -> TaskSequence:
    """The questions of a split. Lists become tuples; a lazy sequence is taken as it is.

    Raises:
        UsageError: there are none, or lists that were given by hand for different splits share a text.
    """
    if isinstance(tasks, Mapping):
        lists = {name: list(given) for name, given in tasks.items() if isinstance(given, list | tuple)}
        others = {q.text for name, questions in lists.items() if name != split for q in questions}
        if shared := next((q.text for q in lists.get(split, ()) if q.text in others), None):
            raise UsageError(f"the question {shared[:60]!r} is in {split!r} and in another split; splits must not meet")
        chosen = tuple(lists[split]) if split in lists else tasks[split]
    elif isinstance(tasks, list | tuple):
        texts = sorted({q.text for q in tasks}, key=lambda text: (digest(text), text))
        held_out = set(texts[: max(1, len(texts) // 5)])
        chosen = tuple(q for q in tasks if (q.text in held_out) == (split == "test"))
    else:
        chosen = tasks
    if not len(chosen):
        raise UsageError(f"no tasks for split {split!r}; give more, or {{'train': [...], {split!r}: [...]}}")
    return chosen
