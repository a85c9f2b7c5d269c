"""The rules behind :mod:`agentgym.trainers.sampling.branching`: what each remembers, and how it decides."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agentgym import keyed_random
from agentgym.errors import UsageError
from agentgym.policy import Policy, Reply
from agentgym.records import Episode, Sample
from agentgym.rollout import GroupState, Independent, LiveEpisode


@dataclass(frozen=True, slots=True)
class BranchDecision:
    """One decision: a state at which an episode could be branched.

    Attributes:
        group, episode, parent: where; ``parent`` is the episode that this one was itself forked from.
        turn: the fork's position: turns before it are shared.
        signal: what the rule looked at (for entropy branching ΔH).
        chance, draw: branched if draw < chance.
        branches: how many copies were asked for.
    """

    group: str
    episode: str
    parent: str | None
    turn: int
    signal: float
    chance: float
    draw: float
    branches: int


@dataclass
class Chance(Independent):
    """A coin flip with probability ``alpha``; and what all rules with a probability share."""

    alpha: float = 0.5
    share: int | None = None
    each: int = 1
    cap: int | None = None
    fill: bool = True
    probe: int = 1
    decisions: list[BranchDecision] = field(default_factory=list)
    made: int = 0  #: branches asked for since the rollout began

    def begin(self, policy: Policy) -> None:
        self.made = 0

    def roots(self, size: int) -> int:
        return min(size, self.share if self.share is not None else (size + 1) // 2)

    def signal(self, episode: LiveEpisode, reply: Reply) -> float:
        """What the chance is made of."""
        return 0.0

    def chance(self, episode: LiveEpisode, signal: float) -> float:
        """Probability of branching."""
        return self.alpha

    def branches(self, episode: LiveEpisode, reply: Reply) -> int:
        turn = len(episode.turns)
        if turn == 0 or episode.turns[-1].error is not None:
            return 0
        signal = self.signal(episode, reply)
        chance = min(1.0, max(0.0, self.chance(episode, signal)))
        draw = keyed_random.uniform(episode.key, turn, "fork")
        count = self.each if self.accepts(chance, draw) else 0
        if self.fill and episode.max_turns is not None and turn == episode.max_turns - 1:
            count = max(count, _share(episode))
        room = episode.state.room if self.cap is None else min(episode.state.room, self.cap - self.made)
        count = max(0, min(count, room))
        self.made += count
        place = (episode.state.group.id, episode.id, episode.parent, turn)
        self.decisions.append(BranchDecision(*place, signal, chance, draw, count))
        return count

    def accepts(self, chance: float, draw: float) -> bool:
        """Whether to branch."""
        return draw < chance


def _share(episode: LiveEpisode) -> int:
    """An even share of the room among the episodes of the group that may still branch, this one included."""
    others = sum(e is not episode and not (e.decided and _is_last(e)) for e in episode.state.living.values())
    return math.ceil(episode.state.room / (1 + others))


def _is_last(episode: LiveEpisode) -> bool:
    return episode.max_turns is not None and len(episode.turns) >= episode.max_turns - 1


@dataclass
class Entropy(Chance):
    """:func:`agentgym.trainers.sampling.branching.entropy_branching`."""

    beta: float = 0.2
    window: int = 20
    threshold: float | None = None
    match_released_code: bool = False
    penalty: float = 0.0
    allocation: float | None = None
    scale: float = 1.0  #: ln V
    streaks: dict[tuple[str, int], int] = field(
        default_factory=dict
    )  #: (episode, turn) -> branchings in a row up to it

    def begin(self, policy: Policy) -> None:
        super().begin(policy)
        vocabulary = getattr(policy, "vocabulary", None)
        if vocabulary is None:
            raise UsageError(
                f"entropy branching needs a policy that knows entropies and its vocabulary, as ModelPolicy does; "
                f"{type(policy).__name__} does not. Use random_branching() with it"
            )
        self.scale = math.log(vocabulary)
        self.streaks.clear()

    def roots(self, size: int) -> int:
        return 1 if self.allocation is not None else super().roots(size)

    def refill(self, group: GroupState, last: Episode) -> int:
        due = self._due(group, last)
        return group.room if due is None else max(1, due - 1)

    def keeps(self, group: GroupState, episode: Episode) -> bool:
        """With one root due, the first episode, which was never branched, makes room for one that can be."""
        return self._due(group, episode) != 1 or group.group.size == 1

    def _due(self, group: GroupState, first: Episode) -> int | None:
        """Roots of the group, by its first episode; None where that says nothing."""
        if self.allocation is None or first.member != 0 or first.failed or len(first.turns) < 2:
            return None
        start, *later = (_mean_entropy(t.sample, self.window) for t in first.turns)
        return root_share(group.group.size, start - float(np.mean(later)), self.allocation)

    def branches(self, episode: LiveEpisode, reply: Reply) -> int:
        if self.allocation is not None and episode.member == 0:
            return 0  # it is played first, to see how many roots there should be
        count = super().branches(episode, reply)
        if self.penalty:
            self.streaks[episode.id, len(episode.turns)] = self._streak(episode) + 1 if count else 0
        return count

    def signal(self, episode: LiveEpisode, reply: Reply) -> float:
        if not self.match_released_code:
            initial = episode.turns[0].sample
            return (_mean_entropy(reply.sample, self.window) - _mean_entropy(initial, self.window)) / self.scale
        initial = episode.turns[min(episode.fork_turn or 0, len(episode.turns) - 1)].sample
        now = episode.turns[-1].sample
        return (_summed_entropy(now, self.window) - _summed_entropy(initial, self.window)) / self.scale

    def chance(self, episode: LiveEpisode, signal: float) -> float:
        return (self.alpha + self.beta * signal) * (1.0 - self.penalty * self._streak(episode))

    def accepts(self, chance: float, draw: float) -> bool:
        return draw < chance if self.threshold is None else chance > self.threshold

    def _streak(self, episode: LiveEpisode) -> int:
        """Branchings directly before this turn on the episode's path."""
        before = len(episode.turns) - 1
        owner = episode.parent if before == episode.fork_turn and episode.parent is not None else episode.id
        return self.streaks.get((owner, before), 0)


@dataclass
class Spread(Chance):
    """:func:`agentgym.trainers.sampling.branching.spread_branching`."""

    beta: float = 0.5
    memory: int = 32
    prior: float = 4.0
    seen: OrderedDict[str, list[float]] = field(default_factory=OrderedDict)  #: anchor -> the last returns from it
    late: dict[int, list[float]] = field(default_factory=dict)  #: turn -> weight, mean, variance of returns from it
    usual: float = 0.0  #: running mean of the spread
    asked: int = 0

    KEPT = 100_000  #: anchors; the ones met longest ago are forgotten
    FADE = 0.01  #: weight of what is new in running figures

    def ended(self, episode: Episode) -> None:
        if episode.failed:
            return
        returns = np.cumsum([t.reward for t in reversed(episode.turns)])[::-1]
        for number, (turn, value) in enumerate(zip(episode.turns, returns.tolist(), strict=True)):
            weight, mean, variance = self.late.get(number, [0.0, 0.0, 0.0])
            weight += 1
            rate = max(1 / weight, self.FADE)
            away = value - mean
            self.late[number] = [weight, mean + rate * away, (1 - rate) * (variance + rate * away**2)]
            if turn.anchor is not None:
                self.seen[turn.anchor] = [*self.seen.pop(turn.anchor, []), value][-self.memory :]
        while len(self.seen) > self.KEPT:
            self.seen.popitem(last=False)

    def signal(self, episode: LiveEpisode, reply: Reply) -> float:
        """The spread s; the usual one while nothing is known."""
        own = self.seen.get(episode.anchor, []) if episode.anchor is not None else []
        general = self.late.get(len(episode.turns))
        number = max(0, len(own) - 1)
        if general is None:
            return float(np.std(own, ddof=1)) if number else self.usual
        squares = number * float(np.var(own, ddof=1)) if number else 0.0
        return math.sqrt((squares + self.prior * general[2]) / (number + self.prior))

    def chance(self, episode: LiveEpisode, signal: float) -> float:
        self.asked += 1
        self.usual += max(1 / self.asked, self.FADE) * (signal - self.usual)
        return self.alpha + (self.beta * (signal / self.usual - 1.0) if self.usual > 0 else 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": dict(self.seen), "late": dict(self.late), "usual": self.usual, "asked": self.asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen, self.late = OrderedDict(state["seen"]), dict(state["late"])
        self.usual, self.asked = state["usual"], state["asked"]


@dataclass
class Tree(Independent):
    """:func:`agentgym.trainers.sampling.branching.tree`."""

    factors: tuple[int, ...] = (2, 2, 2)
    every: int = 1
    probe: int = 1

    def roots(self, size: int) -> int:
        if size != math.prod(self.factors):
            raise UsageError(
                f"a tree of {' x '.join(map(str, self.factors))} has {math.prod(self.factors)} leaves, but the group's "
                f"size is {size}: set group_size={math.prod(self.factors)}, or other factors"
            )
        return self.factors[0]

    def branches(self, episode: LiveEpisode, reply: Reply) -> int:
        level, rest = divmod(len(episode.turns), self.every)
        return self.factors[level] - 1 if rest == 0 and 0 < level < len(self.factors) else 0


@dataclass
class RootContinuations(Independent):
    """:func:`agentgym.trainers.sampling.branching.root_continuations`."""

    continuations: int = 3
    every: int = 1
    probe: int = 1

    def roots(self, size: int) -> int:
        return 1

    def branches(self, episode: LiveEpisode, reply: Reply) -> int:
        cut = episode.parent is None and len(episode.turns) % self.every == 0
        return self.continuations if cut else 0

    def refill(self, group: GroupState, last: Episode) -> int:
        return 1


@dataclass
class Vines(Independent):
    """:func:`agentgym.trainers.sampling.branching.vines`."""

    states: int = 2
    continuations: int = 4
    horizon: int = 10
    probe: int = 1

    def roots(self, size: int) -> int:
        return max(1, size // (1 + self.states * (self.continuations - 1)))

    def branches(self, episode: LiveEpisode, reply: Reply) -> int:
        turns = range(1, self.horizon)
        chosen = sorted(turns, key=lambda t: keyed_random.uniform(episode.key, t, "vine"))[: self.states]
        return self.continuations - 1 if episode.parent is None and len(episode.turns) in chosen else 0

    def refill(self, group: GroupState, last: Episode) -> int:
        return self.roots(group.room)


def root_share(size: int, difference: float, beta: float) -> int:
    """AEPO's number of roots (2510.14545): size · σ(β·difference), rounded, at least 1.

    Args:
        difference: H_root − H_tool: how much less sure the policy is of its start than after the environment's answers.
    """
    return max(1, min(size, round(size / (1.0 + math.exp(-beta * difference)))))


def _entropies(sample: Sample | None, window: int) -> Sequence[float]:
    if sample is None or (sample.action and not sample.entropies):
        raise UsageError(
            "entropy branching needs the entropies of sampled tokens: ModelPolicy(entropies=True); with a policy that "
            "has none use random_branching()"
        )
    return sample.entropies[:window]


def _mean_entropy(sample: Sample | None, window: int) -> float:
    """0 where the action has no tokens: nothing is left open."""
    return float(np.mean(_entropies(sample, window) or (0.0,)))


def _summed_entropy(sample: Sample | None, window: int) -> float:
    return float(np.sum(_entropies(sample, window)))
