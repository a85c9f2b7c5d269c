from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from agentgym.errors import UnknownName, nearest
from agentgym.records import CallCounts, Episode, Sample, StopReason, Task, ToolCall, Turn, Usage


def episode(**changes: Any) -> Episode:
    fields: dict[str, Any] = {"turns": (), "stop": StopReason.TERMINATED}
    return Episode(**{"id": "g/0", "env": "t/T-v0", "task": Task(0), **fields, **changes})


def test_records_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        episode().stop = StopReason.BUDGET  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Turn("a", "b").reward = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("stop", StopReason)
def test_an_episode_is_terminated_truncated_failed_or_left(stop: StopReason) -> None:
    one = episode(stop=stop)
    told = [one.terminated, one.truncated, one.failed, stop is StopReason.POLICY_STOPPED]
    assert told.count(True) == 1


def test_sums_over_turns() -> None:
    turns = (
        Turn("", "", 0.5, tool_calls=(ToolCall("a"), ToolCall("b", error="no")), usage=Usage(10, 2, 0.25, 1, 2, 3)),
        Turn("", "", -2.0, tool_calls=(ToolCall("a"),), usage=Usage(5, 3, 0.5, 10, 20, 30)),
    )
    one = episode(turns=turns)
    assert one.reward == -1.5
    assert one.tool_calls == 3
    total = one.usage
    assert (total.prompt_tokens, total.completion_tokens, total.cost) == (15, 5, 0.75)
    assert (total.model_seconds, total.tool_seconds, total.waiting_seconds) == (11, 22, 33)
    assert episode().usage == Usage()


def test_calls_that_never_ran_are_counted_apart() -> None:
    refused, malformed = ToolCall("a", error="no", status="refused"), ToolCall("b", error="what?", status="malformed")
    one = episode(turns=(Turn("", "", tool_calls=(refused,) * 3), Turn("", "", tool_calls=(ToolCall("a"), malformed))))
    assert [t.call_counts for t in one.turns] == [CallCounts(0, 3, 0), CallCounts(1, 0, 1)]
    assert one.call_counts == CallCounts(made=1, refused=3, malformed=1)
    assert one.tool_calls == 1


def test_an_action_that_broke_the_environment_counts_and_ends_all() -> None:
    broken = episode(stop=StopReason.ACTION_ERROR)
    assert (broken.failed, broken.terminated, broken.truncated) == (False, True, False)
    assert episode(stop=StopReason.WORLD_FAULT).failed
    assert StopReason("environment_error") is StopReason.WORLD_FAULT  # an older record; it was left out
    with pytest.raises(ValueError, match="no such reason"):
        StopReason("no such reason")


def test_seconds_do_not_count_in_comparisons() -> None:
    quick, slow = Turn("a", "b", usage=Usage(1, model_seconds=1)), Turn("a", "b", usage=Usage(1, model_seconds=9))
    assert quick == slow
    assert ToolCall("a", seconds=1.0) == ToolCall("a", seconds=2.0)
    assert quick != replace(quick, usage=Usage(2))
    assert ToolCall("a", cost=1.0) != ToolCall("a", cost=2.0)


def test_contexts_are_put_together_from_what_each_turn_added() -> None:
    turns = (
        Turn("", "", sample=Sample(0, (1, 2, 3), (4, 5))),
        Turn("", ""),  # a turn without a sample, e.g. played by an expert
        Turn("", "", sample=Sample(5, (6,), (7,))),  # all of 1 2 3 4 5, then 6
        Turn("", "", sample=Sample(2, (8, 9), (10,))),  # a window: 1 2, then 8 9
    )
    assert episode(turns=turns).contexts() == [(1, 2, 3), (1, 2, 3, 4, 5, 6), (1, 2, 8, 9)]


def test_errors_offer_the_nearest_names() -> None:
    known = ["grpo", "gigpo", "dapo"]
    assert str(UnknownName("algorithm", "GIGPPO", known)).startswith("unknown algorithm 'GIGPPO'; did you mean 'gigpo'")
    assert nearest("zzz", known) == "; known: grpo, gigpo, dapo"
    assert nearest("zzz", []) == "; none is registered"
    assert UnknownName("algorithm", "x", known).known == ["dapo", "gigpo", "grpo"]


def test_importing_agentgym_loads_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "pydantic", "httpx", "typer", "rich", "jinja2", "pyarrow", "tantivy", "scipy"}
    code = "import sys, agentgym; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not heavy & set(modules)
