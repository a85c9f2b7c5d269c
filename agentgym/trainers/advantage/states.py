"""Which turns met the same state: keys of turns for ``standardize(by=...)``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import SequenceMatcher
from typing import TypeAlias

import numpy as np
from pydantic import PositiveInt

from agentgym.errors import UsageError
from agentgym.trainers.advantage.turn_table import TurnTable
from agentgym.trainers.parts import Declared, declare, turn_key

TurnKey: TypeAlias = Callable[[TurnTable], Iterable[object]]
END = "(end)"  #: what follows the last turn of an episode that terminated


@turn_key
def similar_anchors(
    threshold: float = 0.95, *, column: str = "anchor", junk: bool = False
) -> Declared[[TurnTable], Iterable[object]]:
    """Anchors that are texts, merged where they are alike: ``standardize(by=similar_anchors(0.9))``.

    GiGPO's similarity mode (2505.10978, released code): in row order and inside each group, a turn joins the first
    cluster whose first member f has ``SequenceMatcher(None, anchor, f).ratio() >= threshold``, else opens a cluster.
    So the result depends on the order of rows, and being alike is not transitive.

    Args:
        threshold: in (0, 1].
        column: the texts.
        junk: keep difflib's rule that in texts of 200 characters or more frequent characters do not count, as the
            released code does; two texts with swapped paragraphs then look unlike each other.

    Returns:
        A function of the table that gives one cluster number per turn (None where the anchor is None).

    Raises:
        UsageError: the threshold is outside its range; when called, an anchor is not a text.
    """
    if not 0.0 < threshold <= 1.0:
        raise UsageError(f"threshold must lie in (0, 1], got {threshold!r}; exact anchors are by={column!r}")

    def clusters(turns: TurnTable) -> list[int | None]:
        firsts: dict[int, list[tuple[SequenceMatcher[str], int]]] = {}
        known: dict[tuple[int, str | None], int | None] = {}
        opened = 0
        for key in dict.fromkeys(zip(turns.groups.code.tolist(), turns.column(column).tolist(), strict=True)):
            group, text = key
            if text is None:
                known[key] = None
                continue
            if not isinstance(text, str):
                raise UsageError(f"similar_anchors compares texts, got {text!r} in column {column!r}")
            mine = firsts.setdefault(group, [])
            found = next((number for matcher, number in mine if _alike(matcher, text, threshold)), None)
            if found is None:
                found, opened = opened, opened + 1
                mine.append((SequenceMatcher(None, "", text, autojunk=junk), found))
            known[key] = found
        return [known[key] for key in zip(turns.groups.code.tolist(), turns.column(column).tolist(), strict=True)]

    return declare(clusters, needs={column})


def _alike(matcher: SequenceMatcher[str], text: str, threshold: float) -> bool:
    """``ratio() >= threshold``, by way of difflib's two cheap upper bounds."""
    matcher.set_seq1(text)
    return (
        matcher.real_quick_ratio() >= threshold and matcher.quick_ratio() >= threshold and matcher.ratio() >= threshold
    )


@turn_key(needs=("anchor", "terminated"))
def _next_anchor() -> TurnKey:
    """The state that the turn led to: the anchor of the episode's next turn.

    After the last turn it is :data:`END` if the episode terminated; None, which is like no other, if it was cut off.
    """

    def apply(turns: TurnTable) -> list[object]:
        order = turns.order
        following = np.full(len(turns), None, dtype=object)
        following[order[:-1]] = turns.anchor[order[1:]]
        following[turns.last] = [END if terminated else None for terminated in turns.terminated[turns.last]]
        return list(following)

    return apply


@turn_key(needs=("action_key",))
def _action_key() -> TurnKey:
    """What the turn did: its tool calls with their arguments, or the text of the action where it has none."""
    return lambda turns: list(turns.action_key)


@turn_key(needs=("anchor",))
def history_key(length: PositiveInt = 1) -> TurnKey:
    """The last ``length`` anchors up to the turn's own; None on turns that have fewer before them.

    ``history_key(1)`` is the anchor. A history with an anchor that is not known is like no other.
    """

    def apply(turns: TurnTable) -> list[object]:
        order = turns.order
        anchors, episode = turns.anchor[order], turns.episodes.code[order]
        keys = np.full(len(turns), None, dtype=object)
        for end in range(length - 1, len(turns)):
            history = tuple(anchors[end - length + 1 : end + 1])
            if episode[end - length + 1] == episode[end] and None not in history:
                keys[order[end]] = history
        return list(keys)

    return apply


next_anchor = turn_key.constant("next_anchor", _next_anchor())
action_key = turn_key.constant("action_key", _action_key())
