"""Episodes to imitate, or to train a tokenizer on: an expert's, or those of whoever can play."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import gymnasium as gym

from agentgym.errors import UsageError
from agentgym.policy import ExpertPolicy, Policy, RandomPolicy, ScriptedPolicy, check_playable
from agentgym.records import Episode


def narrator(expert: ExpertPolicy, make_env: Callable[[], gym.Env[str, str]]) -> Policy:
    """Who plays what a tokenizer is trained on: the expert, else random actions, else somebody who says nothing."""
    for policy in (expert, RandomPolicy()):
        with contextlib.suppress(UsageError):
            check_playable(policy, make_env())
            return policy
    return ScriptedPolicy(lambda request: "")


def playable(episodes: Sequence[Episode]) -> tuple[list[Episode], str | None]:
    """Those that did not fail, and the first reason of those that did.

    Raises:
        UsageError: all failed.
    """
    played = [e for e in episodes if e.failure is None]
    first = next((e.failure for e in episodes if e.failure is not None), None)
    if episodes and not played:
        raise UsageError(f"no episode could be played before the training: {first}")
    return played, first
