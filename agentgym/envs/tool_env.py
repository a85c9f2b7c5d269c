"""Tools, tasks and a scorer make an environment.

>>> from agentgym.envs.tool_env import Question, ToolEnv
>>> from agentgym.tools.tool import tool
>>> capitals = {"France": "Paris", "Peru": "Lima", "Kenya": "Nairobi"}
>>> @tool
... def almanac(country: str) -> str:
...     '''Look a country up.
...
...     Args:
...         country: its English name.
...     '''
...     return f"The capital of {country} is {capitals[country]}."
>>> env = ToolEnv(
...     tools=[almanac],
...     tasks=[Question(f"What is the capital of {name}?", answers=[city]) for name, city in capitals.items()],
...     scorer=lambda answer, question: answer in question.answers,
...     syntax="tags",
... )
>>> observation, info = env.reset(seed=0)
>>> env.step("<almanac>Peru</almanac>")[0]
'<result>\\nThe capital of Peru is Lima.\\n</result>'
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, Self

import gymnasium as gym
import numpy as np

from agentgym.env import StepResult, Text, TextEnv, digest
from agentgym.envs.tasks import Question, Tasks, TaskSource
from agentgym.errors import UsageError
from agentgym.records import ToolCall
from agentgym.tools.execution import Execution
from agentgym.tools.sampling import WORDS, sample_call
from agentgym.tools.session import MakeSession, required_parameters
from agentgym.tools.syntax import make_syntax
from agentgym.tools.syntax.base import Call, Parsed
from agentgym.tools.tool import Tool, named
from agentgym.tools.toolbox import Gate, Toolbox
from agentgym.waiting import Waiting, finish

__all__ = ["NOTHING", "OVER", "Question", "Score", "Scorer", "Tasks", "ToolEnv"]

NOTHING = "neither a tool call nor an answer"
OVER = "The answer was received; the episode is over."
ANSWERS = 0.1  #: share of answers among random actions
_ENCODE = json.JSONEncoder(sort_keys=True).encode
_WORD = re.compile(r"\w[\w-]*")
_WORDS, _SEEN = 200, 4000  # words that random actions are made of, and characters in which they are looked for


class Score(NamedTuple):
    """What an episode earns at its end."""

    reward: float
    success: bool


Scorer = Callable[..., "float | Score"]
"""``scorer(answer, question)`` or ``scorer(answer, question, session)``."""


class ToolEnv(TextEnv):
    """An environment in which the agent calls tools until it answers.

    Each turn, the action is read by the syntax. Its calls are run and their results are the next observation; an answer
    ends the episode and is scored; any other text returns an error message and uses up the turn. After ``max_turns``
    turns without an answer the episode is truncated. The reward comes with the last turn.

    The anchor stands for what is known so far, because that is what later behaviour depends on: the task, the *set* of
    calls of tools without a session that succeeded (their order does not matter, and repeating one or failing changes
    nothing), and the *sequence* of calls of tools with one. It does not include how many turns are left.

    Tools that name one ``session`` share it for the episode, and the scorer may look at it: see
    :mod:`agentgym.tools.session`. A fork has copies of the sessions.

    Where a task names the documents that support its answer and a tool shows documents (``Tool.shows``), each turn has
    two columns: ``evidence_recall``, the share of them that results have shown so far, and ``evidence_cited``, the
    share of them that earlier turns had shown and this action cites as ``[id]``. The last recall is in the metrics.

    A budget refuses calls through :attr:`gate`, asked once for every valid call before it runs, in the order of the
    calls. Set it before each ``step``: a fork starts without one.

    Args:
        tools: the tools, or a :class:`~agentgym.tools.toolbox.Toolbox` to take them from; nothing else of it is shared.
        tasks: questions by split; or one list, of which a fifth (by a hash of the text, so that equal texts stay
            together) is the test split; or a lazy sequence of the split's questions: any other object with ``__len__``
            and ``__getitem__``, which makes a question when it is asked for; or ``generate(rng, split)``, for tasks
            without end. Lazy sequences and generators must keep their splits apart.
        scorer: ``scorer(answer, question)`` or ``scorer(answer, question, session)`` -> the reward (success from 1 up),
            or a :class:`Score`.
        syntax: how calls are written; see :func:`agentgym.tools.syntax.syntaxes`.
        max_turns: actions before the episode is truncated.
        max_calls: calls that one action may hold.
        instructions: what the agent must know beside the tools.
        expert: ``expert(env)`` -> the next call, the answer, or None; for supervised fine-tuning and tests.
        session: which of the tools' sessions the scorer sees, named as in ``@tool(session=...)``; needed only where the
            tools have several.
        split: ``"train"``, ``"test"``, or whatever splits ``tasks`` gives; a generator with others names them in a
            subclass's ``splits``.

    Attributes:
        question: the running task.
        tasks: the split's tasks by number; None where they are generated without end.
        calls: the episode's calls so far.
        tools: the episode's toolbox, with its counters.
        gate: refuses calls; see above.
    """

    def __init__(
        self,
        tools: Iterable[Tool] | Toolbox,
        tasks: Tasks,
        scorer: Scorer,
        *,
        syntax: str = "hermes",
        max_turns: int = 10,
        max_calls: int = 8,
        instructions: str = "",
        expert: Callable[[ToolEnv], Call | str | None] | None = None,
        session: MakeSession | None = None,
        split: str = "train",
    ) -> None:
        if isinstance(tasks, Mapping):
            self.splits = tuple(tasks)
        super().__init__(split=split)
        for name, value in (("max_turns", max_turns), ("max_calls", max_calls)):
            if value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        self.max_turns, self.max_calls = max_turns, max_calls
        self.gate: Gate | None = None
        self._written, self._instructions = syntax, instructions
        self._equip(tools if isinstance(tools, Toolbox) else Toolbox(tools))
        self._scorer, self._expert, self._session = scorer, expert, session
        self._scorer_sees_session = required_parameters(scorer) >= 3  # a third one
        if session is not None and session not in self.tools.session_makers:
            raise UsageError(f"no tool has the session {session!r}; write @tool(session=...) with the same one")
        if self._scorer_sees_session:
            self._session = self._session_maker()  # refused now and not at the end of an episode
        self._task_source = TaskSource(tasks, split)
        self.tasks, self.num_tasks = self._task_source.sequence, self._task_source.count
        self._begin(Question(""))
        self._running = False

    def add_tools(self, tools: Iterable[Tool | str]) -> None:
        """Give the agent further tools; before the first ``reset``.

        Args:
            tools: tools, or ``module:name`` of tools.

        Raises:
            UsageError: no tool of that name, or one that is called as another.
        """
        more = [named(item) if isinstance(item, str) else item for item in tools]
        self._equip(Toolbox([*self.tools.tools, *more]))

    def _equip(self, tools: Toolbox) -> None:
        self.tools = tools.open()
        self.syntax = make_syntax(self._written, self.tools.tools)
        self.instructions = "\n\n".join(filter(None, (self._instructions, self.syntax.describe())))
        self.waits = any(t.waits for t in self.tools.tools)
        self._fingerprint = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        gym.Env.reset(self, seed=seed)
        question = self._task_source.pick(options or {}, self.np_random)
        self.tools.close()
        self.tools = self.tools.open(question)
        self._begin(question)
        return question.text, self._info()

    def _begin(self, question: Question) -> None:
        self.question, self._evidence = question, tuple(dict.fromkeys(question.evidence))
        self.calls: list[ToolCall] = []
        self.turn = 0
        self._running = True
        self._task = digest(question)
        self._known: set[str] = set()
        self._trail = ""

    def step(self, action: str) -> StepResult:
        return finish(self.step_in_parts(action))

    def step_in_parts(self, action: str) -> Waiting[StepResult]:
        if not self._running:
            raise gym.error.ResetNeeded("no episode is running; call reset() before step()")
        self.turn += 1
        parsed, read = self.syntax.parse(action), self.documents_shown(self._evidence)
        if parsed.answer is not None:
            self._running = False
            score = yield from self._scored(parsed.answer)
            return OVER, score.reward, True, False, self._info(success=score.success, **self._found(action, read))
        observation, told = yield from self._play(parsed)
        if self.turn < self.max_turns:
            return observation, 0.0, False, False, self._info(**told, **self._found(action, read))
        self._running = False
        score = yield from self._scored(None)
        found = self._found(action, read)
        return observation, score.reward, False, True, self._info(**told, **found, success=score.success)

    def _scored(self, answer: str | None) -> Waiting[Score]:
        scoring = Execution(partial(self.score, answer))
        yield (scoring,)
        score: Score = scoring.result()
        return score

    def score(self, answer: str | None) -> Score:
        """What the episode earns with this answer, or without one when its turns are used up."""
        if answer is None:
            return Score(0.0, False)
        seen = (self.session,) if self._scorer_sees_session else ()
        value = self._scorer(answer, self.question, *seen)
        return value if isinstance(value, Score) else Score(float(value), bool(value >= 1.0))

    def documents_shown(self, documents: Iterable[str]) -> list[str]:
        """Those of the documents that results of this episode contain, in the order given."""
        done = [(self.syntax.tools[call.name].shows, call.result) for call in self.calls if call.error is None]
        return [d for d in documents if any(shows is not None and shows(result, d) for shows, result in done)]

    @property
    def evidence_recall(self) -> float:
        """Share of the task's supporting documents that results have shown so far; 1 where it names none."""
        return len(self.documents_shown(self._evidence)) / len(self._evidence) if self._evidence else 1.0

    def _found(self, action: str, read: Collection[str]) -> dict[str, Any]:
        """``info`` about the supporting documents, of which results had shown some before the action."""
        if not self._evidence or all(tool.shows is None for tool in self.tools.tools):
            return {}
        cited = sum(f"[{' '.join(document.split())}]" in action for document in read) / len(self._evidence)
        columns = {"evidence_recall": self.evidence_recall, "evidence_cited": cited}
        over = {} if self._running else {"metrics": {"evidence_recall": columns["evidence_recall"]}}
        return {"columns": columns, **over}

    @property
    def session(self) -> Any:
        """What the tools remember in this episode, as the scorer sees it; made now if no call needed it yet.

        Raises:
            UsageError: no tool has a session, or they have several and none was chosen.
        """
        return self.tools.session(self._session_maker())

    def _session_maker(self) -> MakeSession:
        makers = (self._session,) if self._session is not None else self.tools.session_makers
        if len(makers) != 1:
            names = ", ".join(getattr(m, "__qualname__", repr(m)) for m in makers)
            raise UsageError(
                f"the tools have several sessions ({names}); say which one the scorer sees: ToolEnv(..., session=...)"
                if makers
                else "no tool has a session that a scorer could see; write @tool(session=...) for those that remember"
            )
        return makers[0]

    def expert(self) -> str | None:
        """A good next action, None where no expert was given or it knows none."""
        move = self._expert(self) if self._expert is not None else None
        if move is None:
            return None
        return self.syntax.render([move]) if isinstance(move, Call) else self.syntax.render(answer=move)

    def sample_action(self, rng: np.random.Generator) -> str:
        """A valid action drawn at random: a call whose arguments fit the tool's schema, now and then an answer.

        Texts in it are words of the question and of the last result. Random play and ``agentgym check`` act so.
        """
        words = tuple(dict.fromkeys(_WORD.findall(self._seen)))[:_WORDS] or WORDS
        for place in rng.permutation(len(self.syntax.tools)) if rng.random() >= ANSWERS else ():
            known = list(self.syntax.tools.values())[place]
            arguments = sample_call(known, rng, words=words)
            with contextlib.suppress(UsageError):  # this syntax cannot say it
                if arguments is not None:
                    return self.syntax.render([Call(known.name, arguments)])
        return self.syntax.render(answer=words[int(rng.integers(len(words)))] or WORDS[0])

    @property
    def _seen(self) -> str:
        return self.question.text[:_SEEN] + " " + (self.calls[-1].result[:_SEEN] if self.calls else "")

    def fork(self) -> Self:
        """An independent copy of the running episode; a subclass with state of its own copies that too."""
        twin = copy.copy(self)
        twin._np_random = copy.deepcopy(self._np_random)
        twin.observation_space, twin.action_space = Text(), Text()
        twin.gate = None
        twin.tools = self.tools.fork()
        twin.calls, twin._known = list(self.calls), set(self._known)
        return twin

    def close(self) -> None:
        self.tools.close()
        super().close()

    @property
    def fingerprint(self) -> str:
        """Content hash of the class, the instructions (tools included), the limits, and the tasks of all splits given.

        A few tasks stand for a lazy sequence or a generator. The data that the tools search is not included; a subclass
        adds it.
        """
        if not self._fingerprint:
            tasks = self._task_source.summary()
            schemas = json.dumps(self.tools.schemas(), sort_keys=True)
            self._fingerprint = digest(super().fingerprint, schemas, self.max_turns, self.max_calls, tasks)
        return self._fingerprint

    @property
    def anchor(self) -> str:
        """Digest of the task and of the results so far; see the class."""
        return digest(self._task, sorted(self._known), self._trail)

    def _play(self, parsed: Parsed) -> Waiting[tuple[str, dict[str, Any]]]:
        """Run the calls; the observation, and what ``info`` says about the turn."""
        error = parsed.error or (None if parsed.calls else NOTHING)
        if len(parsed.calls) > self.max_calls:
            error = f"{len(parsed.calls)} calls in one action; at most {self.max_calls} are allowed"
        if error is not None:
            return f"Not understood: {error}. {self.syntax.hint}", {"error": error}
        made = yield from self.tools.calling(parsed.calls, gate=self.gate)
        told: dict[str, Any] = {"tool_calls": made}
        for call in made:
            if call.status == "malformed":
                told.setdefault("error", call.error)
            elif call.status == "ran":
                self._remember(call)
        self.calls += made
        return "\n".join(map(self.syntax.render_result, made)), told

    def _remember(self, call: ToolCall) -> None:
        key = digest(call.name, _ENCODE(call.arguments), call.result, call.error)
        if self.syntax.tools[call.name].session is not None:
            self._trail = digest(self._trail, key)
        elif call.error is None:
            self._known.add(key)

    def _info(self, **more: Any) -> dict[str, Any]:
        question = self.question
        info: dict[str, Any] = {"task_id": question.id or self._task, "anchor": self.anchor, **more}
        if question.answers:
            info["answers"] = tuple(question.answers)
        if question.evidence:
            info["evidence"] = tuple(question.evidence)
        return info
