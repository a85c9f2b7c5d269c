"""Advantages of many turns at once, against the same formulas written as loops.

    python benchmarks/credit.py --json credit.json

GiGPO: 100,000 turns (250 groups x 8 episodes x 50 turns, 30 states a group): discounted returns, the episode part and
the part by anchor. Information gain: 512 episodes of 2,048 action tokens in 32 turns, down to one advantage per token.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import numpy as np
from measure import compare, options, table, write

from agentgym.trainers.advantage import (
    TurnTable,
    add,
    chain,
    discounted_return,
    episode_return,
    information_credit,
    scale,
    standardize,
)

GROUPS, EPISODES, TURNS, STATES = 250, 8, 50, 30
DISCOUNT = 0.95
GIGPO = add(
    chain(episode_return(), standardize()),
    scale(1.0, chain(discounted_return(DISCOUNT), standardize(by="anchor", scale=False))),
)


def columns() -> dict[str, list[Any]]:
    """Turns as they come out of a rollout: Python lists, ids as texts."""
    draw = random.Random(0)
    rows = [(g, e, t) for g in range(GROUPS) for e in range(EPISODES) for t in range(TURNS)]
    return {
        "group": [f"g{g}" for g, _, _ in rows],
        "episode": [f"g{g}/{e}" for g, e, _ in rows],
        "turn": [t for _, _, t in rows],
        "reward": [float(t == TURNS - 1 and draw.random() < 0.5) for _, _, t in rows],
        "anchor": [f"state {draw.randrange(STATES)}" for _ in rows],
    }


def ours(given: dict[str, list[Any]]) -> np.ndarray:
    """From lists of ids to advantages."""
    turns = TurnTable.from_columns(**given)
    return GIGPO(turns, turns.reward)


def loops(given: dict[str, list[Any]]) -> np.ndarray:
    """The same, one dictionary and one turn at a time."""
    by_episode: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(given["group"], given["episode"], strict=True)):
        by_episode[key].append(row)
    returns = [0.0] * len(given["turn"])
    outcomes: dict[str, dict[str, float]] = defaultdict(dict)
    for (group, episode), rows in by_episode.items():
        after = 0.0
        for row in reversed(rows):
            after = given["reward"][row] + DISCOUNT * after
            returns[row] = after
        outcomes[group][episode] = sum(given["reward"][row] for row in rows)
    credit = np.zeros(len(returns))
    for (group, episode), rows in by_episode.items():
        values = list(outcomes[group].values())
        mean = sum(values) / len(values)
        deviation = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
        for row in rows:
            credit[row] = (outcomes[group][episode] - mean) / (deviation + 1e-6) if deviation else 0.0
    by_anchor: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(given["group"], given["anchor"], strict=True)):
        by_anchor[key].append(row)
    for rows in by_anchor.values():
        mean = sum(returns[row] for row in rows) / len(rows)
        for row in rows:
            credit[row] += returns[row] - mean
    return credit


def beliefs() -> tuple[TurnTable, np.ndarray]:
    """512 episodes in groups of 8, 32 turns each, with the belief before and after every turn; tokens of each turn."""
    rng = np.random.default_rng(0)
    shape = (512, 32)
    after = rng.normal(-2.0, 1.0, shape)
    before = np.concatenate([rng.normal(-2.0, 1.0, (512, 1)), after[:, :-1]], 1)
    after[:, -1] = np.nan  # the turn that answers
    episode = np.repeat(np.arange(512), 32)
    table = TurnTable.from_columns(
        group=episode // 8,
        episode=episode,
        turn=np.tile(np.arange(32), 512),
        reward=np.where(np.arange(512 * 32) % 32 == 31, rng.random(512 * 32), 0.0),
        answer_logprob=after.ravel(),
        answer_logprob_before=before.ravel(),
    )
    return table, np.full(len(table), 64)


def gain_per_token(turns: TurnTable, tokens: np.ndarray) -> np.ndarray:
    """One advantage per action token [512 * 2,048]."""
    return np.repeat(information_credit()(turns, turns.reward), tokens)


def main() -> None:
    """Both comparisons."""
    given = options(__doc__, rounds=7).parse_args()
    rows = columns()
    np.testing.assert_allclose(ours(rows), loops(rows), rtol=1e-9, atol=1e-9)
    ready = TurnTable.from_columns(**rows)
    sides = {
        "agentgym: table and advantage": lambda: ours(rows),
        "agentgym: of a table that was read once": lambda: GIGPO(ready, ready.reward),
        "loops over turns": lambda: loops(rows),
    }
    seconds = compare(sides, given.rounds)
    figures = {"gigpo": table(f"GiGPO advantage, {len(rows['turn']):,} turns", seconds, work=100_000, unit="turns")}
    turns, tokens = beliefs()
    seconds = compare({"agentgym": lambda: gain_per_token(turns, tokens)}, given.rounds)
    figures["information_gain"] = table(
        f"information gain, {int(tokens.sum()):,} tokens", seconds, work=int(tokens.sum()), unit="tokens"
    )
    write(given.json, figures)


if __name__ == "__main__":
    main()
