"""Penalties: hand values, and the expected gradient that each KL estimator's docstring claims, by enumeration."""

from __future__ import annotations

import math

import pytest
import torch

from agentgym.errors import UsageError
from agentgym.trainers.loss.penalties import entropy, kl, value_loss
from agentgym.trainers.loss.tokens import Tokens


def tokens(logprob, **fields):
    logprob = torch.as_tensor(logprob, dtype=torch.float64)
    n = len(logprob)
    if not logprob.requires_grad:
        logprob.requires_grad_()
    given = {
        "old": logprob.detach(),
        "advantage": torch.zeros(n),
        "weight": torch.ones(n),
        "sequence": torch.zeros(n, dtype=torch.int64),
        "turn": torch.zeros(n, dtype=torch.int64),
    }
    return Tokens(logprob=logprob, **{**given, **fields})


def expectation(estimator):
    """E[term] and E[∇ term] over all actions of a categorical policy, and the policy's logits."""
    logits = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
    logp = logits.log_softmax(0)
    term = kl(1.0, estimator)(tokens(logp, reference=reference))
    probability = logp.detach().exp()
    value = (probability * term).sum()
    (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
    return value.detach(), gradient, logits, reference


def divergence(p, q):
    return (p.exp() * (p - q)).sum()


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_estimate_the_reverse_kl(estimator):
    value, _, logits, reference = expectation(estimator)
    torch.testing.assert_close(value, divergence(logits.detach().log_softmax(0), reference))


def test_forward_estimates_the_forward_kl():
    value, _, logits, reference = expectation("forward")
    torch.testing.assert_close(value, divergence(reference, logits.detach().log_softmax(0)))


def test_expected_gradients_are_what_the_docstring_says():
    _, k1, logits, reference = expectation("k1")
    (reverse,) = torch.autograd.grad(divergence(logits.log_softmax(0), reference), logits)
    (forward,) = torch.autograd.grad(divergence(reference, logits.log_softmax(0)), logits)
    torch.testing.assert_close(k1, torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(expectation("k2")[1], reverse)
    torch.testing.assert_close(expectation("k3")[1], forward)
    assert reverse.abs().min() > 0.01


@pytest.mark.parametrize(("estimator", "first"), [("k1", "old"), ("k3", "old"), ("forward", "now")])
def test_of_tokens_of_the_old_policy_they_estimate_its_distance_to_the_new_one(estimator, first):
    """Tokens sampled from π_old: value and gradient are expectations under it, and both are exact."""
    logits = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
    logp = logits.log_softmax(0)
    found = (old.exp() * kl(1.0, estimator, to="old")(tokens(logp, old=old))).sum()
    wanted = divergence(old, logp) if first == "old" else divergence(logp, old)
    torch.testing.assert_close(found, wanted)
    (got,), (want,) = (torch.autograd.grad(x, logits, retain_graph=True) for x in (found, wanted))
    torch.testing.assert_close(got, want)
    assert want.abs().min() > 0.01


def test_kl_by_hand():
    batch = tokens([-1.0, -2.0], reference=torch.tensor([-2.0, -2.0], dtype=torch.float64))  # d = -1, 0
    close = torch.testing.assert_close
    close(kl(0.5, "k1")(batch).detach(), torch.tensor([0.5, 0.0]), check_dtype=False)
    close(kl(2.0, "k2")(batch).detach(), torch.tensor([1.0, 0.0]), check_dtype=False)
    close(kl(1.0)(batch).detach(), torch.tensor([math.exp(-1), 0.0]), check_dtype=False)
    close(kl(1.0, "forward")(batch).detach(), torch.tensor([1 - 2 * math.exp(-1), 0.0]), check_dtype=False)


def test_kl_to_the_old_policy_needs_nothing_more():
    penalty = kl(1.0, "k2", to="old")
    assert penalty.needs == frozenset()
    batch = tokens([-1.0], old=torch.tensor([-3.0], dtype=torch.float64))
    assert penalty(batch).item() == 2.0
    assert kl(1.0).needs == {"reference"}


def test_kl_stays_finite_far_away():
    logprob = torch.tensor([-500.0, -0.1], requires_grad=True)
    ids = torch.zeros(2, dtype=torch.int64)
    old = logprob.detach()
    batch = Tokens(logprob, old, old, torch.ones(2), ids, ids, reference=old.flip(0))
    for estimator in ("k1", "k2", "k3", "forward"):
        assert torch.isfinite(kl(1.0, estimator)(batch)).all()


def test_entropy_is_a_bonus():
    penalty = entropy(0.01)
    assert penalty(tokens([-1.0], entropy=torch.tensor([2.0]))).tolist() == pytest.approx([-0.02])
    assert penalty.needs == {"entropy"}


def test_value_loss_with_and_without_clip():
    batch = tokens(
        [-1.0, -1.0],
        value=torch.tensor([1.0, 0.1], requires_grad=True),
        target=torch.tensor([2.0, 0.0]),
        old_value=torch.tensor([0.0, 0.0]),
    )
    assert value_loss()(batch).tolist() == pytest.approx([0.5, 0.005])
    # first: clip(1, ±.5) = .5, ½(.5 - 2)² = 1.125 > .5; second is inside the clip
    clipped = value_loss(2.0, clip=0.5)
    assert clipped(batch).tolist() == pytest.approx([2.25, 0.01])
    (gradient,) = torch.autograd.grad(clipped(batch).sum(), batch.value)
    assert gradient.tolist() == pytest.approx([0.0, 0.2])
    assert clipped.needs == {"value", "target", "old_value"}
    assert value_loss().needs == {"value", "target"}


@pytest.mark.parametrize("make", [kl, entropy, value_loss])
def test_a_penalty_is_its_term_times_the_coefficient(make):
    batch = tokens(
        [-1.0, -3.0],
        entropy=torch.tensor([2.0, 0.5]),
        reference=torch.tensor([-2.0, -2.0]),
        value=torch.tensor([1.0, 0.1]),
        target=torch.tensor([2.0, 0.0]),
    )
    once = make(1.0)(batch)
    assert once.abs().min() > 0
    torch.testing.assert_close(make(-0.5)(batch), -0.5 * once)


def test_what_was_not_computed_is_named():
    with pytest.raises(UsageError, match=r"Tokens\.reference is needed here and was not computed"):
        kl(0.1)(tokens([-1.0]))
    with pytest.raises(UsageError, match=r"kl: estimator: input should be 'k1', 'k2', 'k3' or 'forward' \(got 'k4'\)"):
        kl(0.1, "k4")
    with pytest.raises(UsageError, match=r"kl: to: input should be 'reference' or 'old' \(got 'new'\)"):
        kl(0.1, to="new")
    assert repr(kl(0.1, "k2")) == "kl(0.1, 'k2')"
