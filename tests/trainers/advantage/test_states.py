"""Keys of turns: which state a turn led to, what it did, and what came before it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym.errors import UsageError
from agentgym.records import Episode, StopReason, Task, ToolCall, Turn
from agentgym.trainers.advantage import TurnTable, action_key, history_key, next_anchor, standardize
from agentgym.trainers.advantage.states import END

TABLE = TurnTable.from_columns(
    group=[0] * 7,
    episode=["a", "b", "a", "b", "a", "c", "c"],
    turn=[0, 0, 1, 1, 2, 0, 1],
    reward=[0.0, 1.0, 0.0, 3.0, 1.0, 0.0, 5.0],
    anchor=["s", "s", "t", "t", "s", "s", None],
    terminated=[True, False, True, False, True, True, True],
)


def test_the_state_that_a_turn_led_to() -> None:
    # a: s t s end; b: s t, cut off; c: s ?, end
    assert list(next_anchor(TABLE)) == ["t", "t", "s", None, END, None, END]


def test_a_history_is_the_last_anchors_of_the_same_episode() -> None:
    assert list(history_key(1)(TABLE)) == [("s",), ("s",), ("t",), ("t",), ("s",), ("s",), None]
    assert list(history_key(2)(TABLE)) == [None, None, ("s", "t"), ("s", "t"), ("t", "s"), None, None]
    assert list(history_key(3)(TABLE)) == [None, None, None, None, ("s", "t", "s"), None, None]
    with pytest.raises(UsageError, match=r"history_key: length: input should be greater than 0 \(got 0\)"):
        history_key(0)


def test_turns_with_one_key_are_compared() -> None:
    found = standardize(by=history_key(2), scale=False)(TABLE, TABLE.reward)
    assert found.tolist() == [0.0, 0.0, -1.5, 1.5, 0.0, 0.0, 0.0]  # both turns that came from s to t
    found = standardize(by=next_anchor, scale=False)(TABLE, TABLE.reward)
    assert found.tolist() == [-0.5, 0.5, 0.0, 0.0, -2.0, 0.0, 2.0]  # both that led to t; both that ended


def test_what_a_turn_did() -> None:
    def episode(*turns: Turn) -> Episode:
        return Episode("e", "env", Task(0), turns, StopReason.TERMINATED)

    calls = (ToolCall("add", {"b": 1, "a": 2}, "3"),)
    same = (ToolCall("add", {"a": 2, "b": 1}, "another result"),)
    turns = TurnTable.from_episodes(
        [episode(Turn("o", "x", tool_calls=calls), Turn("o", "y", tool_calls=same), Turn("o", " go  east\n"))]
    )
    first, second, text = action_key(turns)
    assert first == second == '[["add", {"a": 2, "b": 1}]]'
    assert text == "go east"


@given(st.permutations(range(7)))
def test_keys_do_not_depend_on_the_order_of_rows(order: list[int]) -> None:
    shuffled = TurnTable.from_columns(**{name: TABLE.column(name)[order] for name in TABLE.columns})
    for key in (next_anchor, history_key(2)):
        assert list(key(shuffled)) == [list(key(TABLE))[row] for row in order]
    assert np.array_equal(
        standardize(by=next_anchor)(shuffled, shuffled.reward), standardize(by=next_anchor)(TABLE, TABLE.reward)[order]
    )
