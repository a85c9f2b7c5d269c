"""Shared by all tests: helper modules are found by name, what a machine lacks is skipped, a tiny model and world."""

from __future__ import annotations

import sys
from pathlib import Path

import hypothesis
import pytest
import torch

from agentgym.errors import MissingExtra, SandboxUnavailable
from agentgym.models.local_policy import ModelPolicy
from agentgym.models.tiny import tiny
from agentgym.records import Task
from agentgym.rollout import Group, Rollout
from agentgym.tools.browser import find_chromium
from agentgym.trainers import parts

sys.path.insert(0, str(Path(__file__).parent / "helpers"))
import letters

hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

TEXTS = [f"You see {w}. Still {w}, turn {n}. {w}" for w in letters.WORDS for n in range(4)] * 3


class ExactNorm(torch.nn.Module):
    """RMSNorm in the precision of its input; Transformers' own computes in float32 whatever comes in."""

    def __init__(self, weight, eps):
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


@pytest.fixture(scope="session")
def small():
    """``small(seed=0, dtype=..., **sizes)``: a tiny model and its tokenizer; float64 is exact throughout."""

    def make(seed=0, dtype=torch.float32, **sizes):
        options = {"layers": 2, "hidden": 32, "heads": 2, "kv_heads": 1, "vocabulary": 300, "max_context": 256}
        model, tokenizer = tiny(TEXTS, seed=seed, **{**options, **sizes})
        if dtype == torch.float64:
            for name, module in list(model.named_modules()):
                if type(module).__name__.endswith("RMSNorm"):
                    parent, _, child = name.rpartition(".")
                    setattr(model.get_submodule(parent), child, ExactNorm(module.weight, module.variance_epsilon))
        return model.to(dtype), tokenizer

    return make


@pytest.fixture(scope="session")
def played():
    """``played(policy, groups, size)``: episodes of the small world, in order."""

    def play(policy: ModelPolicy, groups=3, size=4, *, run_key=0, branching=None, **options):
        env = lambda: letters.Letters(**options)  # noqa: E731
        with Rollout(env, policy, branching=branching, run_key=run_key) as rollout:
            found = list(rollout.play([Group(f"g{n}", Task(n), size) for n in range(groups)]))
        return sorted(found, key=lambda e: (e.group, e.member))

    return play


@pytest.fixture
def registry(monkeypatch):
    """What a test registers is gone after it."""
    parts.load_parts()
    for stage in parts.STAGES.values():
        monkeypatch.setattr(stage, "factories", dict(stage.factories))
    monkeypatch.setattr(parts, "_algorithms", dict(parts._algorithms))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("chromium") is not None:
        try:
            find_chromium()
        except (MissingExtra, SandboxUnavailable) as missing:
            pytest.skip(str(missing))
