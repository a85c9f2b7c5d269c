"""What an environment says about turns and episodes: into the record, to rewards and advantages, into the metrics."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentgym.contract import columns_of
from agentgym.env import TextEnv
from agentgym.errors import UsageError
from agentgym.policy import ScriptedPolicy
from agentgym.records import Episode, StopReason, Task
from agentgym.rollout import Group, Rollout
from agentgym.store import decode, encode
from agentgym.trainers.advantage import TurnTable, standardize
from agentgym.trainers.rewards.shaping import overlong
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.summary import summary
from agentgym.trainers.run.trainer import Training


class Rooms(TextEnv):
    """Two turns; the first one has a room, the last one a score."""

    first: Any = {"room": "kitchen", "steps": np.int64(3), "safe": True}
    metrics: Any = {"score": 0.5}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.turn = 0
        return "Go.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        if self.turn == 1:
            return "On.", 1.0, False, False, {"columns": self.first}
        return "Done.", 2.0, True, False, {"columns": {"steps": 1.5}, "metrics": self.metrics, "success": True}


def played(**values: Any) -> list[Episode]:
    kind = type("Rooms", (Rooms,), values)
    with Rollout(kind, ScriptedPolicy(lambda request: "go")) as rollout:
        return list(rollout.play([Group("g", Task(0), 2)]))


def test_columns_and_metrics_are_recorded_and_stored() -> None:
    episode, _ = played()
    assert [turn.columns for turn in episode.turns] == [{"room": "kitchen", "steps": 3, "safe": True}, {"steps": 1.5}]
    assert type(episode.turns[0].columns["steps"]) is int
    assert episode.metrics == {"score": 0.5}
    assert decode(encode(episode)) == episode


def test_columns_are_read_by_name_and_a_missing_value_is_not_dropped() -> None:
    turns = TurnTable.from_episodes(played())
    assert turns.steps.tolist() == [3.0, 1.5, 3.0, 1.5]
    assert turns.room.tolist() == ["kitchen", None, "kitchen", None]
    assert [value == 1.0 or math.isnan(value) for value in turns.safe] == [True] * 4
    found = standardize(by="room", scale=False)(turns, [1.0, 5.0, 3.0, 7.0])
    assert found.tolist() == [-1.0, 0.0, 1.0, 0.0]  # a turn without a room is compared with no other


def test_a_turn_without_a_value_adds_nothing_to_a_sum() -> None:
    turns = TurnTable.from_episodes(
        [*played(), *(replace(e, group="h") for e in played(first={"room": "hall"}))]
    )  # 3 + 1.5 steps, and 1.5
    reward = overlong(1, 1, column="steps", cap=None)(turns, turns.reward)
    assert reward[[1, 3, 5, 7]].tolist() == [2 - 4.5, 2 - 4.5, 2 - 1.5, 2 - 1.5]


def test_metrics_are_means_over_the_episodes_that_have_them() -> None:
    with_score = played()
    without = played(metrics={})
    assert summary([*with_score, *without])["env_score"] == 0.5
    assert "env_score" not in summary(without)


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ([("room", 1)], "info['columns'] must be a dict with texts as keys"),
        ({1: 2}, "info['columns'] must be a dict with texts as keys"),
        ({"room": ["a"]}, "info['columns']['room'] must be a number or a short text, got ['a']"),
        ({"room": math.inf}, "info['columns']['room'] must be a number or a short text, got inf"),
        ({"room": "x" * 10_001}, "info['columns']['room'] is a text of 10,001 characters; at most 10,000"),
    ],
)
def test_odd_columns_fail_the_episode(first: Any, said: str) -> None:
    for episode in played(first=first):
        assert episode.stop is StopReason.ACTION_ERROR
        assert said in str(episode.failure)


def test_metrics_are_numbers() -> None:
    assert all(
        "info['metrics']['score'] must be a number, got 'good'" in str(e.failure)
        for e in played(metrics={"score": "good"})
    )


def test_a_column_must_not_hide_one_of_the_table() -> None:
    with pytest.raises(UsageError, match=r"info\['columns'\] has 'reward', which is a column of the turn table"):
        TurnTable.from_episodes(played(first={"reward": 1.0}))


def test_the_first_turns_say_which_columns_there_are() -> None:
    assert columns_of(Rooms) == {"room", "steps", "safe"} | {"steps"}
    assert columns_of(type("Broken", (Rooms,), {"first": property(lambda self: 1 / 0)})) == frozenset()


TINY = {"layers": 1, "hidden": 16, "heads": 2, "kv_heads": 1, "vocabulary": 300, "max_context": 128}
SMALL = {"env": "tests/Rooms-v0", "model.tiny": TINY, "run.updates": 1, "rollout.groups": 2, "rollout.group_size": 2}
SHORT = {"rollout.max_new_tokens": 3, "eval.episodes": 1}


def test_a_training_reads_what_the_environment_gives_and_refuses_what_it_does_not(tmp_path: Path) -> None:
    if "tests/Rooms-v0" not in gym.registry:
        gym.register("tests/Rooms-v0", entry_point=Rooms, disable_env_checker=True)
    options = SMALL | SHORT | {"overrides": {"reward": "overlong(9, 9, column='steps')"}}
    training = Training.start(TrainConfig.checked(options), tmp_path / "run")
    training.run()
    assert [line["env_score"] for line in training.folder.metrics.read() if "env_score" in line] == [0.5]
    options |= {"overrides": {"reward": "overlong(9, 9, column='greedy')"}}
    said = r"reads 'greedy', which is neither computed nor in .* first turns \(room, safe, steps\); give it there"
    with pytest.raises(UsageError, match=said):
        Training.start(TrainConfig.checked(options), tmp_path / "other")
    assert not (tmp_path / "other").exists()
