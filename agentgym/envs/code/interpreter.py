"""What environments with a Python interpreter share: a sandbox for all of them, a session for each episode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypedDict

from agentgym.env import digest
from agentgym.envs.tool_env import Question, Scorer, Tasks, ToolEnv
from agentgym.errors import UnknownName, UsageError
from agentgym.tools.python.protocol import Failure, Limits, Sandbox
from agentgym.tools.python.tool import (
    FAILURES,
    MAX_RESULT_CHARACTERS,
    TOOL_LIMITS,
    Runner,
    failure_of,
    python_tool,
    shared_sandbox,
)
from agentgym.tools.session import MakeSession
from agentgym.tools.syntax.base import Call
from agentgym.tools.tool import Tool
from agentgym.tools.toolbox import Toolbox


class PythonOptions(TypedDict, total=False):
    """What the user of any environment with an interpreter may choose; see :class:`PythonEnv`."""

    sandbox: str
    unsafe_local_python: bool
    limits: Limits | None
    stateful: bool
    characters: int
    penalties: Mapping[str, float] | None
    syntax: str


class PythonEnv(ToolEnv):
    """A :class:`~agentgym.envs.tool_env.ToolEnv` with the tool ``python``.

    All environments of a process share one sandbox; a session costs nothing until it runs code and ends with its
    episode. A task brings files along in ``Question.data["files"]``. Python's ``random`` is seeded by the task, so that
    a fork or a replay draws the same numbers. A fork replays the session's calls; it raises a ForkError
    where one gives another result (it read the clock).

    Args:
        tools: other tools, called before it in the instructions.
        tasks, scorer, syntax, max_turns, instructions, expert, session, split: see ``ToolEnv``.
        sandbox: ``"auto"``, ``"bubblewrap"``, ``"docker"``, or ``"unsafe-local"``.
        unsafe_local_python: run the model's code WITHOUT A SANDBOX, with all your rights, where no sandbox works.
        limits: what one call may use.
        stateful: whether variables live on from call to call.
        characters: length to which results are cut.
        penalties: failure (``"exception"``, ``"timeout"``, ...) -> what a call that ends so costs, in reward.

    Raises:
        SandboxUnavailable: no sandbox works here; one line that says what to install.
    """

    def __init__(
        self,
        tools: Iterable[Tool],
        tasks: Tasks,
        scorer: Scorer,
        *,
        sandbox: str = "auto",
        unsafe_local_python: bool = False,
        limits: Limits | None = None,
        stateful: bool = True,
        characters: int = MAX_RESULT_CHARACTERS,
        penalties: Mapping[str, float] | None = None,
        syntax: str = "tags",
        max_turns: int = 4,
        instructions: str = "",
        expert: Callable[[ToolEnv], Call | str | None] | None = None,
        session: MakeSession | None = None,
        split: str = "train",
    ) -> None:
        self._penalties = _checked(penalties or {})
        self._limits = limits or TOOL_LIMITS
        self.sandbox: Sandbox = shared_sandbox(sandbox, limits=self._limits, unsafe_local=unsafe_local_python)
        self._stateful = stateful
        self._runner = Runner(self.sandbox, {}, None, characters)
        self._python = python_tool(self.sandbox, stateful=stateful, characters=characters)
        super().__init__(
            [*tools, self._python],
            tasks,
            scorer,
            syntax=syntax,
            max_turns=max_turns,
            instructions=instructions,
            expert=expert,
            session=session,
            split=split,
        )

    def _equip(self, tools: Toolbox) -> None:
        super()._equip(tools)
        self.waits = True
        others = [t for t in tools.tools if t.name != self._python.name]
        self.lockstep = not any(t.waits for t in others)  # a sandbox's answers do not depend on when they come

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        runner = replace(self._runner, files=self.question.data.get("files", {}), seed=_seed(self.question))
        tools = [runner.attach(t) if t.name == self._python.name else t for t in self.tools.tools]
        self.tools = Toolbox(tools).open(self.question)
        return observation, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if self._penalties:
            failures = [failure_of(call) for call in info.get("tool_calls", ())]
            reward -= sum(self._penalties.get(failure, 0.0) for failure in failures if failure is not None)
        if terminated or truncated:
            self.tools.close()
        return observation, reward, terminated, truncated, info

    @property
    def fingerprint(self) -> str:
        """As for every ``ToolEnv``, with the limits of a call; it does not depend on which sandbox enforces them."""
        penalties = sorted(self._penalties.items())
        return digest(super().fingerprint, self._limits, self._stateful, self._runner.characters, penalties)


def _seed(question: Question) -> int:
    """The same for every episode of a task."""
    return int(digest(question.text), 16) >> 32


def _checked(penalties: Mapping[str, float]) -> dict[str, float]:
    for name, value in penalties.items():
        if name not in FAILURES:
            raise UnknownName("failure", name, sorted(FAILURES))
        if not value >= 0:
            raise UsageError(f"penalties are not negative, got {value!r} for {name!r}")
    return {str(Failure(name)): float(value) for name, value in penalties.items()}
