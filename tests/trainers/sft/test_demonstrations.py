"""Episodes that nobody sampled, as training data; and imitation of them."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
from small_runs import SMALL, start

from agentgym.models.chat_template import ChatTemplate
from agentgym.models.contexts import full_history, window
from agentgym.models.local_policy import ModelPolicy
from agentgym.policy import ExpertPolicy
from agentgym.records import Task, Turn
from agentgym.rollout import Group, Rollout
from agentgym.trainers.prefix_tree.rows import rows_of
from agentgym.trainers.sft.demonstrations import cut_short, tokenised, with_permuted_names
from agentgym.trainers.sft.imitation import ImitationConfig, imitate, likelihood
from agentgym.trainers.update.learner import Learner


@pytest.fixture(scope="module")
def experts():
    import letters

    with Rollout(lambda: letters.Letters(turns=3), ExpertPolicy()) as rollout:
        return sorted(rollout.play([Group(f"g{n}", Task(n)) for n in range(6)]), key=lambda e: e.group)


@pytest.mark.parametrize("context", [full_history(), window(1)])
def test_contexts_are_those_that_the_policy_would_have_met(small, played, context):
    """What a policy sampled, tokenised again from its texts: where its tokens are the usual ones, the same samples."""
    model, tokenizer = small()
    chat = ChatTemplate(tokenizer)
    episodes = played(ModelPolicy(model, tokenizer, context=context, max_new_tokens=4), groups=2)
    again = [tokenised(e, chat, context, instructions="Write the colour that you see.") for e in episodes]
    for sampled, made in zip(episodes, again, strict=True):
        first, other = sampled.turns[0].sample, made.turns[0].sample
        assert (first.keep, first.context) == (other.keep, other.context)
        for turn, context_ids in zip(made.turns, made.contexts(), strict=True):
            assert turn.sample.action == tuple(chat.closed(turn.action))
            assert tokenizer.decode(context_ids).endswith("<|assistant|>")
        assert all(t.reward == 1.0 for t in made.turns)
        assert [t.observation for t in made.turns] == [t.observation for t in sampled.turns]


def test_noise_is_not_imitated(small, experts):
    chat = ChatTemplate(small()[1])
    made = tokenised(experts[0], chat, full_history(), noise={(experts[0].id, 0)})
    assert [t.reward for t in made.turns] == [0.0] * 1
    rows = rows_of([made])
    assert rows.old.tolist() == [0.0] * len(made.turns[0].sample.action)


def test_imitation_learns_the_expert(small, experts):
    """After a few passes the greedy policy plays what the expert plays."""
    import letters

    model, tokenizer = small()
    policy = ModelPolicy(model, tokenizer, max_new_tokens=6)
    config = ImitationConfig(lr=1e-2, batch_size=3, epochs=25)
    metrics = list(imitate(model, policy, experts, config, instructions=letters.Letters.instructions))
    losses = [m["loss"] for m in metrics if "epoch" in m]
    assert len(losses) == 25
    assert losses[-1] < 0.1 * losses[0]
    policy.engine.temperature = 0
    with Rollout(letters.Letters, policy) as rollout:
        played = list(rollout.play([Group(f"t{n}", Task(n)) for n in range(3)]))
    assert all(e.success for e in played)


def test_the_learning_rate_of_imitation_rises_and_falls(small, experts, monkeypatch):
    """Over the first 20 steps to that of a line that ends at zero, one step after the last."""
    rates = []
    original = Learner.update

    def update(learner, episodes, *, lr=None):
        done = original(learner, episodes, lr=lr)
        rates.append(learner.optimizer._all[0].param_groups[0]["lr"])
        return done

    monkeypatch.setattr(Learner, "update", update)
    model, tokenizer = small()
    config = ImitationConfig(lr=0.01, batch_size=3, epochs=15)
    list(imitate(model, ModelPolicy(model, tokenizer), experts, config))
    expected = [0.01 * min(1.0, (n + 1) / 20) * (1 - n / 30) for n in range(30)]
    assert rates == pytest.approx(expected)


def test_imitation_is_maximum_likelihood():
    algorithm = likelihood()
    algorithm.check()
    assert algorithm.needs == frozenset()


def test_names_are_permuted_everywhere_in_the_same_way(experts):
    """Whole words only, each set in itself, all orders: an episode about red, in which a tired blue-ish red appears."""
    turns = (Turn("You see red. Redder than tired blue", "red"), Turn("Still red, then green 1.", "blue"))
    before = replace(experts[0], turns=turns, final="red or green")
    orders = set()
    for key in range(200):
        after = with_permuted_names(before, [("red", "blue", "green"), ("see", "than")], key)
        red, blue, green = after.turns[0].action, after.turns[1].action, after.final.split()[2]
        see = after.turns[0].observation.split()[1]
        than = {"see": "than", "than": "see"}[see]
        assert after.turns == (
            Turn(f"You {see} {red}. Redder {than} tired {blue}", red),
            Turn(f"Still {red}, then {green} 1.", blue),
        )
        assert after.final == f"{red} or {green}"
        orders.add((red, blue, green, see))
    assert len(orders) == 6 * 2
    assert with_permuted_names(before, [], 0) == before


def test_every_pass_permutes_anew(small, experts, monkeypatch):
    """Of 30 passes over one episode each shows one of the three words, and no word is shown in all of them."""
    from agentgym.trainers.sft import imitation

    shown = []

    def remembered(episode, *args, **options):
        shown.append(episode.turns[0].action)
        return tokenised(episode, *args, **options)

    monkeypatch.setattr(imitation, "tokenised", remembered)
    model, tokenizer = small()
    words = [("red", "blue", "green")]
    policy = ModelPolicy(model, tokenizer)
    list(imitate(model, policy, experts[:1], ImitationConfig(epochs=30), permutable_names=words))
    assert set(shown) == set(words[0])
    assert len(shown) == 30


def test_what_is_imitated_and_too_long_to_be_written_is_told(experts, small, tmp_path):
    chat = ChatTemplate(small()[1])
    lengths = [len(chat.plain(turn.action)) for e in experts for turn in e.turns]
    longest = max(lengths)
    assert cut_short(experts, chat, longest) is None
    assert cut_short(experts, chat, longest - 1) == (
        f"{lengths.count(longest)} of {len(lengths)} imitated actions are longer than "
        f"rollout.max_new_tokens={longest - 1} and will be cut when the policy writes them; set "
        f"rollout.max_new_tokens={longest + 1}"
    )
    for limit, told in ((1, True), (32, False)):
        said = []
        show = functools.partial(lambda said, stage, _: said.append(stage), said)
        bytes_alone = SMALL | {"vocabulary": 261}
        options = {"run.updates": 0, "rollout.max_new_tokens": limit, "model.tiny": bytes_alone}
        start(tmp_path / str(limit), show, **options)
        assert any("imitated actions are longer than rollout.max_new_tokens=1 " in line for line in said) == told
