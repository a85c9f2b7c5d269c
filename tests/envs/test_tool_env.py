"""ToolEnv: tools, tasks and a scorer make an environment."""

from __future__ import annotations

import doctest
import sys
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

import agentgym
from agentgym.envs.tasks import questions_of
from agentgym.envs.tool_env import NOTHING, OVER, Question, Score, ToolEnv
from agentgym.errors import ToolError, UnknownName, UsageError
from agentgym.records import ToolCall
from agentgym.tools.syntax import syntaxes
from agentgym.tools.syntax.base import Call
from agentgym.tools.tool import Tool, tool
from agentgym.tools.toolbox import Toolbox

# --- ten lines make an environment --------------------------------------------------------------------------------

CAPITALS = {"France": "Paris", "Peru": "Lima", "Kenya": "Nairobi", "Japan": "Tokyo", "Norway": "Oslo"}


@tool
def almanac(country: str) -> str:
    """Look a country up.

    Args:
        country: its English name.
    """
    return f"The capital of {country} is {CAPITALS[country]}."


def capitals(**options: Any) -> ToolEnv:
    tasks = [Question(f"What is the capital of {name}?", answers=[city]) for name, city in CAPITALS.items()]
    return ToolEnv([almanac], tasks, lambda answer, question: answer in question.answers, **options)


# ------------------------------------------------------------------------------------------------------------------


def expert(env: ToolEnv) -> Call | str:
    if not env.calls:
        return Call("almanac", {"country": env.question.text[len("What is the capital of ") : -1]})
    return env.calls[-1].result.split(" is ")[1].rstrip(".")


@pytest.mark.parametrize("syntax", syntaxes())
def test_ten_lines_play(syntax: str) -> None:
    env = capitals(syntax=syntax, expert=expert)
    for task in range(env.num_tasks or 0):
        question, info = env.reset(options={"task": task})
        country = question[len("What is the capital of ") : -1]
        assert info["answers"] == (CAPITALS[country],)
        observation, reward, terminated, truncated, told = env.step(env.expert() or "")
        result = f"The capital of {country} is {CAPITALS[country]}."
        assert result in observation
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert told["tool_calls"] == [ToolCall("almanac", {"country": country}, result)]
        assert "success" not in told
        assert "error" not in told
        assert told["task_id"] == info["task_id"]
        observation, reward, terminated, truncated, told = env.step(env.expert() or "")
        assert (observation, reward, terminated, truncated, told["success"]) == (OVER, 1.0, True, False, True)
        with pytest.raises(gym.error.ResetNeeded, match="no episode is running; call reset"):
            env.step("")


@pytest.mark.parametrize("syntax", syntaxes())
def test_gymnasium_agrees(syntax: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(capitals(syntax=syntax), skip_render_check=True)


def test_through_gymnasium_make_and_fork() -> None:
    gym.register("Capitals-v0", entry_point=capitals)
    try:
        env = gym.make("Capitals-v0", syntax="tags", max_turns=3)
        env.reset(seed=1)
        env.step("<almanac>Peru</almanac>")
        twin = agentgym.fork(env)
        assert twin.unwrapped.anchor == env.unwrapped.anchor  # type: ignore[attr-defined]
        assert twin.step("<answer>x</answer>")[2]
        assert not env.step("<almanac>Kenya</almanac>")[2]
    finally:
        gym.registry.pop("Capitals-v0")


def test_a_wrong_answer() -> None:
    env = capitals(syntax="tags")
    env.reset(seed=0)
    assert env.step("<answer>Atlantis</answer>")[1:3] == (0.0, True)


def test_nothing_to_do_is_told() -> None:
    env = capitals(syntax="tags")
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step("I wonder.")
    assert observation == f"Not understood: {NOTHING}. {env.syntax.hint}"
    assert (info["error"], reward, terminated, truncated) == (NOTHING, 0.0, False, False)
    assert "<almanac>COUNTRY</almanac>" in observation
    assert "<answer>ANSWER</answer>" in observation


def test_errors_are_told() -> None:
    env = capitals()
    env.reset(seed=0)
    observation, *_, info = env.step('<tool_call>{"name": "almanach", "arguments": {}}</tool_call>')
    assert info["error"] == "unknown tool 'almanach'; did you mean 'almanac'?"
    assert observation == f"<tool_response>\nerror: {info['error']}\n</tool_response>"
    observation, *_, info = env.step('<tool_call>{"name": "almanac", "arguments": {"county": "Peru"}}</tool_call>')
    assert "argument 'country' is missing" in observation
    assert info["error"] == info["tool_calls"][0].error
    observation, *_, info = env.step('<tool_call>{"name": "almanac", "arguments": {"country": "Mars"}}</tool_call>')
    assert "error: KeyError: 'Mars'" in observation
    assert "error" not in info  # it was understood; the call failed
    observation, *_, info = env.step('<tool_call>{"name": "almanac"')
    assert info["error"].startswith("tool call 1: broken JSON: it ends too early")
    assert "tool_calls" not in info


def test_many_calls_in_one_action() -> None:
    env = capitals(syntax="tags", max_calls=2)
    env.reset(seed=0)
    call = "<almanac>Peru</almanac>"
    observation, *_, info = env.step(call * 2)
    assert observation == "\n".join(["<result>\nThe capital of Peru is Lima.\n</result>"] * 2)
    observation, *_, info = env.step(call * 3)
    assert info["error"] == "3 calls in one action; at most 2 are allowed"
    assert len(env.calls) == 2  # none of the three ran


def test_truncation() -> None:
    env = capitals(max_turns=2)
    env.reset(seed=0)
    assert env.step("")[2:4] == (False, False)
    _, reward, terminated, truncated, info = env.step("")
    assert (reward, terminated, truncated, info["success"], info["error"]) == (0.0, False, True, False, NOTHING)
    env.reset(seed=0)
    env.step("")
    assert env.step("<answer>x</answer>")[2:4] == (True, False)  # an answer in the last turn still counts


def test_scores() -> None:
    tasks = {"train": [Question("a", ["x"])]}
    for value, expected in ((0.5, (0.5, False)), (True, (1.0, True)), (Score(-1.0, True), (-1.0, True))):
        env = ToolEnv([almanac], tasks, lambda answer, question, value=value: value)  # type: ignore[misc]
        env.reset()
        _, reward, _, _, info = env.step("<answer>x</answer>")
        assert (reward, info["success"]) == expected


def test_a_subclass_scores_with_the_calls() -> None:
    class Frugal(ToolEnv):
        def score(self, answer: str | None) -> Score:
            return Score(1.0 - 0.1 * len(self.calls), True) if answer is not None else Score(-1.0, False)

    env = Frugal([almanac], {"train": [Question("a")]}, lambda *_: 0.0, syntax="tags", max_turns=2)
    env.reset()
    env.step("<almanac>Peru</almanac>")
    assert env.step("<answer>x</answer>")[1] == pytest.approx(0.9)
    env.reset()
    env.step("")
    assert env.step("")[1] == -1.0


# --- random actions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", syntaxes())
def test_random_actions_are_understood_and_use_words_of_the_question(syntax: str) -> None:
    env, rng, calls, answers = capitals(syntax=syntax, max_turns=100), np.random.default_rng(0), [], 0
    env.reset(options={"task": 0})
    for _ in range(200):
        _, _, terminated, truncated, info = env.step(env.sample_action(rng))
        assert "error" not in info
        calls += info.get("tool_calls", ())
        answers += terminated
        if terminated or truncated:
            env.reset(options={"task": 0})
    assert 5 < answers < 50
    assert any(call.error is None for call in calls)  # the country in the question was looked up
    assert any(call.error is not None for call in calls)
    one, two = (capitals(syntax=syntax) for _ in range(2))
    one.reset(seed=3), two.reset(seed=3)
    assert one.sample_action(np.random.default_rng(7)) == two.sample_action(np.random.default_rng(7))


def test_random_actions_use_words_of_the_last_result() -> None:
    env, rng = capitals(syntax="tags", max_turns=100), np.random.default_rng(0)
    env.reset(options={"task": 0})
    env.step("<almanac>Kenya</almanac>")
    assert any("Nairobi" in env.sample_action(rng) for _ in range(100))


def test_a_tool_that_cannot_be_drawn_is_not_called_at_random() -> None:
    def check(arguments: object) -> dict[str, Any]:
        raise ToolError("never")

    never = Tool("never", "Never.", {"type": "object"}, check, lambda: "")
    env = ToolEnv([never], {"train": [Question("one two")]}, lambda *_: 0.0, syntax="tags")
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    assert {env.sample_action(rng) for _ in range(20)} == {"<answer>one</answer>", "<answer>two</answer>"}


# --- anchors and forks --------------------------------------------------------------------------------------------


def anchors(env: ToolEnv, *actions: str) -> list[str]:
    seen = [env.reset(options={"task": 0})[1]["anchor"]]
    return seen + [env.step(action)[4]["anchor"] for action in actions]


def test_the_anchor_is_what_is_known() -> None:
    env = capitals(syntax="tags")
    a, b, bad = "<almanac>Peru</almanac>", "<almanac>Kenya</almanac>", "<almanac>Mars</almanac>"
    start, one, two, again, failed, silent = anchors(env, a, b, a, bad, "hm")
    assert len({start, one, two}) == 3
    assert two == again == failed == silent  # nothing new
    assert anchors(env, b, a)[2] == two  # the order does not matter
    assert anchors(env, a + b)[1] == two
    assert anchors(env, b)[1] != one
    env.reset(options={"task": 1})
    assert env.step(a)[4]["anchor"] != one  # another task


class Register:
    """A session: one number."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def fork(self) -> Register:
        return Register(self.value)

    def close(self) -> None:
        self.value = -1


@tool(session=Register)
def add(register: Register, by: int) -> int:
    """Add to a register that lives as long as the episode.

    Args:
        by: how much; odd numbers fail, after they were added.
    """
    register.value += by
    if by % 2:
        raise ValueError("odd")
    return register.value


def register_env(**options: Any) -> ToolEnv:
    return ToolEnv([add, almanac], {"train": [Question("Count.")]}, lambda *_: 0.0, syntax="tags", **options)


def test_state_makes_the_order_matter() -> None:
    env = register_env()
    two, four, odd = "<add>2</add>", "<add>4</add>", "<add>1</add>"
    seen = anchors(env, two, two, odd)
    assert len(set(seen)) == 4
    assert anchors(env, two, four)[2] != anchors(env, four, two)[2]
    assert anchors(env, "<add>x</add>")[1] == seen[0]  # never ran


def test_a_fork_shares_nothing() -> None:
    env = register_env()
    env.reset(seed=0)
    env.step("<add>2</add>")
    twin = env.fork()
    assert twin.anchor == env.anchor
    assert "\n12\n" in twin.step("<add>10</add>")[0]
    assert "\n4\n" in env.step("<add>2</add>")[0]
    assert [len(env.calls), len(twin.calls)] == [2, 2]
    assert [c.arguments["by"] for c in twin.calls] == ["2", "10"]
    assert env.tools.tally["add"].calls == 2
    assert env.anchor != twin.anchor
    env.reset(seed=1)
    assert "\n14\n" in twin.step("<add>2</add>")[0]
    assert "\n2\n" in env.step("<add>2</add>")[0]  # a new episode has a new session
    env.close()
    twin.close()


@given(
    before=st.lists(st.sampled_from(["<add>2</add>", "<add>3</add>", "<almanac>Peru</almanac>", "hm"]), max_size=4),
    after=st.lists(st.sampled_from(["<add>2</add>", "<almanac>Kenya</almanac>", "<answer>x</answer>"]), max_size=3),
)
def test_a_fork_goes_on_like_a_replay(before: list[str], after: list[str]) -> None:
    def play(env: ToolEnv, actions: list[str]) -> list[Any]:
        seen = []
        for action in actions:
            seen.append(env.step(action))
            if seen[-1][2] or seen[-1][3]:
                break
        return seen

    env, other = register_env(), register_env()
    env.reset(seed=3)
    play(env, before)
    twin = env.fork()
    other.reset(seed=3)
    play(other, before)
    assert play(twin, after) == play(other, after) == play(env, after)
    draws = [e.np_random.integers(10**9) for e in (env, twin, other)]
    assert draws[0] == draws[1] == draws[2]


# --- gate and waits -----------------------------------------------------------------------------------------------


def test_a_gate_refuses_before_the_call_runs() -> None:
    env = capitals(syntax="tags")
    before = env.reset(seed=0)[1]["anchor"]
    asked: list[ToolCall] = []

    def gate(call: ToolCall) -> str | None:
        asked.append(call)
        return "no calls are left"

    env.gate = gate
    observation, *_, info = env.step("<almanac>Peru</almanac><almanack>x</almanack><almanac></almanac>")
    assert observation.startswith("<result>\nerror: no calls are left\n</result>")
    assert asked == [ToolCall("almanac", {"country": "Peru"})]
    assert info["tool_calls"][0].error == "no calls are left"
    assert info["anchor"] == before
    assert env.tools.ran == 0
    assert env.fork().gate is None


def test_waits_if_a_tool_does() -> None:
    assert not capitals().waits
    slow = tool(almanac.function, timeout=5)
    assert ToolEnv([slow], {"train": [Question("a")]}, lambda *_: 0.0).waits


def test_environments_may_share_a_toolbox() -> None:
    box = Toolbox([almanac])
    tasks = {"train": [Question("a")]}
    one, two = (ToolEnv(box, tasks, lambda *_: 0.0, syntax="tags") for _ in range(2))
    one.reset()
    two.reset()
    one.step("<almanac>Peru</almanac>")
    assert (one.tools.ran, two.tools.ran, box.ran) == (1, 0, 0)


# --- tasks, splits, seeds -----------------------------------------------------------------------------------------


def test_seeds_choose_the_task() -> None:
    one, two = capitals(), capitals()
    for seed in range(8):
        assert one.reset(seed=seed) == two.reset(seed=seed)
        assert one.reset() == two.reset()
    assert len({one.reset(seed=s)[0] for s in range(20)}) == one.num_tasks == 4


def test_a_list_is_split_by_text() -> None:
    tasks = [Question(f"question {i // 2}") for i in range(40)]  # each text twice
    train, test = questions_of(tasks, "train"), questions_of(tasks, "test")
    assert (len(train), len(test)) == (32, 8)
    assert not {q.text for q in train} & {q.text for q in test}
    assert questions_of(tasks[::-1], "test") == test[::-1]
    assert capitals(split="test").num_tasks == 1
    with pytest.raises(UnknownName, match="unknown split 'unseen'"):
        capitals(split="unseen")
    with pytest.raises(UsageError, match="no tasks for split 'train'; give more"):
        questions_of(tasks[:1], "train")


def test_splits_by_hand() -> None:
    tasks = {"train": [Question("a")], "unseen": [Question("b")]}
    assert ToolEnv([], tasks, lambda *_: 0.0, split="unseen").reset()[0] == "b"
    with pytest.raises(UnknownName, match="unknown split 'test'"):
        ToolEnv([], tasks, lambda *_: 0.0, split="test")
    with pytest.raises(UsageError, match="the question 'a' is in 'train' and in another split; splits must not meet"):
        ToolEnv([], {"train": [Question("a")], "test": [Question("a")]}, lambda *_: 0.0)


def generate(rng: np.random.Generator, split: str) -> Question:
    a, b = (2 * int(n) + (split == "test") for n in rng.integers(100, size=2))
    return Question(f"{a} + {b}?", answers=[str(a + b)], evidence=["arithmetic"], id=f"{a}+{b}")


def test_generated_tasks() -> None:
    env = ToolEnv([almanac], generate, lambda answer, question: answer in question.answers)
    question, info = env.reset(seed=5)
    assert (question, info["evidence"]) == (f"{info['task_id'].replace('+', ' + ')}?", ("arithmetic",))
    assert env.reset(seed=5)[0] == question
    assert env.reset()[0] != question
    assert env.num_tasks is None
    with pytest.raises(UsageError, match=r"generated without end; choose one by reset\(seed="):
        env.reset(options={"task": 1})
    with pytest.raises(UsageError, match="unknown reset option 'tusk'; 'task' is the only one"):
        env.reset(options={"tusk": 1})


class Squares:
    """Questions without a list of them."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self.count, self.read = name, count, list[int]()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Question:
        self.read.append(number)
        return Question(f"{self.name}: {number}²?", answers=[str(number * number)])


def test_lazy_tasks_are_made_when_they_are_asked_for() -> None:
    squares = Squares("test", 10**12)
    env = ToolEnv([almanac], squares, lambda answer, question: answer in question.answers, split="test")
    assert (env.num_tasks, env.tasks, squares.read) == (10**12, squares, [])
    assert env.reset(options={"task": 10**11})[0] == f"test: {10**11}²?"
    assert env.reset(options={"task": np.int64(7)})[1]["answers"] == ("49",)
    texts = {env.reset(seed=seed)[0] for seed in range(8)}
    assert len(texts) == 8
    assert {env.reset(seed=seed, options={"task": None})[0] for seed in range(8)} == texts
    with pytest.raises(UsageError, match=f"task must be a number from 0 to {10**12 - 1}, got {10**12}"):
        env.reset(options={"task": 10**12})
    squares.read.clear()
    assert env.fingerprint
    assert len(squares.read) == 8
    assert env.fingerprint == ToolEnv([almanac], Squares("test", 10**12), lambda *_: 0.0, split="test").fingerprint
    assert env.fingerprint != ToolEnv([almanac], Squares("test", 10**11), lambda *_: 0.0, split="test").fingerprint


def test_lazy_tasks_by_split() -> None:
    tasks = {"train": Squares("train", 10**12), "hard": Squares("hard", 3), "hand": [Question("a")], "none": []}
    env = ToolEnv([], tasks, lambda *_: 0.0, split="hard")
    assert (env.splits, env.num_tasks, env.reset(options={"task": 2})[0]) == (tuple(tasks), 3, "hard: 2²?")
    assert ToolEnv([], tasks, lambda *_: 0.0, split="hand").reset()[0] == "a"
    assert not tasks["train"].read
    with pytest.raises(UsageError, match="no tasks for split 'none'"):
        ToolEnv([], tasks, lambda *_: 0.0, split="none")


@pytest.mark.parametrize("task", [-1, 4, "0", 1.5, True])
def test_task_out_of_range(task: Any) -> None:
    with pytest.raises(UsageError, match="task must be a number from 0 to 3, got"):
        capitals().reset(options={"task": task})


def test_options_out_of_range() -> None:
    with pytest.raises(UsageError, match="max_turns must be at least 1, got 0"):
        capitals(max_turns=0)
    with pytest.raises(UnknownName, match="unknown syntax 'tag'; did you mean 'tags'"):
        capitals(syntax="tag")


def test_fingerprints_tell_environments_apart() -> None:
    def other(**options: Any) -> str:
        return capitals(**options).fingerprint

    assert other() == other(expert=expert)
    prints = {other(), other(syntax="tags"), other(max_turns=3), other(instructions="Hurry."), other(split="test")}
    assert len(prints) == 5
    by_seed = ToolEnv([almanac], generate, lambda *_: 0.0)
    assert by_seed.fingerprint == ToolEnv([almanac], generate, lambda *_: 0.0).fingerprint
    assert by_seed.fingerprint != ToolEnv([almanac], generate, lambda *_: 0.0, split="test").fingerprint


def test_instructions_describe_tools_and_syntax() -> None:
    env = capitals(instructions="Answer in one word.")
    assert env.instructions.startswith("Answer in one word.\n\nYou may call these tools:")
    assert env.syntax.hint in env.instructions


def test_no_expert() -> None:
    env = capitals()
    env.reset(seed=0)
    assert env.expert() is None


# --- hostile text -------------------------------------------------------------------------------------------------


@given(
    syntax=st.sampled_from(syntaxes()),
    actions=st.lists(
        st.text(st.characters(), max_size=30)
        | st.sampled_from(
            [
                '<tool_call>{"name": "almanac", "arguments": {"country": "\\ud800"}}</tool_call>',
                '<tool_call>{"name": "", "arguments": {"": [1e400]}}</tool_call>',
                "<almanac>\ud800</almanac>",
                "Action: \x00\nAction Input: {}",
                '{"tool_calls": [{"function": {"name": "almanac", "arguments": "{\\"country\\": 3}"}}]}',
            ]
        ),
        max_size=5,
    ),
)
def test_no_action_raises(syntax: str, actions: list[str]) -> None:
    env = capitals(syntax=syntax, max_turns=5)
    env.reset(seed=0)
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        observation.encode()
        assert reward == 0.0 or terminated
        assert info["anchor"]
        if terminated or truncated:
            break


def test_what_is_hidden_stays_hidden() -> None:
    secret = Question("a", answers=["s3cret"], evidence=["d0cument"], data={"key": "hidd3n"})
    env = ToolEnv([almanac], {"train": [secret]}, lambda *_: 0.0, max_turns=50)
    shown = [env.reset()[0], env.instructions]
    for action in ("", "<tool_call>", "<answer>", '<tool_call>{"name": "x"}</tool_call>', "<answer>no</answer>"):
        shown.append(env.step(action)[0])
    for word in ("s3cret", "d0cument", "hidd3n"):
        assert not any(word in text for text in shown)


def test_tools_are_a_list_of_tools() -> None:
    assert isinstance(almanac, Tool)
    with pytest.raises(UsageError, match="is not a tool; decorate the function with @tool"):
        ToolEnv([len], {"train": [Question("a")]}, lambda *_: 0.0)  # type: ignore[list-item]


def test_the_example_in_the_module_runs() -> None:
    module = sys.modules[ToolEnv.__module__]
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0
