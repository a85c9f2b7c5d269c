"""The tiny model, its tokenizer, loading, and the policy that plays with a model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentgym.errors import PolicyError, UsageError
from agentgym.models.contexts import window
from agentgym.models.loading import load
from agentgym.models.local_policy import ModelPolicy
from agentgym.models.lora import with_lora
from agentgym.models.tiny import tiny, train_tokenizer
from agentgym.policy import Request
from agentgym.records import StopReason, sampled_ids
from agentgym.rollout import Independent
from agentgym.trainers.update.answer_probe import AnswerProbes

TOKENIZER = train_tokenizer(["take apple 1 from drawer 12", "go to shelf 3"] * 9, 400)


@given(st.text(max_size=60))
def test_the_tokenizer_is_lossless(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text


def test_a_noun_with_its_number_may_be_one_token():
    one, other = (train_tokenizer(["apple 1 apple 1"] * 50, 300, numbered=n) for n in (True, False))
    assert len(one.encode(" apple 1", add_special_tokens=False)) == 1
    assert len(other.encode(" apple 1", add_special_tokens=False)) == 2


def test_the_tiny_model_is_decided_by_its_seed():
    before = torch.random.get_rng_state()
    (a, _), (b, _), (c, _) = (tiny(["go to shelf 3"] * 9, hidden=16, heads=2, layers=1, seed=s) for s in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (a, b, c)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_saved_and_loaded_it_is_the_same(small, tmp_path):
    """The tokenizer too: transformers would split the words of a generic one anew."""
    model, tokenizer = small()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, other = load(str(tmp_path))
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    text = "You see red. Still blue, turn 2. é <|end|>"
    assert other.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)
    assert other.chat_template == tokenizer.chat_template


def test_what_cannot_be_loaded_is_refused_in_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"no model folder '\./nowhere'"):
        load("./nowhere")
    with pytest.raises(UsageError, match=r"cannot load model .*give a local folder, a hub name, or 'tiny'") as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="device='tpu7' cannot be used"):
        load(str(tmp_path), device="tpu7")


def test_adapters_are_decided_by_their_seed(small):
    def adapters(seed):
        return torch.cat([p.flatten() for p in with_lora(small()[0], 4, seed=seed).parameters() if p.requires_grad])

    before = torch.random.get_rng_state()
    assert torch.equal(adapters(0), adapters(0))
    assert not torch.equal(adapters(0), adapters(1))
    assert torch.equal(before, torch.random.get_rng_state())


# --- the policy -------------------------------------------------------------------------------------------------------


def test_full_history_keeps_everything_and_stores_each_token_once(small, played):
    model, tokenizer = small()
    for e in played(ModelPolicy(model, tokenizer, max_new_tokens=4)):
        contexts = e.contexts()
        for number, turn in enumerate(e.turns[1:], 1):
            before = [*contexts[number - 1], *e.turns[number - 1].sample.action]
            assert turn.sample.keep == len(before)
            assert list(contexts[number][: len(before)]) == before
            assert turn.usage.prompt_tokens == len(contexts[number])
            assert turn.usage.completion_tokens == len(turn.sample.action) <= 4


def test_windowed_contexts_are_rebuilt(small, played):
    model, tokenizer = small()
    episodes = played(ModelPolicy(model, tokenizer, max_new_tokens=4, context=window(1)))
    assert any(t.sample.keep < len(c) for e in episodes for t, c in zip(e.turns[1:], e.contexts(), strict=False))
    for e in episodes:
        text = tokenizer.decode(e.contexts()[-1])
        assert text.startswith("<|system|>Write the colour that you see.<|user|>You see ")


def test_episodes_do_not_depend_on_company_or_slots(small, played):
    model, tokenizer = small(dtype=torch.float64)
    make = lambda: ModelPolicy(model, tokenizer, max_new_tokens=4)  # noqa: E731
    many, few = played(make(), groups=3), played(make(), groups=1)
    assert [[t.action for t in e.turns] for e in many[:4]] == [[t.action for t in e.turns] for e in few]


def test_a_context_that_does_not_fit_ends_the_episode(small, played):
    model, tokenizer = small()
    opening = len(played(ModelPolicy(model, tokenizer, max_new_tokens=4), groups=1, size=1)[0].contexts()[0])
    policy = ModelPolicy(model, tokenizer, max_new_tokens=4, max_context=opening + 5)
    episodes = played(policy, groups=1, turns=9)
    assert all(e.stop in (StopReason.CONTEXT_FULL, StopReason.TERMINATED) for e in episodes)
    assert all(len(sampled_ids(e.turns)) <= opening + 5 for e in episodes)
    assert all(e.turns for e in episodes)
    tiny_window = ModelPolicy(model, tokenizer, max_context=opening)
    (episode,) = played(tiny_window, groups=1, size=1)
    assert (episode.stop, len(episode.turns), episode.final) == (StopReason.CONTEXT_FULL, 0, "You see red.")


def test_what_did_not_fit_is_what_a_critic_and_beliefs_are_asked_about(small, played):
    """The whole next context, with the observation that was not answered, where the model itself has room for it."""
    model, tokenizer = small()
    opening = len(played(ModelPolicy(model, tokenizer, max_new_tokens=4), groups=1, size=1)[0].contexts()[0])
    policy = ModelPolicy(model, tokenizer, max_new_tokens=4, max_context=opening + 5)
    full = [e for e in played(policy, groups=1, turns=9) if e.stop is StopReason.CONTEXT_FULL]
    assert full
    for e in full:
        text = tokenizer.decode(e.context_behind())
        assert text.endswith("<|user|>Still red, turn 1.<|assistant|>")
        assert len(e.context_behind()) > policy.max_context
        asked = AnswerProbes(policy.chat, policy.context).ask([replace(e, answers=("red",))])
        assert tokenizer.decode(asked.rows[-1].tokens).startswith(text)


def test_the_models_own_window_is_the_limit(small):
    model, tokenizer = small(max_context=96)
    assert ModelPolicy(model, tokenizer).max_context == 96
    assert ModelPolicy(model, tokenizer, max_context=1000).max_context == 96
    assert ModelPolicy(model, tokenizer, max_context=50).max_context == 50


def test_slots_are_given_back(small, played):
    model, tokenizer = small()
    policy = ModelPolicy(model, tokenizer, max_new_tokens=3)
    played(policy)
    assert not policy.engine._held
    assert not policy._episodes
    assert not policy._working


def test_entropies_are_recorded_where_asked_for(small, played):
    model, tokenizer = small()
    with_them, without = (ModelPolicy(model, tokenizer, max_new_tokens=3, entropies=e) for e in (True, False))
    for e in played(with_them, groups=1):
        assert all(len(t.sample.entropies) == len(t.sample.action) for t in e.turns)
        assert all(0 < x < 6 for t in e.turns for x in t.sample.entropies)
    assert all(t.sample.entropies == () for e in played(without, groups=1) for t in e.turns)


def test_versions_count_updates(small, played):
    model, tokenizer = small()
    policy = ModelPolicy(model, tokenizer, max_new_tokens=2)
    policy.updated()
    policy.updated()
    assert {t.sample.version for e in played(policy, groups=1) for t in e.turns} == {2}


def test_the_context_after_an_episode_is_the_next_turns(small, played):
    model, tokenizer = small()
    policy = ModelPolicy(model, tokenizer, max_new_tokens=3)
    ends = set()
    for e in played(policy, groups=4):
        ends.add(e.stop)
        if e.terminated:
            assert e.final_context is None
            continue
        ids = e.context_behind()
        asked = Request(e.id, 0, e.final, {}, e.turns, "Write the colour that you see.")
        assert list(ids) == policy.context(policy.chat, asked, sampled_ids(e.turns))
        assert tokenizer.decode(ids).endswith(f"<|user|>{e.final}<|assistant|>")
        assert e.final_context.keep == len(sampled_ids(e.turns))  # each token is stored once
    assert StopReason.TURN_LIMIT in ends
    short, tokenizer = small(max_context=10)
    before = sampled_ids(e.turns)
    assert len([*before[: (cut := ModelPolicy(short, tokenizer).context_behind(asked)).keep], *cut.context]) == 10


class Fork(Independent):
    """One root; the first reply of its second turn is branched until the group is full."""

    def roots(self, size):
        return 1

    def branches(self, episode, reply):
        return 9 if len(episode.turns) == 1 and episode.parent is None else 0


def test_branches_share_their_beginning_and_go_on_from_its_keys_and_values(small, played):
    model, tokenizer = small(dtype=torch.float64)
    policy = ModelPolicy(model, tokenizer, max_new_tokens=4)
    episodes = played(policy, groups=1, size=4, branching=Fork())
    root, *twins = episodes
    assert len(twins) == 3
    for twin in twins:
        assert twin.parent == root.id
        assert twin.fork_turn == 1
        assert twin.turns[0].sample == root.turns[0].sample
        for context, turn in zip(twin.contexts(), twin.turns, strict=True):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*context, *turn.sample.action]]), use_cache=False).logits[0]
            expected = torch.log_softmax(logits, -1)[len(context) - 1 : -1]
            got = torch.tensor(turn.sample.logprobs, dtype=torch.float64)
            torch.testing.assert_close(got, expected[range(len(got)), list(turn.sample.action)], atol=1e-9, rtol=0)
    assert len({e.turns[1].action for e in episodes}) > 1


def test_actions_are_drawn_among_the_admissible_ones(small, played):
    model, tokenizer = small()
    policy = ModelPolicy(model, tokenizer, max_new_tokens=12, admissible=True)
    turns = [t for e in played(policy, groups=3, size=8) for t in e.turns]
    assert {t.action for t in turns} == {"red", "blue", "green"}
    assert all(t.action in policy.tokenizer.decode(t.sample.action) for t in turns)
    for turn in turns:
        assert [token in ids for token, ids in zip(turn.sample.action, turn.sample.choices, strict=True)] == [
            True
        ] * len(turn.sample.action)


def test_an_environment_without_admissible_actions_is_named(small):
    model, tokenizer = small()
    policy = ModelPolicy(model, tokenizer, admissible=True)
    with pytest.raises(
        PolicyError, match=r"rollout.admissible=true needs info\['admissible'\], which this environment"
    ):
        policy.submit(Request("e", 0, "You see red.", {}, ()))


def test_every_end_token_of_the_generation_config_stops(small, played, tmp_path):
    """As models with several have them (Llama 3, Gemma); also once saved and loaded, and with adapters around."""
    model, tokenizer = small()
    chosen = set(range(60, 180))
    model.generation_config.eos_token_id = sorted(chosen)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = load(str(tmp_path))
    for stopping in (model, again, with_lora(again, 2)):
        policy = ModelPolicy(stopping, tokenizer, max_new_tokens=12)
        ends = chosen | {policy.chat.end}
        turns = [t for e in played(policy, groups=3, size=8) for t in e.turns]
        assert len({t.sample.action[-1] for t in turns} & chosen) > 10
        for t in turns:
            assert not ends & set(t.sample.action[:-1])
            assert t.sample.action[-1] in ends or len(t.sample.action) == 12
            assert t.action == policy.chat.text(t.sample.action)
