"""The installed command ``agentgym``, in a folder of its own, as somebody meets it after ``pip install``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SCRIPT = Path(sys.executable).with_name("agentgym")
SIZES = ("layers=1", "hidden=16", "heads=2", "kv_heads=1", "vocabulary=300")
TINY = ["--model", "tiny", *(f"model.tiny.{size}" for size in SIZES)]
LIMITS = ["rollout.groups=1", "rollout.group_size=2", "rollout.max_new_tokens=4"]
SMALL = [*TINY, *LIMITS, "run.updates=1", "eval.episodes=2"]

WORLD = '''
import gymnasium
from agentgym.envs.tool_env import Call, Question, ToolEnv
from agentgym.tools.tool import tool


@tool
def double(number: int) -> str:
    """Twice a number.

    Args:
        number: any number.
    """
    return str(2 * number)


def expert(env):
    number = int(env.question.answers[0]) // 2
    return Call("double", {"number": number}) if not env.calls else env.calls[-1].result


def world(**options):
    tasks = [Question(f"What is twice {number}?", answers=[str(2 * number)]) for number in range(20)]
    right = lambda answer, question: answer in question.answers
    return ToolEnv([double], tasks, right, expert=expert, syntax="tags", max_turns=3, **options)


gymnasium.register("own/Double-v0", entry_point=world, disable_env_checker=True)


from agentgym.trainers.advantage import episode_return
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.parts import algorithm


@algorithm
def beside(unused: float = 1.0) -> Algorithm:
    """Stands beside its environment."""
    return Algorithm(advantage=episode_return())
'''

PARTS = '''
from agentgym.trainers.advantage import episode_return
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.parts import advantage, algorithm


@advantage
def times(factor: float = 0.5):
    """The value, times a factor."""
    return lambda turns, values: factor * values


@algorithm
def apart(more: bool = True) -> Algorithm:
    """In a module of its own."""
    return Algorithm(advantage=episode_return())
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own_double.py").write_text(WORLD)
    (tmp_path / "own_parts.py").write_text(PARTS)
    return tmp_path


def agentgym(folder: Path, *arguments: str, code: int = 0) -> str:
    """What the command prints; ``PYTHONPATH`` is not set, so only what is installed and the folder can be imported."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(SCRIPT), *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_every_command_finds_a_module_of_the_current_folder(folder: Path) -> None:
    own = "own_double:own/Double-v0"
    assert "own/Double-v0" in agentgym(folder, "envs", "own_double")
    assert "solved after 2 turns" in agentgym(folder, "play", own, "--policy", "expert")
    assert "100.0 %" in agentgym(folder, "eval", own, "--policy", "expert", "--episodes", "3")
    assert " rules hold\n" in agentgym(folder, "check", own)
    assert "done: 1 updates" in agentgym(folder, "train", own, "--out", "run", *SMALL)
    said = "would import code: env=own_double:own/Double-v0; if you trust it, allow it: --allow-import own_double"
    assert said in agentgym(folder, "train", "--resume", "run", code=2)
    assert "done: 1 updates" in agentgym(folder, "train", "--resume", "run", "--allow-import", "own_double")
    assert "run@update-1" in agentgym(folder, "eval", own, "--policy", "run", "--episodes", "3")


def test_own_algorithms_and_parts_are_found_by_name(folder: Path) -> None:
    own = "own_double:own/Double-v0"
    said = agentgym(
        folder, "train", own, "--algorithm", "beside", "unused=2", "--with", "advantage=own_parts:times(3)", *SMALL
    )
    assert said.startswith("run folder: runs/double-v0-beside-1\n")
    config = yaml.safe_load((folder / "runs/double-v0-beside-1/run.yaml").read_text())
    assert (config["algorithm"], config["parameters"]) == ("beside", {"unused": 2.0})
    assert config["stages"]["advantage"] == "times(3)"
    allowed = ("--allow-import", "own_double", "--allow-import", "own_parts")
    assert "done: 1 updates" in agentgym(folder, "train", "--resume", "runs/double-v0-beside-1", *allowed)
    said = agentgym(folder, "train", own, "--algorithm", "own_parts:apart", "more=false", *SMALL, "run.updates=0")
    assert said.startswith("run folder: runs/double-v0-apart-1\n")
    assert "In a module of its own." in agentgym(folder, "algorithms", "own_parts:apart")


def test_a_module_that_is_not_there_says_where_to_run_it(tmp_path: Path) -> None:
    said = agentgym(tmp_path, "eval", "own_double:own/Double-v0", "--policy", "expert", code=2)
    assert said == (
        "agentgym: cannot import 'own_double': No module named 'own_double'; "
        "install it, or run this where own_double.py is\n"
    )
