"""What a user writes type-checks, with mypy's defaults and without a plugin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

CODE = """
from agentgym import make
from agentgym.trainers.run.config import Tiny, TrainConfig

first = TrainConfig(env="x")
second = TrainConfig(env="x", updates=5, tiny=Tiny(layers=1), replaced={"aggregate": "token_mean"})
observation, info = make("agentgym/Household-v0").reset(seed=0)
first.updates + len(observation)
"""


def mypy(folder: Path, code: str) -> str:
    (folder / "mine.py").write_text(code)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(folder / "mine.py")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def test_options_with_defaults_may_be_left_out(tmp_path: Path) -> None:
    assert mypy(tmp_path, CODE).startswith("Success")


def test_a_wrong_type_is_still_found(tmp_path: Path) -> None:
    assert 'Argument "updates" to "TrainConfig" has incompatible type' in mypy(
        tmp_path, 'from agentgym.trainers.run.config import TrainConfig\nTrainConfig(env="x", updates="many")\n'
    )
