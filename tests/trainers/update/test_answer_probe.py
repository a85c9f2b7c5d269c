"""Beliefs: equal to scoring one prefix at a time, for every alias, limit and context; and released code's defects."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from agentgym.contract import probe
from agentgym.contract.probe import answer_markup
from agentgym.env import TextEnv, digest
from agentgym.envs.search.scoring import exact_match, f1
from agentgym.envs.tool_env import Question, ToolEnv
from agentgym.errors import UsageError
from agentgym.models.chat_template import ChatTemplate
from agentgym.models.contexts import full_history, window, workspace
from agentgym.models.local_policy import ModelPolicy
from agentgym.models.tiny import tiny
from agentgym.policy import ScriptedPolicy
from agentgym.records import Episode, StopReason, Task, Turn
from agentgym.rollout import Group, Rollout
from agentgym.tools.tool import tool
from agentgym.trainers.advantage.information_gain import AnswerProbe, information_gain
from agentgym.trainers.advantage.turn_table import TurnTable
from agentgym.trainers.loss.penalties import kl
from agentgym.trainers.parts import get_algorithm
from agentgym.trainers.prefix_tree.rows import rows_of
from agentgym.trainers.prefix_tree.tree import Row, TokenTree
from agentgym.trainers.run.requirements import check_answers
from agentgym.trainers.sft.demonstrations import tokenised
from agentgym.trainers.update.answer_probe import AnswerProbes, Questions, without_thought
from agentgym.trainers.update.learner import Learner, OptimizerConfig

TEXT = "the river Ondra rises in Velmor and meets the sea at Port Salis where Ilka Tarn was born"
WORDS = TEXT.split()
ANSWERS = ("Velmor", "the city of Velmor", "Port Salis")


class Norm(torch.nn.Module):
    """RMSNorm in the precision of its input; Transformers' own computes in float32 whatever comes in."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


def make(dtype=torch.float32):
    texts = [TEXT, "<search> </search> <answer> </answer> <think> </think> <report> </report>"] * 4
    model, tokenizer = tiny(texts, layers=2, hidden=32, heads=2, kv_heads=1, vocabulary=330, max_context=4096)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # far from uniform, so that an error shows
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    model = model.to(dtype)
    if dtype is torch.float64:
        for path, module in list(model.named_modules()):
            if type(module).__name__.endswith("RMSNorm"):
                parent, _, child = path.rpartition(".")
                setattr(model.get_submodule(parent), child, Norm(module.weight))
    return model, tokenizer


@pytest.fixture(scope="module")
def single():
    return make()


@pytest.fixture(scope="module")
def double():
    return make(torch.float64)


def words(rng, count):
    return " ".join(rng.choice(WORDS, count))


def episodes(chat, context=None, *, answers=ANSWERS, lengths=(3, 1, 6, 2), thinking=False, seed=0):
    """Episodes of two tasks; the one of 6 turns was cut off by a limit, the others answered."""
    rng = np.random.default_rng(seed)
    out = []
    for number, turns in enumerate(lengths):
        cut_off = turns == 6
        made = []
        for t in range(turns):
            last = t == turns - 1 and not cut_off
            think = f"<think>{words(rng, 4)}</think>" if thinking else ""
            text = f"{think}<answer>Velmor</answer>" if last else f"{think}<search>{words(rng, 2)}</search>"
            made.append(Turn(f"{t}: {words(rng, rng.integers(3, 30))}", text, float(last)))
        stop = StopReason.TURN_LIMIT if cut_off else StopReason.TERMINATED
        episode = Episode(
            f"g{number // 2}/{number % 2}",
            "test",
            Task(number // 2),
            tuple(made),
            stop,
            group=f"g{number // 2}",
            final=words(rng, 9),
            answers=answers,
        )
        out.append(tokenised(episode, chat, context or full_history()))
    return out


def columns(model, tokenizer, found, answer_probe=None, context=None, *, algorithm=None, temperature=1.0, **options):
    """What the learner makes of them, through its own scoring pass."""
    config = OptimizerConfig(temperature=temperature, max_tokens=options.pop("max_tokens", 16384))
    algorithm = algorithm or get_algorithm("igpo")()
    beliefs = AnswerProbes(ChatTemplate(tokenizer), context or full_history(), answer_probe, **options)
    learner = Learner(copy.deepcopy(model), algorithm, config, answer_probes=beliefs)
    turns, _ = learner._prepared(TurnTable.from_episodes(found), found, rows_of(found))
    return turns.answer_logprob, turns.answer_logprob_before


@pytest.mark.parametrize("by", ["policy", "reference"])
@pytest.mark.parametrize("critic", [False, True])
def test_the_model_itself_is_asked_whatever_the_temperature_of_sampling(double, by, critic):
    model, tokenizer = double
    found = episodes(ChatTemplate(tokenizer))
    algorithm = get_algorithm("igpo")(by=by, kl=0.1)
    if critic:
        ppo = get_algorithm("ppo")()
        algorithm = replace(algorithm, critic=ppo.critic, penalty=ppo.penalty)
    plain, warm = (
        columns(model, tokenizer, found, AnswerProbe(by=by), algorithm=algorithm, temperature=t) for t in (1.0, 0.5)
    )
    np.testing.assert_allclose(warm, plain, atol=1e-9)


def test_an_answer_is_asked_for_as_the_model_writes_it(single):
    """Its markup may be a token that was added to the tokenizer; a document that spells it out is split."""
    tokenizer = copy.deepcopy(single[1])
    tokenizer.add_tokens(["<answer>"])
    chat = ChatTemplate(tokenizer)
    (row, *_) = AnswerProbes(chat, full_history()).ask(episodes(chat)[:1]).rows
    markup = tokenizer.convert_tokens_to_ids("<answer>")
    assert markup in row.tokens.tolist()
    assert markup not in chat.plain("<answer>")


def mean_logprob(model, ids, answer):
    """The slow way: one forward over one prefix."""
    start = len(ids)
    tokens = torch.tensor([[*ids, *answer]])
    with torch.no_grad():
        logprob = torch.log_softmax(model(tokens, use_cache=False).logits[0], -1)
    return float(logprob[range(start - 1, start - 1 + len(answer)), answer].mean())


def slow(model, tokenizer, found, *, aliases=ANSWERS, context=None, opening="<answer>"):
    """Beliefs of each alias before every turn, and after the last one of a truncated episode, [beliefs, aliases]."""
    chat, out = ChatTemplate(tokenizer), []
    for episode in found:
        contexts = [list(c) for c in episode.contexts()]
        if not episode.terminated:
            whole = [*contexts[-1], *episode.turns[-1].sample.action]
            contexts.append([*whole, *chat.following(episode.final, whole)])
        out.append(
            [[mean_logprob(model, [*c, *chat.plain(opening)], chat.plain(a)) for a in aliases] for c in contexts]
        )
    return out


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "tolerance"), [("single", 1e-5), ("double", 1e-9)])
def test_equal_to_one_prefix_at_a_time_whatever_the_batch(precision, tolerance, request):
    """Also defects 1 and 2: released code misplaced positions by the padding, and left stale context behind."""
    model, tokenizer = request.getfixturevalue(precision)
    found = episodes(ChatTemplate(tokenizer))
    expected = [max(zip(*rows, strict=True), key=lambda alias: alias[-1]) for rows in slow(model, tokenizer, found)]
    before = np.concatenate([b[: len(e.turns)] for b, e in zip(expected, found, strict=True)])
    after = np.concatenate(
        [[*b[1:], np.nan][: len(e.turns)] if e.terminated else b[1:] for b, e in zip(expected, found, strict=True)]
    )
    for limit in (16384, 1):  # everything in one micro-batch; every episode in one of its own
        got_after, got_before = columns(model, tokenizer, found, max_tokens=limit)
        assert_allclose(got_before, before, rtol=0, atol=tolerance)
        assert_allclose(got_after, after, rtol=0, atol=tolerance)
    alone = [columns(model, tokenizer, [episode]) for episode in found]
    assert_allclose(np.concatenate([a for a, _ in alone]), after, rtol=0, atol=tolerance)
    assert np.ptp(before) > 0.1


def test_gains_add_up_to_the_last_belief_minus_the_first(double):
    found = episodes(ChatTemplate(double[1]))
    after, before = columns(*double, found)
    begin = 0
    for episode in found:
        end = begin + len(episode.turns) - episode.terminated
        if end > begin:
            gains = after[begin:end] - before[begin:end]
            assert gains.sum() == pytest.approx(after[end - 1] - before[begin], abs=1e-12)
        begin += len(episode.turns)


def test_defect_5_an_episode_cut_by_a_limit_has_a_belief_after_its_last_turn(double):
    found = episodes(ChatTemplate(double[1]))
    after, _ = columns(*double, found)
    ends = np.cumsum([len(e.turns) for e in found]) - 1
    assert np.isnan(after[ends]).tolist() == [True, True, False, True]
    assert np.isfinite(np.delete(after, ends)).all()


@pytest.mark.parametrize("context", [window(1), window(2, instructions=False), workspace()])
def test_contexts_that_are_rebuilt_every_turn(double, context):
    model, tokenizer = double
    chat = ChatTemplate(tokenizer)
    found = episodes(chat, context, lengths=(3, 6), answers=("Velmor",))
    after, before = columns(model, tokenizer, found, context=context)
    expected = [
        [mean_logprob(model, [*c, *chat.plain("<answer>")], chat.plain("Velmor")) for c in e.contexts()] for e in found
    ]
    assert_allclose(before, list(itertools.chain(*expected)), rtol=0, atol=1e-9)
    assert_allclose(after[3:8], before[4:9], rtol=0, atol=1e-12)
    assert np.isfinite(after[8])


@pytest.mark.parametrize("by", ["policy", "reference"])
@pytest.mark.parametrize("base", ["igpo", "ppo"])
@pytest.mark.parametrize("penalties", [(), (kl(0.01),)])
def test_the_pass_that_other_parts_need_gives_the_same_beliefs(double, by, base, penalties):
    """Before the first update the reference is the policy, so all of them agree."""
    found = episodes(ChatTemplate(double[1]))
    algorithm = replace(get_algorithm(base)(), reward=information_gain())
    algorithm = replace(algorithm, penalty=(*algorithm.penalty, *penalties))
    got = columns(*double, found, AnswerProbe(by=by), algorithm=algorithm)
    for a, b in zip(got, columns(*double, found), strict=True):
        assert_allclose(a, b, rtol=0, atol=1e-12)


def test_lead_and_markup(double):
    model, tokenizer = double
    chat = ChatTemplate(tokenizer)
    found = episodes(chat, lengths=(2,), answers=("Port Salis",))
    _, before = columns(model, tokenizer, found, markup=("Final Answer: ", ""))
    expected = [
        mean_logprob(model, [*c, *chat.plain("Final Answer:")], chat.plain(" Port Salis")) for c in found[0].contexts()
    ]
    assert_allclose(before, expected, rtol=0, atol=1e-9)
    _, led = columns(model, tokenizer, found, AnswerProbe(lead="the sea", opening="(", closing=")"))
    head = [*tokenizer.encode("the sea"), *chat.plain("(")]
    expected = [mean_logprob(model, [*c, *head], chat.plain("Port Salis")) for c in found[0].contexts()]
    assert_allclose(led, expected, rtol=0, atol=1e-9)


def test_ids_are_joined_and_never_tokenised_again(single):
    chat = ChatTemplate(single[1])
    found = episodes(chat, lengths=(2,), answers=("Velmor",))
    asked = AnswerProbes(chat, full_history(), AnswerProbe()).ask(found)
    for row, context in zip(asked.rows, found[0].contexts(), strict=True):
        parts = [*context, *chat.plain("<answer>"), *chat.plain("Velmor"), *chat.plain("</answer>"), chat.end]
        assert row.tokens.tolist() == parts
        assert chat.text(row.tokens[row.scored].tolist()) == "Velmor"


def test_the_space_before_an_answer_is_written_with_its_first_word(single):
    chat = ChatTemplate(single[1])
    found = episodes(chat, lengths=(2,), answers=("Velmor",))
    row = AnswerProbes(chat, full_history(), markup=("Final Answer: ", "")).ask(found).rows[0]
    written = chat.plain("Final Answer: Velmor")  # as the policy writes it
    assert row.tokens.tolist() == [*found[0].contexts()[0], *written, chat.end]
    assert chat.text(row.tokens[row.scored].tolist()) == " Velmor"


# --- aliases ----------------------------------------------------------------------------------------------------------


def questions(aliases, values, episode=(0, 0, 0)):
    """Three beliefs of one episode, two aliases of 2 and 1 tokens; the turn that follows the last one answers."""
    asked = Questions(AnswerProbe(aliases=aliases))
    asked.before, asked.after, asked.episode = [0, 1, 2], [1, 2, -1], list(episode)
    for slot, alias in itertools.product(range(3), range(2)):
        asked.rows.append(Row(np.zeros(5, np.int64), np.arange(2, 4 - alias)))
        asked.place.append((slot, alias))
    return asked.columns(np.array(values))


VALUES = [-3.0, -1.0, -1.0, -2.0, -4.0, -6.0, -1.0, -1.0, -2.0]  # alias means: (-2, -1), (-3, -6), (-1, -2)


def test_the_alias_believed_most_at_the_end_counts_on_all_turns():
    found = questions("best", VALUES)
    assert_allclose(found["answer_logprob_before"], [-2, -3, -1])
    assert_allclose(found["answer_logprob"], [-3, -1, np.nan])


def test_the_mean_over_aliases():
    found = questions("mean", VALUES)
    expected = [np.log((np.exp(a) + np.exp(b)) / 2) for a, b in [(-2, -1), (-3, -6), (-1, -2)]]
    assert_allclose(found["answer_logprob_before"], expected)


def test_first_alias_and_cap(single):
    chat = ChatTemplate(single[1])
    found = episodes(chat, lengths=(2,))
    for belief, count in [(AnswerProbe(aliases="first"), 1), (AnswerProbe(max_aliases=2), 2), (AnswerProbe(), 3)]:
        assert len(AnswerProbes(chat, full_history(), belief).ask(found).rows) == 2 * count


def test_equal_and_empty_answers_are_asked_once_or_not_at_all(single):
    chat = ChatTemplate(single[1])
    found = episodes(chat, lengths=(1,), answers=("Velmor", " Velmor ", "", "Salis"))
    assert len(AnswerProbes(chat, full_history()).ask(found).rows) == 2


def test_defect_3_every_alias_counts_and_none_is_overwritten(double):
    found = episodes(ChatTemplate(double[1]))
    kept = copy.deepcopy(found)
    columns(*double, found)
    assert found == kept
    reordered = episodes(ChatTemplate(double[1]), answers=ANSWERS[::-1])
    for a, b in zip(columns(*double, found), columns(*double, reordered), strict=True):
        assert_allclose(a, b, rtol=0, atol=1e-12)
    accepted = ("Velmor", "Velmor City", "the old town", "Salis", "Ondra")
    assert {exact_match(a, accepted) for a in accepted} == {1.0}
    assert {f1(a, accepted) for a in accepted} == {1.0}


def test_no_answers_no_beliefs(single):
    model, tokenizer = single
    found = episodes(ChatTemplate(tokenizer), answers=())
    after, before = columns(model, tokenizer, found)
    assert np.isnan(after).all()
    assert np.isnan(before).all()


def test_a_belief_that_does_not_fit_is_left_out_and_counted(single):
    chat = ChatTemplate(single[1])
    found = episodes(chat, lengths=(6,), answers=("Velmor",))
    whole = AnswerProbes(chat, full_history()).ask(found)
    sizes = [int(row.scored[-1]) + 1 for row in whole.rows]
    asked = AnswerProbes(chat, full_history(), limit=sizes[-2]).ask(found)
    assert asked.left_out == 1
    assert asked.after[-1] == -1
    assert len(asked.rows) == len(sizes) - 1
    assert np.isnan(asked.columns(np.zeros(sum(len(r.scored) for r in asked.rows)))["answer_logprob"][-1])


# --- what a turn wrote itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("removed", ["thinking", "action"])
def test_gain_of_the_tools_text_alone(double, removed):
    model, tokenizer = double
    chat = ChatTemplate(tokenizer)
    found = episodes(chat, lengths=(3, 6), answers=("Velmor",), thinking=True)
    plain_after, plain_before = columns(model, tokenizer, found)
    after, before = columns(model, tokenizer, found, AnswerProbe(removed=removed))
    assert_allclose(before, plain_before, rtol=0, atol=1e-12)
    row = 0
    for episode in found:
        for t, (turn, context) in enumerate(zip(episode.turns, episode.contexts(), strict=True)):
            last = t == len(episode.turns) - 1
            if last and episode.terminated:
                assert np.isnan(after[row])
            else:
                kept = "" if removed == "action" else turn.action.partition("</think>")[2]
                ids = [*context, *chat.plain(kept)]
                following = episode.final if last else episode.turns[t + 1].observation
                ids += chat.following(following, ids)
                expected = mean_logprob(model, [*ids, *chat.plain("<answer>")], chat.plain("Velmor"))
                assert after[row] == pytest.approx(expected, abs=1e-9)
                assert after[row] != pytest.approx(plain_after[row], abs=1e-3)
            row += 1


def test_a_guess_written_into_thinking_earns_nothing(double):
    """Two episodes that differ only in what one of them thinks have the same gain with ``removed="thinking"``."""
    model, tokenizer = double
    chat = ChatTemplate(tokenizer)

    def played(thought):
        turns = (
            Turn("the river", f"<think>{thought}</think><search>sea</search>"),
            Turn("the sea", "<answer></answer>"),
        )
        episode = Episode("a", "test", Task(0), turns, StopReason.TERMINATED, answers=("Velmor",))
        return tokenised(episode, chat, full_history())

    def gain(thought, removed):
        after, before = columns(model, tokenizer, [played(thought)], AnswerProbe(removed=removed))
        return after[0] - before[0]

    assert gain("Velmor Velmor", "thinking") == pytest.approx(gain("sea", "thinking"), abs=1e-12)
    assert abs(gain("Velmor Velmor", "nothing") - gain("sea", "nothing")) > 1e-3


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<think>the sea</think><search>Ondra</search>", "<search>Ondra</search>"),
        ("<search>Ondra</search>", "<search>Ondra</search>"),
        ("the sea</think>\n\n<search>Ondra</search>", "\n\n<search>Ondra</search>"),
        ("<search>Ondra</search><think>the", "<search>Ondra</search>"),
        ("<think>a</think>the<think>b</think> sea", "the sea"),
        ("<think>only", ""),
        ("the sea</think>", ""),
    ],
)
@pytest.mark.parametrize("ended", [True, False])
def test_without_thought_keeps_the_other_ids(single, text, kept, ended):
    chat = ChatTemplate(single[1])
    ids = chat.plain(text) + ([chat.end] if ended else [])
    left = without_thought(chat, ids)
    assert chat.text(left) == kept
    assert (bool(left) and left[-1] == chat.end) is ended
    remaining = iter(ids)
    assert all(i in remaining for i in left)  # a subsequence


# --- safety -----------------------------------------------------------------------------------------------------------

SECRET = "Qyxwv-4711"


class Quiz(TextEnv):
    """Tells the answer in ``info`` on every turn, and never in an observation."""

    instructions = "Name the town."

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turn = 0
        return "Which town?", self._info()

    def step(self, action):
        self.turn += 1
        return f"turn {self.turn}", 0.0, False, self.turn == 3, self._info()

    def _info(self):
        secrets = {"answers": (SECRET, "Velmor"), "evidence": ("doc-4712",)}
        return {"task_id": "quiz", "anchor": digest(self.turn), **secrets}


@pytest.mark.parametrize("context", [full_history(), window(2), workspace()])
def test_answers_never_reach_a_context(single, context):
    model, tokenizer = single
    policy = ModelPolicy(model, tokenizer, context=context, max_new_tokens=3)
    with Rollout(Quiz, policy) as rollout:
        found = list(rollout.play([Group("g", Task(0), 4)]))
    assert all(e.answers == (SECRET, "Velmor") for e in found)
    chat = ChatTemplate(tokenizer)
    for episode in found:
        for ids in episode.contexts():
            shown = tokenizer.decode(ids)
            assert SECRET not in shown
            assert "4712" not in shown
    asked = AnswerProbes(chat, context).ask(found)
    for row, (_, alias) in zip(asked.rows, asked.place, strict=True):
        assert SECRET not in tokenizer.decode(row.tokens[: row.scored[0]])
        assert chat.text(row.tokens[row.scored].tolist()) == (SECRET, "Velmor")[alias]
    with Rollout(Quiz, ScriptedPolicy(lambda request: str(sorted(request.info)))) as rollout:
        (episode,) = rollout.play([Group("g", Task(0))])
    assert not any("answers" in t.action or "evidence" in t.action for t in episode.turns)


def test_beliefs_are_no_part_of_what_is_learned(double):
    """Defect 10: each token that the policy wrote gets its own turn's advantage, and no other token gets any."""
    found = episodes(ChatTemplate(double[1]))
    rows = rows_of(found)
    tree = TokenTree.build(rows.rows)
    written = [token for e in found for t in e.turns for token in t.sample.action]
    assert tree.target.tolist() == written
    lengths = [len(t.sample.action) for e in found for t in e.turns]
    assert rows.turn.tolist() == np.repeat(np.arange(len(lengths)), lengths).tolist()


# --- what must be given -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("syntax", "markup"),
    [("tags", ("<answer>", "</answer>")), ("hermes", ("<answer>", "</answer>")), ("react", ("Final Answer: ", ""))],
)
def test_the_markup_is_the_environments_own(syntax, markup):
    @tool
    def look(place: str) -> str:
        """Look.

        Args:
            place: where.
        """
        return place

    env = ToolEnv([look], {"train": [Question("?", answers=["x"])]}, lambda a, q: 1.0, syntax=syntax)
    assert answer_markup(env) == markup
    assert answer_markup(Quiz()) == ("<answer>", "</answer>")


class Silent(Quiz):
    def _info(self):
        return {"task_id": "quiz", "anchor": digest(self.turn)}


def test_what_the_environment_does_not_give_is_refused():
    quiz, silent = probe(Quiz), probe(Silent)
    check_answers(quiz, {"answer_logprob", "tokens"})
    check_answers(silent, {"success", "tokens"})
    with pytest.raises(UsageError, match=r"belief in the accepted answer.*gives no info\['answers'\]"):
        check_answers(silent, {"answer_logprob"})


def test_wrong_options():
    with pytest.raises(UsageError, match="max_aliases must be at least 1, got 0"):
        AnswerProbe(max_aliases=0)
    with pytest.raises(UsageError, match="give both opening and closing"):
        AnswerProbe(opening="(")


def test_the_learner_refuses_igpo_without_a_way_to_ask(single):
    with pytest.raises(UsageError, match=r"give Learner\(\.\.\., answer_probes=AnswerProbes\(\.\.\.\)\)"):
        Learner(copy.deepcopy(single[0]), get_algorithm("igpo")())
