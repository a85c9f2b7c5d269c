"""A group of episodes, and an episode in the making: where it stands, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import gymnasium as gym

from agentgym import keyed_random
from agentgym.env import Info
from agentgym.policy import Reply, Request
from agentgym.records import Episode, StopReason, Task, Turn, Usage

_PRIVATE = ("answers", "evidence")
_NO_REPLY = Reply("")


class Meter(Protocol):
    """What wants to know what a reply used."""

    def charge(self, usage: Usage) -> None:
        """Count it; called before the action is played."""


def meter_of(env: gym.Env[str, str]) -> Meter | None:
    """The outermost wrapper that has a method ``charge`` (:class:`agentgym.budget.BudgetedEnv`), or the environment."""
    while True:
        if getattr(env, "charge", None) is not None:
            return cast("Meter", env)
        if not isinstance(env, gym.Wrapper):
            return None
        env = env.env


@dataclass(frozen=True, slots=True)
class Group:
    """A task that is to be played ``size`` times; its episodes get the ids ``{id}/0`` ... ``{id}/{size-1}``."""

    id: str
    task: Task
    size: int = 1


@dataclass(slots=True)
class GroupState:
    """How far a group is."""

    group: Group
    claimed: int = 0  #: episodes promised: roots that wait or started, and branches
    roots: int = 0  #: roots started
    members: int = 0  #: episodes started, branches included
    finished: int = 0
    met: bool = False  #: whether a root was reset; then ``anchor`` is where all must start
    anchor: str | None = None
    living: dict[str, LiveEpisode] = field(default_factory=dict)  #: episodes that started and are not finished

    @property
    def room(self) -> int:
        """How many more episodes may be promised."""
        return self.group.size - self.claimed

    def start(self, key: int, task: Task, env: gym.Env[str, str] | None, max_turns: int | None) -> LiveEpisode:
        """The next member."""
        episode = LiveEpisode(
            f"{self.group.id}/{self.members}", self, self.members, key, env, task, max_turns=max_turns
        )
        self.members += 1
        self.living[episode.id] = episode
        return episode


@dataclass(slots=True)
class LiveEpisode:
    """An episode in the making."""

    id: str
    state: GroupState
    member: int
    key: int  #: lineage key; turn t draws from ``keyed_random.key(key, t)``
    env: gym.Env[str, str] | None  #: None until one was made for it
    task: Task
    turns: list[Turn] = field(default_factory=list)
    observation: str = ""
    anchor: str | None = None
    info: dict[str, Any] = field(default_factory=dict)
    answers: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)  #: of the environment, by the last turn
    parent: str | None = None
    fork_turn: int | None = None
    branches: int = 0  #: forked from this turn so far
    decided: bool = False  #: whether branching was asked about this turn, or this is the turn it was forked at
    max_turns: int | None = None  #: the rollout's limit
    copied_from: str | None = None  #: a policy may copy what it keeps for this episode, until the first own reply
    meter: Meter | None = None  #: what in the environment wants to know what a reply used
    order: int = 0  #: place of its next call among those of its round
    reply: Reply = _NO_REPLY
    asked: float = 0.0  #: when the request of this turn was submitted
    model_seconds: float = 0.0
    fault: str | None = None  #: how its world failed; it is played once more, in a new environment
    redone: int | None = None  #: how many of its actions were played again there; None where nothing is to be

    def meet(self, observation: str, info: dict[str, Any]) -> None:
        """Come to a state that must be acted in."""
        self.observation, self.anchor, self.info = observation, info.get("anchor"), info
        self.branches = 0
        self.decided = self.fork_turn == len(self.turns)

    def request(self, instructions: str) -> Request:
        """The request to the policy for this turn."""
        info = self.info
        if "answers" in info or "evidence" in info:
            info = {k: v for k, v in info.items() if k not in _PRIVATE}
        key = keyed_random.key(self.key, len(self.turns))
        shown: Info = info  # type: ignore[assignment]
        return Request(self.id, key, self.observation, shown, self.turns, instructions, self.env, self.copied_from)

    def played(self, reward: float, info: dict[str, Any], began: float, ended: float) -> None:
        """The reply's action was played, from ``began`` to ``ended``."""
        reply = self.reply
        used = reply.usage
        waiting = max(0.0, began - self.asked - self.model_seconds)
        usage = Usage(used.prompt_tokens, used.completion_tokens, used.cost, self.model_seconds, ended - began, waiting)
        calls = tuple(info.get("tool_calls") or ())
        self.turns.append(
            Turn(
                self.observation,
                reply.action,
                reward,
                self.anchor,
                info.get("error"),
                calls,
                reply.sample,
                usage,
                self.info.get("screenshot"),
                info.get("columns") or {},
            )
        )
        self.metrics = info.get("metrics") or {}

    def broke(self, failure: str, began: float, ended: float) -> None:
        """The environment raised over the reply's action: it earns nothing, and its turn says why."""
        self.played(0.0, {"error": failure}, began, ended)

    def repeats(self, observation: str, info: dict[str, Any]) -> bool:
        """Whether the state met after ``redone`` repeated actions is the one that was met there the first time."""
        assert self.redone is not None
        later = self.turns[self.redone] if self.redone < len(self.turns) else self
        anchor = info.get("anchor")
        return later.observation == observation if anchor is None or later.anchor is None else later.anchor == anchor

    @property
    def replied(self) -> bool:
        """Whether the policy has answered it; False for a branch without a request so far."""
        return self.reply is not _NO_REPLY

    def record(self, env: str, stop: StopReason, **known: Any) -> Episode:
        """The episode, now that it is over; with the fields that only the rollout knows."""
        return Episode(
            self.id,
            env,
            self.task,
            tuple(self.turns),
            stop,
            group=self.state.group.id,
            member=self.member,
            parent=self.parent,
            fork_turn=self.fork_turn,
            answers=self.answers,
            evidence=self.evidence,
            metrics=self.metrics,
            **known,
        )

    def branch(self) -> LiveEpisode:
        """Another member of the group that stands where this one does; it needs a copy of the environment."""
        self.state.claimed += 1
        self.branches += 1
        key = keyed_random.key(self.key, len(self.turns), "branch", self.branches)
        twin = self.state.start(key, self.task, None, self.max_turns)
        twin.turns = list(self.turns)
        twin.answers, twin.evidence = self.answers, self.evidence
        twin.parent = twin.copied_from = self.id
        twin.fork_turn = len(self.turns)
        twin.meet(self.observation, self.info)
        return twin
