"""Who is told what a run does, and what they want to know early: how long it takes, and whether it learns anything."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol

from agentgym.records import Episode
from agentgym.rollout.pace import clock
from agentgym.trainers.run.config import TrainConfig

_PATIENCE = 2  #: updates from which nothing was learned, before that is said; then after twice as many each time
_RECENT = 10  #: updates that say how long the next ones take
_MANY = 0.5  #: share of turns above which something is named as a reason
_SHOWN = 80  # characters of an error


class Progress(Protocol):
    """Is told what happens; the command line draws it."""

    def __call__(self, stage: str, metrics: Mapping[str, Any]) -> None:
        """``stage``: ``sft``, ``update`` or ``evaluation``; any other text is a message.

        An object that also has a method ``playing(pace)`` is told after every turn how far a rollout is.
        """


def silent(stage: str, metrics: Mapping[str, Any]) -> None:
    """Show nothing."""


class Outlook:
    """Follows a run, and says in a line what is worth knowing.

    Args:
        config: the run's options.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._updates: deque[float] = deque(maxlen=_RECENT)  # seconds
        self._evaluation = 0.0  # seconds of the last one
        self._idle = 0  # updates in a row from which nothing was learned
        self._say_at = _PATIENCE

    def seconds_left(self, update: int) -> float | None:
        """Until the last update is made; None before one was made here. ``stop_at`` may end the run before."""
        if not self._updates:
            return None
        rest = self._config.run.updates - update
        return sum(self._updates) / len(self._updates) * rest + self._evaluation * self._evaluations_after(update)

    def heading(self, what: str, update: int) -> str:
        """What is played now, and how long the run will take after so many updates, where that is known."""
        left = self.seconds_left(update)
        return f"{what} ({clock(left)} to go)" if left else what

    def _evaluations_after(self, update: int) -> int:
        config = self._config
        if not config.eval.every:
            return int(update < config.run.updates)
        last = update < config.run.updates and config.run.updates % config.eval.every != 0
        return config.run.updates // config.eval.every - update // config.eval.every + last

    def evaluated(self, update: int, seconds: float, episodes: int) -> list[str]:
        """An evaluation was made; before the first update it says how long rollouts and evaluations will take.

        Between two bounds where a rollout has another number of episodes: episodes that are played together cost at
        least as much as one, and at most as much as one after the other.
        """
        self._evaluation = seconds
        config = self._config
        size = config.rollout.groups * config.rollout.group_size
        if update or not config.run.updates or not episodes:
            return []
        places = config.rollout.max_concurrent_episodes
        together = -(-size // places) / -(-episodes // places)
        evaluations = self._evaluations_after(0)
        bounds = sorted((together, size / episodes))
        low, high = (clock(seconds * (factor * config.run.updates + evaluations)) for factor in bounds)
        what = (
            f"{config.run.updates} rollouts of {size} episodes and {evaluations} evaluation{'s' * (evaluations != 1)}"
        )
        about = f"take about {low}" if low == high else f"take {low} to {high}"
        return [f"{what} {about}, judging by this one of {episodes}; the updates come on top"]

    def updated(self, update: int, seconds: float, played: Sequence[Episode], metrics: Mapping[str, Any]) -> list[str]:
        """An update was made from these episodes; ``metrics`` are the learner's."""
        told = []
        self._updates.append(seconds)
        left = self.seconds_left(update)
        if len(self._updates) == 1 and left:
            told.append(f"update {update} took {seconds:.3g} s; about {clock(left)} to go")
        self._idle = 0 if metrics.get("grad_norm") else self._idle + 1
        if not self._idle:
            self._say_at = _PATIENCE
        elif self._idle == self._say_at:
            self._say_at *= 2
            told.append(why_nothing_was_learned(self._idle, played, self._config.rollout.max_new_tokens))
        return told


def why_nothing_was_learned(updates: int, played: Sequence[Episode], max_new_tokens: int) -> str:
    """In one line, from the episodes of the last update: the gradient was zero, and why.

    Args:
        updates: how many in a row.
        played: all episodes of the last of them; members of a group follow each other.
        max_new_tokens: the length limit of an action.
    """
    episodes = [e for e in played if not e.failed]
    groups = [list(members) for _, members in groupby(episodes, key=lambda e: e.group)]
    rewards = [sorted({e.reward for e in group}) for group in groups]
    differ = sum(len(values) > 1 for values in rewards)
    begin = "" if differ else "no group differed: "
    head = f"{begin}nothing was learned in {updates} updates, because"
    if not episodes:
        return f"{head} every episode failed in the world or the policy"
    if differ:
        return (
            f"{head} the gradient was zero, though rewards differ in {differ} of {len(groups)} groups: see what the "
            "algorithm selects, weighs and clips"
        )
    if all(len(group) == 1 for group in groups):
        return f"{head} a group of one episode has nobody to be compared with; set rollout.group_size=8"
    counts = Counter(values[0] for values in rewards)
    if len(counts) == 1:
        because = f"all {len(episodes)} episodes earned {rewards[0][0]:g}"
    else:
        shares = ", ".join(f"{number} group{'s' * (number != 1)} {value:g}" for value, number in sorted(counts.items()))
        because = f"the members of every group earned the same ({shares})"
    return f"{head} {because}{_reason(episodes, max_new_tokens)}"


def _reason(episodes: Sequence[Episode], max_new_tokens: int) -> str:
    """What the episodes have in common, and what may help."""
    turns = [turn for e in episodes for turn in e.turns]
    errors = [turn.error for turn in turns if turn.error is not None]
    long = sum(turn.sample is not None and len(turn.sample.action) >= max_new_tokens for turn in turns)
    if all(e.solved for e in episodes):
        return "; all are solved: harder tasks would teach more"
    if errors and len(errors) > _MANY * len(turns):
        first = " ".join(errors[0].split())
        first = first if len(first) <= _SHOWN else first[:_SHOWN] + "..."
        why = f"; {len(errors)} of {len(turns)} turns were not understood, the first: {first!r}"
        if long > _MANY * len(turns):
            why += f"; {long} were cut at rollout.max_new_tokens={max_new_tokens}"
        return why + "; fine-tuning teaches the form (sft.episodes=200, where there is an expert)"
    if long > _MANY * len(turns):
        return f"; {long} of {len(turns)} actions were cut at rollout.max_new_tokens={max_new_tokens}: give them more"
    return "; easier tasks, larger groups or fine-tuning (sft.episodes=200) give some that differ"
