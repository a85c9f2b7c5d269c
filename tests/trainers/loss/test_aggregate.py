"""Aggregates: a slow reference, micro-batches that add up, masks that change nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.errors import UsageError
from agentgym.trainers.loss.aggregate import (
    seq_mean_token_mean,
    seq_mean_token_sum,
    seq_mean_token_sum_norm,
    seq_sum_token_mean,
    token_mean,
)


def slow(name, weight, sequence, loss):
    """The definitions, with loops. ``loss`` is already per token; weights multiply it."""
    per_sequence = {}
    for w, s, x in zip(weight, sequence, loss, strict=True):
        if w > 0:
            per_sequence.setdefault(s, []).append(w * x)
    rows = list(per_sequence.values())
    if not rows:
        return 0.0
    tokens = sum(len(row) for row in rows)
    return {
        "token_mean": sum(map(sum, rows)) / tokens,
        "seq_mean_token_mean": sum(sum(row) / len(row) for row in rows) / len(rows),
        "seq_mean_token_sum": sum(map(sum, rows)) / len(rows),
        "seq_mean_token_sum_norm": sum(map(sum, rows)) / len(rows) / 7,
        "seq_sum_token_mean": sum(sum(row) / len(row) for row in rows),
    }[name]


RULES = {
    "token_mean": token_mean(),
    "seq_mean_token_mean": seq_mean_token_mean(),
    "seq_mean_token_sum": seq_mean_token_sum(),
    "seq_mean_token_sum_norm": seq_mean_token_sum_norm(max_length=7),
    "seq_sum_token_mean": seq_sum_token_mean(),
}

batches = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, 1.0, 0.5, 3.0]), st.integers(0, 5), st.floats(-3, 3)), min_size=0, max_size=12
)


def columns(batch):
    weight = torch.tensor([w for w, _, _ in batch], dtype=torch.float64)
    sequence = torch.tensor([s for _, s, _ in batch], dtype=torch.int64)
    return weight, sequence, torch.tensor([x for _, _, x in batch], dtype=torch.float64)


@pytest.mark.parametrize("name", RULES)
@given(batch=batches)
@settings(max_examples=60, deadline=None)
def test_equals_the_definition(name, batch):
    weight, sequence, loss = columns(batch)
    found = (RULES[name](weight, sequence) * loss).sum()
    expected = slow(name, weight.tolist(), sequence.tolist(), loss.tolist())
    assert abs(float(found) - expected) < 1e-12


@pytest.mark.parametrize("name", RULES)
@given(batch=batches, data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_split_into_micro_batches_adds_up_to_the_same_gradient(name, batch, data):
    weight, sequence, start = columns(batch)
    coefficient = RULES[name](weight, sequence)
    whole, pieces = start.clone().requires_grad_(), start.clone().requires_grad_()
    (coefficient * whole**2).sum().backward()
    part = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=len(batch), max_size=len(batch))))
    for number in range(4):
        index = (part == number).nonzero().flatten()
        (coefficient[index] * pieces[index] ** 2).sum().backward()
    assert torch.equal(whole.grad, pieces.grad)


@pytest.mark.parametrize("name", RULES)
def test_an_empty_mask_is_a_zero_loss_with_a_graph(name):
    loss = torch.tensor([1.0, 2.0], requires_grad=True)
    value = (RULES[name](torch.zeros(2), torch.tensor([0, 1])) * loss).sum()
    value.backward()
    assert value.item() == 0.0
    assert loss.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", RULES)
def test_masked_tokens_and_sequences_change_nothing(name):
    few = RULES[name](torch.tensor([1.0, 1.0, 2.0]), torch.tensor([0, 0, 1]))
    many = RULES[name](torch.tensor([1.0, 0.0, 1.0, 2.0, 0.0]), torch.tensor([0, 0, 0, 3, 2]))
    assert many[[0, 2, 3]].tolist() == few.tolist()
    assert many[[1, 4]].tolist() == [0.0, 0.0]


@given(batch=batches.filter(len), data=st.data())
@settings(max_examples=30, deadline=None)
def test_token_mean_does_not_care_whose_token_it_is(batch, data):
    weight, sequence, _ = columns(batch)
    other = sequence[torch.tensor(data.draw(st.permutations(range(len(batch)))))]
    assert torch.equal(token_mean()(weight, sequence), token_mean()(weight, other))


def test_by_hand():
    weight, sequence = torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([0, 0, 0, 1])
    assert token_mean()(weight, sequence).tolist() == [0.25] * 4
    torch.testing.assert_close(seq_mean_token_mean()(weight, sequence), torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2]))
    assert seq_mean_token_sum()(weight, sequence).tolist() == [0.5] * 4
    assert seq_mean_token_sum_norm(max_length=5)(weight, sequence).tolist() == pytest.approx([0.1] * 4)
    torch.testing.assert_close(seq_sum_token_mean()(weight, sequence), torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0]))


def test_weights_scale_and_do_not_normalise():
    sequence = torch.tensor([0, 0, 1])
    for rule in RULES.values():
        one, three = rule(torch.ones(3), sequence), rule(torch.full((3,), 3.0), sequence)
        torch.testing.assert_close(three, 3 * one)


@pytest.mark.parametrize(
    ("weight", "sequence", "message"),
    [
        ([-1.0], [0], "finite and >= 0"),
        ([float("nan")], [0], "finite and >= 0"),
        ([float("inf")], [0], "finite and >= 0"),
        ([1.0, 1.0], [0], "flat and equally long"),
    ],
)
def test_bad_weights_are_refused(weight, sequence, message):
    with pytest.raises(UsageError, match=message):
        token_mean()(torch.tensor(weight), torch.tensor(sequence))


def test_max_length_is_positive():
    with pytest.raises(
        UsageError, match=r"seq_mean_token_sum_norm: max_length: input should be greater than 0 \(got 0\)"
    ):
        seq_mean_token_sum_norm(0)
