"""What environments and the rollout engine cost beside the model.

    python benchmarks/overhead.py --json overhead.json

Turns per CPU second: the household world in a bare Gymnasium loop and through the rollout engine (which records every
turn), with its planner and with random actions; and a world that does nothing. Then the import, and what one more
instance of each environment takes: CPU seconds to make and reset it, and resident memory.
"""

from __future__ import annotations

import gc
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measure import bare, compare, expert_action, options, random_action, spread, table, write

import agentgym
from agentgym import registry
from agentgym.env import TextEnv
from agentgym.envs.household import HouseholdEnv
from agentgym.policy import ExpertPolicy, Policy, RandomPolicy, ScriptedPolicy
from agentgym.records import Task
from agentgym.rollout import Group, Rollout

EPISODES, IDLE_TURNS = 100, 50


class Idle(TextEnv):
    """Fifty turns of nothing."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._turn = 0
        return "begin", {"task_id": "idle", "anchor": "0"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._turn += 1
        return "go on", 0.0, self._turn >= IDLE_TURNS, False, {"task_id": "idle", "anchor": "0"}


def rollout(make: Callable[[], TextEnv], policy: Policy, episodes: int) -> int:
    """Turns of recorded episodes, 64 at a time."""
    with Rollout(make, policy) as played:
        return sum(len(e.turns) for e in played.play(Group(f"g{n}", Task(n)) for n in range(episodes)))


def speeds(rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Bare loop and rollout engine take turns."""
    household = HouseholdEnv()
    cases: list[tuple[str, Callable[[], int], Callable[[], int]]] = [
        (
            "household, planner",
            lambda: bare(household, expert_action, EPISODES),
            lambda: rollout(HouseholdEnv, ExpertPolicy(), EPISODES),
        ),
        (
            "household, random actions",
            lambda: bare(household, random_action, EPISODES),
            lambda: rollout(HouseholdEnv, RandomPolicy(), EPISODES),
        ),
        (
            "a world that does nothing, scripted policy",
            lambda: bare(Idle(), lambda env, info, turn: "go", 4 * EPISODES),
            lambda: rollout(Idle, ScriptedPolicy(lambda request: "go"), 4 * EPISODES),
        ),
    ]
    for name, loop, engine in cases:
        turns = {"bare loop": loop(), "rollout engine": engine()}
        seconds = compare({"bare loop": loop, "rollout engine": engine}, rounds)
        figures = table(f"{name}: {turns['bare loop']:,} and {turns['rollout engine']:,} turns", seconds)
        for side, count in turns.items():
            figures[side]["turns_per_cpu_second"] = count / figures[side]["median"]
            print(f"  {side:<44}{figures[side]['turns_per_cpu_second']:10,.0f} turns per CPU second")
        yield name, figures


def import_seconds(rounds: int) -> dict[str, Any]:
    """CPU seconds of ``import agentgym`` in a fresh interpreter, and of the interpreter alone."""
    seconds: dict[str, list[float]] = {"pass": [], "import agentgym": []}
    for _ in range(rounds + 1):
        for code, values in seconds.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", code], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            values.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return table("import", {name: values[1:] for name, values in seconds.items()})


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def instances(env_id: str, count: int = 20) -> dict[str, Any]:
    """CPU seconds and bytes of each further instance, after the first; its children's memory is not counted."""
    kept = [agentgym.make(env_id)]
    kept[0].reset(seed=0)
    gc.collect()
    before, seconds = resident(), []
    for seed in range(1, count + 1):
        began = time.process_time()
        kept.append(agentgym.make(env_id))
        kept[-1].reset(seed=seed)
        seconds.append(time.process_time() - began)
    size = (resident() - before) / count
    for env in kept:
        env.close()
    print(f"  {env_id:<44}{statistics.median(seconds):10.4f} CPU s  {size / 1e6:8.3f} MB per further instance")
    return {"seconds": spread(seconds), "bytes": size}


def main() -> None:
    """All of it."""
    given = options(__doc__, rounds=5).parse_args()
    figures: dict[str, Any] = dict(speeds(given.rounds))
    figures["import"] = import_seconds(given.rounds)
    print("\nfurther instances")
    figures["instances"] = {env_id: instances(env_id) for env_id in registry.env_ids()}
    write(given.json, figures)


if __name__ == "__main__":
    main()
