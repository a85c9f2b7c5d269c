"""Finished episodes: put in order, and as metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from agentgym.failures import Failures
from agentgym.records import Episode, Turn
from agentgym.rollout import Branching
from agentgym.trainers.sampling.branching_rules import BranchDecision


def summary(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Means over episodes that did not fail.

    ``reward``: sum of rewards; ``success``: share that was solved (:attr:`Episode.solved`); ``episode_turns``;
    ``tool_calls`` that ran, ``refused_calls`` and ``malformed_calls`` that never did; ``invalid_action_rate``: share of
    turns that the environment did not understand; ``truncated``; ``env_NAME``: the environment's own metrics, each over
    the episodes that have it. ``episodes`` counts all, ``failed`` those left out, ``action_errors`` those that count
    though the environment raised; ``failure`` and ``action_error`` are the first reasons, or None.
    """
    good = [e for e in episodes if not e.failed]
    calls = [e.call_counts for e in good]
    turns = max(1, sum(len(e.turns) for e in good))
    return {
        "episodes": len(episodes),
        "reward": _mean([e.reward for e in good]),
        "success": _mean([float(e.solved) for e in good]),
        "episode_turns": _mean([len(e.turns) for e in good]),
        "tool_calls": _mean([c.made for c in calls]),
        "refused_calls": _mean([c.refused for c in calls]),
        "malformed_calls": _mean([c.malformed for c in calls]),
        "invalid_action_rate": sum(t.error is not None for e in good for t in e.turns) / turns,
        "truncated": _mean([float(e.truncated) for e in good]),
        **{f"env_{name}": value for name, value in _environment_metrics(good).items()},
    } | Failures.of(episodes).as_dict()


def _environment_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    names = sorted({name for e in episodes for name in e.metrics})
    return {name: _mean([float(e.metrics[name]) for e in episodes if name in e.metrics]) for name in names}


def share_solved(episodes: Sequence[Episode]) -> float:
    """Share of all episodes that was solved. One that failed was not: a run must not be good by what is left out."""
    return sum(not e.failed and e.solved for e in episodes) / max(1, len(episodes))


def in_order(episodes: Iterable[Episode]) -> list[Episode]:
    """Episodes by group and member, so that nothing depends on which finished first."""
    return sorted(episodes, key=lambda e: (_natural(e.group), e.member))


def _natural(text: str) -> list[tuple[bool, int, str]]:
    """Numbers between points compare as numbers, and come before words: 2.9, 2.10, eval."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in text.split(".")]


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def shared_and_played(episodes: Iterable[Episode]) -> dict[str, float]:
    """What was played once and what forks inherited; the sum is what independent episodes of this shape would cost.

    ``branches``: episodes forked from another one; ``made_…`` and ``inherited_…``: tool calls and action tokens.
    """
    found = [e for e in episodes if not e.failed]
    inherited = [t for e in found for t in e.turns[: e.fork_turn or 0]]
    own = [t for e in found for t in e.own_turns]
    return {
        "branches": float(sum(e.parent is not None for e in found)),
        "made_tool_calls": float(sum(t.call_counts.made for t in own)),
        "inherited_tool_calls": float(sum(t.call_counts.made for t in inherited)),
        "made_action_tokens": float(sum(_tokens(t) for t in own)),
        "inherited_action_tokens": float(sum(_tokens(t) for t in inherited)),
    }


def decisions(rule: Branching) -> list[BranchDecision]:
    """The decisions since the last call."""
    pending: list[BranchDecision] = getattr(rule, "decisions", [])
    taken, pending[:] = list(pending), []
    return taken


def branching_metrics(episodes: Sequence[Episode], decided: Sequence[BranchDecision]) -> dict[str, float]:
    """:func:`shared_and_played`, and of the decisions their number, the share that branched, mean signal and chance.

    Empty without branching.
    """
    if not decided and all(e.parent is None for e in episodes):
        return {}
    metrics = shared_and_played(episodes)
    if decided:
        metrics |= {
            "branch_decisions": float(len(decided)),
            "branched": float(np.mean([n.branches > 0 for n in decided])),
            "branch_signal": float(np.mean([n.signal for n in decided])),
            "branch_chance": float(np.mean([n.chance for n in decided])),
        }
    return metrics


def _tokens(turn: Turn) -> int:
    return len(turn.sample.action) if turn.sample else turn.usage.completion_tokens
