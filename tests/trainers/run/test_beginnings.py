"""How a run begins: who plays before it learns, and what is refused before the first episode."""

from __future__ import annotations

import json

import gymnasium as gym
import pytest
from letters import Letters

from agentgym.errors import UsageError
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.trainer import Training

TINY = {"layers": 1, "hidden": 16, "heads": 2, "kv_heads": 1, "vocabulary": 300, "max_context": 256}
SMALL = {
    "model.tiny": TINY,
    "run.updates": 0,
    "rollout.groups": 1,
    "rollout.group_size": 2,
    "rollout.max_new_tokens": 4,
    "eval.episodes": 3,
}


class NoExpert(Letters):
    expert = None


class Silent(Letters):
    """Has an expert that never knows anything, and lists no actions."""

    def expert(self):
        return None

    def _info(self):
        return {k: v for k, v in super()._info().items() if k != "admissible"}


class Shut(Letters):
    """No task of it can be begun, or not every one."""

    def __init__(self, some=False, **options):
        super().__init__(**options)
        self.some = some

    def reset(self, *, seed=None, options=None):
        if not self.some or not seed:
            raise OSError("no room")
        return super().reset(seed=seed, options=options)


@pytest.fixture(autouse=True)
def worlds():
    gym.register("tests/Shut-v0", entry_point=Shut, disable_env_checker=True)
    gym.register("tests/NoExpert-v0", entry_point=NoExpert, disable_env_checker=True)
    gym.register("tests/Silent-v0", entry_point=Silent, disable_env_checker=True)
    yield
    del gym.registry["tests/Shut-v0"], gym.registry["tests/NoExpert-v0"], gym.registry["tests/Silent-v0"]


def start(path, progress=None, **options):
    training = Training.start(TrainConfig.checked(SMALL | options), path, *([progress] if progress else []))
    training.run()
    return training


@pytest.mark.parametrize("env", ["tests/NoExpert-v0", "tests/Silent-v0"])
def test_a_tiny_model_needs_no_expert(env, tmp_path):
    """Its tokenizer knows what random play, or the environment alone, has said."""
    start(tmp_path / "run", env=env, **{"eval.episodes": 1})
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    learned = json.loads((checkpoint / "tokenizer.json").read_text())["model"]["vocab"]
    assert any("You" in piece for piece in learned)


@pytest.mark.parametrize("env", ["tests/NoExpert-v0", "tests/Silent-v0"])
def test_fine_tuning_without_an_expert_is_refused(env, tmp_path):
    with pytest.raises(UsageError, match=rf"{env} has no expert, .*; write its expert\(\), or do without"):
        start(tmp_path / "run", env=env, **{"sft.episodes": 4})
    assert not (tmp_path / "run").exists()


def test_noise_in_demonstrations_needs_random_actions(tmp_path):
    class Mute(Letters):
        def _info(self):
            return {k: v for k, v in super()._info().items() if k != "admissible"}

    gym.register("tests/Mute-v0", entry_point=Mute, disable_env_checker=True)
    try:
        with pytest.raises(UsageError, match=r"random actions need info\['admissible'\] or sample_action\(rng\)"):
            start(tmp_path / "run", env="tests/Mute-v0", **{"sft.episodes": 4, "sft.expert_noise": 0.1})
        start(tmp_path / "run", env="tests/Mute-v0", **{"sft.episodes": 4, "sft.epochs": 1})
    finally:
        del gym.registry["tests/Mute-v0"]


@pytest.mark.parametrize(("max_turns", "seen"), [(None, 7), (2, 2)])
def test_evaluations_are_cut_where_training_is(max_turns, seen, tmp_path):
    told = []
    start(
        tmp_path / "run",
        lambda stage, metrics: told.append((stage, dict(metrics))),
        env="letters:tests/Letters-v0",
        env_options={"turns": 7},
        **{"rollout.max_turns": max_turns},
    )
    (metrics,) = (f for stage, f in told if stage == "evaluation")
    assert metrics["eval_episode_turns"] == seen


def test_a_world_of_which_no_task_can_be_begun_is_refused(tmp_path):
    with pytest.raises(UsageError) as refused:
        start(tmp_path / "run", env="tests/Shut-v0")
    assert str(refused.value) == (
        "no task of tests/Shut-v0 can be begun, its reset fails: OSError: no room; "
        "mend it, see: agentgym check tests/Shut-v0"
    )
    assert not (tmp_path / "run").exists()


def test_a_world_of_which_the_first_task_cannot_be_begun_is_played(tmp_path):
    """One of the three tasks of the evaluation fails, and is counted."""
    training = start(tmp_path / "run", env="tests/Shut-v0", env_options={"some": True})
    (evaluation,) = training.folder.metrics.read()
    assert (evaluation["eval_failed"], evaluation["eval_failure"]) == (1, "OSError: no room")
