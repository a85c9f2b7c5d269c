"""Joins parts of the reward or of the advantage into one: :func:`chain`, :func:`add` and :func:`scale`. ::

    grpo = chain(episode_return(), standardize())
    gigpo = add(grpo, scale(1.0, chain(discounted_return(0.95), standardize(by="anchor", scale=False))))
    advantage = gigpo(turns, turns.reward)

Parts are functions ``(turns, values) -> values`` on float64 [turns]; any callable of that form joins in. What is made
of reward parts only is a reward part itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agentgym.errors import UsageError
from agentgym.trainers.advantage.partitions import Floats
from agentgym.trainers.advantage.turn_table import TurnFunction, TurnTable
from agentgym.trainers.parts import STAGES, Declared, Part, advantage, declare, reward

Joined = Declared[[TurnTable, Floats], Floats]


@advantage
def chain(*parts: TurnFunction) -> Joined:
    """Each part works on what the one before returned."""

    def apply(turns: TurnTable, values: Floats) -> Floats:
        for part in parts:
            values = part(turns, values)
        return values

    return declare(apply, parts=parts, stage=_stage("chain", parts))


@advantage
def add(*parts: TurnFunction) -> Joined:
    """The sum of what each part makes of the same values."""

    def apply(turns: TurnTable, values: Floats) -> Floats:
        return np.asarray(np.sum([part(turns, values) for part in parts], axis=0))

    return declare(apply, parts=parts, stage=_stage("add", parts))


@advantage
def scale(weight: float, part: TurnFunction) -> Joined:
    """``weight`` times what the part returns."""
    stage = _stage("scale", (part,))
    return declare(lambda turns, values: weight * part(turns, values), parts=(part,), stage=stage)


reward.add(chain)
reward.add(add)
reward.add(scale)


def _stage(name: str, parts: tuple[Any, ...]) -> str:
    """Where the whole fits: as a reward where all parts are rewards, else as an advantage."""
    if not parts:
        raise UsageError(f"{name}() joins nothing; give it parts, e.g. {name}(episode_return(), standardize())")
    stages = {part.stage for part in parts if isinstance(part, Part)}
    for odd in stages - {"reward", "advantage"}:
        part = next(p for p in parts if isinstance(p, Part) and p.stage == odd)
        raise UsageError(f"{name}() joins parts of the reward or the advantage, but {part!r} is {STAGES[odd].what}")
    return "reward" if stages == {"reward"} else "advantage"
