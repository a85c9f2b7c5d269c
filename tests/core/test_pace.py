"""How fast a rollout goes: counts, speeds, and the time that is left."""

from __future__ import annotations

from typing import Any

import pytest

from agentgym.env import TextEnv
from agentgym.policy import PolicyError, Reply, Request, SyncPolicy
from agentgym.records import Episode, StopReason, Task, Usage
from agentgym.rollout import Group, Pace, Rollout
from agentgym.rollout.pace import clock


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ended(success: bool, stop: StopReason = StopReason.TERMINATED) -> Episode:
    return Episode("e", "", Task(0), (), stop, success=success)


def test_speeds_and_what_is_left() -> None:
    time = Clock()
    pace = Pace("update 3", 10, clock=time)
    assert str(pace) == "update 3: 0 of 10 episodes, 0 turns/s"
    time.now += 4
    for _ in range(6):
        pace.turn(200)
    assert str(pace) == "update 3: 0 of 10 episodes, 300 tokens/s"
    assert pace.seconds_left is None
    pace.episode(ended(success=True))
    pace.episode(ended(success=False))
    pace.episode(ended(success=True, stop=StopReason.WORLD_FAULT))
    time.now += 2
    assert (pace.episodes, pace.turns, pace.tokens, pace.solved, pace.failed) == (3, 6, 1200, 1, 1)
    assert pace.seconds == 6
    assert pace.seconds_left == 14  # 3 took 6 s, 7 are left
    assert str(pace) == "update 3: 3 of 10 episodes, 200 tokens/s, 0:14 left"


def test_a_policy_without_tokens_has_turns() -> None:
    time = Clock()
    pace = Pace("expert", 2, clock=time)
    time.now += 0.5
    for _ in range(1000):
        pace.turn(0)
    assert str(pace) == "expert: 0 of 2 episodes, 2,000 turns/s"


def test_more_than_was_said_is_no_negative_time() -> None:
    pace = Pace("x", 1)
    pace.episode(ended(success=True))
    pace.episode(ended(success=True))
    assert pace.seconds_left == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (750, "12:30"),
        (3599.9, "1:00:00"),
        (11100, "3:05:00"),
        (-1, "0:00"),
    ],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


class Walk(TextEnv):
    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        self.turn = 0
        return "begin", {"task_id": str(seed)}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        return "go on", 0.0, self.turn == 3, False, {"success": True}


@pytest.mark.parametrize("threads", [0, 2])
def test_a_rollout_counts(threads: int) -> None:
    class Writes(SyncPolicy):
        def submit(self, request: Request) -> Reply:
            if request.episode == "g1/0":
                raise PolicyError("no")
            return Reply("go", usage=Usage(completion_tokens=7))

    seen: list[tuple[int, int, int]] = []
    with Rollout(Walk, Writes(), threads=threads) as rollout:
        rollout.pace = Pace("all", 4, lambda pace: seen.append((pace.episodes, pace.turns, pace.tokens)))
        list(rollout.play(Group(f"g{n}", Task(n)) for n in range(4)))
        assert (rollout.pace.episodes, rollout.pace.solved, rollout.pace.failed) == (4, 3, 1)
    assert len(seen) == 9 + 4  # each turn and each episode
    assert seen[-1] == (4, 9, 63)
