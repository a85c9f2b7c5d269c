"""A new part, algorithm, syntax, tool or environment is one new file in the package, named on the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent

NEW = {
    "trainers/algorithms/turn_level/mine.py": '''
        from agentgym.trainers.advantage import chain, discounted_return, standardize
        from agentgym.trainers.algorithm import Algorithm
        from agentgym.trainers.parts import algorithm

        @algorithm
        def mine(discount: float = 0.9) -> Algorithm:
            """Discounted returns against the group. Ours, 2601.00001."""
            return Algorithm(advantage=chain(discounted_return(discount), standardize(scale=False)))
    ''',
    "trainers/advantage/doubled.py": '''
        from agentgym.trainers.parts import advantage

        @advantage
        def doubled(factor: float = 2.0):
            """The value times ``factor``."""
            return lambda turns, values: factor * values
    ''',
    "trainers/advantage/late.py": '''
        from agentgym.trainers.parts import turn_weight

        @turn_weight
        def late():
            """Later turns weigh more."""
            return lambda turns, advantage: 1.0 + turns.turn
    ''',
    "trainers/loss/squared.py": '''
        from agentgym.trainers.parts import penalty

        @penalty
        def squared(coefficient: float = 0.1):
            """The squared log-ratio."""
            return lambda tokens: coefficient * tokens.log_ratio**2
    ''',
    "trainers/loss/plain.py": '''
        from agentgym.trainers.parts import loss_term

        @loss_term
        def plain():
            """REINFORCE, written out."""
            return lambda tokens: -tokens.advantage * tokens.logprob
    ''',
    "trainers/sampling/same.py": '''
        from agentgym.records import Task
        from agentgym.trainers.parts import sampler

        @sampler
        def same(seed: int = 7):
            """The same task again and again."""
            return lambda run_key, update, count, num_tasks: [Task(seed)] * count
    ''',
    "tools/syntax/shout.py": """
        from agentgym.tools.syntax.tags import Tags

        class Shout(Tags):
            '''Tags by another name.'''

        SYNTAX = Shout
    """,
    "tools/calculator.py": '''
        from agentgym.tools.tool import tool

        @tool
        def double(number: int) -> str:
            """Twice a number.

            Args:
                number: any.
            """
            return f"It is {2 * number}."
    ''',
    "envs/echo.py": '''
        import gymnasium as gym

        from agentgym.env import TextEnv, digest

        class Echo(TextEnv):
            """Repeat the number."""

            def reset(self, *, seed=None, options=None):
                super().reset(seed=seed)
                self.number = (seed or 0) % 5
                return f"Say {self.number}.", {"anchor": digest(self.number), "admissible": [str(n) for n in range(5)]}

            def step(self, action):
                right = action == str(self.number)
                return "Done.", float(right), True, False, {"anchor": digest("end"), "success": right}

            def expert(self):
                return str(self.number)

        gym.register("agentgym/Echo-v0", entry_point=Echo, disable_env_checker=True)
    ''',
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "agentgym", folder / "agentgym", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in NEW.items():
        lines = text.strip("\n").split("\n")
        indent = len(lines[0]) - len(lines[0].lstrip())
        (folder / "agentgym" / name).write_text("\n".join(line[indent:] for line in lines) + "\n")
    return folder


def agentgym(copy: Path, *arguments: str, typed: str = "") -> str:
    """What the command of the copy prints."""
    env = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "agentgym", *arguments]
    done = subprocess.run(
        command, cwd=copy, env=env, input=typed, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_parts_an_algorithm_and_an_environment_are_used_by_name(copy: Path) -> None:
    replaced = {
        "advantage": "chain(discounted_return(0.9), standardize(scale=False), doubled(3.0))",
        "turn_weight": "late()",
        "penalty": "squared(0.01)",
        "loss_term": "plain()",
        "sampler": "same(seed=3)",
    }
    small = ["run.updates=1", "rollout.groups=2", "rollout.group_size=4", "eval.episodes=2", "rollout.max_new_tokens=4"]
    tiny = ["model.tiny.layers=1", "model.tiny.hidden=16", "model.tiny.heads=2", "model.tiny.kv_heads=1"]
    overrides = [word for stage, part in replaced.items() for word in ("--with", f"{stage}={part}")]
    world = "agentgym.envs.echo:agentgym/Echo-v0"
    options = ["--algorithm", "mine", *overrides, "--out", "run", "rollout.admissible=true", "discount=0.8"]
    assert "done: 1 updates" in agentgym(copy, "train", world, *options, *small, *tiny)
    run = yaml.safe_load((copy / "run" / "run.yaml").read_text())
    assert run["algorithm"] == "mine"
    assert run["stages"] | replaced | {"turn_weight": "(late())", "penalty": "(squared(0.01))"} == run["stages"]
    assert "mine" in agentgym(copy, "algorithms")
    assert "discount" in agentgym(copy, "algorithms", "mine")


def test_a_syntax_is_used_by_name(copy: Path) -> None:
    options = ["syntax=shout", "documents=400", "--policy", "expert", "--episodes", "2"]
    assert "100.0 %" in agentgym(copy, "eval", "agentgym/Search-v0", *options)


def test_a_tool_is_used_by_name(copy: Path) -> None:
    options = ["documents=400", "--tool", "agentgym.tools.calculator:double"]
    typed = "<double>21</double>\n<search>who</search>\n<answer>x</answer>\n"
    shown = agentgym(copy, "play", "agentgym/Search-v0", *options, typed=typed)
    assert "Twice a number." in shown  # in the instructions
    assert "It is 42." in shown
    assert "100.0 %" in agentgym(copy, "eval", "agentgym/Search-v0", *options, "--policy", "expert", "--episodes", "2")
