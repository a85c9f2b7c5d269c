"""The update against slow row-by-row computations, and what must not change it."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from agentgym.errors import UsageError
from agentgym.models.contexts import window
from agentgym.models.local_policy import ModelPolicy
from agentgym.records import Sample, StopReason
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.expressions import with_part
from agentgym.trainers.parts import get_algorithm
from agentgym.trainers.prefix_tree.scoring import without_dropout
from agentgym.trainers.update.batch import minibatches
from agentgym.trainers.update.learner import Learner, OptimizerConfig
from agentgym.trainers.update.optimizer import Optimizer

FREE = OptimizerConfig(lr=1e-2, max_grad_norm=1e9)


@pytest.fixture(scope="module")
def world(small, played):
    """A float64 model, episodes that it played, and a copy whose weights have moved since."""

    def make(context=None, **options):
        model, tokenizer = small(dtype=torch.float64)
        policy = ModelPolicy(model, tokenizer, max_new_tokens=4, context=context, entropies=True)
        episodes = played(policy, **options)
        moved = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in moved.parameters():
                p.add_(0.02 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
        return model, moved, episodes

    return make


def gradient(learner, episodes):
    """The gradient of one update, without a step."""
    learner.optimizer.step = lambda: None
    done = learner.update(episodes)
    return [p.grad.clone() for p in learner.model.parameters()], done


def logprobs(model, context, action, temperature=1.0):
    """log π of an action's tokens, and the hidden states that predict them, by an ordinary forward pass."""
    out = model(input_ids=torch.tensor([[*context, *action]]), use_cache=False, output_hidden_states=True)
    at = slice(len(context) - 1, len(context) + len(action) - 1)
    every = torch.log_softmax(out.logits[0, at] / temperature, -1)
    return every[range(len(action)), list(action)], out.hidden_states[-1][0, at], every


def slow_clip(ratio, advantage):
    return torch.stack([torch.maximum(-advantage * r, -advantage * r.clamp(0.8, 1.2)) for r in ratio])


def slow_grpo_advantage(episodes):
    groups = {}
    for e in episodes:
        groups.setdefault(e.group, []).append(e.reward)
    out = {}
    for e in episodes:
        r = np.array(groups[e.group])
        out[e.id] = (e.reward - r.mean()) / (r.std(ddof=1) + 1e-6) if r.std() > 1e-12 else 0.0
    return out


def check(grads, model, loss):
    expected = torch.autograd.grad(loss, list(model.parameters()))
    assert max(float(g.abs().max()) for g in expected) > 1e-4
    for got, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("context", [None, window(1)], ids=["history", "window"])
@pytest.mark.parametrize("max_tokens", [64, 10_000])
def test_gradient_of_grpo_equals_the_loss_written_out(world, context, max_tokens):
    """1/N Σᵢ 1/|oᵢ| Σₜ max(−Aρ, −A·clip ρ), one forward pass a turn."""
    _, moved, episodes = world(context)
    advantages = slow_grpo_advantage(episodes)
    slow = 0.0
    for e in episodes:
        losses = []
        for at, turn in zip(e.contexts(), e.turns, strict=True):
            now, _, _ = logprobs(moved, at, turn.sample.action)
            ratio = (now - torch.tensor(turn.sample.logprobs, dtype=torch.float64)).exp()
            losses.append(slow_clip(ratio, advantages[e.id]))
        slow = slow + torch.cat(losses).mean() / len(episodes)
    learner = Learner(moved, get_algorithm("grpo")(), replace(FREE, max_tokens=max_tokens))
    grads, done = gradient(learner, episodes)
    check(grads, moved, slow)
    assert_allclose(done.metrics["loss"], slow.item(), rtol=1e-9)
    assert done.metrics["clip_fraction"] > 0.01
    for e in episodes:
        assert_allclose(done.advantages[e.id], [advantages[e.id]] * len(e.turns), atol=1e-12)


def test_a_turn_without_tokens_has_the_value_of_its_context(world):
    """Its reward and value are in the advantages of the turns around it; it has no token to learn by."""
    _, moved, episodes = world()
    quiet = next(e for e in episodes if len(e.turns) == 3)
    contexts = quiet.contexts()
    second = replace(quiet.turns[1], sample=Sample(0, contexts[1], ()))
    third = replace(quiet.turns[2], sample=replace(quiet.turns[2].sample, keep=0, context=contexts[2]))
    quiet = replace(quiet, turns=(quiet.turns[0], second, third), stop=StopReason.TERMINATED)
    algorithm = get_algorithm("ppo")(discount=0.9, gae_lambda=0.8, whiten=False)
    learner = Learner(moved, algorithm, FREE)
    with torch.no_grad():
        learner.values.weight.copy_(torch.linspace(-0.3, 0.3, 32, dtype=torch.float64)[None])
    grads, done = gradient(learner, [quiet])
    values = []
    for context in contexts:
        _, hidden, _ = logprobs(moved, context, [0])
        values.append((hidden[0] @ learner.values.weight[0]).item())
    carried, expected = 0.0, []
    for t in (2, 1, 0):
        following = values[t + 1] if t < 2 else 0.0
        carried = quiet.turns[t].reward + 0.9 * following - values[t] + 0.9 * 0.8 * carried
        expected.insert(0, carried)
    assert_allclose(done.advantages[quiet.id], expected, atol=1e-9)
    assert done.metrics["action_tokens"] == len(quiet.turns[0].sample.action) + len(third.sample.action)
    assert all(torch.isfinite(g).all() for g in grads)


def test_a_critic_learns_the_returns(world):
    """Frozen policy gradient aside, the value loss falls and values move towards the turns' returns."""
    model, _, episodes = world()
    ppo = get_algorithm("ppo")(gae_lambda=1.0, value_weight=1.0, value_clip=None, whiten=False, critic_lr=1e-2)
    algorithm = with_part(ppo, "loss_term", "surrogate(bound=ratio_bounds(0.0, 0.0), shape=min_clip())")
    episodes = [replace(e, stop=StopReason.TERMINATED) for e in episodes]
    learner = Learner(model, algorithm, OptimizerConfig(lr=1e-2))
    seen = []
    for _ in range(25):
        done = learner.update(episodes)
        gaps = np.concatenate([done.advantages[e.id] for e in episodes])  # with λ = 1: return − value
        seen.append(float(np.mean(gaps**2)))
    assert seen[-1] < 0.5 * seen[0]


def test_kl_in_the_reward_is_measured_against_the_first_weights(world):
    first, moved, episodes = world()
    learner = Learner(first, get_algorithm("rloo")(kl=0.5), FREE)
    learner.model.load_state_dict(moved.state_dict())
    episodes = [  # as if the moved weights had played
        replace(e, turns=tuple(
            replace(t, sample=replace(t.sample, logprobs=tuple(logprobs(moved, c, t.sample.action)[0].tolist())))
            for c, t in zip(e.contexts(), e.turns, strict=True)))
        for e in episodes
    ]  # fmt: skip
    _, done = gradient(learner, episodes)
    with learner.reference.scoring() as scorer:
        reference = scorer.model
    reward = {}
    for e in episodes:
        spent = 0.0
        for at, turn in zip(e.contexts(), e.turns, strict=True):
            spent += sum(turn.sample.logprobs) - logprobs(reference, at, turn.sample.action)[0].sum().item()
        reward[e.id] = e.reward - 0.5 * spent
    for e in episodes:
        others = [reward[o.id] for o in episodes if o.group == e.group and o is not e]
        assert_allclose(done.advantages[e.id], [reward[e.id] - np.mean(others)] * len(e.turns), atol=1e-9)


def test_temperature_is_that_of_sampling(world):
    _, moved, episodes = world()
    learner = Learner(moved, get_algorithm("rloo")(), replace(FREE, temperature=0.7))
    grads, done = gradient(learner, episodes)
    slow, nll, count = 0.0, 0.0, 0
    for e in episodes:
        for at, turn in zip(e.contexts(), e.turns, strict=True):
            now, _, _ = logprobs(moved, at, turn.sample.action, 0.7)
            slow = slow - done.advantages[e.id][0] * now.sum() / len(episodes)
            if done.advantages[e.id][0]:
                nll, count = nll - now.sum().item(), count + len(now)
    check(grads, moved, slow)
    assert_allclose(done.metrics["nll"], nll / count)


def test_entropy_bonus_and_top_entropy_tokens(world):
    """The bonus is on the entropy now; the tokens are chosen by the entropy with which they were sampled."""
    _, moved, episodes = world()
    algorithm = with_part(get_algorithm("rloo")(), "penalty", "entropy(0.3)")
    algorithm = with_part(algorithm, "token_weight", "top_entropy(0.25)")
    grads, done = gradient(Learner(moved, algorithm, FREE), episodes)
    recorded = sorted((x for e in episodes for t in e.turns for x in t.sample.entropies), reverse=True)
    least = recorded[-(-len(recorded) // 4) - 1]
    slow, counted = 0.0, set()
    for e in episodes:
        for at, turn in zip(e.contexts(), e.turns, strict=True):
            now, _, every = logprobs(moved, at, turn.sample.action)
            entropy = -(every.exp() * every).sum(-1)
            kept = torch.tensor([float(x >= least) for x in turn.sample.entropies], dtype=torch.float64)
            slow = slow + (kept * (-done.advantages[e.id][0] * now - 0.3 * entropy)).sum()
            if kept.any():
                counted.add(e.id)
    check(grads, moved, slow / len(counted))


# --- what must not change anything ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grpo", "gigpo", "gspo", "ppo", "dr_grpo"])
def test_micro_batches_change_no_value(world, name):
    _, moved, episodes = world()
    whole, one = gradient(Learner(moved, get_algorithm(name)(), FREE), episodes)
    parts, other = gradient(Learner(moved, get_algorithm(name)(), replace(FREE, max_tokens=40)), episodes)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)
    for id_, advantages in one.advantages.items():
        assert_allclose(advantages, other.advantages[id_], atol=1e-10)
    assert_allclose(one.metrics["loss"], other.metrics["loss"], atol=1e-12)


def test_the_order_of_episodes_changes_no_value(world):
    """Groups may be mixed up; minibatches still hold whole groups."""
    _, moved, episodes = world()
    mixed = sorted(episodes, key=lambda e: (e.member, e.group))
    for minibatch in (1, 3):
        models = [copy.deepcopy(moved) for _ in range(2)]
        for model, given in zip(models, (episodes, mixed), strict=True):
            learner = Learner(model, get_algorithm("gigpo")(kl=0.1), replace(FREE, minibatches=minibatch))
            learner.update(given)
        for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)


def test_minibatches_hold_whole_groups(world):
    _, _, episodes = world()
    mixed = sorted(episodes, key=lambda e: (e.member, e.group))
    parts = list(minibatches(mixed, 2))
    assert sorted(n for part in parts for n in part) == list(range(12))
    groups = [{mixed[n].group for n in part} for part in parts]
    assert groups == [{"g0", "g1"}, {"g2"}]
    assert all(part == sorted(part) for part in parts)
    assert len(list(minibatches(mixed, 99))) == 3
    alone = [replace(e, group="") for e in mixed[:3]]
    assert list(minibatches(alone, 3)) == [[0], [1], [2]]


def shortened(episodes, group, length):
    """The episodes, with the actions of one group cut to their first tokens, so that steps differ in size."""
    out = []
    for e in episodes:
        if e.group == group:
            turns = []
            for context, turn in zip(e.contexts(), e.turns, strict=True):
                parts = {n: getattr(turn.sample, n)[:length] for n in ("action", "logprobs", "entropies")}
                turns.append(replace(turn, sample=replace(turn.sample, keep=0, context=context, **parts)))
            e = replace(e, turns=tuple(turns))
        out.append(e)
    return out


def gradients_of_steps(learner, episodes):
    """The gradient that each optimiser step would take."""
    found = []
    learner.optimizer.step = lambda: found.append([p.grad.clone() for p in learner.model.parameters()])
    return learner.update(episodes), found


@pytest.mark.parametrize("name", ["reinforce_pp", "grpo", "rloo", "aepo_agentic", "gspo"])
def test_minibatches_are_parts_of_the_gradient_of_the_whole(world, name):
    """Means, spreads, token weights and denominators are those of the update: steps average to its gradient."""
    _, moved, episodes = world(groups=2)
    episodes = shortened(episodes, "g1", 2)
    algorithm = get_algorithm(name)()
    done, (whole,) = gradients_of_steps(Learner(moved, algorithm, FREE), episodes)
    again, parts = gradients_of_steps(Learner(moved, algorithm, replace(FREE, minibatches=2)), episodes)
    assert done.advantages == again.advantages
    assert len(parts) == 2
    assert_allclose(again.metrics["loss"], done.metrics["loss"], atol=1e-12)
    for one, first, second in zip(whole, *parts, strict=True):
        torch.testing.assert_close((first + second) / 2, one, atol=1e-10, rtol=1e-8)
        assert not torch.allclose(first, second)


def test_token_weights_are_over_the_update(world):
    """The quarter of tokens that are most unsure is that of all groups, whichever step they fall into."""
    _, moved, episodes = world(groups=2)
    episodes = [
        replace(e, turns=tuple(
            replace(t, sample=replace(t.sample, entropies=tuple(x + 9 * (e.group == "g0") for x in t.sample.entropies)))
            for t in e.turns))
        for e in episodes
    ]  # fmt: skip
    algorithm = with_part(get_algorithm("rloo")(), "token_weight", "top_entropy(0.25)")
    done, parts = gradients_of_steps(Learner(moved, algorithm, replace(FREE, minibatches=2)), episodes)
    assert (len(parts), done.metrics["skipped"]) == (1, 1)  # all of them are in g0: the step over g1 has no gradient


def test_epochs_are_passes_with_the_same_old_probabilities(world):
    _, moved, episodes = world()
    other = copy.deepcopy(moved)
    twice = Learner(moved, get_algorithm("grpo")(), OptimizerConfig(lr=1e-2, epochs=2))
    twice.update(episodes)
    once = Learner(other, get_algorithm("grpo")(), OptimizerConfig(lr=1e-2))
    once.update(episodes)
    once.update(episodes)
    for a, b in zip(moved.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)


# --- edges ------------------------------------------------------------------------------------------------------------


def unchanged(model, before):
    return all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_groups_without_spread_teach_nothing_and_move_nothing(world):
    """Not even by the momentum of earlier updates, or by weight decay."""
    model, _, episodes = world()
    learner = Learner(model, get_algorithm("grpo")(), OptimizerConfig(lr=1e-2, weight_decay=0.1))
    learner.update(episodes)
    before = [p.detach().clone() for p in model.parameters()]
    flat = [replace(e, turns=tuple(replace(t, reward=0.0) for t in e.turns)) for e in episodes]
    done = learner.update(flat)
    assert unchanged(model, before)
    assert done.metrics["frac_nonzero_advantage"] == done.metrics["loss"] == done.metrics["grad_norm"] == 0
    assert done.metrics["skipped"] == 1


@pytest.mark.parametrize("aggregate", ["token_mean", "seq_mean_token_mean"])
def test_episodes_without_advantage_count_and_are_not_computed(world, monkeypatch, aggregate):
    _, moved, episodes = world(groups=4)
    flat = episodes[0].group
    episodes = [
        replace(e, turns=tuple(replace(t, reward=0.0) for t in e.turns)) if e.group == flat else e for e in episodes
    ]
    algorithm = with_part(get_algorithm("gigpo")(), "aggregate", aggregate)
    quick, done = gradient(Learner(copy.deepcopy(moved), algorithm, FREE), episodes)
    monkeypatch.setattr(Algorithm, "only_advantage_teaches", False)
    slow, whole = gradient(Learner(copy.deepcopy(moved), algorithm, FREE), episodes)
    for a, b in zip(quick, slow, strict=True):
        assert_allclose(a, b, atol=1e-12)
    assert done.metrics["loss"] == pytest.approx(whole.metrics["loss"], abs=1e-12)
    assert done.metrics["tree_tokens"] < whole.metrics["tree_tokens"]


@pytest.mark.parametrize(("name", "alone"), [("grpo", True), ("ppo", False), ("dapo", True)])
def test_only_advantage_teaches_where_nothing_else_is_in_the_loss(name, alone):
    assert get_algorithm(name)().only_advantage_teaches is alone
    assert not with_part(get_algorithm(name)(), "penalty", "entropy(0.1)").only_advantage_teaches


def test_failed_and_empty_episodes_are_left_out(world):
    model, _, episodes = world()
    broken = replace(episodes[0], id="x", stop=StopReason.WORLD_FAULT, failure="boom")
    empty = replace(episodes[0], id="y", turns=(), stop=StopReason.CONTEXT_FULL)
    grads, done = gradient(Learner(model, get_algorithm("grpo")(), FREE), [broken, *episodes, empty])
    assert set(done.advantages) == {e.id for e in episodes}
    plain, _ = gradient(Learner(model, get_algorithm("grpo")(), FREE), episodes)
    for a, b in zip(grads, plain, strict=True):
        assert torch.equal(a, b)


def test_nothing_to_learn_from(world):
    model, _, episodes = world()
    learner = Learner(model, get_algorithm("grpo")(), FREE)
    before = [p.detach().clone() for p in model.parameters()]
    failed = [replace(e, stop=StopReason.POLICY_ERROR) for e in episodes]
    for none in ([], failed):
        done = learner.update(none)
        assert done.metrics == {"num_turns": 0.0}
        assert done.advantages == {}
    assert unchanged(model, before)
    assert learner.updates == 2


def test_masked_tokens_everywhere_give_a_zero_loss(world):
    model, _, episodes = world()
    cut = [replace(e, stop=StopReason.TURN_LIMIT) for e in episodes]
    learner = Learner(model, with_part(get_algorithm("grpo")(), "turn_weight", "mask_truncated()"), FREE)
    done = learner.update(cut)
    assert done.metrics["loss"] == 0.0
    assert done.metrics["skipped"] == 1


def test_a_broken_gradient_moves_nothing(world):
    model, _, episodes = world()
    learner = Learner(
        model, replace(get_algorithm("rloo")(), penalty=(lambda tokens: tokens.logprob * float("nan"),)), FREE
    )
    before = [p.detach().clone() for p in model.parameters()]
    done = learner.update(episodes)
    assert done.metrics["skipped"] == 1
    assert unchanged(model, before)


def test_one_long_gradient_is_scaled_down(world):
    model, _, episodes = world()
    learner = Learner(model, get_algorithm("rloo")(), replace(FREE, max_grad_norm=0.01))
    grads, done = gradient(learner, episodes)
    assert done.metrics["grad_norm"] > 0.01
    assert_allclose(float(torch.cat([g.flatten() for g in grads]).norm()), 0.01, rtol=1e-3)


def test_warm_up_raises_the_learning_rate_in_equal_steps(world):
    model, _, episodes = world()
    learner = Learner(model, get_algorithm("grpo")(), OptimizerConfig(lr=0.4, warmup=4))
    rates = []
    for _ in range(6):
        gradient(learner, episodes)
        rates.append(learner.optimizer._all[0].param_groups[0]["lr"])
    assert_allclose(rates, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    learner.update(episodes, lr=0.2)
    assert learner.optimizer._all[0].param_groups[0]["lr"] == 0.2


@pytest.mark.parametrize("name", ["ppo", "gigpo"])
def test_state_is_all_that_an_exact_continuation_needs(world, name):
    model, _, episodes = world()
    algorithm = get_algorithm(name)(kl=0.1)
    learner = Learner(model, algorithm, OptimizerConfig(lr=1e-3))
    learner.update(episodes)
    twin = Learner(copy.deepcopy(model), get_algorithm(name)(kl=0.1), OptimizerConfig(lr=1e-3))
    twin.load_state_dict(copy.deepcopy(learner.state_dict()))
    one, two = learner.update(episodes), twin.update(episodes)
    assert one == two
    assert unchanged(twin.model, list(model.parameters()))


def test_what_the_learner_cannot_compute_is_refused(world):
    model, _, episodes = world()
    learner = Learner(model, with_part(Algorithm(), "reward", "overlong(9, 9, column='greedy')"))
    with pytest.raises(UsageError, match="the turn table has no column 'greedy'"):
        learner.update(episodes)
    with pytest.raises(UsageError, match="a part reads the policy's belief"):
        Learner(model, with_part(Algorithm(), "reward", "information_gain()"))


def test_metrics(world):
    model, _, episodes = world()
    _, done = gradient(Learner(model, get_algorithm("grpo")(), FREE), episodes)
    assert done.metrics["num_turns"] == sum(len(e.turns) for e in episodes)
    episodes = [e for e in episodes if any(done.advantages[e.id])]
    tokens = sum(len(t.sample.action) for e in episodes for t in e.turns)
    nll = -sum(sum(t.sample.logprobs) for e in episodes for t in e.turns) / tokens
    assert done.metrics["action_tokens"] == tokens
    assert_allclose(done.metrics["nll"], nll, rtol=1e-9)
    assert done.metrics["approx_kl"] == pytest.approx(0, abs=1e-12)
    assert done.metrics["clip_fraction"] == 0
    assert done.metrics["prefix_sharing"] > 1.5
    assert done.metrics["tree_tokens"] * done.metrics["prefix_sharing"] == pytest.approx(
        sum(len(e.contexts()[-1]) + len(e.turns[-1].sample.action) - 1 for e in episodes)
    )


# --- optimisers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(("critic_lr", "ratio"), [(None, 10.0), (0.02, 5.0)])
def test_the_critic_has_a_learning_rate_of_its_own(world, optimizer, critic_lr, ratio):
    """A first AdamW step is the learning rate; the head's rises and falls with that of the policy."""
    model, _, episodes = world()
    algorithm = get_algorithm("ppo")(critic_lr=critic_lr)
    learner = Learner(model, algorithm, OptimizerConfig(optimizer, lr=0.004, max_grad_norm=1e9))
    assert learner.optimizer._all[-1].param_groups[0]["lr"] == pytest.approx(ratio * 0.004)
    before = model.model.norm.weight.detach().clone()
    learner.update(episodes, lr=0.001)
    moved = (model.model.norm.weight - before).abs()
    assert_allclose(float(moved.max().detach()), 0.001, rtol=1e-3)
    assert_allclose(float(learner.values.bias.abs().detach()), ratio * 0.001, rtol=1e-3)
    twin = Learner(copy.deepcopy(model), algorithm, OptimizerConfig(optimizer, lr=0.004))
    twin.load_state_dict(copy.deepcopy(learner.state_dict()))
    twin.optimizer.set_lr(1.0)
    assert twin.optimizer._all[-1].param_groups[0]["lr"] == pytest.approx(ratio)


def test_search_r1_hands_its_critic_the_learning_rate():
    assert get_algorithm("search_r1")(estimator="ppo", critic_lr=0.3).critic_lr == 0.3
    assert Algorithm().critic_lr is None


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_trainable_weight_is_in_one_optimiser_once(small, name):
    model, _ = small()
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    head = torch.nn.Linear(32, 1)
    optimizer = Optimizer.of(name, model, head.parameters(), lr=0.1, weight_decay=0.0, betas=(0.9, 0.99))
    ids = [id(p) for inner in optimizer._all for group in inner.param_groups for p in group["params"]]
    trainable = [*(p for p in model.parameters() if p.requires_grad), *head.parameters()]
    assert sorted(ids) == sorted(map(id, trainable))
    assert sorted(map(id, optimizer.parameters)) == sorted(ids)


# --- dropout ----------------------------------------------------------------------------------------------------------


def dropping(small, where, seed=0):
    """A model that drops out half: of its attention, or of what goes into its adapters."""
    peft = pytest.importorskip("peft")
    model, tokenizer = small(seed=seed)
    if where == "attention":
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.5
    else:
        config = peft.LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", init_lora_weights=False)
        model = peft.get_peft_model(model, config)
    return model, tokenizer


def bare(model, episodes):
    """Log-probabilities of the actions without adapters, by plain forward passes."""
    with model.disable_adapter(), torch.no_grad():
        model.eval()
        return np.concatenate(
            [
                logprobs(model, c, t.sample.action)[0]
                for e in episodes
                for c, t in zip(e.contexts(), e.turns, strict=True)
            ]
        )


@pytest.mark.filterwarnings("ignore:.*checkpointing:FutureWarning")
@pytest.mark.parametrize("where", ["attention", "adapters"])
@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_nothing_is_dropped_out_where_log_probabilities_are_compared(small, played, name, where):
    """On policy every ratio is 1 and the first weights are the reference, so every divergence is 0."""
    model, tokenizer = dropping(small, where)
    policy = ModelPolicy(model.train(), tokenizer, max_new_tokens=4)
    episodes = played(policy)
    algorithm = get_algorithm(name)(**({"kl": 0.1} if name == "grpo" else {}))
    learner = Learner(model.train(), algorithm, OptimizerConfig(lr=1e-12, epochs=2))
    seen = []
    ordinary = learner._tokens
    learner._tokens = lambda *a: seen.append(ordinary(*a)) or seen[-1]
    done = learner.update(episodes)
    assert done.metrics["approx_kl"] < 1e-9
    assert done.metrics["clip_fraction"] == 0
    if name == "grpo" and where == "attention":
        assert_allclose(seen[0].reference.numpy(), seen[0].old.numpy(), atol=1e-4)
    elif name == "grpo":  # the base model, which the adapters have left
        assert_allclose(seen[0].reference.numpy(), bare(model, episodes), atol=1e-4)
    else:
        first, second = (tokens.value.detach().numpy() for tokens in seen)
        assert_allclose(first, second, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*checkpointing:FutureWarning")
def test_gradient_checkpointing_stays_on_without_dropout(small, played):
    model, tokenizer = small()
    model.gradient_checkpointing_enable()
    episodes = played(ModelPolicy(model, tokenizer, max_new_tokens=4))
    learner = Learner(model, get_algorithm("grpo")())
    calls = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    without, _ = gradient(learner, episodes)
    assert len(calls) == 2  # once forward, once again in backward
    assert not model.model.layers[0].self_attn.training
    model.gradient_checkpointing_disable()
    calls.clear()
    learner.optimizer.zero_grad()
    with_it, _ = gradient(learner, episodes)
    assert len(calls) == 1
    for a, b in zip(without, with_it, strict=True):
        torch.testing.assert_close(a, b)


def test_a_layer_that_drops_something_out_by_itself_is_not_recomputed(small):
    model, _ = small()
    for layer in model.model.layers:
        layer.gradient_checkpointing = True
    model.model.layers[0].dropout = 0.1
    without_dropout(model.train())
    assert [layer.training for layer in model.model.layers] == [False, True]
