"""IGPO, GRPO and OTC in the search world: what each learns from the same start in the same number of episodes.

    python benchmarks/search_learning.py OUT --seeds 0 1 2 3 4
    python benchmarks/search_learning.py OUT --table         # only prints the tables and draws the plot

A seed's arms share its warm start, and take the options of ``examples/search.yaml``; only the recipe differs, with its
defaults. A seed decides the first weights, tasks and sampling. Every policy then plays the same tasks of the test
split: without a budget at the temperature of training and at ``COOL``, and under budgets of tool calls that it is told
of or not. What is finished stays: the command continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from measure import interval, trained

from agentgym.budget import Budget, parse_budgets
from agentgym.evaluate import Curve, SweepFolder, evaluate, row, success_plot
from agentgym.evaluate.figures import Row
from agentgym.records import Task
from agentgym.store import JsonLines, RunFolder
from agentgym.trainers.model import ModelPolicy, load
from agentgym.trainers.train import Training, environment

ARMS = ("igpo", "grpo", "otc")
WARM = "warm"
COOL = 0.4
BUDGETS = "0,1,2,4,8,inf"
BUDGETED = ("grpo", "otc")
TOLD = {"silent": False, "announced": True}
FIGURES = ("success", "cool", "calls", "productivity", "curve", "last")


def options(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What all runs of a seed share."""
    own = {"seed": seed, "threads": given.threads, "eval_every": 0, "eval_episodes": 1, "stop_at": None}
    shared: dict[str, Any] = yaml.safe_load(Path("examples/search.yaml").read_text())
    return shared | own


def run(arm: str, seed: int, given: argparse.Namespace) -> None:
    """The warm start of a seed, or an arm that goes on from there."""
    config = options(given, seed)
    if arm == WARM:
        config |= {"updates": 0}
    else:
        _, start = RunFolder(given.out / f"{WARM}-{seed}").latest_checkpoint()
        config |= {"model": str(start), "instructions": False, "warm_start": 0, "recipe": arm, "parameters": {}}
        config |= {"updates": given.updates, "checkpoint_every": given.updates}
    trained(given.out / f"{arm}-{seed}", config)


def played(arm: str, seed: int, given: argparse.Namespace) -> None:
    """Play the test tasks with the newest weights of a run, and write down what came of it."""
    path = given.out / f"{arm}-{seed}"
    training = Training(RunFolder(path))
    config = training.config
    _, checkpoint = RunFolder(path).latest_checkpoint()
    policy = ModelPolicy(
        *load(str(checkpoint)),
        context=training.context,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
    )
    tasks = [Task(i, {"task": i}) for i in range(given.tasks)]
    make = environment(config, "test")
    found = evaluate(make, policy, tasks=tasks, run_key=seed).rows[0]
    for name, announce in TOLD.items() if arm in BUDGETED else ():
        evaluate(
            make,
            policy,
            tasks=tasks,
            budgets=parse_budgets(BUDGETS, "tool_calls"),
            name=f"{arm}-{seed}",
            announce=announce,
            folder=SweepFolder(given.out / f"test-{name}", {"announce": announce, "tasks": given.tasks}),
            run_key=seed,
        )
    policy.engine.temperature = COOL
    cool = evaluate(make, policy, tasks=tasks, run_key=seed).rows[0]
    learned = [m["success"] for m in RunFolder(path).metrics.read() if m.get("event") is None]
    figures = {
        "arm": arm,
        "seed": seed,
        "success": found.success,
        "cool": cool.success,
        "calls": found.means["calls"].mean,
        "productivity": found.productivity,
        "curve": float(np.mean(learned)) if learned else None,
        "last": float(np.mean(learned[-3:])) if learned else None,
    }
    results(given.out).append(figures)


def results(out: Path) -> JsonLines:
    """One line for each run that was played."""
    return JsonLines(out / "results.jsonl")


def tables(rows: list[dict[str, Any]]) -> None:
    """Print every arm, then the differences between arms, paired by seed."""
    found = {arm: {r["seed"]: r for r in rows if r["arm"] == arm} for arm in (WARM, *ARMS)}
    head = "| --- " * (len(FIGURES) + 2) + "|"
    print("| arm | seeds | " + " | ".join(FIGURES) + " |\n" + head)
    for arm, runs in found.items():
        known = [[r[name] for r in runs.values() if r[name] is not None] for name in FIGURES]
        print(f"| {arm} | {len(runs)} | " + " | ".join(interval(v) if v else "" for v in known) + " |")
    for first, second in (("igpo", WARM), ("grpo", WARM), ("otc", WARM), ("igpo", "grpo"), ("otc", "grpo")):
        seeds = sorted(found[first].keys() & found[second].keys())
        cells = []
        for name in FIGURES:
            pairs = [(found[first][s][name], found[second][s][name]) for s in seeds]
            gaps = [a - b for a, b in pairs if a is not None and b is not None]
            cells.append(interval(gaps) if gaps else "")
        print(f"| {first} − {second} | {len(seeds)} | " + " | ".join(cells) + " |")


def pooled(out: Path, arm: str, seeds: Iterable[int], told: str) -> Curve:
    """Success of an arm under budgets, the episodes of all its seeds together."""
    settings = {name: value for name, value in RunFolder(out / f"test-{told}").config.items() if name != "kind"}
    folder = SweepFolder(out / f"test-{told}", settings)

    def at(budget: Budget) -> Row:
        return row(budget, [e for s in seeds for e in folder.kept(f"{arm}-{s}", budget).values()])

    return Curve(f"{arm}, {told}", tuple(at(b) for b in parse_budgets(BUDGETS, "tool_calls")))


def budgets(out: Path, seeds: list[int]) -> None:
    """Print success under each budget, and draw ``budgets.svg``."""
    curves = [pooled(out, arm, seeds, told) for arm in BUDGETED for told in TOLD]
    print("\n| policy | " + " | ".join(BUDGETS.split(",")) + " | area |\n" + "| --- " * 8 + "|")
    for curve in curves:
        cells = " | ".join(f"{r.success:.3f}" for r in curve.rows)
        print(f"| {curve.policy} | {cells} | {curve.area:.3f} of {curve.greatest_area:.3f} |")
    plot = success_plot(curves, "agentgym/Search-v0: success under a budget of tool calls")
    if plot is not None:
        (out / "budgets.svg").write_text(plot)


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--updates", type=int, default=16)
    parser.add_argument("--tasks", type=int, default=150, help="of the test split")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for seed in given.seeds if not given.table else ():
        for arm in (WARM, *given.arms):
            if (arm, seed) not in {(r["arm"], r["seed"]) for r in results(given.out).read()}:
                run(arm, seed, given)
                played(arm, seed, given)
    rows = results(given.out).read()
    tables(rows)
    complete = [s for s in given.seeds if {r["arm"] for r in rows if r["seed"] == s} >= set(BUDGETED)]
    if complete:
        budgets(given.out, complete)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
