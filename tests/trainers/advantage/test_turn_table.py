"""The turn table: what it takes, what it refuses, and the layout that parts build on."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from agentgym.errors import UsageError
from agentgym.records import Episode, Sample, StopReason, Task, ToolCall, Turn, Usage
from agentgym.trainers.advantage.partitions import factorise, reverse_scan
from agentgym.trainers.advantage.turn_table import ColumnError, TurnTable
from agentgym.trainers.parts import advantage

BASE = {"group": ["x", "x", "y"], "episode": ["a", "a", "a"], "turn": [1, 0, 0], "reward": [1, 2, 3]}


def test_columns_are_read_only_arrays_of_their_types():
    turns = TurnTable.from_columns(
        **BASE, valid=[1, 0, 1], tokens=[4, 5, 6], entropy=[0, 1, 2], note=["p", (1, 2), None]
    )
    assert turns.reward.dtype == np.float64
    assert turns.turn.dtype == np.int64
    assert turns.valid.dtype == np.bool_
    assert turns.valid.tolist() == [True, False, True]
    assert turns.entropy.dtype == np.float64
    assert turns.note.tolist() == ["p", (1, 2), None]
    assert len(turns) == 3
    assert "valid" in turns
    assert "value" not in turns
    with pytest.raises(ValueError, match="read-only"):
        turns.reward[0] = 9


def test_a_callers_array_is_copied():
    reward = np.array([1.0, 2.0, 3.0])
    turns = TurnTable.from_columns(**{**BASE, "reward": reward})
    reward[0] = 99.0
    assert turns.reward[0] == 1.0


def test_an_episode_is_named_by_group_and_episode():
    turns = TurnTable.from_columns(**BASE)
    assert turns.episodes.total == 2
    assert turns.lengths.tolist() == [2, 1]
    assert turns.per_episode(turns.reward).tolist() == [3.0, 3.0]
    assert repr(turns) == "TurnTable(3 turns, 2 episodes, 2 groups)"


def test_turn_gives_the_order_whatever_the_rows_are():
    turns = TurnTable.from_columns(**BASE)
    assert turns.order.tolist() == [1, 0, 2]
    assert turns.first.tolist() == [1, 2]
    assert turns.last.tolist() == [0, 2]
    assert turns.remaining.tolist() == [1, 0, 0]
    assert turns.reverse_scan(turns.reward, 10.0).tolist() == [1.0, 12.0, 3.0]


def test_ids_are_any_hashables():
    turns = TurnTable.from_columns(group=[("t", 1), -1, frozenset()], episode=[0, 0, 0], turn=[0, 0, 0], reward=[0] * 3)
    assert turns.groups.total == 3
    with pytest.raises(UsageError, match=r"ids in column 'group' must be hashable: .*list.*use tuples or strings"):
        TurnTable.from_columns(group=[[1], [2]], episode=[0, 0], turn=[0, 0], reward=[0, 0])


def test_sets_are_keyed_by_group_too_and_none_is_alone():
    turns = TurnTable.from_columns(
        group=["x", "x", "y", "x", "x"],
        episode=range(5),
        turn=[0] * 5,
        reward=[0] * 5,
        anchor=["s", "s", "s", None, None],
    )
    code = turns.sets("anchor").code
    assert code[0] == code[1]
    assert len(set(code.tolist())) == 4
    assert turns.sets("anchor").total == 4
    assert turns.sets("group") is turns.groups
    assert turns.sets(lambda table: table.turn).code.tolist() == turns.groups.code.tolist()


@pytest.mark.parametrize("column", [np.array([7, 3, 7]), np.array(["p", "q", "p"]), np.array([True, False, True])])
def test_factorise_takes_arrays(column):
    code = factorise("id", column).code
    assert code[0] == code[2] != code[1]


def test_factorise_gives_each_none_its_own_number():
    sets = factorise("id", np.array([None, "a", None, "a"], dtype=object))
    assert sets.total == 3
    assert sets.code[1] == sets.code[3]
    assert sorted(set(sets.code.tolist())) == [0, 1, 2]


def test_reverse_scan_of_runs():
    # runs of 3, 1 and 2 elements
    found = reverse_scan(np.array([1.0, 1, 1, 5, 2, 4]), np.array([2, 1, 0, 0, 1, 0]), 0.5)
    assert found.tolist() == [1.75, 1.5, 1.0, 5.0, 4.0, 4.0]


def test_an_empty_table_works():
    turns = TurnTable.from_columns(group=[], episode=[], turn=[], reward=[])
    assert len(turns) == 0
    assert turns.first.tolist() == turns.reverse_scan(turns.reward, 0.9).tolist() == []


def test_a_table_can_be_pickled():
    turns = pickle.loads(pickle.dumps(TurnTable.from_columns(**BASE)))
    assert turns.episode.tolist() == ["a", "a", "a"]


def test_with_columns_adds_and_replaces():
    turns = TurnTable.from_columns(**BASE).with_columns(value=[0, 1, 2], reward=[5, 5, 5])
    assert turns.value.tolist() == [0.0, 1.0, 2.0]
    assert turns.reward.tolist() == [5.0, 5.0, 5.0]
    assert turns.columns == ("group", "episode", "turn", "reward", "value")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": [1, 2]}, r"columns of a turn table have one length, one entry per turn; got .*'reward': 2"),
        ({"reward": [1, 2, float("inf")]}, r"reward of row 2 is inf; rewards must be finite"),
        ({"reward": ["a", "b", "c"]}, r"column 'reward' holds float64 values"),
        ({"reward": np.zeros((3, 2))}, r"column 'reward' has shape \(3, 2\)"),
        ({"turn": [0.5, 0, 0]}, r"column 'turn' holds int64 values; got float64"),
        ({"turn": [float("nan"), 0, 0]}, r"column 'turn' holds int64 values"),
        ({"turn": [0, 0, 0]}, r"episode 'a' has turn 0 twice; a turn has one row"),
        (
            {"episode": ["a", None, "b"]},
            r"column 'episode' holds None; every turn belongs to a group and to an episode",
        ),
        ({"valid": [0, 2, 1]}, r"column 'valid' holds bool values"),
    ],
)
def test_a_column_that_does_not_fit_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        TurnTable.from_columns(**{**BASE, **change})


def test_required_columns_are_named():
    with pytest.raises(UsageError, match="needs group, episode, turn, reward; pass turn, reward too"):
        TurnTable.from_columns(group=[1], episode=[1])


def test_an_absent_column_is_an_error_that_says_what_to_do():
    turns = TurnTable.from_columns(**BASE)
    with pytest.raises(ColumnError, match=r"no column 'value'; it has group.*Add it with turns\.with_columns\(value="):
        _ = turns.value
    assert not hasattr(turns, "value")


def episode(number, turns, stop=StopReason.TERMINATED, **fields):
    return Episode(id=f"e{number}", env="t", task=Task(0), turns=tuple(turns), stop=stop, **fields)


def test_from_episodes_makes_one_row_per_turn():
    sample = Sample(0, (1, 2), (3, 4, 5), (-1.0, -1.0, -1.0), (0.5, 1.0, 1.5))
    first = Turn("o", "a", 0.5, "s0", None, (ToolCall("f"), ToolCall("g")), sample)
    never = (ToolCall("f", status="refused"),) * 3 + (ToolCall("h", status="malformed"),)
    second = Turn("o", "b", 1.0, None, "no such tool", never, sample)
    turns = TurnTable.from_episodes(
        [
            episode(0, [first, second], group="x", success=True),
            episode(1, [second], StopReason.BUDGET, group="x", parent="e0", success=False),
        ]
    )
    assert turns.group.tolist() == ["x"] * 3
    assert turns.episode.tolist() == ["e0", "e0", "e1"]
    assert turns.turn.tolist() == [0, 1, 0]
    assert turns.reward.tolist() == [0.5, 1.0, 1.0]
    assert turns.anchor.tolist() == ["s0", None, None]
    assert turns.valid.tolist() == [True, False, False]
    assert turns.tokens.tolist() == [3, 3, 3]
    assert turns.tool_calls.tolist() == [2, 0, 0]
    assert turns.refused_calls.tolist() == [0, 3, 3]
    assert turns.malformed_calls.tolist() == [0, 1, 1]
    assert turns.success.tolist() == [True, True, False]
    assert turns.truncated.tolist() == [False, False, True]
    assert turns.terminated.tolist() == [True, True, False]
    assert turns.parent.tolist() == [None, None, "e0"]
    assert turns.entropy.tolist() == [1.0, 1.0, 1.0]


def test_success_that_is_not_said_is_false_where_an_episode_was_cut_off():
    turn = Turn("o", "a", 0.5)
    cut = [episode(n, [turn], stop, group="x") for n, stop in enumerate([StopReason.CONTEXT_FULL, StopReason.BUDGET])]
    said = episode(2, [turn], success=True, group="x")
    silent = [episode(3, [turn], group="x"), episode(4, [replace(turn, reward=0.0)], group="x")]
    turns = TurnTable.from_episodes([*cut, said, *silent])
    assert turns.success.tolist() == [False, False, True, True, False]


def test_a_turn_without_entropy_does_not_take_that_of_the_others():
    with_tokens = Turn("o", "a", sample=Sample(0, (1,), (3, 4), (-1.0, -1.0), (0.5, 1.0)))
    without = Turn("o", "", sample=Sample(0, (1,), ()))
    turns = TurnTable.from_episodes([episode(0, [with_tokens, without])])
    assert turns.entropy.tolist() == [0.75, pytest.approx(float("nan"), nan_ok=True)]


def test_from_episodes_leaves_out_what_is_not_known():
    turn = Turn("o", "a", usage=Usage(completion_tokens=7))
    turns = TurnTable.from_episodes([episode(0, [turn], success=True), episode(1, [turn])])
    assert "entropy" not in turns
    assert turns.tokens.tolist() == [7, 7]
    assert turns.groups.total == 2  # no group: a group of its own
    assert len(TurnTable.from_episodes([])) == 0


def test_from_episodes_refuses_a_failed_one():
    failed = episode(3, [Turn("o", "a")], StopReason.WORLD_FAULT, failure="boom")
    with pytest.raises(UsageError, match=r"episode 'e3' failed \(world_fault: boom\).*if not e\.failed"):
        TurnTable.from_episodes([failed])


def test_a_part_says_what_it_is(registry):
    @advantage
    def plus(number: float):
        """More."""
        return lambda turns, values: values + number

    part = plus(number=1)
    assert repr(part) == "plus(number=1)"
    assert part.stage == "advantage"
    assert part(TurnTable.from_columns(**BASE), [1, 2, 3]).tolist() == [2.0, 3.0, 4.0]


def test_no_part_or_algorithm_imports_torch():
    code = "import sys\nfrom agentgym.trainers import expressions, parts\nparts.load_parts()\n"
    code += "assert {'agentgym.trainers.loss.surrogate', 'agentgym.trainers.sampling.contexts'} <= set(sys.modules)\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
