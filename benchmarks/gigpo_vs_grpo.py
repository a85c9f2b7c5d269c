"""GRPO against GiGPO in a world that an example trains in: same start, same number of episodes, several seeds.

    python benchmarks/gigpo_vs_grpo.py OUT --warm RUN/checkpoints/update-000000 --seeds 5 --updates 12
    python benchmarks/gigpo_vs_grpo.py OUT --config examples/gui.yaml --warm RUN-0 RUN-1 RUN-2 --seeds 3
    python benchmarks/gigpo_vs_grpo.py OUT --updates 12 --table           # only prints the table

Both arms take the options of the example; only the algorithm differs, with its defaults. A seed decides
tasks and sampling, and which of several starts both arms have; a run of the example with ``run.updates=0`` is a start.
A finished run stays: the command continues where it stopped. Success is measured on the test split before the first
update (``start``) and after the last (``test``; ``gain`` is the difference), and in training as the mean over all
updates (``curve``) and over the last three (``last``).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from measure import interval, trained

from agentgym.errors import StoreError
from agentgym.store import RunFolder

ARMS: dict[str, dict[str, Any]] = {
    "grpo": {"algorithm": "grpo", "parameters": {}},
    "gigpo": {"algorithm": "gigpo", "parameters": {"scale_episode": True}},
}


def run(arm: str, seed: int, given: argparse.Namespace) -> None:
    """Train one arm with one seed, from where it stopped."""
    options = yaml.safe_load(given.config.read_text())
    options |= {
        "model.name": str(given.warm[seed % len(given.warm)]),
        "model.instructions": False,
        "sft.episodes": 0,
        "run.stop_at": None,
        "run.seed": seed,
        "run.updates": given.updates,
        "eval.every": 0,
        "eval.episodes": given.tasks,
        "run.threads": given.threads,
        "run.checkpoint_every": given.updates,
    }
    trained(given.out / f"{arm}-{seed}", options | ARMS[arm])


def figures(path: Path, updates: int) -> dict[str, float] | None:
    """What a finished run came to; None where there is none."""
    try:
        lines = RunFolder(path).metrics.read()
    except StoreError:
        return None
    if not any(line.get("event") == "eval" and line["update"] == updates for line in lines):
        return None
    evals = [line["eval_success"] for line in lines if line.get("event") == "eval"]
    curve = [line["success"] for line in lines if line.get("event") is None]
    return {
        "start": evals[0],
        "test": evals[-1],
        "gain": evals[-1] - evals[0],
        "curve": float(np.mean(curve)),
        "last": float(np.mean(curve[-3:])),
        "episodes": sum(line["episodes"] for line in lines if line.get("event") is None),
    }


def table(results: dict[str, list[dict[str, float]]]) -> None:
    """Print the comparison."""
    names = ("start", "test", "gain", "curve", "last", "episodes")
    print("| arm | seeds | " + " | ".join(names) + " |\n|" + " --- |" * (len(names) + 2))
    for arm, rows in results.items():
        cells = [interval([r[n] for r in rows]) for n in names]
        print(f"| {arm} | {len(rows)} | " + " | ".join(cells) + " |")
    pairs = min(map(len, results.values()))
    for name in ("test", "curve", "last"):
        gap = [results["gigpo"][i][name] - results["grpo"][i][name] for i in range(pairs)]
        print(f"\ngigpo − grpo, {name}, paired by seed: {interval(gap, '+')}")


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, default=Path("examples/household.yaml"), help="whose options both take")
    parser.add_argument("--warm", type=Path, nargs="+", help="checkpoints to start from; seeds take them in turn")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for seed in range(given.seeds if not given.table else 0):
        for arm in given.arms:
            run(arm, seed, given)
    found = {
        arm: [row for seed in range(given.seeds) if (row := figures(given.out / f"{arm}-{seed}", given.updates))]
        for arm in ARMS
    }
    table(found)


if __name__ == "__main__":
    main()
