"""Runs that are killed at random moments and resumed, against runs that are left alone: every byte is compared.

    OMP_NUM_THREADS=1 python benchmarks/resume.py OUT --runs 40

Ten algorithms (several with a state: branching statistics, a table of calls, a critic, a reference), each with AdamW,
Muon, adapters, and adapters with Muon, at widths 64, 96 and 128. Each run has one process that is left alone and at
least two that get SIGKILL: one in fine-tuning, one while a checkpoint is written, or at any moment; a last one goes
to the end. Processes that continue a run have another hash seed than the one that is compared with. Compared are
metrics, advantages and branches byte for byte, episodes decoded, all weights byte for byte, and the trainer's state.
"""

from __future__ import annotations

import collections
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from measure import options, write

HERE = Path(__file__).parent
ALGORITHMS: dict[str, dict[str, Any]] = {
    "gigpo": {"kl": 0.01},
    "dapo": {"rollouts": 3},
    "ppo": {"kl": 0.01},
    "reinforce_pp": {"kl": 0.01},
    "otc": {"fewest": "task"},
    "arpo": {},  # with a branching that remembers returns, see OVERRIDES
    "aepo_agentic": {},
    "igpo": {"kl": 0.01},
    "spo_tree": {},
    "polychromic": {},
}
OVERRIDES: dict[str, dict[str, str]] = {"arpo": {"branching": "spread_branching"}}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"optimizer.name": "muon", "sft.optimizer": "muon"},
    {"model.lora": 4},
    {"model.lora": 4, "optimizer.name": "muon"},
]
WIDTHS = (64, 96, 128)
BASE: dict[str, Any] = {
    "env": "resume_world:bench/Words-v0",
    "run.updates": 6,
    "rollout.groups": 2,
    "rollout.group_size": 8,
    "rollout.max_new_tokens": 4,
    "sft.episodes": 8,
    "sft.epochs": 4,
    "eval.every": 2,
    "eval.episodes": 4,
    "run.checkpoint_every": 1,
    "optimizer.lr": 1e-3,
    "run.threads": 1,
}


def configurations() -> list[dict[str, Any]]:
    """Every algorithm with every variant; neighbours differ in everything, so the first few are a sample."""
    found = []
    for number in range(len(ALGORITHMS) * len(VARIANTS)):
        name = list(ALGORITHMS)[number % len(ALGORITHMS)]
        variant = VARIANTS[(number + number // len(ALGORITHMS)) % len(VARIANTS)]
        width = WIDTHS[(number + number // len(ALGORITHMS)) % len(WIDTHS)]
        size = {"layers": 1, "hidden": width, "heads": 2, "kv_heads": 1, "vocabulary": 300, "max_context": 256}
        algorithm = {"algorithm": name, "parameters": ALGORITHMS[name], "overrides": OVERRIDES.get(name, {})}
        dtype = "bfloat16" if number % 5 == 4 else "float32"
        more = {"model.dtype": dtype, "rollout.admissible": name in ("otc", "dapo")}
        found.append(BASE | {"model.tiny": size, "run.seed": number} | algorithm | variant | more)
    return found


# Processes that train -------------------------------------------------------------------------------------------------


def serve() -> None:
    """Fork a process for every folder on standard input, which continues that run; tell its pid, then its status."""
    import traceback

    from agentgym.trainers.run.trainer import Training

    with tempfile.TemporaryDirectory() as folder:  # a run of its own imports whatever one needs, once and for all
        started(configurations()[3] | {"run.updates": 1}, Path(folder) / "run").run()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                Training.resume(line.strip()).run()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


class ForkServer:
    """A process that has imported everything and forks those that train.

    Args:
        seed: of its hashes, which decide the order in which sets are walked.
    """

    def __init__(self, seed: int) -> None:
        env = os.environ | {"PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
        command = [sys.executable, str(Path(__file__).resolve()), "serve"]
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def run(self, path: Path, stop: Callable[[float], bool] = lambda seconds: False) -> bool:
        """Continue a run; killed as soon as ``stop`` says so after so many seconds. Whether it came to its end.

        Raises:
            RuntimeError: it ended with an error.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{path}\n".encode())
        pid, began = int(stdout.readline()), time.perf_counter()
        while not select.select([stdout], [], [], 0.002)[0]:
            if stop(time.perf_counter() - began):
                os.kill(pid, signal.SIGKILL)
                break
        status = int(stdout.readline())
        if status not in (0, signal.SIGKILL):
            raise RuntimeError(f"the process that continued {path} ended with status {status}")
        return status == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


# When they are killed -------------------------------------------------------------------------------------------------


def unfinished(path: Path) -> list[str]:
    """Checkpoints that are being written, or deleted."""
    return [name for name in names(path / "checkpoints") if name.startswith(".")]


def names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - a folder that is not there yet is asked thousands of times a second
    except FileNotFoundError:
        return []


def after(seconds: float) -> Callable[[float], bool]:
    return lambda passed: passed >= seconds


def while_a_checkpoint_is_written(path: Path, number: int, delay: float) -> Callable[[float], bool]:
    """In the writing of the ``number``-th checkpoint from now, so many seconds after it has begun."""
    seen: dict[str, float] = {}

    def stop(passed: float) -> bool:
        for name in unfinished(path):
            if name.endswith(".tmp"):
                seen.setdefault(name, passed)
        return len(seen) >= number and passed >= list(seen.values())[number - 1] + delay

    return stop


def place_of(path: Path) -> str:
    """Where a kill hit."""
    if unfinished(path):
        return "writing a checkpoint"
    return "between checkpoints" if names(path / "checkpoints") else "in fine-tuning"


# What is compared -----------------------------------------------------------------------------------------------------


def differences(one: Path, other: Path) -> list[str]:
    """In what two runs that should be equal are not."""
    import torch

    from agentgym.store import RunFolder

    runs = [RunFolder(path) for path in (one, other)]
    checkpoints = [run.latest_checkpoint() for run in runs]
    found = [f"update {update}" for update, _ in checkpoints if update != BASE["run.updates"]]
    for name in ("metrics.jsonl", "advantages.jsonl", "branches.jsonl"):
        if len({(path / name).read_bytes() if (path / name).exists() else b"" for path in (one, other)}) > 1:
            found.append(name)
    episodes = [list(run.episodes()) for run in runs]
    if not episodes[0] or episodes[0] != episodes[1]:
        found.append("episodes")
    weights = [
        {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*.safetensors")} for _, path in checkpoints
    ]
    found += sorted(n for n in {*weights[0], *weights[1]} if weights[0].get(n) != weights[1].get(n))
    states = [torch.load(path / "trainer.pt", weights_only=True) for _, path in checkpoints]
    found += [name for name in ("learner", "branching", "recent") if not same(states[0][name], states[1][name])]
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two trees of tensors and plain values are equal."""
    import torch

    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


# The runs -------------------------------------------------------------------------------------------------------------


def killed(
    path: Path, number: int, settings: dict[str, Any], servers: list[ForkServer], times: dict[str, float], kills: int
) -> list[str]:
    """Make a run whose processes are killed, and bring it to its end. Where the kills hit."""
    draw = random.Random(f"kills of {settings['run.seed']}")
    while True:
        shutil.rmtree(path, ignore_errors=True)
        started(settings, path)
        places: list[str] = []
        ended = False
        while not ended:
            done = max((int(n.removeprefix("update-")) for n in names(path / "checkpoints") if n[0] != "."), default=0)
            left = times["whole"] * (1 - done / BASE["run.updates"])
            stops = [
                after(times["fine-tuning"] * draw.uniform(0.0, 1.0)),
                while_a_checkpoint_is_written(path, draw.choice((1, 2)), draw.uniform(0.0, times["checkpoint"])),
                after(left * draw.uniform(0.1, 0.9)),
            ]
            kind = number % 3 if not places else 1 + (number + len(places)) % 2
            stop = stops[kind] if len(places) < kills else after(float("inf"))
            ended = servers[len(places) % len(servers)].run(path, stop)
            if not ended:
                places.append(place_of(path))
        if len(places) >= kills:
            return places


def started(settings: dict[str, Any], path: Path) -> Any:
    """A run that is about to begin."""
    from agentgym.trainers.run.config import TrainConfig
    from agentgym.trainers.run.trainer import Training

    return Training.start(TrainConfig.checked(settings), path)


def left_alone(path: Path, settings: dict[str, Any], server: ForkServer) -> dict[str, float]:
    """Make a run in one go; how long it took, its fine-tuning, and the writing of a checkpoint."""
    started(settings, path)
    seen: dict[str, tuple[float, float]] = {}

    def watch(passed: float) -> bool:
        for name in names(path / "checkpoints"):
            first, _ = seen.get(name, (passed, passed))
            seen[name] = first, passed
        return False

    began = time.perf_counter()
    if not server.run(path, watch):
        raise RuntimeError(f"{path} was killed by somebody else")
    writing = [last - first for name, (first, last) in seen.items() if name.endswith(".tmp")]
    return {
        "whole": time.perf_counter() - began,
        "fine-tuning": seen["update-000000"][0],
        "checkpoint": max(writing, default=0.02),
    }


def main() -> None:
    parser = options(__doc__, 1)
    parser.add_argument("out", type=Path, help="folder for the runs; those that differ are kept")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--kills", type=int, default=2, help="of each run, at least")
    given = parser.parse_args()
    sys.path.insert(0, str(HERE))
    began, hits, unequal = time.perf_counter(), collections.Counter[str](), []
    with ForkServer(1) as first, ForkServer(2) as second, ForkServer(3) as third:
        for number, settings in enumerate(configurations()[: given.runs]):
            kind = " ".join([*(["lora"] if "model.lora" in settings else []), settings.get("optimizer.name", "adamw")])
            size = f"width {settings['model.tiny']['hidden']}"
            name = f"{number:02d} {settings['algorithm']:<13} {kind:<11} {size:<10} {settings['model.dtype']:<9}"
            whole, broken = given.out / f"{number:02d}-whole", given.out / f"{number:02d}-killed"
            shutil.rmtree(whole, ignore_errors=True)
            times = left_alone(whole, settings, first)
            places = killed(broken, number, settings, [second, third], times, given.kills)
            hits.update(places)
            wrong = differences(whole, broken)
            print(
                f"{name} {'DIFFERS in ' + ', '.join(wrong) if wrong else 'equal'}; killed {', '.join(places)}",
                flush=True,
            )
            if wrong:
                unequal.append(name)
            else:
                shutil.rmtree(whole)
                shutil.rmtree(broken)
    figures = {"runs": given.runs, "equal": given.runs - len(unequal), "kills": dict(hits)}
    print(f"\n{figures['equal']} of {given.runs} equal, {hits.total()} kills: {dict(hits)}")
    write(given.json, figures | {"seconds": round(time.perf_counter() - began)})
    sys.exit(1 if unequal else 0)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
