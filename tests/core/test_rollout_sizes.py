"""Texts that no model could read are cut before they are kept, and the agent is told."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from agentgym.env import MAX_OBSERVATION, TextEnv, capped
from agentgym.policy import Request, ScriptedPolicy
from agentgym.records import Task, ToolCall
from agentgym.rollout import Group, Rollout

FLOOD = "x" * 5_000_000
CUT = f"{'x' * MAX_OBSERVATION}\n[cut: 1,000,000 of 5,000,000 characters are shown; ask for less at a time]"


class Flood(TextEnv):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.turn = 0
        return FLOOD[:], {"task_id": "flood", "anchor": "0"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        calls = [
            ToolCall("page", {}, FLOOD + " "),
            ToolCall("page", {}, "", FLOOD + " "),
            ToolCall("page", {}, "short"),
        ]
        info = {"task_id": "flood", "anchor": str(self.turn), "error": FLOOD + " ", "tool_calls": calls}
        return FLOOD + " ", 0.0, self.turn == 5, False, info


def test_capped() -> None:
    assert capped("x" * 5, 5) == "x" * 5
    assert capped("x" * 6, 5) == "xxxxx\n[cut: 5 of 6 characters are shown; ask for less at a time]"
    assert capped(FLOOD) == CUT


@pytest.mark.parametrize("threads", [0, 2])
def test_what_an_environment_floods_is_cut_everywhere(threads: int) -> None:
    met: list[str] = []

    def act(request: Request) -> str:
        met.append(request.observation)
        return "on"

    longer = CUT.replace("5,000,000", "5,000,001")
    tracemalloc.start()
    try:
        with Rollout(Flood, ScriptedPolicy(act), max_concurrent_episodes=2, threads=threads) as rollout:
            episodes = list(rollout.play([Group("a", Task(0), 2)]))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 60_000_000  # 2 episodes of 5 turns of 4 texts of a million characters; uncut it is 200 million
    assert met[0] == CUT
    for episode in episodes:
        assert episode.failure is None
        assert [t.observation for t in episode.turns] == [CUT] + [longer] * 4
        assert episode.final == longer
        for turn in episode.turns:
            assert turn.error == longer
            assert [(c.result, c.error) for c in turn.tool_calls] == [(longer, None), ("", longer), ("short", None)]
