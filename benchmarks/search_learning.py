"""What IGPO, GRPO and OTC learn in the search world, each from the same start in the same number of episodes.

    python benchmarks/search_learning.py OUT --seeds 0 1 2 3 4
    python benchmarks/search_learning.py OUT --table         # only prints the tables and draws the plot

Two starts with the options of ``examples/search.yaml``, from random weights for every seed:

* ``warm``, the example's, which hardly copies names yet: from there IGPO and GRPO.
* ``eager``, which solves nearly everything but opens documents that it has seen already, as the expert did that it
  imitated, first without budgets, then with announced ones: from there GRPO and OTC, without budgets and with announced
  ones (``told``).

Algorithms have their defaults. A seed decides the first weights, tasks and sampling. Every policy then plays the same
tasks of the test split at the temperature of training; those of ``warm`` also at ``COOL``, those of ``eager`` under
budgets of tool calls that they are told of or not. What is finished stays: the command continues where it stopped, and
several may run at the same time over different seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from measure import interval, trained

from agentgym.budget import Budget, parse_budgets
from agentgym.evaluate import Curve, SweepFolder, evaluate, row, success_plot
from agentgym.evaluate.statistics import Row
from agentgym.models.loading import load
from agentgym.models.local_policy import ModelPolicy
from agentgym.policy import Sampling
from agentgym.records import Episode, Task
from agentgym.store import JsonLines, RunFolder
from agentgym.trainers.run.build import build_context
from agentgym.trainers.run.requirements import environment
from agentgym.trainers.run.trainer import Training

COOL = 0.4
BUDGETS = "0,1,2,4,8,inf"
TRAINED = "1,2,4,8,inf"  #: nothing can be solved without a call, so nothing be learned from it
EAGER: dict[str, Any] = {
    "env_options": {"hops": [1, 2], "fetch": True, "expert_redundancy": 0.6, "max_turns": 12},
    "sft.episodes": 6000,
}
#: the fine-tunings that lead to a start, each from the weights of the one before
STAGES: dict[str, tuple[dict[str, Any], ...]] = {"warm": ({},), "eager": (EAGER, EAGER | {"budget.limits": TRAINED})}


class Arm(NamedTuple):
    """A run that goes on from a start.

    Attributes:
        start: the name of the start.
        algorithm: with its defaults.
        told: whether it trains under announced budgets.
    """

    start: str
    algorithm: str
    told: bool = False


ARMS = {
    "igpo": Arm("warm", "igpo"),
    "grpo": Arm("warm", "grpo"),
    "eager-grpo": Arm("eager", "grpo"),
    "eager-otc": Arm("eager", "otc"),
    "told-grpo": Arm("eager", "grpo", told=True),
    "told-otc": Arm("eager", "otc", told=True),
}
TOLD = {"silent": False, "announced": True}
FIGURES = {
    "warm": ("success", "cool", "calls", "productivity", "curve", "last"),
    "eager": ("success", "calls", "productivity", "curve", *TOLD),
}
COMPARED = {
    "warm": (("igpo", "warm"), ("grpo", "warm"), ("igpo", "grpo")),
    "eager": (
        ("eager-grpo", "eager"),
        ("eager-otc", "eager"),
        ("eager-otc", "eager-grpo"),
        ("told-otc", "told-grpo"),
        ("told-grpo", "eager-grpo"),
        ("told-otc", "eager-otc"),
    ),
}


def start_of(name: str) -> str:
    """The start that a run, or itself a start, belongs to."""
    return ARMS[name].start if name in ARMS else name


def members(start: str) -> list[str]:
    """A start and the arms that go on from it."""
    return [start, *(name for name, arm in ARMS.items() if arm.start == start)]


def home(out: Path, seed: int) -> Path:
    """Everything about one seed."""
    return out / f"seed-{seed}"


def options(stage: dict[str, Any], seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """The example's, changed as the stage says, for a run without evaluations."""
    config: dict[str, Any] = yaml.safe_load(Path("examples/search.yaml").read_text())
    config |= stage | {"env_options": config["env_options"] | stage.get("env_options", {})}
    without = {"eval.every": 0, "eval.episodes": 1, "run.stop_at": None}
    return config | without | {"run.seed": seed, "run.threads": given.threads}


def after(path: Path) -> dict[str, Any]:
    """Options of a run that goes on from the weights of another."""
    _, checkpoint = RunFolder(path).latest_checkpoint()
    return {"model.name": str(checkpoint), "model.instructions": False}


def run(name: str, seed: int, given: argparse.Namespace) -> None:
    """The start of a seed, or an arm that goes on from there."""
    stages = STAGES[start_of(name)]
    if name in ARMS:
        arm = ARMS[name]
        config = options(stages[-1], seed, given) | after(home(given.out, seed) / arm.start)
        config |= {"sft.episodes": 0, "budget.limits": TRAINED if arm.told else None}
        config |= {"algorithm": arm.algorithm, "parameters": {}}
        config |= {"run.updates": given.updates, "run.checkpoint_every": given.updates}
        trained(home(given.out, seed) / name, config)
        return
    paths = [*(home(given.out, seed) / f"{name}-{i}" for i in range(1, len(stages))), home(given.out, seed) / name]
    before: dict[str, Any] = {}
    for path, stage in zip(paths, stages, strict=True):
        trained(path, options(stage, seed, given) | before | {"run.updates": 0})
        before = after(path)


def played(name: str, seed: int, given: argparse.Namespace) -> None:
    """Play the test tasks with the newest weights of a run, and write down what came of it."""
    path = home(given.out, seed) / name
    training = Training(RunFolder(path))
    config = training.config
    _, checkpoint = RunFolder(path).latest_checkpoint()
    policy = ModelPolicy(
        *load(str(checkpoint)),
        context=build_context(config, training.algorithm),
        temperature=config.rollout.temperature,
        max_new_tokens=config.rollout.max_new_tokens,
    )
    tasks = [Task(i, {"task": i}) for i in range(given.tasks)]
    make = environment(config, "test")
    learned = [m["success"] for m in RunFolder(path).metrics.read() if m.get("event") is None]
    figures: dict[str, Any] = {
        "arm": name,
        "seed": seed,
        "curve": float(np.mean(learned)) if learned else None,
        "last": float(np.mean(learned[-3:])) if learned else None,
    }
    if start_of(name) == "eager":
        for told, announce in TOLD.items():
            settings = {"announce": announce, "tasks": given.tasks}
            curve = evaluate(
                make,
                policy,
                tasks=tasks,
                budgets=parse_budgets(BUDGETS, "tool_calls"),
                name=name,
                announce=announce,
                folder=SweepFolder(home(given.out, seed) / f"test-{told}", settings),
                run_key=seed,
            )
            figures[told] = share(curve)
        found = curve.rows[-1]
    else:
        found = evaluate(make, policy, tasks=tasks, run_key=seed).rows[0]
        cool = evaluate(make, policy, tasks=tasks, run_key=seed, sampling=Sampling(temperature=COOL))
        figures["cool"] = cool.rows[0].success
    figures |= {
        "success": found.success,
        "calls": found.means["calls"].mean,
        "productivity": found.productivity,
    }
    results(given.out, seed).append(figures)


def share(curve: Curve) -> float:
    """The area under a curve, of that of a policy which solves everything under every budget."""
    if curve.area is None or curve.greatest_area is None:
        raise ValueError("a curve needs two budgets with a limit to have an area")
    return curve.area / curve.greatest_area


def results(out: Path, seed: int) -> JsonLines:
    """One line for each run of a seed that was played."""
    return JsonLines(home(out, seed) / "results.jsonl")


def tables(start: str, rows: list[dict[str, Any]]) -> None:
    """Print every arm of a start, then the differences between arms, paired by seed."""
    found = {name: {r["seed"]: r for r in rows if r["arm"] == name} for name in members(start)}
    names = FIGURES[start]
    print("\n| arm | seeds | " + " | ".join(names) + " |\n" + "| --- " * (len(names) + 2) + "|")
    for name, runs in found.items():
        known = [[r[f] for r in runs.values() if r[f] is not None] for f in names]
        print(f"| {name} | {len(runs)} | " + " | ".join(interval(v) if v else "" for v in known) + " |")
    for first, second in COMPARED[start]:
        seeds = sorted(found[first].keys() & found[second].keys())
        cells = []
        for f in names:
            pairs = [(found[first][s][f], found[second][s][f]) for s in seeds]
            gaps = [a - b for a, b in pairs if a is not None and b is not None]
            cells.append(interval(gaps, "+") if gaps else "")
        print(f"| {first} − {second} | {len(seeds)} | " + " | ".join(cells) + " |")


def pooled(out: Path, name: str, seeds: Iterable[int], told: str) -> Curve:
    """Success of an arm under budgets, the episodes of all its seeds together."""

    def at(budget: Budget) -> Row:
        episodes: list[Episode] = []
        for seed in seeds:
            path = home(out, seed) / f"test-{told}"
            settings = {key: value for key, value in RunFolder(path).config.items() if key != "kind"}
            episodes += SweepFolder(path, settings).kept(name, budget).values()
        return row(budget, episodes)

    return Curve(f"{name}, {told}", tuple(at(b) for b in parse_budgets(BUDGETS, "tool_calls")))


def budgets(out: Path, seeds: list[int]) -> None:
    """Print success and calls under each budget, and draw ``budgets.svg``."""
    curves = {(name, told): pooled(out, name, seeds, told) for name in members("eager") for told in TOLD}
    print("\n| policy | " + " | ".join(BUDGETS.split(",")) + " | area |\n" + "| --- " * 8 + "|")
    for curve in curves.values():
        cells = " | ".join(f"{r.success:.3f} ({r.means['calls'].mean:.2f})" for r in curve.rows)
        print(f"| {curve.policy} | {cells} | {share(curve):.3f} |")
    drawn = [("eager", "silent"), ("eager", "announced"), ("eager-grpo", "silent"), ("eager-otc", "silent")]
    drawn += [("told-grpo", "announced"), ("told-otc", "announced")]
    plot = success_plot([curves[key] for key in drawn], "agentgym/Search-v0: success under a budget of tool calls")
    if plot is not None:
        (out / "budgets.svg").write_text(plot)


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--starts", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--tasks", type=int, default=150, help="of the test split")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    for seed in given.seeds if not given.table else ():
        home(given.out, seed).mkdir(parents=True, exist_ok=True)
        for name in (name for start in given.starts for name in members(start)):
            if name not in {r["arm"] for r in results(given.out, seed).read()}:
                run(name, seed, given)
                played(name, seed, given)
    rows = [r for seed in given.seeds for r in results(given.out, seed).read()]
    for start in given.starts:
        tables(start, rows)
    complete = [s for s in given.seeds if {r["arm"] for r in rows if r["seed"] == s} >= set(members("eager"))]
    if complete and "eager" in given.starts:
        budgets(given.out, complete)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
