"""Letting a policy act in environments: many episodes at once, each turn a request answered by a future.

Promises, each with a test in ``tests/core/test_rollout.py``:

1. A policy is asked once per useful turn: a finished episode is never asked again, nothing is asked to be thrown away.
2. A fast episode never waits for a slow one: a request is submitted as soon as its observation is there.
3. An environment that raises over an action (anything: ``SystemExit`` too), returns what the contract forbids, or takes
   longer than ``step_seconds`` makes one episode with ``ACTION_ERROR``: the agent's failure, its last turn earns 0.
   Where the world is at fault (:class:`~agentgym.errors.WorldFault`, or ``reset`` or a fork fails) a new environment is
   made and the same actions are played once more, without asking the policy again; if that fails too, or meets other
   states, the episode ends with ``WORLD_FAULT``. The instance is replaced, the others go on. What hangs is left behind:
   it delays neither the others nor the end of the process.
4. A policy that raises when it is asked, or answers nonsense, makes one episode with ``POLICY_ERROR``; the others go
   on. What ``advance`` raises concerns every running request and is raised by ``play``.
5. ``terminated`` and ``truncated`` are never mixed up, and a reply with ``stop`` ends the episode before a step.
6. Members of a group start from the same anchor, or :class:`~agentgym.errors.ContractError` is raised.
7. ``info["answers"]`` and ``info["evidence"]`` never reach a policy; they are kept on the episode.
8. Every random draw is keyed by lineage (run key, group, root or branch, turn), so the draws do not depend on timing.
   Inline, and in lockstep, a policy also meets its requests in a fixed order, so a run is reproducible to the byte; in
   threads without lockstep it is not, because a model's numbers depend on which requests are computed together.
9. A group of size G ends with G episodes, however many of them were forked; a state is branched at most once. An
   episode that the branching rule does not keep comes beside them, without a group.
10. An environment with a method ``charge`` is told what each reply used, before the action is played.

The engine is in :mod:`agentgym.rollout.engine`, its calls of environments in :mod:`agentgym.rollout.stepping`, the
checks of what environments and policies return in :mod:`agentgym.rollout.returned`, progress and speed in
:mod:`agentgym.rollout.pace`, an unfinished episode in :mod:`agentgym.rollout.live_episode`, and how the episodes of a
group start in :mod:`agentgym.rollout.branching`.
"""

from __future__ import annotations

from agentgym.rollout.branching import Branching, Independent
from agentgym.rollout.engine import MakeEnv, Rollout
from agentgym.rollout.live_episode import Group, GroupState, LiveEpisode
from agentgym.rollout.pace import Pace

__all__ = ["Branching", "Group", "GroupState", "Independent", "LiveEpisode", "MakeEnv", "Pace", "Rollout"]
