"""How long a run will take, and why nothing is learned."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from agentgym.records import Episode, Sample, StopReason, Task, Turn
from agentgym.rollout import Pace
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.outlook import Outlook, why_nothing_was_learned


def outlook(**options: Any) -> Outlook:
    return Outlook(
        TrainConfig.checked({"env": "x", "run.updates": 100, "rollout.groups": 4, "rollout.group_size": 8, **options})
    )


def episode(reward: float, group: str = "1.0", error: str | None = None, tokens: int = 3, **fields: Any) -> Episode:
    turn = Turn("o", "a", reward, error=error, sample=Sample(0, (1,), tuple(range(tokens))))
    return Episode("e", "", Task(0), (turn,), fields.pop("stop", StopReason.TERMINATED), group=group, **fields)


LEARNED, NOTHING = {"grad_norm": 0.5}, {"grad_norm": 0.0}


@pytest.mark.parametrize(
    ("options", "episodes", "said"),
    [
        # as many episodes: a hundred rollouts of 10 s, ten evaluations of 10 s
        ({}, 32, "100 rollouts of 32 episodes and 10 evaluations take about 18:20"),
        # twice as many, together: 10 s to 20 s each; evaluations stay at 10 s
        ({}, 16, "100 rollouts of 32 episodes and 10 evaluations take 18:20 to 35:00"),
        # half as many
        ({}, 64, "100 rollouts of 32 episodes and 10 evaluations take 10:00 to 18:20"),
        # not together: in four rounds after two
        ({"rollout.max_concurrent_episodes": 8}, 16, "100 rollouts of 32 episodes and 10 evaluations take about 35:00"),
        ({"eval.every": 0}, 32, "100 rollouts of 32 episodes and 1 evaluation take about 16:50"),
        ({"eval.every": 30}, 32, "100 rollouts of 32 episodes and 4 evaluations take about 17:20"),
    ],
)
def test_the_time_before_the_first_update(options: dict[str, Any], episodes: int, said: str) -> None:
    line = f"{said}, judging by this one of {episodes}; the updates come on top"
    assert outlook(**options).evaluated(0, 10.0, episodes) == [line]
    assert outlook(**options).evaluated(10, 10.0, episodes) == []
    assert outlook(**options | {"run.updates": 0}).evaluated(0, 10.0, episodes) == []


def test_the_time_after_the_first_update() -> None:
    told = outlook(**{"eval.every": 10})
    told.evaluated(0, 30.0, 16)
    assert told.seconds_left(0) is None
    # 99 updates of 6 s, evaluations of 30 s after updates 10, 20 ... 100
    assert told.updated(1, 6.0, [], LEARNED) == ["update 1 took 6 s; about 14:54 to go"]
    assert told.seconds_left(1) == 99 * 6 + 10 * 30
    assert told.updated(2, 8.0, [], LEARNED) == []
    assert told.seconds_left(2) == 98 * 7 + 10 * 30
    assert told.seconds_left(95) == 5 * 7 + 30
    assert told.seconds_left(100) == 0


@pytest.mark.parametrize(("every", "evaluations"), [(0, 1), (30, 4), (50, 2)])
def test_the_last_update_is_evaluated_too(every: int, evaluations: int) -> None:
    told = outlook(**{"eval.every": every})
    told.evaluated(0, 1000.0, 16)
    told.updated(1, 1.0, [], LEARNED)
    assert told.seconds_left(1) == 99 + evaluations * 1000


def test_only_the_last_updates_count() -> None:
    told = outlook(**{"eval.every": 0})
    for update in range(1, 31):
        told.updated(update, 1.0 if update > 20 else 50.0, [], LEARNED)
    assert told.seconds_left(30) == 70


def test_it_is_said_after_two_updates_then_more_rarely_and_again_after_something_was_learned() -> None:
    told, said = outlook(), []
    for update in range(1, 25):
        metrics = LEARNED if update == 10 else NOTHING
        lines = told.updated(update, 1.0, [episode(0.0)] * 4, metrics)
        said += [update] if any("nothing was learned" in line for line in lines) else []
    assert said == [2, 4, 8, 12, 14, 18]


def of_groups(*rewards: tuple[float, ...], **fields: Any) -> list[Episode]:
    return [episode(r, f"1.{g}", **fields) for g, group in enumerate(rewards) for r in group]


BEGIN = "no group differed: nothing was learned in 2 updates, because "


@pytest.mark.parametrize(
    ("episodes", "because"),
    [
        (
            of_groups((0.0, 0.0), (0.0, 0.0)),
            BEGIN + "all 4 episodes earned 0; easier tasks, larger groups or fine-tuning (sft.episodes=200) give some "
            "that differ",
        ),
        (
            of_groups((0.5, 0.5), (1.0, 1.0), (0.5, 0.5), success=False),
            BEGIN + "the members of every group earned the same (2 groups 0.5, 1 group 1); easier tasks, larger",
        ),
        (
            of_groups((1.0, 1.0), success=True),
            BEGIN + "all 2 episodes earned 1; all are solved: harder tasks would teach more",
        ),
        (
            of_groups((0.0, 0.0), error="neither a tool call\nnor an answer"),
            BEGIN + "all 2 episodes earned 0; 2 of 2 turns were not understood, the first: 'neither a tool call nor an "
            "answer'; fine-tuning teaches the form (sft.episodes=200, where there is an expert)",
        ),
        (
            of_groups((0.0, 0.0), error="e" * 200, tokens=32),
            BEGIN + "all 2 episodes earned 0; 2 of 2 turns were not understood, the first: '" + "e" * 80 + "...'; 2 "
            "were cut at rollout.max_new_tokens=32; fine-tuning",
        ),
        (
            of_groups((0.0, 0.0), tokens=32),
            BEGIN + "all 2 episodes earned 0; 2 of 2 actions were cut at rollout.max_new_tokens=32: give them more",
        ),
        (
            of_groups((0.0,), (1.0,)),
            BEGIN + "a group of one episode has nobody to be compared with; set rollout.group_size=8",
        ),
        (
            of_groups((0.0, 0.0), stop=StopReason.WORLD_FAULT),
            BEGIN + "every episode failed in the world or the policy",
        ),
        (
            of_groups((0.0, 1.0), (0.0, 0.0)),
            BEGIN.partition(": ")[2] + "the gradient was zero, though rewards differ in 1 of 2 groups: see what the "
            "algorithm selects, weighs and clips",
        ),
    ],
)
def test_the_reason_is_the_actual_one(episodes: list[Episode], because: str) -> None:
    assert why_nothing_was_learned(2, episodes, 32).startswith(because)


def test_a_failed_member_is_no_difference() -> None:
    episodes = [*of_groups((0.0, 0.0)), episode(1.0, "1.0", stop=StopReason.POLICY_ERROR)]
    assert "all 2 episodes earned 0" in why_nothing_was_learned(2, episodes, 32)


def test_a_run_tells_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import letters

    from agentgym.trainers.run.trainer import Training

    class Hopeless(letters.Letters):  # type: ignore[misc]
        def step(self, action: str) -> Any:
            result = super().step(action)
            return (result[0], 0.0, *result[2:])

    monkeypatch.setitem(gym.registry, "tests/Hopeless-v0", gym.envs.registration.EnvSpec("tests/Hopeless-v0", Hopeless))

    class Show:
        def __init__(self) -> None:
            self.said: list[str] = []
            self.played: dict[str, tuple[int, int]] = {}

        def __call__(self, stage: str, metrics: Any) -> None:
            self.said.append(stage)

        def playing(self, pace: Pace) -> None:
            self.played[re.sub(r"\(.*\)", "(...)", pace.what)] = pace.episodes, pace.total

    show = Show()
    options = {
        "env": "tests/Hopeless-v0",
        "model.tiny": {"layers": 1, "hidden": 16, "heads": 2, "kv_heads": 1, "vocabulary": 300, "max_context": 128},
        "run.updates": 3, "rollout.groups": 2, "rollout.group_size": 3, "rollout.max_new_tokens": 4,
        "eval.episodes": 3, "eval.every": 0,
    }  # fmt: skip
    Training.start(TrainConfig.checked(options), tmp_path / "run", show).run()
    messages = [s for s in show.said if s not in ("update", "evaluation", "sft")]
    assert re.fullmatch(
        r"3 rollouts of 6 episodes and 1 evaluation take (about )?[\d:to ]+, judging by .*", messages[-3]
    )
    assert re.fullmatch(r"update 1 took [\d.e-]+ s; about \d+:\d\d to go", messages[-2])
    assert messages[-1].startswith(
        "no group differed: nothing was learned in 2 updates, because all 6 episodes earned 0"
    )
    assert show.played == {
        "demonstrations": (200, 200), "evaluation": (3, 3), "update 1 of 3": (6, 6), "update 2 of 3 (...)": (6, 6),
        "update 3 of 3 (...)": (6, 6),
    }  # fmt: skip
