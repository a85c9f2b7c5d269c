"""Training in worlds that wait: equal bytes in two runs where they go in lockstep, and a limit on a step's time."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from agentgym.errors import SandboxUnavailable
from agentgym.records import StopReason
from agentgym.store import RunFolder
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.trainer import Training

SMALL = {"layers": 1, "hidden": 16, "heads": 2, "kv_heads": 1, "vocabulary": 400, "max_context": 256}
BASE = {
    "model.tiny": SMALL,
    "run.updates": 3,
    "rollout.groups": 3,
    "rollout.group_size": 4,
    "rollout.max_concurrent_episodes": 5,
    "sft.episodes": 8,
    "sft.batch_size": 4,
    "eval.every": 2,
    "eval.episodes": 4,
    "run.checkpoint_every": 2,
    "optimizer.lr": 1e-3,
    "run.threads": 1,
}


def trained(path: Path, **options: Any) -> tuple[dict[str, bytes], list[Any]]:
    """The bytes that two equal runs have in common, and the episodes."""
    Training.start(TrainConfig.checked(BASE | options), path).run()
    folder = RunFolder(path)
    _, checkpoint = folder.latest_checkpoint()
    names = ["metrics.jsonl", "advantages.jsonl", *(["forks.jsonl"] if (path / "forks.jsonl").exists() else [])]
    files = {name: (path / name).read_bytes() for name in names}
    return files | {"weights": (checkpoint / "model.safetensors").read_bytes()}, list(folder.episodes())


@pytest.fixture
def tasks(tmp_path: Path) -> str:
    """Tasks with one program of a few characters."""
    try:
        from agentgym.tools.python.tool import shared_sandbox

        shared_sandbox()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    same = {"answer": "7", "program": "print(7)"}
    lines = [{"question": f"number {n}", "split": "train" if n < 6 else "test", **same} for n in range(9)]
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.mark.timeout(600)
def test_the_code_world_twice(tasks: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "env": "agentgym/Code-v0",
        "env_options": {"tasks": tasks, "max_turns": 3},
        "model.tiny": {"layers": 1, "hidden": 32, "heads": 2, "kv_heads": 2, "vocabulary": 300, "max_context": 512},
        "rollout.max_new_tokens": 40,
        "run.updates": 2,
        "eval.every": 0,
        "sft.episodes": 20,
        "sft.epochs": 10,
        "sft.lr": 0.02,
        "sft.optimizer": "muon",
    }
    first, second = (trained(tmp_path / name, **options) for name in "ab")
    assert first == second
    calls = [call for e in first[1] for t in e.turns for call in t.tool_calls if call.status == "ran"]
    assert len(calls) >= 3  # the sandbox was waited for
    assert json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[-1])["update"] == 2


@pytest.mark.parametrize("algorithm", ["gigpo", "arpo"])
def test_a_world_that_takes_its_time_twice(algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import letters

    class Slow(letters.Letters):  # type: ignore[misc]
        waits = True

        def step(self, action: str) -> Any:
            time.sleep(random.SystemRandom().random() / 200)
            return super().step(action)

    monkeypatch.setitem(gym.registry, "tests/Slow-v0", gym.envs.registration.EnvSpec("tests/Slow-v0", Slow))
    options = {
        "env": "tests/Slow-v0",
        "algorithm": algorithm,
        "rollout.max_new_tokens": 4,
        "sft.epochs": 1,
        "rollout.lockstep": True,
    }
    assert trained(tmp_path / "a", **options) == trained(tmp_path / "b", **options)


@pytest.mark.timeout(200)
def test_step_seconds_reaches_training_and_its_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import letters

    go = threading.Event()

    class Hanging(letters.Letters):  # type: ignore[misc]
        def step(self, action: str) -> Any:
            if self.word == "red" and action != self.word:  # the expert never hangs
                go.wait(600)
            return super().step(action)

    monkeypatch.setitem(gym.registry, "tests/Hang-v0", gym.envs.registration.EnvSpec("tests/Hang-v0", Hanging))
    limits = {
        "run.updates": 1,
        "eval.episodes": 12,
        "rollout.max_new_tokens": 4,
        "sft.epochs": 1,
        "rollout.step_seconds": 0.2,
    }
    _, episodes = trained(
        tmp_path / "a", env="tests/Hang-v0", **limits, **{"rollout.groups": 6, "rollout.group_size": 2}
    )
    go.set()
    broken = [e for e in episodes if e.stop is StopReason.ACTION_ERROR]
    assert {e.task.task_id for e in broken} == {"red"}
    assert {e.failure for e in broken} == {"step took longer than 0.2 seconds (step_seconds); it was left behind"}
    evaluated = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert all(m["eval_action_errors"] > 0 for m in evaluated if m.get("event") == "eval")
