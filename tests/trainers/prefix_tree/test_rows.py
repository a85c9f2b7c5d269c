"""From episodes to rows: what is joined, what starts anew, and which token belongs to which turn."""

from __future__ import annotations

import numpy as np
import pytest

from agentgym.errors import UsageError
from agentgym.records import Episode, Sample, StopReason, Task, Turn, sampled_ids
from agentgym.trainers.prefix_tree.rows import rows_of


def episode(*samples, name="e"):
    turns = tuple(Turn("o", "a", sample=s) for s in samples)
    return Episode(name, "env", Task(0), turns, StopReason.TERMINATED)


# contexts 1 2 | action 3 4 | context 5 | action 6, append-only
APPEND = episode(Sample(0, (1, 2), (3, 4), (-0.1, -0.2), (0.5, 0.6)), Sample(4, (5,), (6,), (-0.3,), (0.7,)))
# the second context keeps 1 only
WINDOW = episode(Sample(0, (1, 2), (3, 4), (-0.1, -0.2)), Sample(1, (8, 9), (6,), (-0.3,)), name="w")


def test_append_only_turns_are_one_row():
    rows = rows_of([APPEND])
    assert [r.tokens.tolist() for r in rows.rows] == [[1, 2, 3, 4, 5, 6]]
    assert [r.scored.tolist() for r in rows.rows] == [[2, 3, 5]]
    assert rows.turn.tolist() == [0, 0, 1]
    assert rows.old.tolist() == [-0.1, -0.2, -0.3]
    assert rows.entropy.tolist() == [0.5, 0.6, 0.7]
    assert rows.first.tolist() == [True, False, True]


def test_a_rebuilt_context_starts_a_row_and_counting_goes_on_over_episodes():
    rows = rows_of([WINDOW, APPEND])
    assert [r.tokens.tolist() for r in rows.rows] == [[1, 2, 3, 4], [1, 8, 9, 6], [1, 2, 3, 4, 5, 6]]
    assert [r.scored.tolist() for r in rows.rows] == [[2, 3], [3], [2, 3, 5]]
    assert rows.turn.tolist() == [0, 0, 1, 2, 2, 3]
    assert [r.keep_together for r in rows.rows] == ["w", "w", "e"]
    assert np.isnan(rows.entropy[:3]).all()
    assert rows_of([WINDOW], together=None).rows[0].keep_together is None


def test_a_windowed_turn_that_extends_the_last_one_joins_its_row():
    third = Sample(4, (7,), (5,), (-0.4,))  # keeps 1 8 9 6
    rows = rows_of([episode(*[t.sample for t in WINDOW.turns], third)])
    assert [r.tokens.tolist() for r in rows.rows] == [[1, 2, 3, 4], [1, 8, 9, 6, 7, 5]]
    assert rows.rows[1].scored.tolist() == [3, 5]


def test_rows_agree_with_the_contexts_of_the_episode():
    for e in (APPEND, WINDOW):
        rows = rows_of([e])
        scored = [(tuple(r.tokens[:p]), int(r.tokens[p])) for r in rows.rows for p in r.scored]
        slow = [(c + t.sample.action[:n], t.sample.action[n])
                for c, t in zip(e.contexts(), e.turns, strict=True) for n in range(len(t.sample.action))]  # fmt: skip
        assert scored == slow
        assert sampled_ids(e.turns) == [*e.contexts()[-1], *e.turns[-1].sample.action]


def test_demonstrations_have_no_old_probability():
    rows = rows_of([episode(Sample(0, (1,), (2, 3)))])
    assert rows.old.tolist() == [0.0, 0.0]


def test_a_turn_without_tokens_is_refused():
    with pytest.raises(UsageError, match="episode 'x' has a turn without tokens; only sampled episodes"):
        rows_of([Episode("x", "env", Task(0), (Turn("o", "a"),), StopReason.TERMINATED)])


def test_a_prefix_that_is_dropped_loses_no_scored_token():
    """An empty action (a policy that wrote nothing) leaves no entry, and no row of its own."""
    rows = rows_of([episode(Sample(0, (1, 2), ()), Sample(1, (4,), (5,), (-0.5,)))])
    assert [r.tokens.tolist() for r in rows.rows] == [[1, 4, 5]]
    assert rows.turn.tolist() == [1]


def test_what_a_token_was_drawn_among_stays_beside_it():
    drawn = Sample(0, (1,), (2, 3), (-0.7, 0.0), choices=((2, 9), (3,)))
    free, rebuilt = Sample(3, (4,), (5,), (-1.0,)), Sample(1, (8,), (2,), (-0.7,), choices=((2, 9),))
    rows = rows_of([episode(drawn, free, rebuilt)]).rows
    assert [(r.scored.tolist(), r.choices) for r in rows] == [([1, 2, 4], [(2, 9), (3,), ()]), ([2], [(2, 9)])]
    assert rows_of([episode(free)]).rows[0].choices is None
