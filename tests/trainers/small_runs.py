"""Small whole runs for tests: their options, and what two equal ones have in common."""

from __future__ import annotations

from agentgym.store import RunFolder
from agentgym.trainers.config import TrainConfig
from agentgym.trainers.train import Training

SMALL = {"layers": 1, "hidden": 16, "heads": 2, "kv_heads": 1, "vocabulary": 300, "max_context": 128}
BASE = {
    "env": "letters:tests/Letters-v0",
    "recipe": "gigpo",
    "tiny": SMALL,
    "updates": 5,
    "groups": 2,
    "group_size": 3,
    "max_new_tokens": 4,
    "warm_start": 6,
    "warm_start_epochs": 1,
    "eval_every": 2,
    "eval_episodes": 3,
    "checkpoint_every": 2,
    "lr": 1e-3,
    "threads": 1,
}


def start(path, progress=None, **options):
    training = Training.start(TrainConfig.checked(BASE | options), path, *([progress] if progress else []))
    training.run()
    return training


def products(path):
    """What two equal runs have in common: weights and metrics as bytes, episodes as records."""
    folder = RunFolder(path)
    _, checkpoint = folder.latest_checkpoint()
    weights = {str(f.relative_to(checkpoint)): f.read_bytes() for f in sorted(checkpoint.rglob("*.safetensors"))}
    assert weights
    lines = {n: (path / n).read_bytes() for n in ("metrics.jsonl", "credits.jsonl")}
    return weights | lines, list(folder.episodes())


class Crash(Exception):
    """Raised in the middle of a run."""
