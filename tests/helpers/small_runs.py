"""Small whole runs for tests: their options, and what two equal ones have in common."""

from __future__ import annotations

import torch

from agentgym.store import RunFolder
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.trainer import Training

SMALL = {"layers": 1, "hidden": 16, "heads": 2, "kv_heads": 1, "vocabulary": 300, "max_context": 128}
BASE = {
    "env": "letters:tests/Letters-v0",
    "algorithm": "gigpo",
    "model.tiny": SMALL,
    "run.updates": 5,
    "rollout.groups": 2,
    "rollout.group_size": 3,
    "rollout.max_new_tokens": 4,
    "sft.episodes": 6,
    "sft.epochs": 1,
    "eval.every": 2,
    "eval.episodes": 3,
    "run.checkpoint_every": 2,
    "optimizer.lr": 1e-3,
    "run.threads": 1,
}


def start(path, progress=None, **options):
    training = Training.start(TrainConfig.checked(BASE | options), path, *([progress] if progress else []))
    training.run()
    return training


def products(path):
    """What two equal runs have in common: weights and metrics as bytes, the trainer's state and episodes as values."""
    folder = RunFolder(path)
    _, checkpoint = folder.latest_checkpoint()
    weights = {str(f.relative_to(checkpoint)): f.read_bytes() for f in sorted(checkpoint.rglob("*.safetensors"))}
    assert weights
    lines = {f.name: f.read_bytes() for f in path.glob("*.jsonl") if f.name != "timings.jsonl"}
    assert lines.keys() >= {"metrics.jsonl", "advantages.jsonl"}
    state = torch.load(checkpoint / "trainer.pt", weights_only=True)
    state = {name: plain(state[name]) for name in ("learner", "branching", "recent")}
    return weights | lines, state, list(folder.episodes())


def plain(tree):
    """Nested state with lists in place of tensors, and of dicts, whose order counts."""
    if isinstance(tree, torch.Tensor):
        return tree.tolist()
    if isinstance(tree, dict):
        return [(key, plain(value)) for key, value in tree.items()]
    return [plain(value) for value in tree] if isinstance(tree, list | tuple) else tree


class Crash(Exception):
    """Raised in the middle of a run."""
