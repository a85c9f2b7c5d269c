"""What happened, as small frozen dataclasses: a task is played as an episode of turns.

Nothing here imports torch, and nothing here changes after it was written. Fields that hold wall-clock seconds are
left out of comparisons, so two runs with one seed give *equal* records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple


class StopReason(StrEnum):
    """Why an episode ended; exactly one per episode."""

    TERMINATED = "terminated"  #: by the task's own rule (solved, answered, lost)
    TURN_LIMIT = "turn_limit"  #: the environment or the rollout cut it off (Gymnasium's ``truncated``)
    BUDGET = "budget"  #: a budget with ``on_exhausted="truncate"`` ran out
    CONTEXT_FULL = "context_full"  #: the next context would not fit the policy's window
    POLICY_STOPPED = "policy_stopped"  #: the policy gave up (a person left, a script ended)
    ACTION_ERROR = "action_error"  #: the environment raised over an action: the agent's failure, it counts
    WORLD_FAULT = "world_fault"  #: the world broke (``WorldFault``, ``reset`` failed), twice; left out and counted
    POLICY_ERROR = "policy_error"  #: the policy could not answer; left out and counted

    @classmethod
    def _missing_(cls, value: object) -> StopReason | None:
        """Older records have one reason for every error of an environment, and it was left out."""
        return cls.WORLD_FAULT if value == "environment_error" else None


CallStatus = Literal["ran", "refused", "malformed"]
"""What became of a call: it ran (perhaps into an error), a budget refused it, or its tool is unknown or its arguments
are wrong. Only calls that ran count as made."""


class CallCounts(NamedTuple):
    """How many calls ran, and how many never did."""

    made: int = 0
    refused: int = 0
    malformed: int = 0

    @classmethod
    def of(cls, calls: Iterable[ToolCall]) -> CallCounts:
        """Count calls by their status."""
        found = Counter(call.status for call in calls)
        return cls(found["ran"], found["refused"], found["malformed"])


@dataclass(frozen=True, slots=True)
class Task:
    """One problem instance: all that ``reset`` needs to start the same episode again.

    Attributes:
        seed: passed to ``reset(seed=...)``.
        options: passed to ``reset(options=...)``; JSON values only.
        task_id: what the environment calls it (``info["task_id"]``); filled in once it was reset.
    """

    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    task_id: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One named call inside an action, with what came back."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    result: str = ""
    error: str | None = None  #: why it failed or did not run; None when it went well
    seconds: float = field(default=0.0, compare=False)
    cost: float = 0.0
    status: CallStatus = "ran"


@dataclass(frozen=True, slots=True)
class Usage:
    """What one turn (or, added up, an episode) consumed.

    ``model_seconds``, ``tool_seconds`` (inside ``env.step``) and ``waiting_seconds`` (neither) are kept apart.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    model_seconds: float = field(default=0.0, compare=False)
    tool_seconds: float = field(default=0.0, compare=False)
    waiting_seconds: float = field(default=0.0, compare=False)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
            self.model_seconds + other.model_seconds,
            self.tool_seconds + other.tool_seconds,
            self.waiting_seconds + other.waiting_seconds,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """The tokens of one action exactly as they were sampled; they are never re-tokenised.

    A context is stored against the turn before: it is the first ``keep`` tokens of (previous context + previous
    action), then ``context``. With an append-only context ``keep`` is everything, so an episode stores each token once.

    Attributes:
        keep: tokens taken over from the previous turn's context + action.
        context: the tokens that follow them and end the context.
        action: the sampled tokens, end-of-turn token included.
        logprobs: natural log of the sampling probability of each action token, [len(action)].
        entropies: entropy in nats of each action token's distribution, [len(action)]; empty unless asked for.
        version: how many updates the policy had seen.
        choices: the token ids among which each action token was drawn, [len(action)]; empty: the whole vocabulary.
    """

    keep: int
    context: tuple[int, ...]
    action: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()
    version: int = 0
    choices: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def behind(cls, before: Sequence[int], context: Sequence[int], action: Sequence[int], **rest: Any) -> Sample:
        """The sample of an action, its context stored against the tokens of the turn before.

        Args:
            before: context and action of the turn before; empty on the first turn.
            context: the full context of this action.
            **rest: further attributes.
        """
        keep = common_prefix(before, context)
        return cls(keep, tuple(context[keep:]), tuple(action), **rest)

    def extend(self, ids: list[int]) -> int:
        """Make context and action of the turn before into those of this one, in place; where the action begins."""
        ids[self.keep :] = self.context
        start = len(ids)
        ids.extend(self.action)
        return start


@dataclass(frozen=True, slots=True)
class Turn:
    """One observation, the action that answered it, and the reward of that action."""

    observation: str
    action: str
    reward: float = 0.0
    anchor: str | None = None  #: digest of the state that this action met
    error: str | None = None  #: why the environment did not understand the action
    tool_calls: tuple[ToolCall, ...] = ()
    sample: Sample | None = None
    usage: Usage = Usage()
    screenshot: bytes | None = field(default=None, compare=False)  #: PNG of what the action met, where there is one
    columns: Mapping[str, float | str] = field(default_factory=dict)  #: what the environment says for rewards to read

    @property
    def call_counts(self) -> CallCounts:
        """Its calls by what became of them."""
        return CallCounts.of(self.tool_calls)


@dataclass(frozen=True, slots=True)
class Episode:
    """The turns of one task from ``reset`` to the end.

    Attributes:
        id: unique in a run.
        env: id of the environment.
        fingerprint: content hash of the environment's grammar, prompts and data; episodes whose fingerprints differ are
            not compared.
        group: episodes with one group played the same task and are compared with each other.
        member: the episode's number in its group.
        parent, fork_turn: for a branch, the episode it was forked from and the first turn of its own.
        success: what the environment said on the last turn; None where it says nothing.
        final: the observation after the last action, which nothing answered.
        final_context: the context that ends with it, stored as that of one more turn, without an action; None where no
            turn could follow, or where the policy does not say what it sees.
        answers, evidence: accepted answers and supporting document ids; for reward and credit only, never shown.
        failure: the message of the exception behind ``ACTION_ERROR``, ``WORLD_FAULT`` or ``POLICY_ERROR``.
        metrics: numbers of the whole episode that the environment gave on the last turn.
    """

    id: str
    env: str
    task: Task
    turns: tuple[Turn, ...]
    stop: StopReason
    _: KW_ONLY
    success: bool | None = None
    group: str = ""
    member: int = 0
    parent: str | None = None
    fork_turn: int | None = None
    final: str = ""
    final_context: Sample | None = None
    answers: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    failure: str | None = None
    fingerprint: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def reward(self) -> float:
        """Undiscounted sum of the turns' rewards."""
        return sum(t.reward for t in self.turns)

    @property
    def failed(self) -> bool:
        """Whether something other than the agent ended it; such an episode is left out, teaches nothing, is counted."""
        return self.stop in (StopReason.WORLD_FAULT, StopReason.POLICY_ERROR)

    @property
    def truncated(self) -> bool:
        """Whether a limit cut it off; never true together with :attr:`terminated`."""
        return self.stop in (StopReason.TURN_LIMIT, StopReason.BUDGET, StopReason.CONTEXT_FULL)

    @property
    def terminated(self) -> bool:
        """Whether nothing can follow: the task's own rule ended it, or the agent's action broke it."""
        return self.stop in (StopReason.TERMINATED, StopReason.ACTION_ERROR)

    @property
    def solved(self) -> bool:
        """Whether it solved its task: what the environment said. Where it said nothing, an episode that was cut off or
        stopped did not, and one that terminated did if its rewards add up to more than 0.
        """
        return self.success if self.success is not None else self.terminated and self.reward > 0

    @property
    def own_turns(self) -> tuple[Turn, ...]:
        """The turns that were played for this episode; those before its fork are its parent's."""
        return self.turns[self.fork_turn or 0 :]

    @property
    def usage(self) -> Usage:
        """Sum over the turns, those before a fork included."""
        return sum((t.usage for t in self.turns), Usage())

    @property
    def call_counts(self) -> CallCounts:
        """The calls of all turns by what became of them."""
        return CallCounts.of(call for turn in self.turns for call in turn.tool_calls)

    @property
    def tool_calls(self) -> int:
        """Calls that ran, in all turns."""
        return self.call_counts.made

    def contexts(self) -> list[tuple[int, ...]]:
        """The full context of every turn that has a sample, in order."""
        out: list[tuple[int, ...]] = []
        ids: list[int] = []
        for turn in self.turns:
            if turn.sample is not None:
                start = turn.sample.extend(ids)
                out.append(tuple(ids[:start]))
        return out

    def context_behind(self) -> tuple[int, ...] | None:
        """The full context behind the last turn, where it was recorded."""
        if self.final_context is None:
            return None
        ids = sampled_ids(self.turns)
        self.final_context.extend(ids)
        return tuple(ids)


def sampled_ids(turns: Iterable[Turn]) -> list[int]:
    """Context and action of the last turn, put together from the samples of all turns; empty without samples."""
    ids: list[int] = []
    for turn in turns:
        if turn.sample is not None:
            turn.sample.extend(ids)
    return ids


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    size = min(len(a), len(b))
    if list(a[:size]) == list(b[:size]):
        return size
    low, high = 0, size
    while low < high:  # the first difference, by halves: slices are compared in C
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
