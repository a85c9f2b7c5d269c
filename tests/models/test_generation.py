"""The generation engine against plain forward passes of the same model."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgym import keyed_random
from agentgym.models.engines import local
from agentgym.models.engines.local import Engine, TokenSampling, alike, common_prefix, sample
from agentgym.models.local_policy import ModelPolicy

STOP = 1


@pytest.fixture(autouse=True, params=["together", "in parts"])
def parts(request, monkeypatch):
    """Every test also with batches that go through the model in several calls."""
    if request.param == "in parts":
        monkeypatch.setattr(local, "alike", functools.partial(alike, call=100))


def finish(engine):
    """Everything in work, to the end."""
    out = []
    while engine.busy:
        out.extend(engine.step())
    return out


def forward(model, ids, temperature=1.0):
    """Log-probabilities of the next token after each of ``ids``, by the model's ordinary forward pass."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return torch.log_softmax(logits / temperature, -1)


def check(model, done, tolerance, temperature=1.0):
    for g in done:
        expected = forward(model, [*g.context, *g.action], temperature)[len(g.context) - 1 : -1]
        got = torch.tensor(g.logprobs, dtype=expected.dtype)
        torch.testing.assert_close(got, expected[range(len(g.action)), g.action], atol=tolerance, rtol=0)
        if g.entropies:
            entropy = torch.tensor(g.entropies, dtype=expected.dtype)
            torch.testing.assert_close(entropy, -(expected.exp() * expected).sum(-1), atol=tolerance, rtol=0)


def prompt(key, length):
    return [2 + keyed_random.key(key, i) % 250 for i in range(length)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_ragged_prompts_equal_plain_forward_passes(small, dtype, tolerance, temperature):
    model, _ = small(dtype=dtype)
    engine = Engine(model, [STOP], temperature=temperature, entropies=True)
    for n, length in enumerate((1, 17, 5, 40)):
        engine.submit(engine.open(), prompt(n, length), n, 12)
    done = finish(engine)
    assert len(done) == 4
    check(model, done, tolerance, temperature)


def test_each_request_is_sampled_as_it_says(small):
    model, _ = small(dtype=torch.float64)
    hows = [
        None,
        TokenSampling(0.7),
        TokenSampling(0),
        TokenSampling(0.7, top_p=1e-9),
        TokenSampling(1.0, stop=frozenset(range(2, 300))),
    ]

    def play(wanted):
        engine = Engine(model, [STOP], temperature=1.3, entropies=True)
        asked = [engine.submit(engine.open(), prompt(3, 6), 5, 8, hows[n]) for n in wanted]
        finish(engine)
        return asked

    together = play(range(5))
    for g, temperature in zip(together, (1.3, 0.7, 1.0, 0.7, 1.0), strict=True):
        check(model, [g], 1e-9, temperature)
    assert [g.action for g in together] == [play([n])[0].action for n in range(5)]
    assert together[2].action == together[3].action  # greedy, and a nucleus of one token
    assert len(together[4].action) == 1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_turns_of_many_episodes_on_kept_keys_and_values(small, dtype, tolerance):
    """Episodes of different lengths come and go; kv_slots are used again; contexts grow, or are rebuilt."""
    model, _ = small(dtype=dtype)
    engine = Engine(model, [STOP])
    seen = 0
    for n in range(6):
        kv_slots = [engine.open() for _ in range(1 + n % 3)]
        before = [[] for _ in kv_slots]
        for turn in range(3):
            for i, kv_slot in enumerate(kv_slots):
                keep = before[i] if (n + turn) % 3 else before[i][:4]  # every third context is rebuilt
                engine.submit(
                    kv_slot, [*keep, *prompt(100 * n + 10 * turn + i, 3 + i)], keyed_random.key(n, turn, i), 2 + i
                )
            done = sorted(finish(engine), key=lambda g: g.kv_slot)
            check(model, done, tolerance)
            seen += len(done)
            before = [[*g.context, *g.action] for g in done]
        for kv_slot in kv_slots:
            engine.close(kv_slot)
    assert seen == 3 * sum(1 + n % 3 for n in range(6))
    assert engine.open() == 0  # kv_slots in use stay dense


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 6), st.integers(0, 4)), min_size=1, max_size=6))
def test_what_is_sampled_does_not_depend_on_company(small, requests):
    """Each request alone gives the tokens that it gives in any batch, whenever it joined."""
    model, _ = small(dtype=torch.float64)
    together = Engine(model, [STOP])
    waiting = sorted(enumerate(requests), key=lambda item: item[1][2])
    done, step = [], 0
    while waiting or together.busy:
        while waiting and waiting[0][1][2] <= step:
            n, (length, size, _) = waiting.pop(0)
            together.submit(together.open(), prompt(n, length), n, size)
        done.extend(together.step())
        step += 1
    for g in done:
        alone = Engine(model, [STOP])
        alone.submit(alone.open(), g.context, g.key, g.max_new_tokens)
        (single,) = finish(alone)
        assert single.action == g.action
        np.testing.assert_allclose(single.logprobs, g.logprobs, atol=1e-9)


def test_equal_new_contexts_are_prefilled_once(small):
    model, _ = small(dtype=torch.float64)
    engine = Engine(model, [STOP])
    ids = prompt(0, 30)
    for member in range(8):
        engine.submit(engine.open(), ids, keyed_random.key("member", member), 4)
    first = engine.step()
    assert engine.forwarded == 30
    done = first + finish(engine)
    assert len({tuple(g.action) for g in done}) > 1  # each draws its own
    check(model, done, 1e-9)


def test_finished_requests_never_generate(small):
    """What goes through the model: each context once, and every sampled token but the last of its action."""
    model, _ = small(dtype=torch.float64)
    engine = Engine(model, [STOP])
    rows = []
    ordinary = engine._forward
    engine._forward = lambda kv_slots, *a, **k: rows.append(len(kv_slots)) or ordinary(kv_slots, *a, **k)
    sizes = (1, 3, 7, 2)
    for n, size in enumerate(sizes):
        engine.submit(engine.open(), prompt(n, 5), n, size)
    done = finish(engine)
    lengths = [len(g.action) for g in done]
    assert engine.forwarded == sum(len(g.context) + len(g.action) - 1 for g in done)
    assert engine.generated == sum(lengths)
    assert rows == [4] + [sum(length > step for length in lengths) for step in range(1, max(lengths))]


def test_the_next_turn_forwards_only_what_is_new(small):
    model, _ = small(dtype=torch.float64)
    engine = Engine(model, [STOP])
    kv_slot = engine.open()
    engine.submit(kv_slot, prompt(0, 20), 0, 5)
    (done,) = finish(engine)
    before = engine.forwarded
    engine.submit(kv_slot, [*done.context, *done.action, *prompt(1, 7)], 1, 1)
    finish(engine)
    assert engine.forwarded - before == 1 + 7  # the last sampled token was not forwarded yet


def test_a_branch_goes_on_from_a_copy(small):
    model, _ = small(dtype=torch.float64)
    engine = Engine(model, [STOP])
    parent = engine.open()
    engine.submit(parent, prompt(0, 20), 0, 5)
    (done,) = finish(engine)
    played = [*done.context, *done.action]
    child = engine.open()
    engine.copy(parent, child)
    before = engine.forwarded
    engine.submit(parent, [*played, 7, 8], 1, 4)
    engine.submit(child, [*played, 9], 2, 4)
    both = finish(engine)
    assert engine.forwarded - before == (1 + 2) + (1 + 1) + sum(len(g.action) - 1 for g in both)
    check(model, both, 1e-9)
    engine.close(parent)
    engine.submit(child, [*played, 9, *both[0].action[:0], 11], 3, 3)
    check(model, finish(engine), 1e-9)


def test_nothing_old_is_used_after_the_weights_changed(small):
    model, _ = small(dtype=torch.float64)
    engine = Engine(model, [STOP])
    kv_slot = engine.open()
    engine.submit(kv_slot, prompt(0, 12), 0, 3)
    (done,) = finish(engine)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)
    engine.forget()
    engine.submit(kv_slot, [*done.context, *done.action, 5], 1, 3)
    check(model, finish(engine), 1e-9)


def test_many_slots_grow_the_store(small):
    model, _ = small(dtype=torch.float64)
    engine = Engine(model, [STOP])
    first = engine.open()
    engine.submit(first, prompt(0, 3), 0, 2)
    (held,) = finish(engine)
    for n in range(9):
        engine.submit(engine.open(), prompt(n, 60), n, 2)
    engine.submit(first, [*held.context, *held.action, 4, 4], 5, 3)
    done = finish(engine)
    assert len(done) == 10
    check(model, done, 1e-9)


def test_greedy_takes_the_most_probable_token_and_records_the_plain_distribution(small):
    model, _ = small(dtype=torch.float64)
    engine = Engine(model, [STOP], temperature=0)
    engine.submit(engine.open(), prompt(3, 9), 0, 6)
    (done,) = finish(engine)
    expected = forward(model, [*done.context, *done.action])[len(done.context) - 1 : -1]
    assert done.action == expected.argmax(-1).tolist()
    check(model, [done], 1e-9)


def test_length_limits(small):
    model, _ = small()
    engine = Engine(model, [], max_context=16)
    engine.submit(engine.open(), prompt(0, 10), 0, 4)
    engine.submit(engine.open(), prompt(1, 13), 0, 40)
    assert sorted(len(g.action) for g in finish(engine)) == [3, 4]


def test_an_action_ends_with_the_stop_token(small):
    model, _ = small()
    with torch.no_grad():  # embeddings are tied: a long one is likely everywhere
        model.get_input_embeddings().weight[STOP] *= 30
    engine = Engine(model, [STOP], temperature=0.5)
    for n in range(8):
        engine.submit(engine.open(), prompt(n, 6), n, 50)
    done = finish(engine)
    ended = [g for g in done if g.action[-1] == STOP]
    assert ended
    assert all(STOP not in g.action[:-1] for g in done)
    assert all(g.action[-1] == STOP or len(g.action) == 50 for g in done)


# --- drawing a token --------------------------------------------------------------------------------------------------


def test_sampling_inverts_the_cumulative_distribution():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)).expand(6, -1)
    noise = np.array([0.0, 0.49, 0.51, 0.79, 0.81, 0.999999])
    tokens, logprobs, entropies = sample(logits, noise, 1.0, 1.0, entropy=True)
    assert tokens == [0, 0, 1, 1, 2, 2]
    np.testing.assert_allclose(logprobs, np.log([0.5, 0.5, 0.3, 0.3, 0.2, 0.2]), atol=1e-6)
    expected = -sum(p * np.log(p) for p in (0.5, 0.3, 0.2))
    np.testing.assert_allclose(entropies, [expected] * 6, atol=1e-6)


def test_a_token_without_probability_is_never_drawn():
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]]).expand(4, -1)
    tokens, logprobs, _ = sample(logits, np.array([0.0, 0.499, 0.5, 1 - 2**-53]), 1.0, 1.0, entropy=False)
    assert tokens == [1, 1, 3, 3]
    np.testing.assert_allclose(logprobs, np.log(0.5), atol=1e-6)


def test_entropy_with_impossible_tokens_is_finite():
    _, _, entropies = sample(torch.tensor([[0.0, float("-inf")]]), np.array([0.3]), 1.0, 1.0, entropy=True)
    assert entropies == [0.0]


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    """Of .5 .3 .15 .05, top-p .75 keeps .5 and .3; log-probabilities stay those of the whole distribution."""
    logits = torch.log(torch.tensor([[0.15, 0.5, 0.05, 0.3]], dtype=torch.float64))
    noise = np.linspace(0, 1, 200, endpoint=False)
    tokens, logprobs, _ = sample(logits.expand(200, -1), noise, 1.0, 0.75, entropy=False)
    assert set(tokens) == {1, 3}
    assert abs(tokens.count(1) / 200 - 0.5 / 0.8) < 0.01
    assert {round(float(np.exp(x)), 6) for x in logprobs} == {0.5, 0.3}
    alone, _, _ = sample(logits.expand(200, -1), noise, 1.0, 1e-9, entropy=False)
    assert set(alone) == {1}


def test_frequencies_follow_the_distribution(small):
    """4000 draws by key: each token's count within four standard deviations."""
    logits = torch.randn(1, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = keyed_random.uniforms(np.array([keyed_random.key("draw", n) for n in range(4000)], np.uint64), 0)
    tokens, _, _ = sample(logits.expand(4000, -1), noise, 0.8, 1.0, entropy=False)
    p = torch.softmax(logits[0] / 0.8, -1).numpy()
    counts = np.bincount(tokens, minlength=20)
    assert (np.abs(counts - 4000 * p) < 4 * np.sqrt(4000 * p * (1 - p)) + 1).all()


@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), max_size=12))
def test_common_prefix(a, b):
    slow = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert common_prefix(a, b) == slow


# --- with a policy ----------------------------------------------------------------------------------------------------


def test_recorded_logprobs_are_those_of_the_recorded_contexts(small, played):
    model, tokenizer = small(dtype=torch.float64)
    policy = ModelPolicy(model, tokenizer, max_new_tokens=5, entropies=True)
    for episode in played(policy, groups=2):
        for context, turn in zip(episode.contexts(), episode.turns, strict=True):
            sampled = turn.sample
            expected = forward(model, [*context, *sampled.action])[len(context) - 1 : -1]
            got = [float(expected[n, token]) for n, token in enumerate(sampled.action)]
            np.testing.assert_allclose(sampled.logprobs, got, atol=1e-9)


ACTIONS = [[5, 6, 7, STOP], [5, 6, 8, 9, STOP], [5, 11, STOP], [12, STOP]]


def restricted(model, g, temperature=1.0):
    """Log-probability and entropy of each token of an action, among what could still become one of ACTIONS."""
    logits = forward(model, [*g.context, *g.action], temperature)[len(g.context) - 1 : -1]
    out = []
    for n, token in enumerate(g.action):
        ids = sorted({a[n] for a in ACTIONS if a[:n] == g.action[:n]})
        among = torch.log_softmax(logits[n, ids], -1)
        out.append((float(among[ids.index(token)]), float(-(among.exp() * among).sum()), tuple(ids)))
    return [list(column) for column in zip(*out, strict=True)]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_an_action_drawn_among_some_has_the_renormalised_probabilities(small, temperature):
    model, _ = small(dtype=torch.float64)
    engine = Engine(model, [STOP], temperature=temperature, entropies=True)
    asked = [engine.submit(engine.open(), prompt(n, 9), n, 12, among=ACTIONS) for n in range(40)]
    free = engine.submit(engine.open(), prompt(0, 9), 0, 12)
    finish(engine)
    check(model, [free], 1e-9, temperature)
    assert {tuple(g.action) for g in asked} == set(map(tuple, ACTIONS))
    for g in asked:
        logprobs, entropies, choices = restricted(model, g, temperature)
        assert g.logprobs == pytest.approx(logprobs, abs=1e-9)
        assert g.entropies == pytest.approx(entropies, abs=1e-9)
        assert g.choices == choices


def test_actions_are_drawn_as_often_as_their_probability_says(small):
    """4,000 draws from one context; the action's probability is the product of its tokens'. Chi-squared by hand."""
    model, _ = small(dtype=torch.float64)
    engine = Engine(model, [STOP])
    asked = [engine.submit(engine.open(), prompt(1, 9), keyed_random.key(7, n), 12, among=ACTIONS) for n in range(4000)]
    finish(engine)
    counts = [sum(g.action == a for g in asked) for a in ACTIONS]
    expected = [4000 * np.exp(sum(next(g for g in asked if g.action == a).logprobs)) for a in ACTIONS]
    assert sum(expected) == pytest.approx(4000)
    chi_squared = sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True))
    assert chi_squared < 16.3  # 3 degrees of freedom: exceeded once in a thousand


def test_what_has_no_alternative_is_not_computed_one_by_one(small):
    """Only the first token is a choice: the model is asked once, after the context, and the rest follows."""
    model, _ = small()
    engine = Engine(model, [STOP])
    g = engine.submit(engine.open(), prompt(0, 9), 0, 12, among=[[5, 6, 8, 9, STOP], [12, STOP]])
    finish(engine)
    assert g.action in ([5, 6, 8, 9, STOP], [12, STOP])
    assert (engine.forwarded, engine.generated) == (9, 1)


def test_a_slot_goes_on_after_tokens_that_were_never_computed(small):
    """The next turn's context contains them; what the engine kept must still be right."""
    model, _ = small(dtype=torch.float64)
    engine = Engine(model, [STOP])
    kv_slot = engine.open()
    first = engine.submit(kv_slot, prompt(0, 9), 0, 12, among=ACTIONS)
    finish(engine)
    second = engine.submit(kv_slot, [*first.context, *first.action, *prompt(3, 4)], 1, 6)
    finish(engine)
    check(model, [second], 1e-9)


def test_an_action_that_is_too_long_is_cut(small):
    model, _ = small()
    engine = Engine(model, [STOP])
    g = engine.submit(engine.open(), prompt(0, 9), 0, 2, among=[[5, 6, 7, STOP]])
    finish(engine)
    assert g.action == [5, 6]


def padded(width, read, parts, token, call):
    return sum(len(p) * width[p].max() * (read[p].max() + token) + call for p in parts)


def splits(count):
    """Every way to cut a run of ``count`` into runs."""
    for marks in itertools.product((False, True), repeat=count - 1):
        ends = [n + 1 for n, mark in enumerate(marks) if mark]
        yield [range(a, b) for a, b in itertools.pairwise([0, *ends, count])]


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 900)), min_size=1, max_size=7), st.integers(0, 30_000))
def test_parts_of_a_batch_are_the_cheapest_runs_of_rows_by_what_they_read(rows, call):
    width = np.array([w for w, _ in rows])
    read = width + [r for _, r in rows]
    parts = alike(width, read, token=100, call=call)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(rows)))
    assert all((np.diff(p) > 0).all() for p in parts)
    order = np.argsort(read, kind="stable")
    best = min(padded(width, read, [order[list(run)] for run in runs], 100, call) for runs in splits(len(rows)))
    assert padded(width, read, parts, 100, call) == best
    assert len(alike(width, read, token=100, call=10**12)) == 1
