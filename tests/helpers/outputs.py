"""What an algorithm makes of the hand-made episodes of :mod:`ragged`, as numbers: every stage, without a model.

Two algorithms that differ in a number differ in what they do; two that differ in their text alone do not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import letters
import numpy as np
import ragged
import torch

from agentgym import keyed_random
from agentgym.errors import UsageError
from agentgym.models.chat_template import ChatTemplate
from agentgym.models.contexts import full_history
from agentgym.policy import Reply, Request, SyncPolicy
from agentgym.records import Sample, Task
from agentgym.rollout import Group, Independent, Rollout
from agentgym.trainers.advantage.turn_table import TurnTable
from agentgym.trainers.advantage.turn_weights import product
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.tokens import Tokens
from agentgym.trainers.prefix_tree.rows import rows_of
from agentgym.trainers.update.answer_probe import AnswerProbes

SIZES = (8, 9, 7, 27, 16, 216)  # of a group; the first that a branching rule can fill


class Noisy(SyncPolicy):
    """Writes a colour or nonsense, less and less sure of it; drawn by key."""

    vocabulary = 300

    def submit(self, request: Request) -> Reply:
        draw = lambda *what: keyed_random.uniform(request.key, *what)  # noqa: E731
        length = 1 + int(30 * draw("length"))
        entropies = tuple(4.0 * draw("entropy", n) for n in range(length))
        action = request.observation.split()[1].rstrip(".,") if draw("right") < 0.1 else "ge" if draw("e") < 0.8 else ""
        sample = Sample(0, (1,), tuple(range(5, 5 + length)), (-1.0,) * length, entropies)
        return Reply(action, sample)


def outputs(algorithm: Algorithm, world: ragged.World) -> np.ndarray:
    """All numbers of all stages, one after the other."""
    turns = table(world, algorithm)
    reward = algorithm.reward(turns, turns.reward)
    advantage = algorithm.advantage(turns, reward)
    weight = product(*algorithm.turn_weight)(turns, advantage)
    found: list[Any] = [reward, advantage, weight]
    target = algorithm.critic(turns, reward) if algorithm.critic is not None else turns.value
    found += [target, algorithm.critic_lr or 0.0]
    found += _of_tokens(algorithm, _tokens(world, algorithm, advantage, weight, target))
    groups = [[e for e in world.episodes if e.group == g] for g in ("g0", "g1", "g2", "g3")]
    found += [[algorithm.selection(group) for group in groups], getattr(algorithm.selection.function, "rollouts", 1)]
    found += [[task.seed for task in algorithm.sampler(1, 2, 5, None)], _branching(algorithm)]
    found += _contexts(algorithm, world)
    if algorithm.needs & {"answer_logprob", "answer_logprob_before"}:
        found += _beliefs(algorithm, world)[1:]
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in found])


def table(world: ragged.World, algorithm: Algorithm) -> TurnTable:
    """The turns, with what an update would compute."""
    turns = TurnTable.from_episodes(world.episodes)
    rng = np.random.default_rng(2)
    halves = "the room has a door and a lamp. " * 5, "a table stands by the window. " * 5
    order = lambda a: halves if ord(a) % 2 else halves[::-1]  # noqa: E731 - long enough for difflib to see junk in it
    states = [None if a is None else "".join(order(a)) + a for a in turns.anchor]
    drawn = {name: rng.normal(size=len(turns)) for name in ("value", "bootstrap", "kl")}
    found = {name: turns.column(name) / 2 for name in ("evidence_recall", "evidence_cited")}  # nobody found all
    turns = turns.with_columns(anchor=states, **drawn, **found)
    if algorithm.needs & {"answer_logprob", "answer_logprob_before"}:
        turns = turns.with_columns(**_beliefs(algorithm, world)[0])
    return turns


def _tokens(world: ragged.World, algorithm: Algorithm, advantage: Any, weight: Any, target: Any) -> Tokens:
    rows = rows_of(world.episodes)
    rng = np.random.default_rng(3)
    count = len(rows.turn)
    lengths = [len(e.turns) for e in world.episodes]
    owner = np.repeat(np.arange(len(lengths)), lengths)
    far = rng.choice([0.0, 1e-4, -3e-4, 0.1, -0.1, 0.3, -0.3, 1.5, -1.5, 3.0], count)
    columns = {
        "logprob": rows.old + far,
        "old": rows.old,
        "advantage": advantage[rows.turn],
        "weight": weight[rows.turn],
        "sequence": owner[rows.turn] if algorithm.sequence == "episode" else rows.turn,
        "turn": rows.turn,
        "reference": rows.old + rng.normal(0.0, 0.3, count),
        "entropy": rows.entropy,
        "value": rng.normal(size=count),
        "old_value": rng.normal(size=count),
        "target": target[rows.turn],
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in columns.items()}
    for name in ("logprob", "value", "entropy"):
        tensors[name].requires_grad_()
    return Tokens(**tensors)


def _of_tokens(algorithm: Algorithm, tokens: Tokens) -> list[Any]:
    """Weights, losses, coefficients, and the gradient."""
    with torch.no_grad():
        weight = tokens.weight
        for part in algorithm.token_weight:
            weight = weight * part(tokens)
        coefficient = algorithm.aggregate(weight, tokens.sequence)
    weighted = replace(tokens, weight=weight)
    losses = [algorithm.loss_term(weighted), *(penalty(weighted) for penalty in algorithm.penalty)]
    learned = [tokens.logprob, tokens.value, tokens.entropy]
    gradients = torch.autograd.grad((coefficient * sum(losses)).sum(), learned, allow_unused=True)
    return [weight, coefficient, *(x.detach() for x in losses), *(g for g in gradients if g is not None)]


def _branching(algorithm: Algorithm) -> list[float]:
    """How three rollouts branch: who came from whom, at which turn, and by which chance."""
    if type(algorithm.branching()) is Independent:
        return []
    for size in SIZES:
        rule, found = algorithm.branching(), [float(size)]
        try:
            with Rollout(lambda: letters.Letters(turns=12), Noisy(), branching=rule, max_turns=9) as rollout:
                for update in range(3):
                    episodes = rollout.play([Group(f"{update}.{n}", Task(n), size) for n in range(2)])
                    for e in sorted(episodes, key=lambda e: (e.group, e.member, e.id)):
                        parent = float(e.parent.rpartition("/")[2]) if e.parent else -1.0
                        found += [parent, e.fork_turn or 0, len(e.turns), e.reward, float(bool(e.group))]
        except UsageError:  # a tree has a size of its own
            continue
        return found + [x for d in getattr(rule, "decisions", []) for x in (d.signal, d.chance, d.branches)]
    raise AssertionError(f"{algorithm.branching!r} fills no group of {SIZES}")


def _contexts(algorithm: Algorithm, world: ragged.World) -> list[Any]:
    """The tokens of the last context of each episode."""
    context, chat = algorithm.context or full_history(), ChatTemplate(world.tokenizer)
    out: list[Any] = []
    for e in world.episodes[:5]:
        last = len(e.turns) - 1
        request = Request(e.id, 0, e.turns[-1].observation, {}, e.turns[:-1], "Name the colour.")
        out.append(context(chat, request, e.contexts()[last - 1] if last else []))
    return out


def _beliefs(algorithm: Algorithm, world: ragged.World) -> tuple[dict[str, Any], Any, Any]:
    """The columns of beliefs, and what was asked; the scores are drawn by the row and by who is asked."""
    chat = ChatTemplate(world.tokenizer)
    asked = AnswerProbes(chat, full_history(), algorithm.answer_probe, limit=512).ask(world.episodes)
    score = lambda row, at: keyed_random.uniform(asked.by, *row.tokens[: at + 1].tolist())  # noqa: E731
    logprob = np.array([-3.0 * score(row, at) for row in asked.rows for at in row.scored])
    tokens = np.concatenate([row.tokens for row in asked.rows])
    return asked.columns(logprob), tokens, np.concatenate([row.scored for row in asked.rows])
