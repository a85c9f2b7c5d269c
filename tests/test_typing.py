"""What a user writes type-checks, with mypy's defaults and without a plugin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

CODE = """
from agentgym import make
from agentgym.trainers.run.config import Model, Run, Tiny, TrainConfig

first = TrainConfig(env="x")
model = Model(tiny=Tiny(layers=1))
second = TrainConfig(env="x", run=Run(updates=5), model=model, overrides={"aggregate": "token_mean"})
observation, info = make("agentgym/Household-v0").reset(seed=0)
first.run.updates + second.model.tiny.layers + len(observation)
"""


def mypy(folder: Path, code: str) -> str:
    (folder / "mine.py").write_text(code)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(folder / "mine.py")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def test_options_with_defaults_may_be_left_out(tmp_path: Path) -> None:
    assert mypy(tmp_path, CODE).startswith("Success")


def test_a_wrong_type_is_still_found(tmp_path: Path) -> None:
    code = "from agentgym.trainers.run.config import Run, TrainConfig\n"
    wrong = mypy(tmp_path, code + 'TrainConfig(env="x", run=Run(updates="many"))\n')
    assert 'Argument "updates" to "Run" has incompatible type' in wrong
    former = mypy(tmp_path, code + 'TrainConfig(env="x", updates=5)\n')
    assert 'Unexpected keyword argument "updates" for "TrainConfig"' in former
