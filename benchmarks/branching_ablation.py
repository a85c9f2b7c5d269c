"""Does entropy branching beat a coin flip? The same learner with different branching rules and equal tool-call budgets.

    python benchmarks/branching_ablation.py OUT --seeds 10        # adds what is missing to OUT/results.jsonl
    python benchmarks/branching_ablation.py OUT --table           # only prints the table

The world: a machine with four faults in a row; each shows one of 30 signs; one of six tools repairs it. A wrong tool
costs a call and says so; the sixth call is the last. For a third of the signs fine-tuning teaches the tool, for a
third it tries tools at random (they have to be learned), and for a third any tool will do: there the policy stays
unsure though nothing depends on it. So being unsure marks what matters only in part, as after a real tool's result.
Every seed has its own signs, tools, tasks and fine-tuning, which its arms share.

Every arm learns with GRPO's advantage on groups of 16 until it has made the same number of tool calls; the arms with
branches start 8 of the 16 from the task. Calls that a branch inherits are not made again and not counted.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import interval

from agentgym import keyed_random
from agentgym.env import TextEnv, digest
from agentgym.models.local_policy import ModelPolicy
from agentgym.models.tiny import tiny
from agentgym.policy import ScriptedPolicy
from agentgym.records import Episode, Task, ToolCall
from agentgym.rollout import Group, Rollout
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import token_mean
from agentgym.trainers.run.summary import branching_metrics, decisions, shared_and_played
from agentgym.trainers.sampling.branching import (
    BranchingFactory,
    entropy_branching,
    independent,
    random_branching,
    spread_branching,
)
from agentgym.trainers.sft.imitation import ImitationConfig, imitate
from agentgym.trainers.update.learner import Learner, OptimizerConfig

SIGNS, TOOLS, FAULTS, CALLS = 30, ("hammer", "wrench", "drill", "tape", "oil", "saw"), 4, 6
SIZE, ROOTS = 16, 8
ARMS: dict[str, BranchingFactory] = {
    "grpo": independent(),
    "random": random_branching(ROOTS, fill=False),
    "entropy": entropy_branching(ROOTS, fill=False),
    "entropy, dH > 0": entropy_branching(ROOTS, threshold=0.5, fill=False),
    "spread": spread_branching(ROOTS, fill=False),
}


class Repair(TextEnv):
    """Four faults, each repaired by the tool that its sign calls for; at most six calls."""

    def __init__(self, seed: int, *, split: str = "train") -> None:
        super().__init__(split=split)
        self.world = seed

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        place = ("repair", self.world, self.split, seed or 0)
        self.signs = [keyed_random.key(*place, i) % SIGNS for i in range(FAULTS)]
        self.task_id, self.stage, self.calls = f"{self.split}/{seed}", 0, 0
        return f"sign {self.signs[0]}", self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if action not in TOOLS:
            self.calls += 1
            return "no such tool", 0.0, False, self.calls >= CALLS, self._info() | {"error": "no such tool"}
        self.calls += 1
        right = works(self.world, self.signs[self.stage], action)
        self.stage += right
        done = self.stage == FAULTS
        info = self._info() | {"tool_calls": (ToolCall(action, {}, "works" if right else "fails"),), "success": done}
        if done:
            return "repaired", 1.0, True, False, info
        answer = f"works . sign {self.signs[self.stage]}" if right else f"fails . sign {self.signs[self.stage]}"
        return answer, 0.0, False, self.calls >= CALLS, info

    def fork(self) -> Repair:
        return copy.deepcopy(self)

    def _info(self) -> dict[str, Any]:
        return {"task_id": self.task_id, "anchor": digest(self.world, self.signs[self.stage :], CALLS - self.calls)}


def kind(world: int, sign: int) -> str:
    """``taught``, ``new`` or ``free``."""
    return ("taught", "new", "free")[keyed_random.key("kind", world, sign) % 3]


def works(world: int, sign: int, tool: str) -> bool:
    """Whether the tool repairs what shows this sign."""
    return kind(world, sign) == "free" or TOOLS[keyed_random.key("tool", world, sign) % len(TOOLS)] == tool


def demonstrated(world: int) -> list[Episode]:
    """Episodes that use the right tool where it is taught, and any tool elsewhere."""

    def act(request: Any) -> str:
        env = request.env.unwrapped
        sign = env.signs[env.stage]
        known = [t for t in TOOLS if works(world, sign, t)] if kind(world, sign) == "taught" else TOOLS
        return keyed_random.choice(known, request.key, "demonstration")

    with Rollout(lambda: Repair(world), ScriptedPolicy(act), run_key=world) as rollout:
        return list(rollout.play(Group(f"d{i}", Task(10_000 + i)) for i in range(300)))


def warm(seed: int, path: Path) -> tuple[Any, Any]:
    """The model that all arms of a seed start from; kept on disk."""
    texts = [f"{a} . sign {i} {t}" for i in range(SIGNS) for t in TOOLS for a in ("works", "fails")]
    sizes = {"layers": 2, "hidden": 64, "heads": 2, "kv_heads": 1, "vocabulary": 400, "max_context": 128}
    model, tokenizer = tiny([*texts, "repaired no such tool"], seed=seed, **sizes)
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model, tokenizer
    policy = ModelPolicy(model, tokenizer)
    for _ in imitate(model, policy, demonstrated(seed), ImitationConfig(lr=3e-3, epochs=12, seed=seed)):
        pass
    torch.save(model.state_dict(), path)
    return model, tokenizer


def run(arm: str, seed: int, out: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Train one arm of one seed on its budget of tool calls."""
    began = time.perf_counter()
    model, tokenizer = warm(seed, out / f"warm-{seed}.pt")
    maker = ARMS[arm]
    algorithm = Algorithm(branching=maker, aggregate=token_mean())
    policy = ModelPolicy(model, tokenizer, max_new_tokens=4, entropies="sampled_entropy" in algorithm.needs)
    learner = Learner(model, algorithm, OptimizerConfig(lr=given.lr))
    rule = maker()
    figures: dict[str, float] = {}
    made = update = trained = 0
    curve = [(0, *evaluated(policy, seed, 0))]
    with Rollout(
        lambda: Repair(seed), policy, max_concurrent_episodes=SIZE * given.groups, branching=rule, run_key=seed
    ) as rollout:
        while made < given.budget:
            update += 1
            groups = [
                Group(f"{update}.{i}", Task(keyed_random.key(seed, update, i) % given.tasks), SIZE)
                for i in range(given.groups)
            ]
            episodes = sorted(rollout.play(groups), key=lambda e: (int(e.group.split(".")[1]), e.member))
            done = learner.update(episodes)
            policy.updated()
            before = made
            made += int(shared_and_played(episodes)["made_tool_calls"])
            trained += int(done.metrics["tree_tokens"])
            for name, value in (shared_and_played(episodes) | branching_metrics(episodes, decisions(rule))).items():
                figures[name] = figures.get(name, 0.0) + value
            if made // (given.budget // 4) > before // (given.budget // 4):
                curve.append((made, *evaluated(policy, seed, update)))
    success, calls = evaluated(policy, seed, update)
    return {
        "arm": arm,
        "seed": seed,
        "settings": {"budget": given.budget, "lr": given.lr, "groups": given.groups, "tasks": given.tasks},
        "success": success,
        "calls": calls,
        "curve": curve,
        "updates": update,
        "made_tool_calls": made,
        "tree_tokens": trained,
        "per_update": {name: value / update for name, value in figures.items()},
        "seconds": time.perf_counter() - began,
    }


def evaluated(policy: ModelPolicy, seed: int, update: int) -> tuple[float, float]:
    """Success and tool calls an episode on 400 tasks that training never saw."""
    key = keyed_random.key("evaluation", seed, update)
    with Rollout(lambda: Repair(seed, split="test"), policy, max_concurrent_episodes=400, run_key=key) as rollout:
        found = list(rollout.play(Group(f"e{update}.{i}", Task(i)) for i in range(400)))
    return float(np.mean([bool(e.success) for e in found])), float(np.mean([e.tool_calls for e in found]))


COLUMNS = "arm | seeds | success | − coin flip | − GRPO | mean of the curve | calls | updates | tokens made | inherited"


def rows(results: list[dict[str, Any]]) -> Iterator[str]:
    """The table, in Markdown; differences are between arms of one seed."""
    yield f"| {COLUMNS} |"
    yield "|" + "---|" * len(COLUMNS.split("|"))
    by = {arm: {r["seed"]: r for r in results if r["arm"] == arm} for arm in ARMS}
    for arm, found in by.items():
        if not found:
            continue
        runs = list(found.values())
        cells = [arm, str(len(runs)), interval([r["success"] for r in runs])]
        for other in ("random", "grpo"):
            pairs = [r["success"] - by[other][s]["success"] for s, r in found.items() if s in by[other]]
            cells.append(interval(pairs) if pairs and other != arm else "")
        cells.append(interval([float(np.mean([point[1] for point in r["curve"][1:]])) for r in runs]))
        cells.append(interval([r["calls"] for r in runs]))
        cells.append(f"{np.mean([r['updates'] for r in runs]):.0f}")
        cells += [
            f"{np.mean([r['per_update'][f'{n}_action_tokens'] for r in runs]):.0f}" for n in ("made", "inherited")
        ]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Fill in the missing runs, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--budget", type=int, default=24_000, help="tool calls made in training")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "results.jsonl"
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    there = {(r["arm"], r["seed"]) for r in results}
    for seed in range(given.seeds):
        for arm in given.arms:
            if given.table or (arm, seed) in there:
                continue
            result = run(arm, seed, given.out, given)
            results.append(result)
            with path.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(f"seed {seed} {arm:16} success {result['success']:.3f} in {result['seconds']:.0f} s", flush=True)
    print("\n".join(rows(results)))


if __name__ == "__main__":
    main()
