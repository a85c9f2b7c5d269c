"""Finished episodes: put in order, and in figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from agentgym.records import Episode


def summary(episodes: Sequence[Episode]) -> dict[str, float]:
    """Means over episodes that did not fail.

    ``reward``: sum of rewards; ``success``: share that was solved (:attr:`Episode.solved`); ``episode_turns``,
    ``tool_calls``; ``errors``: share of turns that the environment did not understand; ``truncated``; ``failed``: share
    of all episodes that failed.
    """
    good = [e for e in episodes if not e.failed]
    turns = max(1, sum(len(e.turns) for e in good))
    return {
        "episodes": len(episodes),
        "reward": _mean([e.reward for e in good]),
        "success": _mean([float(e.solved) for e in good]),
        "episode_turns": _mean([len(e.turns) for e in good]),
        "tool_calls": _mean([e.tool_calls for e in good]),
        "errors": sum(t.error is not None for e in good for t in e.turns) / turns,
        "truncated": _mean([float(e.truncated) for e in good]),
        "failed": (len(episodes) - len(good)) / max(1, len(episodes)),
    }


def in_order(episodes: Iterable[Episode]) -> list[Episode]:
    """Episodes by group and member, so that nothing depends on which finished first."""
    return sorted(episodes, key=lambda e: (_natural(e.group), e.member))


def _natural(text: str) -> list[tuple[bool, int, str]]:
    """Numbers between points compare as numbers, and come before words: 2.9, 2.10, eval."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in text.split(".")]


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0
