"""``agentgym/Code-v0``: tasks that are hard in the head and easy with Python."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Unpack

from agentgym.env import SPLITS, digest
from agentgym.envs.code import reasoning
from agentgym.envs.code.families import FAMILIES
from agentgym.envs.code.interpreter import PythonEnv, PythonOptions
from agentgym.envs.code.judge import passed
from agentgym.envs.code.own import read_tasks
from agentgym.envs.code.scoring import equal
from agentgym.envs.code.tasks import LEVELS, generate
from agentgym.envs.code.verifier_client import same_maths
from agentgym.envs.tasks import SplitQuestions
from agentgym.envs.tool_env import Question, Score, Tasks, ToolEnv
from agentgym.errors import UnknownName, UsageError
from agentgym.tools.syntax.base import Call

INSTRUCTIONS = "Solve the task; compute with Python where it helps. Give the answer alone, without words around it."


class CodeEnv(PythonEnv):
    """Solve a task with the help of a Python interpreter.

    Tasks are generated (number theory, combinatorics, dates, strings, tables, data files, simulation, programs to be
    written), or come from a JSON-lines file (:mod:`agentgym.envs.code.own`) or from reasoning-gym
    (:mod:`agentgym.envs.code.reasoning`). A generated task belongs to the split that a hash of its text and files
    says, so no task is in two; ``unseen`` draws its parameters two levels higher.

    The last turn's reward is 1 for a right answer and 0 otherwise (reasoning-gym's verifiers give parts of 1). A
    program to be written is the answer itself; it runs on hidden inputs in the sandbox, its output is compared outside.

    Args:
        split: ``"train"``, ``"test"`` or ``"unseen"``.
        level: 1 (easy) to 5, or several; of generated tasks. Default 1, 2 and 3.
        families: names of families (see :data:`agentgym.envs.code.families.FAMILIES`); all if left out.
        tasks: a JSON-lines file, or ``"reasoning-gym:NAME,NAME"``, instead of generated ones.
        partial_credit: reward a program by the share of hidden tests that it passes.
        max_turns: actions before the episode is truncated.
        options: sandbox, unsafe_local_python, limits, stateful, characters, penalties and syntax, as in
            :class:`~agentgym.envs.code.interpreter.PythonEnv`.
    """

    splits: tuple[str, ...] = SPLITS

    def __init__(
        self,
        *,
        split: str = "train",
        level: int | Sequence[int] | None = None,
        families: str | Sequence[str] | None = None,
        tasks: str | None = None,
        partial_credit: bool = False,
        max_turns: int = 4,
        **options: Unpack[PythonOptions],
    ) -> None:
        if tasks is not None and (level is not None or families is not None):
            raise UsageError("level and families belong to generated tasks; leave them out with tasks=")
        self._partial_credit = partial_credit
        source: object = tasks
        if tasks is None:
            made = _families(families), _levels(level)
            questions: Tasks = partial(generate, families=made[0], levels=made[1])
            source = (sorted(made[0]), made[1])
        elif tasks.startswith(reasoning.PREFIX):
            self.splits = SPLITS[:2]
            questions = partial(reasoning.draw, names=reasoning.names_of(tasks))
        else:
            by_split = read_tasks(tasks)
            self.splits = tuple(by_split)
            if split not in by_split:
                raise UsageError(
                    f"{tasks!r} has no task in split {split!r}; it has {', '.join(by_split) or 'none at all'}"
                )
            questions = SplitQuestions(by_split[split])
            source = digest(by_split)
        self._source = source
        super().__init__(
            (),
            questions,
            self._judged,
            max_turns=max_turns,
            instructions=INSTRUCTIONS,
            expert=next_move,
            split=split,
            **options,
        )

    @property
    def fingerprint(self) -> str:
        return digest(super().fingerprint, self._source, self._partial_credit)

    def _judged(self, answer: str, question: Question) -> Score:
        data = question.data
        if "tests" in data:
            tests = data["tests"]
            count = passed(self.sandbox, answer, tests, stop=not self._partial_credit)
            share = count / len(tests)
            return Score(share if self._partial_credit else float(share == 1.0), share == 1.0)
        if "reasoning_gym" in data:
            value = reasoning.score(answer, data["reasoning_gym"])
            return Score(value, value >= reasoning.SUCCESS)
        right = any(equal(answer, accepted) for accepted in question.answers)
        if not right and data.get("verify") == "math":
            right = any(same_maths(answer, accepted) for accepted in question.answers)
        return Score(float(right), right)

    def _info(self, **more: Any) -> dict[str, Any]:
        """As for every ``ToolEnv``, with ``family`` and ``level`` where the task has them."""
        info = super()._info(**more)
        info.update((key, self.question.data[key]) for key in ("family", "level") if key in self.question.data)
        return info


def next_move(env: ToolEnv) -> Call | str | None:
    """The expert: run the task's program, then answer with what it printed (or with the program, if that was asked
    for); None where the generator knows no program, or the call did not bring its output."""
    program = env.question.data.get("program")
    if program is None:
        return None
    code, tests = program, env.question.data.get("tests")
    if tests:  # try it on a made-up input, as a person would
        code = f"import io, sys\nsys.stdin = io.StringIO({tests[0][0]!r})\n{program}"
    runs = [call for call in env.calls if call.arguments.get("code") == code]
    if not runs:
        return Call("python", {"code": code})
    if runs[-1].error is not None:
        return None
    return program if tests else runs[-1].result.splitlines()[-1].strip()


def _levels(level: int | Sequence[int] | None) -> tuple[int, ...]:
    chosen = (1, 2, 3) if level is None else (level,) if isinstance(level, int) else tuple(level)
    low, high = LEVELS
    if not chosen or not all(isinstance(one, int) and low <= one <= high for one in chosen):
        raise UsageError(f"level must be {low} to {high}, or several of them, got {level!r}")
    return chosen


def _families(names: str | Sequence[str] | None) -> dict[str, Any]:
    chosen = list(FAMILIES) if names is None else [names] if isinstance(names, str) else list(names)
    for name in chosen:
        if name not in FAMILIES:
            raise UnknownName("family", name, FAMILIES)
    if not chosen:
        raise UsageError("families must name at least one; leave it out for all: " + ", ".join(FAMILIES))
    return {name: FAMILIES[name] for name in chosen}
