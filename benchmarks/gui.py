"""Turns per CPU second of the GUI world, in a bare loop, and what a fork costs.

    python benchmarks/gui.py --json gui.json

The expert's episodes and random ones over all families, and the same of each family; resets are in the figures. Beside
them the household world in the same loop, to compare machines by. Every option ``backend=`` of the environment that is
installed takes its turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from measure import bare, compare, expert_action, options, random_action, spread, table, write

from agentgym.env import TextEnv
from agentgym.envs.gui import GUIEnv, tasks
from agentgym.envs.household import HouseholdEnv

EPISODES = 200


def forks(env: GUIEnv, count: int = 300) -> dict[str, float]:
    """CPU seconds of a fork in the middle of episodes."""
    seconds = []
    for seed in range(count):
        env.reset(seed=seed)
        env.step(str(env.expert()))
        if env.expert() is None:
            continue
        began = time.process_time()
        env.fork()
        seconds.append(time.process_time() - began)
    figures = spread(seconds)
    print(f"\na fork: {1e6 * figures['median']:.0f} µs of CPU (median of {len(seconds)})")
    return figures


def main() -> None:
    """All of it."""
    given = options(__doc__, rounds=5).parse_args()
    env, household = GUIEnv(), HouseholdEnv()
    cases: dict[str, tuple[TextEnv, Callable[..., str], str | None]] = {
        "household, planner": (household, expert_action, None),
        "household, random actions": (household, random_action, None),
        "gui, expert": (env, expert_action, None),
        "gui, random actions": (env, random_action, None),
    }
    for family in tasks.templates("train"):
        cases[f"gui, expert, {family}"] = (env, expert_action, family)
        cases[f"gui, random actions, {family}"] = (env, random_action, family)
    figures: dict[str, Any] = {}
    for name, (world, act, family) in cases.items():
        episodes = EPISODES if family is None else EPISODES // 4
        asked = {"family": family} if family is not None else None
        turns = bare(world, act, episodes, asked)
        seconds = compare({name: lambda w=world, a=act, n=episodes, o=asked: bare(w, a, n, o)}, given.rounds)
        figures |= table(f"{name}: {turns:,} turns in {episodes} episodes", seconds, work=turns, unit="turns")
    figures["fork"] = forks(env)
    write(given.json, figures)


if __name__ == "__main__":
    main()
