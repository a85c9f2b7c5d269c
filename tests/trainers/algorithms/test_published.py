"""One table: every algorithm, the part in each of its stages, and its loss written out; on episodes of every shape.

The learner's advantages, loss and gradients of two optimiser steps equal the written ones to 1e-9.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import ragged
import torch
import written_credit as credit
from written_loss import Written, aepo, by_entropy, cispo, clipped, low_probability, reinforce, steps, where

from agentgym.models.chat_template import ChatTemplate
from agentgym.models.contexts import full_history
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.expressions import with_part
from agentgym.trainers.parts import algorithm_names, get_algorithm
from agentgym.trainers.update.answer_probe import AnswerProbes
from agentgym.trainers.update.learner import Learner, OptimizerConfig

GRPO = {
    "sampler": "uniform()",
    "selection": "keep_all()",
    "branching": "independent()",
    "context": "None",
    "reward": "env_reward()",
    "advantage": "chain(episode_return(), standardize())",
    "critic": "None",
    "critic_lr": "None",
    "turn_weight": "()",
    "token_weight": "()",
    "loss_term": "surrogate(bound=epsilon_clip(0.2, 0.2), shape=min_clip())",
    "penalty": "()",
    "aggregate": "seq_mean_token_mean()",
    "sequence": "'episode'",
    "answer_probe": "AnswerProbe(lead='', opening=None, closing=None, aliases='best', max_aliases=8, "
    "removed='nothing', by='policy')",
}
TOKEN_MEAN = {"aggregate": "token_mean()"}
DAPO = {
    "selection": "nonzero_variance(10)",
    "loss_term": "surrogate(bound=epsilon_clip(0.2, 0.28), shape=min_clip())",
    **TOKEN_MEAN,
}
ALL, SPREAD, SUCCESSES = ("g0", "g1", "g2", "g3"), ("g0", "g3"), ("g0", "g1", "g3")
CONSTANT = "epsilon_clip(0.2, 0.2)"


@dataclass
class Case:
    """An algorithm with options.

    Attributes:
        written: ``(world, kept episodes) -> Written``.
        stages: what differs from GRPO's.
        overrides: stages filled otherwise, as ``--with`` does.
        kept: groups that its selection keeps.
    """

    name: str
    written: Callable[[ragged.World, list[Any]], Written]
    stages: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    kept: tuple[str, ...] = ALL
    overrides: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{k}={v}" for k, v in (self.options | self.overrides).items())])

    def algorithm(self) -> Algorithm:
        made = get_algorithm(self.name)(**self.options)
        for stage, part in self.overrides.items():
            made = with_part(made, stage, part)
        return made


def grpo(kept, **options):
    return credit.grpo(kept, credit.paid(kept), **options)


def ppo(world, kept, *, gae_lambda=0.95, whiten=True, beta=0.0, clip=0.5):
    reward = credit.kl_in_reward(world, kept, beta)
    advantage, target = credit.gae(world, kept, reward, gae_lambda=gae_lambda)
    given = credit.whitened(kept, advantage) if whiten else advantage
    return Written(given, clipped(), "tokens", value=(0.5, clip, target))


def from_the_turn_on(world, kept, *, beta=0.0):
    back = credit.discounted_return(kept, credit.kl_in_reward(world, kept, beta), 1.0)
    return Written(credit.whitened(kept, back), clipped(), "tokens")


def against_the_group(world, kept):
    return Written(credit.whitened(kept, grpo(kept, divide=False)), clipped(), "tokens")


def dapo_limited(world, kept):
    reward = credit.on_last(kept, credit.paid(kept), lambda e: credit.too_long(e, 20, 4, cap=1))
    cut = where(kept, lambda e, t, n: float(not e.truncated))
    return Written(credit.grpo(kept, reward), clipped(0.2, 0.28), "tokens", cut)


def gigpo(kl=0.0, **options):
    return lambda world, kept: Written(credit.gigpo(kept, **options), clipped(dual=3.0, kl=kl), "tokens")


def eapo(world, kept):
    back = credit.discounted_return(kept, credit.paid(kept), 0.95)
    rounds = credit.over_turns(kept, back, lambda *_: True, True)
    return Written(rounds, clipped(3e-4, 4e-4), "turns", whole="turn")


def tapo(limit, buffer):
    def written(world, kept):
        reward = credit.on_last(kept, credit.malformed(kept, -1.0), lambda e: credit.too_long(e, limit, buffer))
        return Written(credit.grpo(kept, reward), clipped(0.2, 0.28, dual=10.0), "tokens")

    return written


def arpo(attribution, *, bonus=0.0, score=None, leaves=False):
    def written(world, kept):
        reward = credit.paid(kept) if score is None else credit.arpo_reward(kept, bonus, score)
        given = credit.grpo(kept, reward)
        if attribution in ("hard", "hard_unit"):
            given = credit.hard(kept, given)
        if attribution == "node_values":
            given = credit.node_values(kept, reward, leaves)
        once = where(kept, lambda e, t, n: 1 / len(credit.copies(kept, e, t)))
        weight = once if attribution in ("hard_unit", "node_values") else None
        return Written(given, clipped(dual=3.0), "tokens", weight)

    return written


def spo_chain(world, kept):
    given = credit.monte_carlo_values(kept, credit.paid(kept))
    counts = where(kept, lambda e, t, n: float(given[e.id, t] != 0) * low_probability(e, t, n))
    return Written(given, clipped(), "tokens", counts)


def spo_tree(leaves=False):
    def written(world, kept):
        given = credit.node_values(kept, credit.paid(kept), leaves)
        counts = where(
            kept,
            lambda e, t, n: (abs(given[e.id, t]) > 1e-12) * low_probability(e, t, n) / len(credit.copies(kept, e, t)),
        )
        return Written(given, clipped(), "tokens", counts)

    return written


def polychromic(world, kept):
    given = credit.diverse_sets(kept, credit.paid(kept))
    own = where(kept, lambda e, t, n: float(t >= (e.fork_turn or 0)))
    return Written(given, clipped(kl_to_old=0.01), "tokens", own)


ENTROPY = "entropy_branching(None, 0.5, 0.2, 20, 1, None, True, None, False)"
GAE = "gae(1.0, 0.95)"
PPO = {
    "advantage": f"chain({GAE}, whiten('token'))",
    "critic": GAE,
    "penalty": "(value_loss(0.5, 0.5))",
    **TOKEN_MEAN,
}
GIGPO = (
    "add(chain(episode_return(), standardize(scale={0})), "
    "scale(1.0, chain(discounted_return(0.95), standardize(by={1}, scale={0}))))"
)
DUAL = f"surrogate(bound={CONSTANT}, shape=min_clip(dual=3.0))"
SEQUENCE = "surrogate(sequence_ratio(), epsilon_clip(0.0003, 0.0004), min_clip())"
INFORMATION = "information_credit('log', 'separate', 'population', 'sum', 1.0, 1.0, 1.0)"

CASES = [
    Case("grpo", lambda w, k: Written(grpo(k), clipped(), "episodes")),
    Case("grpo", lambda w, k: Written(grpo(k), clipped(kl=0.04), "episodes"), {"penalty": "(kl(0.04))"}, {"kl": 0.04}),
    Case(
        "dr_grpo",
        lambda w, k: Written(grpo(k, divide=False), clipped(), "sums", length=512),
        {
            "advantage": "chain(episode_return(), standardize(scale=False))",
            "aggregate": "seq_mean_token_sum_norm(512)",
        },
    ),
    Case(
        "rloo",
        lambda w, k: Written(credit.leave_one_out(k, credit.paid(k)), reinforce, "sums"),
        {
            "advantage": "chain(episode_return(), leave_one_out())",
            "loss_term": "surrogate(reinforce_ratio(), ratio_bounds(), unclipped())",
            "aggregate": "seq_mean_token_sum()",
        },
    ),
    Case(
        "rloo",
        lambda w, k: Written(credit.leave_one_out(k, credit.kl_in_reward(w, k, 0.05)), reinforce, "sums"),
        {
            "reward": "kl(0.05)",
            "advantage": "chain(episode_return(), leave_one_out())",
            "loss_term": "surrogate(reinforce_ratio(), ratio_bounds(), unclipped())",
            "aggregate": "seq_mean_token_sum()",
        },
        {"kl": 0.05},
    ),
    Case(
        "reinforce_pp", from_the_turn_on, {"advantage": "chain(discounted_return(1.0), whiten('token'))", **TOKEN_MEAN}
    ),
    Case(
        "reinforce_pp",
        against_the_group,
        {"advantage": "chain(episode_return(), standardize(scale=False), whiten('token'))", **TOKEN_MEAN},
        {"baseline": "group"},
    ),
    Case("ppo", ppo, PPO),
    Case(
        "ppo",
        lambda w, k: ppo(w, k, gae_lambda=0.5, whiten=False, beta=0.03, clip=None),
        {
            **PPO,
            "reward": "kl(0.03)",
            "advantage": "gae(1.0, 0.5)",
            "critic": "gae(1.0, 0.5)",
            "penalty": "(value_loss(0.5, None))",
        },
        {"gae_lambda": 0.5, "whiten": False, "kl": 0.03, "value_clip": None},
    ),
    Case("dapo", lambda w, k: Written(grpo(k), clipped(0.2, 0.28), "tokens"), DAPO, kept=SPREAD),
    Case(
        "dapo",
        dapo_limited,
        DAPO | {"reward": "overlong(20, 4)", "turn_weight": "(mask_truncated())"},
        {"limit": 20, "mask_cut": True},
        SPREAD,
    ),
    Case(
        "gspo",
        lambda w, k: Written(grpo(k), clipped(3e-4, 4e-4), "episodes", whole="episode"),
        {"loss_term": SEQUENCE},
    ),
    Case(
        "gspo",
        lambda w, k: Written(grpo(k), clipped(3e-4, 4e-4), "turns", whole="turn"),
        {"loss_term": SEQUENCE, "sequence": "'turn'"},
        {"sequence": "turn"},
    ),
    Case(
        "gspo",
        lambda w, k: Written(
            grpo(k),
            clipped(3e-4, 4e-4),
            "episodes",
            where(k, lambda e, t, n: low_probability(e, t, n)),
            whole="episode",
        ),
        {"loss_term": SEQUENCE, "token_weight": "(low_probability(0.9))"},
        overrides={"token_weight": "low_probability(0.9)"},
    ),
    Case(
        "cispo",
        lambda w, k: Written(grpo(k), cispo(), "tokens"),
        {"loss_term": "surrogate(bound=ratio_bounds(0.0, 5.0), shape=stop_gradient_clip())", **TOKEN_MEAN},
    ),
    Case(
        "gigpo",
        gigpo(),
        {"advantage": GIGPO.format(False, "'anchor'"), "loss_term": DUAL, **TOKEN_MEAN},
    ),
    Case(
        "gigpo",
        gigpo(scale=True, penalty=0.1, kl=0.01),
        {
            "advantage": f"chain({GIGPO.format(True, repr('anchor'))}, invalid_penalty(0.1))",
            "loss_term": DUAL,
            "penalty": "(kl(0.01))",
            **TOKEN_MEAN,
        },
        {"scale": True, "penalty": 0.1, "kl": 0.01},
    ),
    Case(
        "gigpo",
        gigpo(similarity=0.9),
        {
            "advantage": GIGPO.format(False, "similar_anchors(0.9, column='observation', junk=False)"),
            "loss_term": DUAL,
            **TOKEN_MEAN,
        },
        {"similarity": 0.9},
    ),
    Case(
        "gigpo",
        lambda w, k: Written(credit.gigpo_released(k, penalty=0.1, scale=True), clipped(dual=3.0), "tokens"),
        {
            "advantage": "add("
            "chain(episode_return(), invalid_penalty(0.1), standardize(scale=True, count='turn', alone='keep')), "
            "scale(1.0, chain(discounted_return(0.95), invalid_penalty(0.1), standardize(by='anchor', scale=True))))",
            "loss_term": DUAL,
            **TOKEN_MEAN,
        },
        {"scale": True, "penalty": 0.1, "match_released_code": True},
    ),
    Case("igpo", lambda w, k: Written(credit.igpo(w, k), clipped(), "episodes"), {"advantage": INFORMATION}),
    Case(
        "igpo",
        lambda w, k: Written(credit.igpo(w, k, credit.malformed(k, -2.0), 0.5, True), clipped(kl=0.02), "episodes"),
        {
            "reward": "malformed(-2.0)",
            "advantage": "information_credit('prob', 'separate', 'population', 'sum', 0.5, 1.0, 1.0)",
            "penalty": "(kl(0.02))",
        },
        {"gain": "prob", "discount": 0.5, "format_score": -2.0, "kl": 0.02},
    ),
    Case(
        "otc",
        lambda w, k: Written(credit.grpo(k, credit.otc(k)), clipped(), "episodes"),
        {"reward": "tool_cost(4.0, 1.0, 'group')"},
    ),
    Case(
        "otc",
        lambda w, k: Written(credit.grpo(k, credit.otc(k, 2.0, 3.0, "task")), clipped(), "episodes"),
        {"reward": "tool_cost(2.0, 3.0, 'task')"},
        {"smoothing": 2.0, "scale": 3.0, "fewest": "task"},
    ),
    Case(
        "otc",
        lambda w, k: Written(credit.grpo(k, credit.otc(k, fewest="none")), clipped(), "episodes"),
        {"reward": "tool_cost(4.0, 1.0, 'none')"},
        {"fewest": "none"},
    ),
    Case(
        "aspo",
        lambda w, k: Written(credit.aspo(k), clipped(0.2, 0.28), "tokens"),
        DAPO | {"advantage": "chain(episode_return(), standardize(), early_call(-2.0, 0.7))"},
        kept=SPREAD,
    ),
    Case(
        "c_grpo",
        lambda w, k: Written(credit.grpo(k, credit.rubrics(k)), clipped(0.2, 0.28), "tokens"),
        DAPO | {"selection": "keep_all()", "reward": "rubrics(0.3, 'evidence_recall', True)"},
    ),
    Case(
        "c_grpo",
        lambda w, k: Written(
            credit.grpo(k, credit.rubrics(k, 0.5, cited=True, relative=False)), clipped(0.2, 0.28), "tokens"
        ),
        DAPO | {"selection": "keep_all()", "reward": "rubrics(0.5, 'evidence_cited', False)"},
        {"weight": 0.5, "support": "cited", "relative": False},
    ),
    Case(
        "tapo",
        tapo(2048, 1024),
        DAPO
        | {
            "selection": "nonzero_variance(10, of='success')",
            "reward": "chain(malformed(-1.0), overlong(2048, 1024, cap=None))",
            "loss_term": "surrogate(bound=epsilon_clip(0.2, 0.28), shape=min_clip(10.0))",
        },
        kept=SUCCESSES,
    ),
    Case(
        "tapo",
        tapo(8, 6),
        DAPO
        | {
            "selection": "nonzero_variance(10, of='success')",
            "reward": "chain(malformed(-1.0), overlong(8, 6, cap=None))",
            "loss_term": "surrogate(bound=epsilon_clip(0.2, 0.28), shape=min_clip(10.0))",
        },
        {"limit": 8, "buffer": 6},
        SUCCESSES,
    ),
    Case(
        "eapo",
        eapo,
        {
            "context": "workspace(instructions=True)",
            "advantage": "chain(discounted_return(0.95), standardize(count='turn'))",
            "loss_term": SEQUENCE,
            "sequence": "'turn'",
        },
    ),
    Case(
        "search_r1",
        lambda w, k: Written(grpo(k), clipped(kl=0.001), "episodes"),
        {"penalty": "(kl(0.001))"},
    ),
    Case(
        "search_r1",
        lambda w, k: ppo(w, k, gae_lambda=1.0, beta=0.001),
        {
            **PPO,
            "reward": "kl(0.001)",
            "advantage": "chain(gae(1.0, 1.0), whiten('token'))",
            "critic": "gae(1.0, 1.0)",
        },
        {"estimator": "ppo"},
    ),
    Case("arpo", arpo("soft"), {"branching": ENTROPY, "loss_term": DUAL, **TOKEN_MEAN}),
    Case(
        "arpo",
        arpo("hard", bonus=0.1, score=-1.0),
        {
            "branching": ENTROPY,
            "reward": "chain(malformed(-1.0), tool_bonus(0.1))",
            "advantage": "chain(chain(episode_return(), standardize()), mean_over_copies())",
            "loss_term": DUAL,
            **TOKEN_MEAN,
        },
        {"attribution": "hard", "bonus": 0.1, "format_score": -1.0},
    ),
    Case(
        "arpo",
        arpo("hard_unit"),
        {
            "branching": ENTROPY,
            "advantage": "chain(chain(episode_return(), standardize()), mean_over_copies())",
            "turn_weight": "(inverse_copy_weight())",
            "loss_term": DUAL,
            **TOKEN_MEAN,
        },
        {"attribution": "hard_unit"},
    ),
    Case(
        "arpo",
        arpo("node_values", leaves=True),
        {
            "branching": ENTROPY,
            "advantage": "node_values(value='leaves')",
            "turn_weight": "(inverse_copy_weight())",
            "loss_term": DUAL,
            **TOKEN_MEAN,
        },
        {"attribution": "node_values", "value": "leaves"},
    ),
    Case(
        "aepo_agentic",
        lambda w, k: Written(grpo(k), aepo(), "tokens", by_entropy(k)),
        {
            "branching": "entropy_branching(None, 0.5, 0.2, 20, penalty=0.05, allocation=0.5)",
            "token_weight": "(by_entropy(0.2))",
            "loss_term": "surrogate(bound=epsilon_clip(0.2, 0.28), shape=gradient_preserving_clip())",
            **TOKEN_MEAN,
        },
    ),
    Case(
        "spo_chain",
        spo_chain,
        {
            "branching": "root_continuations(3, 1)",
            "advantage": "monte_carlo_values()",
            "turn_weight": "(drop_zero())",
            "token_weight": "(low_probability(0.9))",
            **TOKEN_MEAN,
        },
    ),
    Case(
        "spo_tree",
        spo_tree(),
        {
            "branching": "tree((2, 2, 2), 1)",
            "advantage": "node_values(False, value='children')",
            "turn_weight": "(inverse_copy_weight(), drop_zero())",
            "token_weight": "(low_probability(0.9))",
            **TOKEN_MEAN,
        },
    ),
    Case(
        "spo_tree",
        spo_tree(leaves=True),
        {
            "branching": "tree((2, 2, 2), 1)",
            "advantage": "node_values(False, value='leaves')",
            "turn_weight": "(inverse_copy_weight(), drop_zero())",
            "token_weight": "(low_probability(0.9))",
            **TOKEN_MEAN,
        },
        {"value": "leaves"},
    ),
    Case(
        "polychromic",
        polychromic,
        {
            "branching": "vines(2, 4, 10)",
            "advantage": "diverse_sets(2, 5)",
            "turn_weight": "(after_fork_mask())",
            "penalty": "(kl(0.01, to='old'))",
            **TOKEN_MEAN,
        },
    ),
]


def test_every_algorithm_has_its_line_with_its_defaults():
    assert sorted(case.name for case in CASES if not (case.options or case.overrides)) == algorithm_names()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_stage_holds_the_part_that_the_paper_asks_for(case):
    assert case.algorithm().as_text() == GRPO | case.stages


@pytest.fixture(scope="module")
def world(small):
    return ragged.build(small)


def updated(world, algorithm, episodes):
    """One update of two steps, each over several micro-batches, and the gradient of each.

    The first step leads to given weights.
    """
    model = copy.deepcopy(world.first)
    beliefs = AnswerProbes(ChatTemplate(world.tokenizer), full_history(), algorithm.answer_probe, limit=256)
    options = OptimizerConfig(minibatches=2, max_tokens=150, max_grad_norm=1e9, temperature=ragged.TEMPERATURE)
    learner = Learner(model, algorithm, options, beliefs)
    learner.model.load_state_dict(world.moved.state_dict())  # a reference keeps the first weights
    if learner.values is not None:
        with torch.no_grad():
            learner.values.weight.copy_(world.head[None])
            learner.values.bias.copy_(world.bias)
    parameters = [*model.parameters(), *(learner.values.parameters() if learner.values is not None else [])]
    gradients = []

    def step():
        gradients.append([p.grad.clone() for p in parameters])
        model.load_state_dict(world.further.state_dict())

    learner.optimizer.step = step
    return learner.update(episodes), gradients


@pytest.mark.parametrize("case", CASES, ids=str)
def test_advantage_loss_and_gradient_are_those_of_the_paper(case, world):
    algorithm = case.algorithm()
    groups = {g: [e for e in world.episodes if e.group == g] for g in ALL}
    assert tuple(g for g, members in groups.items() if algorithm.selection(members)) == case.kept
    kept = [e for g in case.kept for e in groups[g]]
    written = case.written(world, kept)
    done, gradients = updated(world, algorithm, kept)
    for e in kept:
        expected = [written.credit[e.id, t] for t in range(len(e.turns))]
        np.testing.assert_allclose(done.advantages[e.id], expected, atol=1e-9)
    losses = steps(world, kept, written)
    assert done.metrics["loss"] == pytest.approx(float(sum(losses).detach()) / 2, abs=1e-9)
    for loss, got, model in zip(losses, gradients, (world.moved, world.further), strict=True):
        head = [world.head, world.bias] if algorithm.critic is not None else []
        expected = torch.autograd.grad(loss, [*model.parameters(), *head], retain_graph=True)
        assert max(float(g.abs().max()) for g in expected) > 1e-5
        for mine, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(mine.reshape(theirs.shape), theirs, atol=1e-9, rtol=1e-7)
