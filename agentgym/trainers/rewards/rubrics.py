"""Rewards for what supports an answer.

A reward part is ``(turns, reward) -> reward`` on float64 [turns], joined by ``chain``, ``add`` and ``scale``.
It comes before the advantage, so whatever advantage rule follows carries what it adds or takes back to earlier turns.
"""

from __future__ import annotations

import numpy as np

from agentgym.errors import UsageError
from agentgym.trainers.advantage.partitions import Floats
from agentgym.trainers.advantage.turn_table import TurnTable
from agentgym.trainers.parts import Declared, declare, reward
from agentgym.trainers.rewards.shaping import scale_earned


@reward
def rubrics(
    weight: float = 0.3, column: str = "evidence_recall", relative: bool = True
) -> Declared[[TurnTable, Floats], Floats]:
    """C-GRPO: part of what a right answer earns depends on the facts that were found for it (CaRR, 2601.06021).

    R = R_o · ((1 − α) + α · R_r / max R_r in the group); what is not positive stays as it is. R_r, the share of the
    question's facts that hold up, is ``column`` of the environment on the last turn. Here the facts are the documents
    that support the answer, so no judge is needed: shown by a tool (``evidence_recall``), or shown and then cited by
    the answering action (``evidence_cited``, the paper's rule). The paper's search along shared entities is left out: a
    document's entities are not recorded. Without named evidence an episode keeps its reward.

    Args:
        weight: α in [0, 1].
        relative: divide by the group's best, as in the paper; the released configuration does not.
    """
    if not 0.0 <= weight <= 1.0:
        raise UsageError(f"weight must lie in [0, 1], got {weight!r}")

    def apply(turns: TurnTable, reward: Floats) -> Floats:
        share = np.empty(turns.episodes.total)
        share[turns.episodes.code[turns.last]] = turns.column(column)[turns.last]
        known = np.isfinite(share)
        share = np.where(known, share, 0.0)
        if relative:
            best = np.zeros(turns.groups.total)
            np.maximum.at(best, turns.groups.code[turns.last], share[turns.episodes.code[turns.last]])
            group = np.empty(turns.episodes.total, np.intp)
            group[turns.episodes.code[turns.last]] = turns.groups.code[turns.last]
            share = np.divide(share, best[group], out=np.zeros_like(share), where=best[group] > 0)
        return scale_earned(turns, reward, np.where(known, 1.0 - weight + weight * share, 1.0))

    return declare(apply, needs={column})
