"""ToolEnv with tools that share a session, and a scorer that sees it."""

from __future__ import annotations

from typing import Any

import pytest

import agentgym
from agentgym.check import check_env
from agentgym.envs.code.interpreter import PythonEnv
from agentgym.envs.tool_env import Question, Score, ToolEnv
from agentgym.errors import UsageError
from agentgym.tools.syntax import syntaxes
from agentgym.tools.tool import tool

TASKS = [Question(f"Buy {n} things and pay.", data={"wanted": n}) for n in range(1, 11)]


class Cart:
    def __init__(self) -> None:
        self.items: list[str] = []
        self.paid = False


class Purse:
    def __init__(self, question: Question) -> None:
        self.coins = question.data["wanted"]


@tool(session=Cart)
def add(cart: Cart, item: str) -> str:
    """Put something into the cart.

    Args:
        item: what.
    """
    cart.items.append(item)
    return f"{len(cart.items)} things"


@tool(session=Cart)
def checkout(cart: Cart) -> str:
    """Pay."""
    cart.paid = True
    return f"paid for {len(cart.items)} things"


@tool(session=Purse)
def count_coins(purse: Purse) -> int:
    """Count the coins."""
    return purse.coins  # type: ignore[no-any-return]


def bought(answer: str, question: Question, cart: Cart) -> float:
    return float(cart.paid and len(cart.items) == question.data["wanted"])


def shop(split: str = "train", **options: Any) -> ToolEnv:
    given: dict[str, Any] = {"tools": [add, checkout], "tasks": TASKS, "scorer": bought, "syntax": "tags"} | options
    return ToolEnv(given.pop("tools"), given.pop("tasks"), given.pop("scorer"), split=split, **given)


def play(env: Any, *actions: str) -> tuple[str, Any, bool, bool, dict[str, Any]]:
    step: Any = None
    for action in actions:
        step = env.step(action)
    return step  # type: ignore[no-any-return]


BUY, PAY, DONE = "<add>tea</add>", "<checkout></checkout>", "<answer>done</answer>"


def test_the_scorer_sees_what_the_tools_did() -> None:
    env = shop(tasks={"train": [TASKS[1]]})
    for actions, reward in (
        ((BUY, BUY, PAY, DONE), 1.0),
        ((BUY, PAY, DONE), 0.0),
        ((BUY, BUY, DONE), 0.0),
        ((DONE,), 0.0),  # no tool was called: the scorer sees an empty cart
        ((BUY + BUY + PAY, DONE), 1.0),
    ):
        env.reset(seed=0)
        observation, *_ = play(env, *actions[:-1]) if len(actions) > 1 else ("",)
        assert ("paid for 2 things" in observation) == (reward == 1.0)
        *_, terminated, _, info = step = env.step(actions[-1])
        assert (step[1], terminated, info["success"]) == (reward, True, reward == 1.0)


def test_a_fork_is_scored_by_its_own_session() -> None:
    env = shop(tasks={"train": [TASKS[1]]})
    env.reset(seed=0)
    env.step(BUY)
    twin = env.fork()
    assert twin.session is not env.session
    assert play(twin, BUY, PAY, DONE)[1] == 1.0
    assert play(env, PAY, DONE)[1] == 0.0
    assert (env.session.items, twin.session.items) == (["tea"], ["tea", "tea"])
    env.reset(seed=0)
    assert env.session.items == []


@pytest.mark.parametrize("syntax", syntaxes())
def test_the_contract_holds(syntax: str) -> None:
    report = check_env(shop, syntax=syntax)
    assert report.ok, str(report)
    assert {"determinism", "isolation", "forking", "fingerprint", "sampling"} <= set(report.held)


def test_a_replay_meets_the_same_session() -> None:
    import gymnasium as gym

    gym.register("test/Shop-v0", entry_point=shop)
    try:
        env = agentgym.make("test/Shop-v0")
        env.reset(seed=0)
        play(env, BUY, BUY)
        twin = env.replay()  # type: ignore[attr-defined]
        assert twin.unwrapped.session.items == env.unwrapped.session.items == ["tea", "tea"]  # type: ignore[attr-defined]
        assert twin.unwrapped.session is not env.unwrapped.session  # type: ignore[attr-defined]
    finally:
        gym.registry.pop("test/Shop-v0")


def test_a_session_may_start_from_the_task() -> None:
    env = shop(tools=[add, count_coins], scorer=lambda answer, question: 0.0)
    for task in range(3):
        env.reset(options={"task": task})
        assert play(env, "<count_coins></count_coins>")[0] == f"<result>\n{env.question.data['wanted']}\n</result>"


def test_of_several_sessions_one_is_chosen() -> None:
    tools = [add, count_coins, checkout]
    message = (
        r"the tools have several sessions \(Cart, Purse\); say which one the scorer sees: ToolEnv\(..., session=...\)"
    )
    with pytest.raises(UsageError, match=message):
        shop(tools=tools)
    env = shop(tools=tools, session=Purse, scorer=lambda answer, question, purse: Score(purse.coins, True))
    env.reset(options={"task": 4})
    assert play(env, BUY, DONE)[1] == env.question.data["wanted"]
    assert shop(tools=tools, session=Cart)
    plain = shop(tools=tools, scorer=lambda answer, question: 1.0)  # which does not look at any
    plain.reset(seed=0)
    assert play(plain, DONE)[1] == 1.0
    with pytest.raises(UsageError, match=message):
        _ = plain.session


def test_a_session_that_no_tool_has_is_refused() -> None:
    @tool
    def nothing() -> str:
        """Nothing."""
        return ""

    with pytest.raises(UsageError, match=r"no tool has a session that a scorer could see; write @tool\(session=...\)"):
        shop(tools=[nothing])
    with pytest.raises(
        UsageError, match=r"no tool has the session .*Purse.*; write @tool\(session=...\) with the same"
    ):
        shop(session=Purse)


def test_scorers_with_other_parameters_are_called_as_ever() -> None:
    def strict(answer: str, question: Question, factor: float = 0.5) -> float:
        return factor

    def anything(*given: object) -> float:
        return float(len(given))

    for scorer, reward in ((strict, 0.5), (anything, 2.0)):
        env = shop(scorer=scorer)
        env.reset(seed=0)
        assert env.step(DONE)[1] == reward


@pytest.mark.filterwarnings("ignore:unsafe_local")
def test_beside_an_interpreter() -> None:
    class Both(PythonEnv):
        def __init__(self, *, split: str = "train", **options: Any) -> None:
            chosen: Any = {"sandbox": "unsafe-local", "unsafe_local_python": True}
            super().__init__(
                [add, count_coins, checkout], TASKS, bought, session=Cart, split=split, **chosen, **options
            )

    env = Both()
    try:
        env.reset(seed=0)
        wanted = env.question.data["wanted"]
        env.max_turns = 20
        play(env, *[BUY] * wanted, PAY)
        assert f"\n{wanted}\n" in env.step("<count_coins></count_coins>")[0]
        assert "\n42\n" in env.step("<python>6 * 7</python>")[0]
        assert env.step(DONE)[1] == 1.0
    finally:
        env.close()
