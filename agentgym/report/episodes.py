"""Which episodes a report shows, and what of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agentgym.records import Episode, ToolCall

LONGEST = 20_000  #: characters of one text on the page


def choose(read: Callable[[], Iterator[Episode]], count: int) -> list[Episode]:
    """Whole groups, spread evenly over the run, the first and the last among them; ``count`` episodes at most.

    Args:
        read: goes through the stored episodes; called twice, so that only the chosen ones are held in memory.
    """
    sizes: dict[str, int] = {}
    for episode in read():
        sizes[episode.group] = sizes.get(episode.group, 0) + 1
    groups = list(sizes)
    if not groups or count < 1:
        return []
    wanted = max(1, min(len(groups), count // max(sizes.values())))
    step = (len(groups) - 1) / max(1, wanted - 1)
    chosen = {groups[round(i * step)] for i in range(wanted)} if wanted > 1 else {groups[-1]}
    return [e for e in read() if e.group in chosen][:count]


def view(episode: Episode, advantages: Sequence[float] | None) -> dict[str, Any]:
    """An episode as the template wants it.

    Args:
        advantages: one number a turn; None where it was not trained on.
    """
    known = advantages is not None and len(advantages) == len(episode.turns)
    values = list(advantages or ()) if known else [None] * len(episode.turns)
    largest = max((abs(v) for v in values if v is not None), default=0.0)
    turns = [
        {
            "number": number,
            "observation": _shorten(turn.observation),
            "action": _shorten(turn.action),
            "reward": turn.reward,
            "error": turn.error is not None,
            "screenshot": base64.b64encode(turn.screenshot).decode() if turn.screenshot is not None else None,
            "calls": [_call(call) for call in turn.tool_calls],
            "advantage": value,
            "strength": round(abs(value) / largest, 3) if value is not None and largest else 0,
            "sign": "none" if not value else "up" if value > 0 else "down",
        }
        for number, (turn, value) in enumerate(zip(episode.turns, values, strict=True))
    ]
    return {
        "id": episode.id,
        "group": episode.group,
        "task": episode.task.task_id or f"seed {episode.task.seed}",
        "env": episode.env,
        "result": {True: "solved", False: "not solved", None: "ended"}[episode.success],
        "good": episode.success,
        "stop": episode.stop.value.replace("_", " "),
        "reward": episode.reward,
        "parent": episode.parent,
        "fork_turn": episode.fork_turn,
        "failure": episode.failure,
        "final": _shorten(episode.final),
        "known": known,
        "turns": turns,
    }


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = ", ".join(f"{name}={json.dumps(value, default=str)}" for name, value in call.arguments.items())
    return {
        "name": call.name,
        "arguments": _shorten(arguments),
        "result": _shorten(call.error if call.error is not None else call.result),
        "failed": call.error is not None,
    }


def _shorten(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} … and {len(text) - LONGEST} more characters"
