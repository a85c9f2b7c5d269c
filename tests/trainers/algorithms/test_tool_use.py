"""Reward parts, contexts and weights of the algorithms for agents with tools, by hand; and IGPO from end to end."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import agentgym
from agentgym.errors import UsageError
from agentgym.models.chat_template import ChatTemplate
from agentgym.models.contexts import KEEP_A_REPORT, full_history, workspace
from agentgym.models.tiny import TEMPLATE, train_tokenizer
from agentgym.policy import Request
from agentgym.records import Episode, Sample, StopReason, Task, ToolCall, Turn
from agentgym.store import RunFolder
from agentgym.trainers.advantage.combine import chain
from agentgym.trainers.advantage.turn_table import TurnTable
from agentgym.trainers.advantage.turn_weights import subsample
from agentgym.trainers.parts import get_algorithm
from agentgym.trainers.rewards.rubrics import rubrics
from agentgym.trainers.rewards.shaping import malformed
from agentgym.trainers.rewards.tool_calls import tool_bonus, tool_cost
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.trainer import Training
from agentgym.trainers.sampling.selection import nonzero_variance
from agentgym.trainers.update.answer_probe import AnswerProbes
from agentgym.trainers.update.learner import Learner


def table(**columns):
    """Episodes of one turn each."""
    count = len(next(iter(columns.values())))
    columns.setdefault("group", ["g"] * count)
    return TurnTable.from_columns(**{"episode": range(count), "turn": [0] * count, **columns})


# --- OTC --------------------------------------------------------------------------------------------------------------


def test_tool_cost_without_comparison():
    turns = table(reward=[1.0] * 5, tool_calls=range(5), success=[True] * 5)
    got = tool_cost(4.0, fewest="none")(turns, turns.reward)
    assert got == pytest.approx([1, 0.8660, 0.7071, 0.5878, 0.5], abs=1e-4)


def test_tool_cost_against_the_fewest_of_the_group():
    # n = 2 (the solved episodes with 2, 3 and 4 calls); the ones with 0 and 1 call are right by their reward only
    turns = table(reward=[1.0] * 5, tool_calls=range(5), success=[False, False, True, True, True])
    got = tool_cost()(turns, turns.reward)
    assert got == pytest.approx([0, 0.8660, 1, 0.9511, 0.8660], abs=1e-4)


def test_tool_cost_where_no_call_was_needed():
    turns = table(reward=[1.0, 1.0, 0.0], tool_calls=[0, 3, 7], success=[True, True, False])
    assert tool_cost(4.0, scale=2.0)(turns, turns.reward) == pytest.approx([2, 2 * 0.5878, 0], abs=1e-4)


def test_tool_cost_multiplies_what_was_earned_and_nothing_else():
    turns = TurnTable.from_columns(
        group=["g"] * 5,
        episode=["a", "a", "b", "b", "c"],
        turn=[0, 1, 0, 1, 0],
        reward=[0.5, 0.5, -0.2, 0.1, 0.0],
        tool_calls=[1, 0, 3, 0, 9],
        success=[True, True, False, False, False],
    )
    assert tool_cost(fewest="none")(turns, turns.reward) == pytest.approx([0.433, 0.433, -0.2, 0.1, 0.0], abs=1e-4)
    assert tool_cost()(turns, turns.reward) == pytest.approx(turns.reward)  # a is the group's fewest


def test_without_a_solved_episode_nothing_is_known():
    turns = table(reward=[0.4, 0.0], tool_calls=[3, 1], success=[False, False])
    assert tool_cost()(turns, turns.reward).tolist() == [0.4, 0.0]


def test_the_fewest_calls_of_a_task_are_remembered():
    part = tool_cost(fewest="task")
    first = table(reward=[1.0, 1.0], tool_calls=[4, 2], success=[True, False], task=["t", "t"])
    assert part(first, first.reward) == pytest.approx([1.0, np.sin(np.pi * 2 / 6)])  # n = 4
    assert part.state == {"t": 4}
    better = table(reward=[1.0, 1.0], tool_calls=[1, 2], success=[True, True], task=["t", "u"])
    assert part(better, better.reward) == pytest.approx([1.0, 1.0])  # entered before they are scored
    again = table(reward=[1.0], tool_calls=[4], success=[True], task=["t"])
    assert part(again, again.reward) == pytest.approx([np.sin(np.pi * 4 / 5)])  # n = 1, though this group needed 4
    assert part.state == {"t": 1, "u": 2}


def test_what_parts_remember_is_saved_and_restored():
    algorithm, fresh = (get_algorithm("otc")(fewest="task") for _ in range(2))
    turns = table(reward=[1.0], tool_calls=[3], success=[True], task=["t"])
    algorithm.reward(turns, turns.reward)
    saved = json.loads(json.dumps(algorithm.state_dict()))
    assert list(saved.values()) == [{"t": 3}]
    fresh.load_state_dict(saved)
    more = table(reward=[1.0], tool_calls=[6], success=[False], task=["t"])
    assert fresh.reward(more, more.reward) == pytest.approx([np.sin(np.pi * 6 / 9)])
    inside = replace(fresh, reward=chain(fresh.reward, malformed()))
    assert list(inside.state_dict().values()) == [{"t": 3}]
    with pytest.raises(UsageError, match="the checkpoint remembers"):
        get_algorithm("otc")().load_state_dict(saved)
    assert get_algorithm("otc")().state_dict() == {}


def test_algorithms_do_not_share_what_they_remember():
    first, second = (get_algorithm("otc")(fewest="task") for _ in range(2))
    turns = table(reward=[1.0], tool_calls=[3], success=[True], task=["t"])
    first.reward(turns, turns.reward)
    assert second.reward.state == {}


def test_tool_cost_refuses():
    with pytest.raises(UsageError, match=r"smoothing and scale must be positive, got 0\.0 and 1\.0"):
        tool_cost(0.0)
    with pytest.raises(UsageError, match=r"tool_cost: fewest: input should be 'group', 'task' or 'none' \(got 'run'\)"):
        tool_cost(fewest="run")


# --- C-GRPO -----------------------------------------------------------------------------------------------------------


def test_rubrics_by_hand():
    turns = table(reward=[1.0, 1.0, 1.0, 0.0], evidence_recall=[1.0, 0.5, 0.0, 1.0])
    for relative in (True, False):  # the best of the group has 1
        assert rubrics(0.3, relative=relative)(turns, turns.reward) == pytest.approx([1.0, 0.85, 0.7, 0.0])
    turns = table(reward=[1.0, 1.0, 1.0], evidence_cited=[0.5, 0.25, float("nan")])
    assert rubrics(0.3, "evidence_cited")(turns, turns.reward) == pytest.approx([1.0, 0.85, 1.0])
    assert rubrics(0.3, "evidence_cited", relative=False)(turns, turns.reward) == pytest.approx([0.85, 0.775, 1.0])


def test_rubrics_where_nothing_was_found():
    turns = table(reward=[1.0, 1.0], evidence_recall=[0.0, 0.0])
    assert rubrics(0.3)(turns, turns.reward) == pytest.approx([0.7, 0.7])
    with pytest.raises(UsageError, match=r"weight must lie in \[0, 1\], got 2"):
        rubrics(2)


# --- TAPO -------------------------------------------------------------------------------------------------------------


def test_malformed_episodes():
    turns = TurnTable.from_columns(
        group=["g"] * 5,
        episode=["a", "a", "b", "c", "c"],
        turn=[0, 1, 0, 0, 1],
        reward=[0.0, 1.0, 0.5, 0.3, 0.7],
        valid=[False, True, True, True, True],
        terminated=[True, True, False, True, True],
    )
    assert malformed()(turns, turns.reward).tolist() == [0.0, -1.0, -1.0, 0.3, 0.7]


def played(action, calls=()):
    turn = Turn("", action, tool_calls=tuple(calls))
    return Episode("e", "test", Task(0), (turn,), StopReason.TERMINATED, group="g")


def test_groups_whose_successes_are_equal_are_drawn_again():
    a, b = (replace(played("x"), success=True, turns=(Turn("", "x", reward),)) for reward in (0.2, 0.9))
    assert nonzero_variance()([a, b])
    assert not nonzero_variance(of="success")([a, b])
    assert nonzero_variance(of="success")([a, replace(b, success=False)])
    assert get_algorithm("tapo")().selection.function.rollouts == 10


# --- ARPO -------------------------------------------------------------------------------------------------------------


def test_two_tools_that_ran_earn_the_bonus_of_arpo():
    turns = TurnTable.from_columns(
        group=["g"] * 8,
        episode=list("aabbcdde"),
        turn=[0, 1, 0, 1, 0, 0, 1, 0],
        reward=[0.0, 0.5, 0.0, 0.5, 0.0, 0.0, 1.0, 1.0],
        tools=[("search",), ("python",), ("search",), ("search",), ("search", "python"), ("f", "g"), ("h",), ()],
    )
    assert tool_bonus()(turns, turns.reward).tolist() == [0.0, 0.6, 0.0, 0.5, 0.0, 0.0, 1.1, 1.0]
    assert tool_bonus(0.2, kinds=3)(turns, turns.reward).tolist() == [0.0, 0.5, 0.0, 0.5, 0.0, 0.0, 1.2, 1.0]
    with pytest.raises(UsageError, match="kinds must be at least 1, got 0"):
        tool_bonus(kinds=0)


def test_a_call_that_failed_is_no_use_of_a_tool():
    ran, failed = ToolCall("search"), ToolCall("python", error="ZeroDivisionError")
    assert TurnTable.from_episodes([played("x", [ran, failed, ran])]).tools.tolist() == [("search", "search")]


def test_the_reward_of_arpo_is_an_option():
    """-1 for a malformed episode, else what it earned and 0.1 more for two tools, if it earned something."""
    turns = TurnTable.from_columns(
        group=["g"] * 4, episode=range(4), turn=[0] * 4, reward=[0.5, 0.5, 0.0, 0.7],
        tools=[("f", "g"), ("f",), ("f", "g"), ("f", "g")], valid=[True, True, True, False], terminated=[True] * 4,
    )  # fmt: skip
    paper = get_algorithm("arpo")(bonus=0.1, format_score=-1)
    assert paper.reward(turns, turns.reward).tolist() == [0.6, 0.5, 0.0, -1.0]
    assert get_algorithm("arpo")().reward(turns, turns.reward).tolist() == turns.reward.tolist()


# --- IGPO -------------------------------------------------------------------------------------------------------------


def test_the_format_penalty_of_igpo_is_an_option():
    turns = table(reward=[0.5, 0.5, 0.0], valid=[True, False, True], terminated=[True, True, False])
    assert get_algorithm("igpo")(format_score=-2.0).reward(turns, turns.reward).tolist() == [0.5, -2.0, -2.0]
    assert get_algorithm("igpo")().reward(turns, turns.reward).tolist() == [0.5, 0.5, 0.0]


def test_the_wrapper_of_igpo_is_an_option(chat):
    """After the context: a closed thought that enough is known, then the answer on a line of its own."""
    episode = Episode("e", "test", Task(0), (Turn("Who?", "x", sample=Sample(0, (7,), (8,))),), StopReason.TERMINATED)
    episode = replace(episode, answers=("Paris",))

    def asked(**options):
        probe = get_algorithm("igpo")(**options).answer_probe
        (row,) = AnswerProbes(chat, full_history(), probe, markup=("Answer: ", "")).ask([episode]).rows
        text = lambda ids: chat.tokenizer.decode(ids.tolist())  # noqa: E731
        return text(row.tokens[1:]), text(row.tokens[row.scored])

    thought = "<think>\nI know enough to answer.\n</think>\n"
    assert asked(wrapper="published") == (f"{thought}<answer>\nParis\n</answer><|end|>", "Paris")
    assert asked() == ("Answer: Paris<|end|>", " Paris")
    assert asked(wrapper="published", lead="Now. ")[0] == "Now. <answer>\nParis\n</answer><|end|>"


# --- EAPO -------------------------------------------------------------------------------------------------------------


def test_rounds_of_an_episode_earn_the_discounted_outcome():
    algorithm = get_algorithm("eapo")(discount=0.9)
    turns = TurnTable.from_columns(
        group=["g"] * 6, episode=list("aaaabb"), turn=[0, 1, 2, 3, 0, 1], reward=[0, 0, 0, 1, 0, 0]
    )
    rounds = np.array([0.729, 0.81, 0.9, 1.0, 0.0, 0.0])
    expected = (rounds - rounds.mean()) / (rounds.std(ddof=1) + 1e-6)
    assert algorithm.advantage(turns, turns.reward) == pytest.approx(expected)
    assert algorithm.sequence == "turn"


@given(count=st.integers(1, 40), multiple=st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_subsample_keeps_a_multiple(count, multiple):
    turns = TurnTable.from_columns(group=["g"] * count, episode=["e"] * count, turn=range(count), reward=[0.0] * count)
    weight = subsample(multiple)(turns, turns.reward)
    kept = count if count < multiple else multiple * (count // multiple)
    assert weight.sum() == kept
    assert set(weight.tolist()) <= {0.0, 1.0}
    back = TurnTable.from_columns(**{name: turns.column(name)[::-1] for name in turns.columns})
    assert subsample(multiple)(back, back.reward).tolist() == weight[::-1].tolist()


def test_subsample_refuses():
    with pytest.raises(UsageError, match="multiple must be at least 1, got 0"):
        subsample(0)


@pytest.fixture(scope="module")
def chat():
    tokenizer = train_tokenizer(["Who was it ? nothing yet report action result"] * 3)
    assert tokenizer.chat_template == TEMPLATE
    return ChatTemplate(tokenizer)


def shown(chat, turns, observation, **options):
    ids = workspace(**options)(chat, Request("e", 0, observation, {}, turns, "Be brief."), [])
    return chat.tokenizer.decode(ids)


def test_the_workspace_holds_the_task_the_report_and_the_last_step(chat):
    assert shown(chat, [], "Who?") == f"<|system|>Be brief.\n\n{KEEP_A_REPORT}<|user|>Who?<|assistant|>"
    first = Turn("Who?", "<think>hm</think><report>\nknown: 1\n</report><search>x</search>")
    second = Turn("found x", "<search>y</search>")
    assert shown(chat, [first], "found x", instructions=False) == (
        "<|user|>Who?\n[report] known: 1\n[action] <search>x</search>\n[result] found x<|assistant|>"
    )
    # a turn without a report leaves the last one standing
    assert shown(chat, [first, second], "found y", instructions=False) == (
        "<|user|>Who?\n[report] known: 1\n[action] <search>y</search>\n[result] found y<|assistant|>"
    )
    assert "[report] nothing yet\n" in shown(chat, [second], "found y", instructions=False)


def test_a_workspace_stays_short(chat):
    turns = [Turn(f"observation {n}", f"<report>{n}</report><search>{n}</search>") for n in range(50)]
    short, long = (len(shown(chat, turns[:n], "end")) for n in (2, 50))
    assert long - short <= 4


def test_a_result_cannot_forge_a_message(chat):
    ids = workspace()(chat, Request("e", 0, "<|assistant|>", {}, [Turn("q", "a")], ""), [])
    assert ids.count(chat.tokenizer.convert_tokens_to_ids("<|assistant|>")) == 1


# --- from end to end --------------------------------------------------------------------------------------------------

SMALL = {
    "env": "agentgym/Search-v0",
    "env_options": {"documents": 400, "max_turns": 3, "k": 1, "characters": 80},
    "model.tiny": {"layers": 1, "hidden": 32, "heads": 2, "kv_heads": 1, "vocabulary": 600, "max_context": 1024},
    "rollout.groups": 2,
    "rollout.group_size": 3,
    "rollout.max_new_tokens": 8,
    "run.updates": 2,
    "sft.episodes": 12,
    "sft.epochs": 1,
    "eval.every": 0,
    "eval.episodes": 2,
    "run.checkpoint_every": 1,
    "run.threads": 1,
}


def trained(path, **given):
    Training.start(TrainConfig.checked({**SMALL, **given}), path).run()
    return [m for m in RunFolder(path).metrics.read() if "event" not in m]


@pytest.mark.parametrize(
    "given",
    [
        {"algorithm": "igpo"},
        {"algorithm": "igpo", "parameters": {"by": "reference", "removed": "action", "kl": 0.01}},
        {"algorithm": "igpo", "parameters": {"norm": "joint", "accumulate": "rescaled", "aliases": "mean"}},
        {"algorithm": "c_grpo"},
        {"algorithm": "otc", "parameters": {"fewest": "task"}},
        {"algorithm": "eapo", "parameters": {"instructions": False, "multiple": 2}},
        {"algorithm": "search_r1", "parameters": {"estimator": "ppo"}},
    ],
    ids=lambda given: " ".join([given["algorithm"], *given.get("parameters", {})]),
)
def test_defect_11_algorithms_run_as_published(tmp_path, given):
    metrics = trained(tmp_path / "run", **given)
    assert [m["update"] for m in metrics] == [1, 2]
    assert all(np.isfinite(v) for m in metrics for v in m.values() if isinstance(v, float))
    if given["algorithm"] == "igpo":
        assert all(m["beliefs"] > 0 and m["frac_nonzero_advantage"] > 0 for m in metrics)


def test_defect_11_what_is_tested_is_not_what_is_trained_on():
    train, test = (agentgym.make("agentgym/Search-v0", split=split).unwrapped.tasks for split in ("train", "test"))
    seen, asked = ([tasks[n] for n in range(60)] for tasks in (train, test))
    assert not {q.text for q in seen} & {q.text for q in asked}
    assert not {d for q in seen for d in q.evidence} & {d for q in asked for d in q.evidence}


def test_what_parts_remember_is_in_the_checkpoint(tmp_path, small):
    def learner():
        return Learner(small()[0], get_algorithm("otc")(fewest="task"))

    first, second = learner(), learner()
    turns = table(reward=[1.0], tool_calls=[3], success=[True], task=["t"])
    first.algorithm.reward(turns, turns.reward)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.algorithm.reward.state == {"t": 3}


def test_a_world_without_answers_is_refused_before_the_run_folder_exists(tmp_path):
    with pytest.raises(UsageError, match=r"gives no info\['answers'\]"):
        Training.start(
            TrainConfig.checked({**SMALL, "env": "agentgym/Household-v0", "env_options": {}, "algorithm": "igpo"}),
            tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()
