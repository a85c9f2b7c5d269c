"""The turn table: equally long numpy columns, one row per turn."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agentgym.errors import UsageError
from agentgym.records import Episode, Turn
from agentgym.trainers.advantage.partitions import Codes, Floats, Partition, factorise, pairs, reverse_scan, sums_by

REQUIRED = ("group", "episode", "turn", "reward")
IDS = ("group", "episode", "task", "anchor", "parent")  # any hashables; None means "not known"
DTYPES: Mapping[str, type] = {
    **dict.fromkeys(("reward", "entropy", "value", "bootstrap", "kl"), np.float64),
    **dict.fromkeys(("answer_logprob", "answer_logprob_before"), np.float64),
    **dict.fromkeys(("turn", "tokens", "tool_calls", "refused_calls", "malformed_calls", "fork_turn"), np.int64),
    **dict.fromkeys(("success", "valid", "truncated", "terminated"), np.bool_),
}
#: Every column that episodes or an update give; an environment's ``info["columns"]`` may give more.
COLUMNS = frozenset({*REQUIRED, *IDS, *DTYPES, "observation", "action_key", "tools"})


class ColumnError(UsageError, AttributeError):
    """A part asked for a column that this table does not have."""


class TurnTable:
    """Turns as columns. Each column is an attribute: a read-only numpy array [turns].

    Rows may come in any order; ``turn`` gives the order inside an episode and may have gaps. An episode is named by
    (group, episode), so episode ids may be used again in another group. Ids are any hashables. Any other name may be
    a column too, so a new part can bring its own data with :meth:`with_columns`.

    ======================= =============================================================================
    group, episode          ids (required)
    turn                    int, place of the turn in its episode (required)
    reward                  float64, what the environment paid for the turn (required; finite)
    anchor                  id of the state that the action met; None: not known, in no set with others
    observation             text that the action answered
    action_key              what the action did: its tool calls with their arguments, else its text
    parent                  id of the episode that this one was forked from, or None
    fork_turn               int, its first turn of its own; 0 without a parent
    valid                   bool, the environment understood the action
    success                 bool, the episode solved its task; see :attr:`agentgym.records.Episode.solved`
    truncated, terminated   bool, how the episode ended
    tokens, tool_calls      int, action tokens of the turn, and its tool calls that ran
    tools                   names of the turn's tools that ran without an error, a tuple
    refused_calls           int, calls that a budget did not let run
    malformed_calls         int, calls of unknown tools or with wrong arguments, which never ran either
    entropy                 float, mean entropy (nats) of the action's tokens; NaN: not recorded, or no tokens
    task                    id of the task, the same whenever it is played again
    answer_logprob          float, mean log-probability of the accepted answer after the turn, see AnswerProbe; NaN:
                            not asked for
    answer_logprob_before   float, the same before the turn
    value, bootstrap        float, a critic's value before the turn; after the last turn of a truncated episode
    kl                      float, see ``rewards.kl``
    ======================= =============================================================================
    """

    def __init__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        self._columns = dict(columns)

    @classmethod
    def from_columns(cls, **columns: Iterable[Any]) -> TurnTable:
        """A table from sequences or arrays of one length.

        Raises:
            UsageError: a required column is absent, lengths differ, a value does not fit its column, a reward is not
                finite, a group or episode is None, or an episode has one turn twice.
        """
        absent = [name for name in REQUIRED if name not in columns]
        if absent:
            raise UsageError(f"a turn table needs {', '.join(REQUIRED)}; pass {', '.join(absent)} too")
        arrays = {name: _column(name, values) for name, values in columns.items()}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise UsageError(f"columns of a turn table have one length, one entry per turn; got {lengths}")
        table = cls(arrays)
        _check_rows(table)
        return table

    @classmethod
    def from_episodes(cls, episodes: Sequence[Episode], columns: Iterable[str] = ()) -> TurnTable:
        """One row per turn, in the order of the episodes and of their turns.

        Failed episodes do not belong in a table and are refused, not dropped, so that row numbers stay what the caller
        thinks they are. An episode without a group is a group of its own. A turn without a value has NaN or None; a
        column is left out only where no turn has one, and it is not among ``columns``.

        Raises:
            UsageError: an episode failed.
        """
        failed = next((e for e in episodes if e.failed), None)
        if failed is not None:
            raise UsageError(
                f"episode {failed.id!r} failed ({failed.stop}: {failed.failure}) and teaches nothing; "
                "pass [e for e in episodes if not e.failed]"
            )
        rows = [(e, number, turn) for e in episodes for number, turn in enumerate(e.turns)]
        counts = [turn.call_counts for _, _, turn in rows]
        found: dict[str, list[Any]] = {
            "group": [e.group or ("episode", e.id) for e, _, _ in rows],
            "episode": [e.id for e, _, _ in rows],
            "task": [e.task.task_id or f"seed {e.task.seed}" for e, _, _ in rows],
            "turn": [number for _, number, _ in rows],
            "reward": [t.reward for _, _, t in rows],
            "valid": [t.error is None for _, _, t in rows],
            "tokens": [len(t.sample.action) if t.sample else t.usage.completion_tokens for _, _, t in rows],
            "tool_calls": [c.made for c in counts],
            "refused_calls": [c.refused for c in counts],
            "malformed_calls": [c.malformed for c in counts],
            "tools": [tuple(c.name for c in t.tool_calls if c.error is None) for _, _, t in rows],
            "truncated": [e.truncated for e, _, _ in rows],
            "terminated": [e.terminated for e, _, _ in rows],
            "parent": [e.parent for e, _, _ in rows],
            "fork_turn": [e.fork_turn or 0 for e, _, _ in rows],
            "anchor": [t.anchor for _, _, t in rows],
            "observation": [t.observation for _, _, t in rows],
            "action_key": [_action_key(t) for _, _, t in rows],
            "success": [e.solved for e, _, _ in rows],
        }
        entropy = [_mean_entropy(t) for _, _, t in rows]
        if not all(map(math.isnan, entropy)):
            found["entropy"] = entropy
        return cls.from_columns(**found, **_environment_columns([t for _, _, t in rows], found, columns))

    def with_columns(self, **columns: Iterable[Any]) -> TurnTable:
        """This table with columns added or replaced.

        Raises:
            UsageError: as :meth:`from_columns`.
        """
        return TurnTable.from_columns(**{**self._columns, **columns})

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self._columns)

    def column(self, name: str) -> NDArray[Any]:
        """A column by name.

        Raises:
            ColumnError: there is none of that name.
        """
        if name not in self._columns:
            raise ColumnError(
                f"the turn table has no column {name!r}; it has {', '.join(self._columns)}. "
                f"Add it with turns.with_columns({name}=[...]), or leave out the part that reads it"
            )
        return self._columns[name]

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.column(name)

    def __len__(self) -> int:
        return len(self._columns["reward"])

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __repr__(self) -> str:
        return f"TurnTable({len(self)} turns, {self.episodes.total} episodes, {self.groups.total} groups)"

    @cached_property
    def groups(self) -> Partition:
        """Turns by group."""
        return factorise("group", self.group)

    @cached_property
    def episodes(self) -> Partition:
        """Turns by (group, episode)."""
        return pairs(self.groups, factorise("episode", self.episode))

    @cached_property
    def _sets(self) -> dict[str, Partition]:
        return {"group": self.groups, "episode": self.episodes}

    def sets(self, by: str | Callable[[TurnTable], Iterable[Hashable]] = "group") -> Partition:
        """Turns by (group, ``by``): a column, or a function of the table that gives one id per turn.

        A turn whose id is None is a set of its own: nothing is known that it could be compared with.
        """
        if callable(by):
            return pairs(self.groups, factorise(getattr(by, "__name__", "by"), _column("by", by(self))))
        if by not in self._sets:
            self._sets[by] = pairs(self.groups, factorise(by, self.column(by)))
        return self._sets[by]

    @cached_property
    def order(self) -> Codes:
        """Row numbers sorted by episode, then turn."""
        order: Codes = np.lexsort((self.turn, self.episodes.code))
        return order

    @cached_property
    def lengths(self) -> Codes:
        """Turns of each episode [episodes]."""
        return np.asarray(np.bincount(self.episodes.code, minlength=self.episodes.total), dtype=np.intp)

    @cached_property
    def remaining(self) -> Codes:
        """How many turns of the same episode follow, in the layout of :attr:`order` [turns]."""
        ends = np.repeat(np.cumsum(self.lengths), self.lengths)
        return np.asarray(ends - 1 - np.arange(len(self)), dtype=np.intp)

    @cached_property
    def first(self) -> Codes:
        """Row of the first turn of each episode [episodes]."""
        first: Codes = self.order[np.cumsum(self.lengths) - self.lengths]
        return first

    @cached_property
    def last(self) -> Codes:
        """Row of the last turn of each episode [episodes]."""
        last: Codes = self.order[np.cumsum(self.lengths) - 1]
        return last

    def per_episode(self, values: ArrayLike) -> Floats:
        """Sum of ``values`` [turns] over each episode [episodes]."""
        weights = np.asarray(values, dtype=np.float64)
        return sums_by(self.episodes, weights)

    def reverse_scan(self, values: Floats, factor: float) -> Floats:
        """yₜ = xₜ + factor · yₜ₊₁ inside each episode, y = x on its last turn [turns]."""
        out = np.empty_like(values)
        out[self.order] = reverse_scan(values[self.order], self.remaining, factor)
        return out


#: ``(turns, values) -> values`` on float64 [turns].
TurnFunction: TypeAlias = Callable[[TurnTable, Floats], Floats]


def _column(name: str, values: Iterable[Any]) -> NDArray[Any]:
    """One column as a read-only array of its type."""
    array = values if isinstance(values, np.ndarray) else None
    if array is None:
        items = list(values)
        if name in DTYPES:
            array = _typed(name, items)
        else:
            array = np.fromiter(items, dtype=object, count=len(items))
            if name not in IDS and all(isinstance(x, (bool, int, float, np.generic)) for x in items):
                array = np.array(items)
    elif name in DTYPES and array.dtype != DTYPES[name]:
        array = _typed(name, array)
    if array.ndim != 1:
        raise UsageError(f"column {name!r} has shape {array.shape}; a column has one entry per turn")
    if array.flags.writeable:
        array = array.copy()
        array.flags.writeable = False
    return array


def _typed(name: str, values: Any) -> NDArray[Any]:
    """``values`` as the type that the column has, refused where that would change them."""
    wanted = DTYPES[name]
    try:
        given = np.asarray(values)
        with np.errstate(invalid="ignore"):  # NaN as an int is refused below, with our words
            array: NDArray[Any] = given.astype(wanted)
    except (TypeError, ValueError) as error:
        raise UsageError(f"column {name!r} holds {wanted.__name__} values: {error}") from error
    if given.dtype.kind not in "biuf" or (wanted is not np.float64 and not np.array_equal(array, given)):
        raise UsageError(f"column {name!r} holds {wanted.__name__} values; got {given.dtype} such as {given[:3]!r}")
    return array


def _check_rows(table: TurnTable) -> None:
    """Rewards are finite, every turn has a group and an episode, and no episode has one turn twice."""
    for name in ("group", "episode"):
        if table.column(name).dtype == object and None in table.column(name).tolist():
            raise UsageError(f"column {name!r} holds None; every turn belongs to a group and to an episode")
    bad = np.flatnonzero(~np.isfinite(table.reward))
    if len(bad):
        raise UsageError(f"reward of row {bad[0]} is {table.reward[bad[0]]}; rewards must be finite")
    code, turn = table.episodes.code[table.order], table.turn[table.order]
    twice = np.flatnonzero((code[1:] == code[:-1]) & (turn[1:] == turn[:-1]))
    if len(twice):
        row = table.order[twice[0]]
        raise UsageError(f"episode {table.episode[row]!r} has turn {table.turn[row]} twice; a turn has one row")


def _mean_entropy(turn: Turn) -> float:
    if turn.sample is None or not turn.sample.entropies:
        return math.nan
    return float(np.mean(turn.sample.entropies))


def _action_key(turn: Turn) -> str:
    if turn.tool_calls:
        calls = [[call.name, call.arguments] for call in turn.tool_calls]
        return json.dumps(calls, sort_keys=True, default=str, ensure_ascii=False)
    return " ".join(turn.action.split())


def _environment_columns(
    turns: Sequence[Turn], known: Collection[str], expected: Iterable[str]
) -> dict[str, list[Any]]:
    """What environments gave for turns; a turn without a value has NaN among numbers, None among texts.

    Raises:
        UsageError: a column that is called as one of the table's own.
    """
    names = dict.fromkeys((*(name for turn in turns for name in turn.columns), *expected))
    for name in names:
        if name in known or name in COLUMNS:
            raise UsageError(f"info['columns'] has {name!r}, which is a column of the turn table; give it another name")
    columns = {}
    for name in names:
        values = [turn.columns.get(name) for turn in turns]
        texts = any(isinstance(value, str) for value in values)
        columns[name] = values if texts else [math.nan if value is None else float(value) for value in values]
    return columns
