"""Surrogates: hand-computed losses and gradients, identities between algorithms, and what masked tokens may change."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.errors import UsageError
from agentgym.trainers.loss.aggregate import seq_mean_token_mean, token_mean
from agentgym.trainers.loss.surrogate import (
    by_probability,
    epsilon_clip,
    geometric_mean,
    gradient_preserving_clip,
    min_clip,
    policy_shaping,
    ratio_bounds,
    reinforce_ratio,
    sequence_ratio,
    smooth_gate,
    stop_gradient_clip,
    surrogate,
    token_ratio,
    unclipped,
)
from agentgym.trainers.loss.tokens import Tokens


@pytest.fixture(autouse=True, scope="module")
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


PPO = surrogate()
GSPO = surrogate(sequence_ratio(), epsilon_clip(3e-4, 4e-4))
CISPO = surrogate(bound=ratio_bounds(0.0, 5.0), shape=stop_gradient_clip())
GMPO = surrogate(geometric_mean(), ratio_bounds(), unclipped())
SAPO = surrogate(bound=ratio_bounds(), shape=smooth_gate())
DCPO = surrogate(bound=by_probability(), shape=min_clip(dual=10.0))
AEPO = surrogate(bound=epsilon_clip(0.2, 0.28), shape=gradient_preserving_clip())
REINFORCE = surrogate(reinforce_ratio(), ratio_bounds(), unclipped())
ALL = [PPO, surrogate(shape=min_clip(dual=3.0)), GSPO, CISPO, GMPO, SAPO, DCPO, AEPO, REINFORCE]


def tokens(ratios, advantages, sequence=None, old=-1.0, **fields):
    """Tokens whose ratio to the old policy is given; ``logprob`` is a leaf."""
    n = len(ratios)
    before = torch.full((n,), old) if isinstance(old, float) else torch.tensor(old)
    return Tokens(
        logprob=(before + torch.tensor(ratios).log()).requires_grad_(),
        old=before,
        advantage=torch.tensor(advantages),
        weight=fields.pop("weight", torch.ones(n)),
        sequence=torch.tensor(sequence if sequence is not None else list(range(n))),
        turn=torch.arange(n),
        **fields,
    )


def loss_and_gradient(rule, batch):
    loss = rule(batch)
    (gradient,) = torch.autograd.grad(loss.sum(), batch.logprob)
    return loss.detach(), gradient


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found, torch.as_tensor(expected), atol=tolerance, rtol=0.0)


@pytest.mark.parametrize(
    ("rule", "ratio", "advantage", "loss", "gradient"),
    [
        (PPO, 1.5, 1.0, -1.2, 0.0),
        (PPO, 0.5, -1.0, 0.8, 0.0),
        (PPO, 0.5, 1.0, -0.5, -0.5),
        (PPO, 5.0, -1.0, 5.0, 5.0),
        (PPO, 1.1, 2.0, -2.2, -2.2),
        (surrogate(shape=min_clip(dual=3.0)), 5.0, -1.0, 3.0, 0.0),
        (surrogate(shape=min_clip(dual=3.0)), 5.0, 1.0, -1.2, 0.0),
        (surrogate(shape=min_clip(dual=3.0)), 2.0, -1.0, 2.0, 2.0),
        (surrogate(bound=epsilon_clip(0.2, 0.28)), 1.25, 1.0, -1.25, -1.25),
        (surrogate(bound=epsilon_clip(0.2, 0.28)), 1.5, 1.0, -1.28, 0.0),
        (CISPO, 7.0, 1.0, -5.0 * (math.log(7.0) - 1.0), -5.0),  # log π = log ρ - 1
        (CISPO, 0.5, -2.0, 1.0 * (math.log(0.5) - 1.0), 1.0),
        (surrogate(shape=stop_gradient_clip()), 0.5, 1.0, -0.8 * (math.log(0.5) - 1.0), -0.8),
        (AEPO, 2.0, 1.0, -1.28, -1.28),  # the bound stays as the gradient's factor
        (AEPO, 0.5, -1.0, 0.8, 0.0),
        (AEPO, 0.5, 1.0, -0.5, -0.5),
        (AEPO, 2.0, -1.0, 2.0, 2.0),
        (SAPO, 1.0, 1.0, -2.0, -1.0),  # 4σ(0) = 2, slope 1
        (SAPO, 2.0, 1.0, -4.0 / (1 + math.exp(-1)), -8.0 * math.exp(-1) / (1 + math.exp(-1)) ** 2),
        (SAPO, 1.0, -1.0, 2.0 / 1.05, 1.0),
        (REINFORCE, 3.0, 2.0, -2.0, -2.0),
        (surrogate(shape=unclipped()), 3.0, 2.0, -6.0, -6.0),
    ],
)
def test_loss_and_gradient_by_log_probability(rule, ratio, advantage, loss, gradient):
    found, slope = loss_and_gradient(rule, tokens([ratio], [advantage]))
    close(found, [loss])
    close(slope, [gradient])


def test_sequence_ratio_is_the_geometric_mean_on_every_token():
    batch = tokens([2.0, 0.5, 4.0, 3.0], [1.0, 2.0, -1.0, 1.0], sequence=[0, 0, 0, 1])
    rule = surrogate(sequence_ratio(), ratio_bounds(), unclipped())
    loss, gradient = loss_and_gradient(rule, batch)
    s = 4.0 ** (1 / 3)
    close(loss, [-s, -2 * s, s, -3.0])
    close(gradient, [-s, -2 * s, s, -3.0])  # own advantage, the sequence's ratio


def test_gspo_has_the_gradient_of_the_clipped_sequence_objective():
    ratios, advantages, sequence = [1.001, 1.0001, 0.9999, 1.5, 1.1], [1.0, 1.0, 1.0, -1.0, -1.0], [0, 0, 0, 1, 1]
    batch = tokens(ratios, advantages, sequence)
    coefficient = seq_mean_token_mean()(batch.weight, batch.sequence)
    (found,) = torch.autograd.grad((coefficient * GSPO(batch)).sum(), batch.logprob)
    objective = []
    for i in (0, 1):  # -min(s A, clip(s) A), averaged over sequences
        mine = batch.sequence == i
        s, a = (batch.logprob - batch.old)[mine].mean().exp(), batch.advantage[mine][0]
        objective.append(-torch.minimum(s * a, s.clamp(1 - 3e-4, 1 + 4e-4) * a) / 2)
    (expected,) = torch.autograd.grad(sum(objective), batch.logprob)
    close(found, expected)
    assert expected[0] != 0


def test_sequence_ratio_of_one_token_is_the_token_ratio():
    batch = tokens([0.5, 1.1, 3.0], [1.0, -1.0, 1.0])
    for bound in (epsilon_clip(), ratio_bounds()):
        for found, expected in zip(
            loss_and_gradient(surrogate(sequence_ratio(), bound), batch),
            loss_and_gradient(surrogate(token_ratio(), bound), batch),
            strict=True,
        ):
            close(found, expected)


def test_sequence_ratio_is_capped():
    batch = tokens([math.exp(15.0)], [1.0])
    close(sequence_ratio()(batch).detach(), [math.exp(10.0)], 1e-6)


def test_geometric_mean_clips_the_harmful_side_only():
    a = math.exp(0.4)
    batch = tokens([3.0, 0.1, 0.1, 3.0], [1.0, 1.0, -1.0, -1.0], sequence=[0, 0, 1, 1])
    loss, gradient = loss_and_gradient(GMPO, batch)
    up, down = math.sqrt(a * 0.1), math.sqrt(3.0 / a)
    close(loss, [-up, -up, down, down])
    # d(−2s)/d log π of an unclipped token = −2s/2; clipped tokens have none
    close(gradient, [0.0, -up, 0.0, down])


def test_policy_shaping_has_the_published_slopes():
    p = torch.tensor([0.01, 0.1, 0.5, 1.0])
    batch = tokens([1.0] * 4, [1.0] * 4, old=p.log().tolist())
    loss, gradient = loss_and_gradient(surrogate(policy_shaping(0.1), ratio_bounds(), unclipped()), batch)
    close(loss, -(p / (p + 0.1)))
    close(-gradient, 0.1 * p / (p + 0.1) ** 2)
    close(-gradient, [0.083, 0.25, 0.139, 0.083], 5e-4)


def test_bounds_by_probability():
    q = [1.0, 0.5, 0.2, 0.04, 0.01]
    low, high = by_probability()(tokens([1.0] * 5, [1.0] * 5, old=[math.log(x) for x in q]))
    close(low, [0.8, 0.5, 0.5, 0.5, 0.5], 1e-9)
    close(high, [1.171, 1.306, 1.618, 2.791, 5.0], 1e-3)
    capped = by_probability()(tokens([1.0], [1.0], old=[math.log(1e-6)])).high
    close(capped, [10.0])


@pytest.mark.parametrize("rule", ALL, ids=repr)
@given(
    advantages=st.lists(st.floats(-2, 2), min_size=2, max_size=3),
    old=st.floats(-4, -0.1),
    lengths=st.lists(st.integers(1, 3), min_size=3, max_size=3),
)
@settings(max_examples=20, deadline=None)
def test_on_fresh_samples_all_have_the_gradient_of_reinforce(rule, advantages, old, lengths):
    sequence = [i for i, _ in enumerate(advantages) for _ in range(lengths[i])]
    batch = tokens([1.0] * len(sequence), [advantages[i] for i in sequence], sequence, old)
    for coefficient in (token_mean(), seq_mean_token_mean()):
        weight = coefficient(batch.weight, batch.sequence)
        (gradient,) = torch.autograd.grad((weight * rule(batch)).sum(), batch.logprob)
        close(gradient, -weight * batch.advantage)


@pytest.mark.parametrize("rule", ALL, ids=repr)
def test_masked_tokens_change_nothing(rule):
    batch = tokens([1.5, 0.7, 1.1], [1.0, -1.0, 0.5], [0, 0, 1])
    more = tokens(
        [1.5, 9.0, 0.7, 1.1, 0.01],
        [1.0, -7.0, -1.0, 0.5, 3.0],
        [0, 0, 0, 1, 2],
        weight=torch.tensor([1.0, 0, 1, 1, 0]),
    )
    keep = torch.tensor([0, 2, 3])

    def result(b):
        coefficient = seq_mean_token_mean()(b.weight, b.sequence)
        loss = (coefficient * rule(b)).sum()
        return loss, torch.autograd.grad(loss, b.logprob)[0]

    (loss, gradient), (loss_more, gradient_more) = result(batch), result(more)
    close(loss_more, loss)
    close(gradient_more[keep], gradient)
    close(gradient_more[[1, 4]], [0.0, 0.0])


@pytest.mark.parametrize("rule", ALL, ids=repr)
def test_extreme_log_ratios_stay_finite(rule):
    logprob = torch.tensor([-1e-9, -1e-9, -500.0, -500.0], dtype=torch.float32, requires_grad=True)
    batch = single_precision(logprob, logprob.detach().flip(0), [1.0, -1.0, 1.0, -1.0])
    loss, gradient = loss_and_gradient(rule, batch)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()


def test_a_ratio_of_zero_has_no_nan_in_its_gradient():
    logprob = torch.tensor([-500.0, -500.0], dtype=torch.float32, requires_grad=True)
    rule = surrogate(policy_shaping(), epsilon_clip(), gradient_preserving_clip())
    _, gradient = loss_and_gradient(rule, single_precision(logprob, logprob.detach(), [1.0, -1.0]))
    assert gradient.tolist() == [0.0, 0.0]


def single_precision(logprob, old, advantages):
    n = len(logprob)
    advantage = torch.tensor(advantages, dtype=torch.float32)
    return Tokens(logprob, old, advantage, torch.ones(n, dtype=torch.float32), torch.arange(n), torch.arange(n))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: epsilon_clip(1.2), r"0 <= low <= 1 and high >= 0, got 1.2, 0.2"),
        (lambda: ratio_bounds(2.0, 1.0), r"needs 0 <= low <= high, got 2.0, 1.0"),
        (lambda: min_clip(1.0), r"must exceed 1, got 1.0"),
        (lambda: policy_shaping(0.0), r"constant must be positive, got 0.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_names_show_the_composition():
    assert repr(GSPO) == "surrogate(sequence_ratio(), epsilon_clip(0.0003, 0.0004))"


def test_tokens_sum_and_average_over_what_is_not_masked():
    batch = tokens([1.0] * 5, [0.0] * 5, [0, 0, 2, 0, 1], weight=torch.tensor([1.0, 0.5, 1.0, 0.0, 0.0]))
    x = torch.tensor([1.0, 3.0, 5.0, 100.0, 100.0])
    close(batch.sum_by_sequence(x), [4.0, 0.0, 5.0])
    close(batch.mean_by_sequence(x), [2.0, 0.0, 5.0])
    assert batch.sequences == 3


def test_tokens_of_different_lengths_are_refused():
    good = tokens([1.0, 1.0], [1.0, 1.0])
    with pytest.raises(UsageError, match=r"flat tensors of one length.*'weight': \(3,\)"):
        Tokens(good.logprob, good.old, good.advantage, torch.ones(3), good.sequence, good.turn)
    with pytest.raises(UsageError, match=r"Tokens\.sequence numbers things and is int64, got torch\.float64"):
        Tokens(good.logprob, good.old, good.advantage, good.weight, torch.zeros(2), good.turn)
