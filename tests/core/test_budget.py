"""Budget and BudgetedEnv: what is refused, what ends, and that the counters say what happened."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym import TextEnv, fork, make
from agentgym.budget import UNLIMITED, Budget, BudgetedEnv, parse_budgets, under
from agentgym.budget.prices import ModelPrice, Prices
from agentgym.envs.tool_env import Question, ToolEnv
from agentgym.errors import UsageError
from agentgym.policy import Reply, Request, ScriptedPolicy
from agentgym.records import CallCounts, StopReason, Task, ToolCall, Usage
from agentgym.rollout import Group, Rollout
from agentgym.tools.tool import tool

OVER = "The budget of {} is used up; the episode is over."


@tool(price=0.1)
def double(number: int) -> str:
    """Double a number.

    Args:
        number: what to double.
    """
    return str(2 * number)


@tool
def echo(text: str) -> str:
    """Say it again.

    Args:
        text: what to say.
    """
    return text


class Steps(TextEnv):
    """No tools: solved by the action ``done``."""

    def __init__(self, takes: float = 0.0) -> None:
        super().__init__()
        self.takes = takes

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.options, self.turn = options, 0
        return "begin", {"task_id": f"steps/{seed}", "anchor": "0"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        done = action == "done"
        info: dict[str, Any] = {"task_id": "steps", "anchor": str(self.turn)}
        return "next", float(done), done, False, info | ({"success": True} if done else {})

    def fork(self) -> Steps:
        twin = Steps()
        twin.options, twin.turn = self.options, self.turn
        return twin


class Reporting(Steps):
    """Runs what it is told and reports it, but cannot refuse it: an action ``call NAME COST``."""

    tools = ()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        calls = []
        if action.startswith("call"):
            _, name, cost = action.split()
            calls, reward = [ToolCall(name, cost=float(cost))], 0.5
        return observation, reward, terminated, truncated, info | {"tool_calls": calls}


def tools_env(**kwargs: Any) -> ToolEnv:
    questions = [Question("What is 2 * 21?", answers=["42"]), Question("What is 2 * 4?", answers=["8"])]
    return ToolEnv([double, echo], questions, lambda answer, q: answer in q.answers, syntax="tags", **kwargs)


def call(number: object = 21, name: str = "double") -> str:
    return f"<{name}>{number}</{name}>"


def started(env: Any, budget: Any = UNLIMITED, **kwargs: Any) -> BudgetedEnv:
    wrapped = BudgetedEnv(env, budget, **kwargs)
    wrapped.reset(seed=0)
    return wrapped


# Budgets as text ------------------------------------------------------------------------------------------------------


def test_a_budget_from_text() -> None:
    assert Budget.parse("4") == Budget(tool_calls=4)
    assert Budget.parse("4", "turns") == Budget(turns=4)
    assert Budget.parse("inf") == UNLIMITED == Budget(math.inf, None)
    assert Budget.parse("tool_calls=4, tokens=2e3,cost=.5") == Budget(tool_calls=4, tokens=2000, cost=0.5)
    assert Budget.parse("per_tool.search=2,turns=inf") == Budget(per_tool={"search": 2})


counts = st.none() | st.integers(0, 10**9)
amounts = st.none() | st.floats(0, 1e9)
names = st.text("abcXYZ_-09", min_size=1, max_size=8)


@given(st.builds(Budget, counts, counts, counts, amounts, amounts, st.dictionaries(names, counts, max_size=3)))
def test_text_and_back(budget: Budget) -> None:
    assert Budget.parse(str(budget)) == budget
    assert hash(Budget.parse(str(budget))) == hash(budget)


def test_lists_of_budgets() -> None:
    assert parse_budgets("0,1,inf") == (Budget(0), Budget(1), UNLIMITED)
    assert parse_budgets("2", "turns") == (Budget(turns=2),)
    assert parse_budgets("tokens=500,inf") == (Budget(tokens=500), UNLIMITED)
    assert parse_budgets("tool_calls=2,tokens=500;inf") == (Budget(2, tokens=500), UNLIMITED)
    assert parse_budgets("1,2;turns=3") == (Budget(1), Budget(2), Budget(turns=3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-1", "a budget's tool_calls must be a number >= 0, or None for no limit; got -1.0"),
        ("1.5", "a budget's tool_calls must be a whole number, got 1.5"),
        ("four", "budget 'tool_calls=four': 'four' is not a number; write 4, inf or tool_calls=4,turns=9"),
        ("nan", "budget 'tool_calls=nan': 'nan' is not a number; write 4, inf or tool_calls=4,turns=9"),
        ("", "budget 'tool_calls=': '' is not a number; write 4, inf or tool_calls=4,turns=9"),
        ("toolcalls=3", "unknown budget 'toolcalls'; did you mean 'tool_calls'?"),
        ("turns=1,turns=2", "budget 'turns=1,turns=2' limits turns twice; several budgets are written a,b,c or a;b"),
        ("1,2,1", "budget 'tool_calls=1' is given twice in '1,2,1'"),
    ],
)
def test_wrong_budgets_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_budgets(text)
    assert str(refused.value) == message


# Tool calls -----------------------------------------------------------------------------------------------------------


def test_calls_beyond_the_budget_do_not_run_and_say_so() -> None:
    env = started(tools_env(), Budget(tool_calls=1))
    assert env.step(call())[0] == "<result>\n42\n</result>"
    observation, reward, terminated, truncated, info = env.step(call(4))
    assert "refused: the budget of 1 tool call is used up; go on without it" in observation
    assert "8" not in observation
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert [(c.status, c.error[:9]) for c in info["tool_calls"]] == [("refused", "refused: ")]
    assert info["budget"] == {"tool_calls": 0}
    assert (env.spent.tool_calls, env.spent.refused, env.unwrapped.tools.ran) == (1, 1, 1)
    assert env.step("<answer>42</answer>")[2] is True


def test_the_calls_of_one_action_share_the_budget() -> None:
    env = started(tools_env(), Budget(tool_calls=2))
    _, _, _, _, info = env.step(call(1) + call(2) + call(3))
    assert [c.error is None for c in info["tool_calls"]] == [True, True, False]
    assert (env.spent.tool_calls, env.spent.refused) == (2, 1)


def test_calls_that_never_ran_are_counted_apart() -> None:
    env = started(tools_env(), Budget(tool_calls=0))
    env.step(call("many") + call(4) * 2)
    _, _, _, _, info = env.step(call(1) + call(4, "no_such_tool"))
    assert [c.status for c in info["tool_calls"]] == ["refused"]  # the second is no call in this syntax
    assert (env.spent.tool_calls, env.spent.refused, env.spent.malformed) == (0, 3, 1)
    assert env.left == {"tool_calls": 0}
    assert env.spent.cost == 0.0
    assert env.spent.per_tool == {}


def test_a_budget_for_one_tool() -> None:
    env = started(tools_env(), Budget(per_tool={"double": 1}))
    env.step(call())
    observation, *_ = env.step(call() + call("hi", "echo"))
    assert "refused: the budget of 1 call of 'double' is used up" in observation
    assert "hi" in observation


def test_truncate_ends_with_the_refused_call() -> None:
    env = started(tools_env(), Budget(tool_calls=1), on_exhausted="truncate")
    assert env.step(call())[2:4] == (False, False)
    observation, reward, terminated, truncated, info = env.step(call())
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["stop"] is StopReason.BUDGET
    assert info["success"] is False
    assert "refused" in observation


def test_truncate_lets_the_last_call_be_answered() -> None:
    env = started(tools_env(), Budget(tool_calls=1), on_exhausted="truncate")
    env.step(call())
    assert env.step("<answer>42</answer>")[2:4] == (True, False)


def test_no_budget_changes_nothing() -> None:
    plain, wrapped = tools_env(), started(tools_env(), announce=True)
    plain.reset(seed=0)
    for action in (call(), call("x"), "hm", "<answer>42</answer>"):
        expected, got = plain.step(action), wrapped.step(action)
        assert got[:4] == expected[:4]
        assert got[4].pop("budget") == {}
        assert got[4] == expected[4]


def test_the_gate_is_left_open_for_others() -> None:
    env = started(tools_env(), Budget(tool_calls=0))
    env.step(call())
    assert env.unwrapped.gate is None


# Turns, tokens, seconds, cost -----------------------------------------------------------------------------------------


def test_turns_end_the_episode_after_the_last_one() -> None:
    env = started(Steps(), Budget(turns=2))
    assert env.step("a")[2:4] == (False, False)
    observation, _, terminated, truncated, info = env.step("b")
    assert (observation, terminated, truncated) == ("next", False, True)
    assert (info["stop"], info["success"], info["budget"]) == (StopReason.BUDGET, False, {"turns": 0})


def test_the_last_turn_can_still_solve_it() -> None:
    env = started(Steps(), Budget(turns=1))
    _, reward, terminated, truncated, info = env.step("done")
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert "stop" not in info


def test_without_turns_nothing_is_played() -> None:
    env = started(Steps(), Budget(turns=0))
    observation, reward, terminated, truncated, info = env.step("done")
    assert observation == OVER.format("0 turns")
    assert (reward, terminated, truncated, env.unwrapped.turn) == (0.0, False, True, 0)
    assert (info["task_id"], info["anchor"], info["stop"]) == ("steps/0", "0", "budget")


def test_an_action_beyond_the_tokens_is_not_played_where_nothing_can_be_refused() -> None:
    env = started(Steps(), Budget(tokens=10))
    env.charge(Usage(prompt_tokens=500, completion_tokens=9))
    assert env.step("a")[3] is False
    env.charge(Usage(completion_tokens=2))
    observation, reward, _, truncated, _ = env.step("done")
    assert (observation, reward, truncated) == (OVER.format("10 tokens"), 0.0, True)
    assert env.unwrapped.turn == 1


def test_exactly_used_up_tokens_end_after_the_turn() -> None:
    env = started(Steps(), Budget(tokens=10))
    env.charge(Usage(completion_tokens=10))
    assert env.step("a")[3] is True
    assert env.unwrapped.turn == 1


def test_with_refuse_used_up_tokens_leave_the_answer() -> None:
    env = started(tools_env(), Budget(tokens=10))
    env.charge(Usage(completion_tokens=11))
    observation, _, _, truncated, _ = env.step(call())
    assert "refused: the budget of 10 tokens is used up" in observation
    assert truncated is False
    assert env.step("<answer>42</answer>")[2] is True


def test_seconds_are_those_of_the_policy_and_of_the_steps() -> None:
    env = started(Steps(), Budget(seconds=5))
    env.charge(Usage(model_seconds=4.0, waiting_seconds=100.0))
    assert env.step("a")[3] is False
    assert 0.0 < env.left["seconds"] < 1.0
    env.charge(Usage(model_seconds=1.0))
    assert env.step("a")[0] == OVER.format("5 seconds")


def test_calls_are_refused_when_their_price_does_not_fit() -> None:
    env = started(tools_env(), Budget(cost=0.3))
    *_, info = env.step(call(1) + call(2) + call(3))
    assert [c.cost for c in info["tool_calls"]] == [0.1, 0.1, 0.1]
    assert env.left == {"cost": 0}
    observation, *_ = env.step(call(4) + call("hi", "echo"))
    assert "refused: a call of 'double' costs 0.1 and 0 of the budget is left" in observation
    assert "hi" in observation  # costs nothing
    env = started(tools_env(), Budget(cost=0.3))
    env.charge(Usage(cost=0.25))
    assert "costs 0.1 and 0.05 of the budget is left" in env.step(call())[0]


def test_a_price_list_replaces_the_tools_own_prices() -> None:
    env = started(tools_env(), Budget(cost=10), prices=Prices(tools={"double": 4.0, "echo": 1.0}))
    *_, info = env.step(call(1) + call("x") + call("hi", "echo"))
    assert [c.cost for c in info["tool_calls"]] == [4.0, 0.0, 1.0]  # wrong arguments cost nothing
    assert env.left == {"cost": 5.0}


def test_an_environment_that_only_reports_its_calls_is_cut_off() -> None:
    env = started(Reporting(), Budget(tool_calls=1, cost=1))
    assert env.step("call a 0.5")[1:4] == (0.5, False, False)
    observation, reward, terminated, truncated, info = env.step("call a 0.1")
    assert (observation, reward, terminated, truncated) == (OVER.format("1 tool call"), 0.0, False, True)
    assert info["success"] is False
    env.reset(seed=0)
    assert env.step("call a 2")[0] == OVER.format("cost 1")


# Announcing, drawing, forking -----------------------------------------------------------------------------------------


def test_what_is_left_is_announced() -> None:
    budget = Budget(tool_calls=2, tokens=1500, cost=0.25, per_tool={"echo": 1})
    env = BudgetedEnv(tools_env(), budget, announce=True)
    observation, _ = env.reset(seed=0)
    assert observation.endswith("\n\n[budget left: 2 tool calls, 1,500 tokens, cost 0.25, 1 call of 'echo']")
    env.charge(Usage(completion_tokens=1))
    assert env.step(call())[0].endswith("[budget left: 1 tool call, 1,499 tokens, cost 0.15, 1 call of 'echo']")
    assert "budget left" not in env.step("<answer>42</answer>")[0]


def test_budgets_are_drawn_by_seed() -> None:
    budgets = [Budget(tool_calls=n) for n in range(4)]
    env, other = BudgetedEnv(tools_env(), budgets), BudgetedEnv(tools_env(), budgets, key=7)
    drawn, again, different = [], [], []
    for seed in range(40):
        for found, one in ((drawn, env), (again, env), (different, other)):
            one.reset(seed=seed)
            found.append(one.budget)
    assert drawn == again
    assert drawn != different
    assert set(drawn) == set(budgets)
    env.reset()
    assert env.budget in budgets


def test_an_option_of_reset_sets_the_budget_of_one_episode() -> None:
    env = BudgetedEnv(Steps(), Budget(turns=5))
    _, info = env.reset(seed=1, options={"budget": "turns=2", "other": 1})
    assert (info["budget"], env.unwrapped.options) == ({"turns": 2}, {"other": 1})
    env.reset(seed=1, options={"budget": "inf"})
    assert (env.budget, env.unwrapped.options) == (UNLIMITED, None)
    env.reset(seed=1)
    assert env.budget == Budget(turns=5)


def test_a_fork_counts_on_its_own() -> None:
    env = started(tools_env(), Budget(tool_calls=2))
    env.step(call())
    twin = fork(env)
    assert isinstance(twin, BudgetedEnv)
    twin.step(call())
    assert (env.left, twin.left) == ({"tool_calls": 1}, {"tool_calls": 0})
    assert "refused" not in env.step(call())[0]
    assert "refused" in twin.step(call())[0]


class Replayed(Steps):
    fork = None  # type: ignore[assignment]


def test_an_environment_that_can_only_be_replayed_is_forked_with_its_counters() -> None:
    gym.register("test/Replayed-v0", entry_point=Replayed, disable_env_checker=True)
    try:
        env = BudgetedEnv(make("test/Replayed-v0"), Budget(turns=3), announce=True)
        env.reset(seed=4)
        env.step("on")
        twin = fork(env)
    finally:
        del gym.registry["test/Replayed-v0"]
    assert isinstance(twin, BudgetedEnv)
    assert (twin.left, twin.unwrapped.turn) == ({"turns": 2}, 1)
    assert twin.step("on")[0].endswith("[budget left: 1 turn]")
    assert twin.step("on")[3]
    assert (env.left, env.unwrapped.turn) == ({"turns": 2}, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BudgetedEnv(Steps(), Budget(3)), "Steps has no tools, so tool calls cannot be limited (tool_calls=3)"),
        (lambda: BudgetedEnv(BudgetedEnv(Steps())), "the environment has a budget already; put all limits into one"),
        (lambda: BudgetedEnv(Steps(), []), "no budget is given; Budget() is one without limits"),
        (lambda: BudgetedEnv(Steps(), on_exhausted="stop"), "unknown way to handle an exhausted budget 'stop'"),  # type: ignore[arg-type]
        (lambda: BudgetedEnv(tools_env(), Budget(per_tool={"dubble": 1})), "unknown tool 'dubble'; did you mean"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(make: Any, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        make()
    assert str(refused.value).startswith(message)


ACTIONS = st.sampled_from([call(1), call(2) + call(3), call("x"), call("y", "echo"), "hm", "<nonsense>", call(5) * 3])


@given(
    st.builds(Budget, counts, st.none() | st.integers(0, 5), per_tool=st.fixed_dictionaries({"double": counts})),
    st.lists(ACTIONS, max_size=8),
    st.sampled_from(["refuse", "truncate"]),
)
def test_no_limit_on_calls_that_run_is_ever_passed(budget: Budget, actions: list[str], mode: Any) -> None:
    env = started(tools_env(max_turns=20), budget, on_exhausted=mode)
    made = []
    for action in actions:
        _, _, terminated, truncated, info = env.step(action)
        made += info.get("tool_calls", [])
        if terminated or truncated:
            break
    assert env.unwrapped.tools.ran <= budget.limits.get("tool_calls", math.inf)
    assert env.unwrapped.tools.tally["double"].calls <= budget.limits.get("per_tool.double", math.inf)
    assert env.spent.turns <= budget.limits.get("turns", math.inf)
    assert (env.spent.tool_calls, env.spent.refused, env.spent.malformed) == CallCounts.of(made)
    assert env.spent.tool_calls == env.unwrapped.tools.ran
    assert env.spent.cost == pytest.approx(sum(c.cost for c in made))


# In a rollout ---------------------------------------------------------------------------------------------------------


class Writing(ScriptedPolicy):
    def submit(self, request: Request) -> Reply:
        return Reply(self._act(request), usage=Usage(completion_tokens=4, cost=0.5))


def test_a_rollout_charges_what_replies_used() -> None:
    with Rollout(lambda: BudgetedEnv(Steps(), Budget(tokens=10)), Writing(lambda r: "go")) as rollout:
        (episode,) = rollout.play([Group("g", Task(3))])
    assert (episode.stop, episode.success, len(episode.turns)) == (StopReason.BUDGET, False, 3)
    assert episode.final == OVER.format("10 tokens")


def test_a_task_keeps_the_budget_it_was_played_under() -> None:
    task = under(Task(3), Budget(turns=2))
    with Rollout(lambda: BudgetedEnv(Steps()), Writing(lambda r: "go")) as rollout:
        (episode,) = rollout.play([Group("g", task)])
    assert (episode.stop, len(episode.turns), episode.task.options) == (StopReason.BUDGET, 2, {"budget": "turns=2"})


# Prices ---------------------------------------------------------------------------------------------------------------


def test_prices_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("tools: {search: 0.001}\nmodels: {big: {prompt: 2, completion: 8}}\n")
    prices = Prices.load(path)
    assert prices == Prices({"search": 0.001}, {"big": ModelPrice(2.0, 8.0)})
    assert prices.tokens("big", 1_000_000, 500_000) == pytest.approx(6.0)
    assert prices.tokens("other", 1000, 1000) == 0.0
    assert (prices.call(ToolCall("search", cost=9.0)), prices.call(ToolCall("free"))) == (0.001, 0.0)


@pytest.mark.parametrize(
    "content", ["tools: [1]", "models: {a: 3}", "tools: {a: -1}", "{", "prices: {}", "models: {a: {in: 1}}", "3"]
)
def test_a_wrong_price_list_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"is not a price list \(.*\); write tools: \{NAME: price\}"):
        Prices.load(path)


def test_info_stays_json() -> None:
    env = started(tools_env(), Budget(tool_calls=1, cost=1))
    *_, info = env.step(call())
    assert json.loads(json.dumps(info["budget"])) == {"tool_calls": 0, "cost": 0.9}
