"""``agentgym/SearchCode-v0``: both tools in one environment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Unpack

from agentgym.env import SPLITS, digest
from agentgym.envs.code.interpreter import PythonEnv, PythonOptions
from agentgym.envs.code.scoring import equal
from agentgym.envs.search.expert import next_move as next_search
from agentgym.envs.search.world import shared_world
from agentgym.envs.search_code.questions import KINDS, MAX_HOPS, draw
from agentgym.envs.tool_env import Question, Score, ToolEnv
from agentgym.errors import UnknownName, UsageError
from agentgym.tools.search import fetch_tool, search_tool
from agentgym.tools.syntax.base import Call

INSTRUCTIONS = (
    "Answer the question: look the facts up in the encyclopedia, then compute with Python. Give the number alone."
)


class SearchCodeEnv(PythonEnv):
    """Look facts up in an invented encyclopedia and compute with them.

    The facts are those of the search world, so nobody knows them by heart; the arithmetic is too long for the head.
    The splits share no person, place, work, organisation or event, and ``unseen`` follows one relation more.

    The last turn's reward is 1 for the right number, plus ``evidence_reward`` times the share of the supporting
    documents that the searches showed (``evidence_recall``, see ``ToolEnv``).

    Args:
        split: ``"train"``, ``"test"`` or ``"unseen"``.
        hops: relations to follow before the facts that are computed with, 0 to 3, or several such numbers; default 0.
        kinds: ``"days"``, ``"squares"``, ``"product"``, ``"power"``; all if left out.
        documents: how many the world has, 400 to 1,000,000.
        world: seed of the world.
        k: passages a search shows.
        result_characters: length at which a passage is cut.
        fetch: whether there is a tool that opens a document by its id.
        evidence_reward: see above.
        max_turns: actions before the episode is truncated.
        options: sandbox, unsafe_local_python, limits, stateful, characters, penalties and syntax, as in
            :class:`~agentgym.envs.code.interpreter.PythonEnv`.
    """

    splits: tuple[str, ...] = SPLITS

    def __init__(
        self,
        *,
        split: str = "train",
        hops: int | Sequence[int] = 0,
        kinds: str | Sequence[str] | None = None,
        documents: int = 1000,
        world: int = 0,
        k: int = 2,
        result_characters: int = 300,
        fetch: bool = False,
        evidence_reward: float = 0.0,
        max_turns: int = 16,
        **options: Unpack[PythonOptions],
    ) -> None:
        steps = (hops,) if isinstance(hops, int) else tuple(hops)
        chosen_kinds = tuple(KINDS) if kinds is None else (kinds,) if isinstance(kinds, str) else tuple(kinds)
        if not steps or not all(isinstance(h, int) and 0 <= h <= MAX_HOPS for h in steps):
            raise UsageError(f"hops must be 0 to {MAX_HOPS}, or several of them, got {hops!r}")
        for kind in chosen_kinds:
            if kind not in KINDS:
                raise UnknownName("kind of question", kind, KINDS)
        if not chosen_kinds:
            raise UsageError("kinds must name at least one; leave it out for all: " + ", ".join(KINDS))
        encyclopedia, index = shared_world(documents, world)
        tools = [search_tool(index, k=k, characters=result_characters)]
        if fetch:
            tools.append(fetch_tool(index))
        self._evidence_reward = evidence_reward
        self._source = (documents, world, steps, chosen_kinds, k, result_characters, evidence_reward)
        super().__init__(
            tools,
            partial(draw, world=encyclopedia, kinds=chosen_kinds, hops=steps),
            _right,
            max_turns=max_turns,
            instructions=INSTRUCTIONS,
            expert=next_move,
            split=split,
            **options,
        )

    def score(self, answer: str | None) -> Score:
        value = super().score(answer)
        if not self._evidence_reward:
            return value
        return value._replace(reward=value.reward + self._evidence_reward * self.evidence_recall)

    @property
    def fingerprint(self) -> str:
        return digest(super().fingerprint, self._source)


def next_move(env: ToolEnv) -> Call | str | None:
    """The expert: search for one subject after another, then run the program, then answer with what it printed."""
    program = env.question.data["program"]
    runs = [call for call in env.calls if call.arguments.get("code") == program]
    if runs:
        return runs[-1].result.splitlines()[-1].strip() if runs[-1].error is None else None
    move = next_search(env)
    return Call("python", {"code": program}) if isinstance(move, str) else move


def _right(answer: str, question: Question) -> Score:
    right = any(equal(answer, accepted) for accepted in question.answers)
    return Score(float(right), right)
