"""Steps in parts: a rollout drives them itself, and only what they wait for runs in threads."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import pytest

import agentgym
from agentgym import keyed_random
from agentgym.budget import Budget, BudgetedEnv
from agentgym.env import ReplayWrapper, StepResult, can_step_in_parts
from agentgym.envs.tool_env import Question, ToolEnv
from agentgym.policy import Reply, Request, ScriptedPolicy
from agentgym.records import Episode, StopReason, Task
from agentgym.rollout import Group, Rollout, garbage, stepping
from agentgym.tools.execution import Execution
from agentgym.tools.tool import Tool, tool
from agentgym.waiting import Waiting, finish

LONG = 60  # seconds; nobody waits so long unless a test fails
GO = threading.Event()  # ends what hangs
MODES: dict[str, dict[str, Any]] = {
    "inline": {"threads": 0},
    "threads": {},
    "two": {"threads": 2},
    "lockstep": {"threads": 5, "lockstep": True},
    "limited": {"step_seconds": 50.0},
}

pytestmark = pytest.mark.timeout(100)


class Cart:
    """A session; it says where it was made and closed."""

    def __init__(self) -> None:
        self.items: list[str] = []


@tool(timeout=LONG, session=Cart)
def put(cart: Cart, item: str) -> str:
    """Put something into the cart.

    Args:
        item: what.
    """
    if item == "bad":
        raise ValueError("no such thing")
    if item == "exit":
        raise SystemExit(3)
    if item == "interrupt":
        raise KeyboardInterrupt
    cart.items.append(item)
    return f"{len(cart.items)} in the cart"


@tool(timeout=1.0, parallel=True, session=Cart)
def look(cart: Cart, item: str) -> str:
    """Look at something.

    Args:
        item: what.
    """
    if item == "hang":
        GO.wait(300)
    return f"it is {item}"


@tool(timeout=1.0)
async def ask(item: str) -> str:
    """Ask about something.

    Args:
        item: what.
    """
    if item == "hang":
        await asyncio.sleep(LONG)
    return f"{item}?"


@tool
def plain(item: str) -> str:
    """Say it.

    Args:
        item: what.
    """
    return item


ACTIONS = [
    "<put>a</put>",
    "<put>bad</put><put>b</put>",
    "<put>exit</put>",
    "<put>b</put><plain>x</plain><put>c</put>",
    "<look>a</look><look>b</look><plain>y</plain>",
    "<plain>only</plain>",
    "<ask>a</ask>",
    "nothing that is understood",
    "<none>1</none>",
    '<put>{"item": 3}</put>',
    "<answer>yes</answer>",
]
LATE = ["<look>hang</look>", "<put>a</put>", "<ask>hang</ask>", "<look>a</look><look>hang</look><look>b</look>"]


def score(answer: str, question: Question, cart: Cart) -> float:
    return len(cart.items) / 4


def shop(tools: tuple[Tool, ...] = (put, look, ask, plain), scorer: Callable[..., float] = score) -> ToolEnv:
    return ToolEnv(tools, {"train": [Question("q")]}, scorer, syntax="tags", max_turns=8)


def played(make: Callable[[], Any], act: Callable[[Request], str], count: int = 12, **settings: Any) -> list[Episode]:
    with Rollout(make, ScriptedPolicy(act), max_concurrent_episodes=6, **settings) as rollout:
        episodes = list(rollout.play(Group(f"{n:02}", Task(n)) for n in range(count)))
    return sorted(episodes, key=lambda e: e.id)


def drawn(request: Request) -> str:
    return keyed_random.choice(ACTIONS, request.key)


def late(request: Request) -> str:
    return LATE[len(request.turns)] if len(request.turns) < len(LATE) else "<answer>x</answer>"


BUDGETS = [Budget(), Budget(tool_calls=2), Budget(turns=2)]
MAKERS: dict[str, Callable[[], Any]] = {
    "bare": shop,
    "budget": lambda: BudgetedEnv(shop(), BUDGETS),
    "truncate": lambda: BudgetedEnv(shop(), BUDGETS, on_exhausted="truncate", announce=True),
    "journal": lambda: ReplayWrapper(gym.wrappers.OrderEnforcing(shop())),
}


@pytest.mark.parametrize("mode", list(MODES)[1:])
@pytest.mark.parametrize("maker", MAKERS)
def test_episodes_are_those_of_whole_steps(maker: str, mode: str) -> None:
    assert can_step_in_parts(MAKERS[maker]())
    want = played(MAKERS[maker], drawn, **MODES["inline"])
    assert played(MAKERS[maker], drawn, **MODES[mode]) == want
    assert {t.error for e in want for t in e.turns} > {None}


@pytest.mark.parametrize("mode", ["inline", "threads", "lockstep"])
def test_calls_that_are_late_are_given_up_and_their_session_too(mode: str) -> None:
    GO.clear()
    (episode,) = played(shop, late, 1, **MODES[mode])
    GO.set()
    made = [[(c.result, c.error) for c in t.tool_calls] for t in episode.turns[:4]]
    gone = "look timed out after 1 s"
    assert made[0] == [("", f"{gone}; its session was closed and the next call starts a new one")]
    assert made[1] == [("1 in the cart", None)]
    assert made[2] == [("", "ask timed out after 1 s")]
    assert made[3][::2] == [("it is a", None), ("it is b", None)]
    assert str(made[3][1][1]).startswith(gone)
    assert (episode.stop, episode.success) == (StopReason.TERMINATED, False)


class Noted(ToolEnv):
    """Notes in which thread what is done."""

    def __init__(self, seen: dict[str, set[str]]) -> None:
        self.seen = seen

        def make() -> Cart:
            self.note("session")
            return Cart()

        @tool(timeout=LONG, session=make)
        def walk(cart: Cart) -> str:
            """Walk."""
            self.note("call")
            return "walked"

        def scorer(answer: str, question: Question) -> float:
            self.note("score")
            return 1.0

        super().__init__([walk], {"train": [Question("q")]}, scorer, syntax="tags")

    def note(self, what: str) -> None:
        self.seen.setdefault(what, set()).add(threading.current_thread().name)

    def step_in_parts(self, action: str) -> Waiting[StepResult]:
        self.note("step")
        return (yield from super().step_in_parts(action))


def walk(request: Request) -> str:
    return "<answer>x</answer>" if request.turns else "<walk></walk>"


def test_only_what_may_take_long_runs_in_threads() -> None:
    seen: dict[str, set[str]] = {}
    played(lambda: Noted(seen), walk)
    main = threading.current_thread().name
    assert seen == {"step": {main}, "session": {"agentgym-tool"}, "call": {"agentgym-tool"}, "score": {"agentgym-tool"}}


def test_a_step_that_is_written_as_a_whole_is_taken_so() -> None:
    class Doubled(ToolEnv):
        def step(self, action: str) -> StepResult:
            names.add(threading.current_thread().name)
            observation, reward, *rest = super().step(action)
            return (observation, 2 * reward, *rest)  # type: ignore[return-value]

    class Tripled(Doubled):
        def step_in_parts(self, action: str) -> Waiting[StepResult]:
            observation, reward, *rest = yield from super().step_in_parts(action)
            return (observation, 3 * reward, *rest)  # type: ignore[return-value]

        def step(self, action: str) -> StepResult:
            return finish(self.step_in_parts(action))

    class Other(gym.Wrapper[str, str, str, str]):
        def step(self, action: str) -> Any:
            observation, reward, *rest = self.env.step(action)
            return (observation, float(reward) + 1, *rest)

    def make(kind: type[ToolEnv]) -> ToolEnv:
        return kind([put], {"train": [Question("q")]}, lambda answer, question: 1.0, syntax="tags")

    names: set[str] = set()
    for env, whole, reward in (
        (lambda: make(ToolEnv), False, 1.0),
        (lambda: make(Doubled), True, 2.0),
        (lambda: make(Tripled), False, 3.0),
        (lambda: Other(make(ToolEnv)), True, 2.0),
        (lambda: ReplayWrapper(Other(make(Doubled))), True, 3.0),
    ):
        assert can_step_in_parts(env()) != whole
        assert {e.reward for e in played(env, lambda request: "<answer>x</answer>")} == {reward}
    assert names == {"agentgym-env"}
    one = make(ToolEnv)
    one.step = one.step  # type: ignore[method-assign]
    assert not can_step_in_parts(one)


def test_environments_made_by_name_are_stepped_in_parts() -> None:
    env = agentgym.make("agentgym/Search-v0")
    assert can_step_in_parts(env)
    assert not can_step_in_parts(agentgym.make("agentgym/Household-v0"))


def test_no_more_calls_than_threads() -> None:
    lock, now, most = threading.Lock(), 0, 0

    @tool(timeout=LONG)
    def count() -> str:
        """Count those that are here."""
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1
        return "counted"

    def act(request: Request) -> str:
        return "<count></count>" if len(request.turns) < 3 else "<answer>x</answer>"

    episodes = played(lambda: shop((count,), lambda answer, question: 1.0), act, threads=2)
    assert [len(e.turns) for e in episodes] == [4] * 12
    assert most == 2


@pytest.mark.parametrize("threads", [1, 6])
def test_a_step_that_waits_for_others_uses_no_time(threads: int) -> None:
    @tool(timeout=LONG)
    def nap() -> str:
        """Sleep."""
        time.sleep(0.2)
        return "slept"

    env: Callable[[], Any] = lambda: shop((nap,), lambda answer, question: 1.0)  # noqa: E731
    act = lambda request: "<answer>x</answer>" if request.turns else "<nap></nap>"  # noqa: E731
    episodes = played(env, act, threads=threads, step_seconds=2.0)  # one after the other they take 2.4 s
    assert [e.failure for e in episodes] == [None] * 12


class Hanging:
    """Makes environments with a tool that hangs ``here`` until ``go``; knows which of them were closed."""

    def __init__(self, **how: Any) -> None:
        self.go, self.closed = threading.Event(), dict[int, ToolEnv]()  # kept, so that no id comes twice

        @tool(**how)
        def hang(where: str) -> str:
            """Hang.

            Args:
                where: "here" does.
            """
            if where == "here":
                self.go.wait(LONG)
            return "done"

        self.tool = hang

    def make(self) -> ToolEnv:
        closed = self.closed

        class Closing(ToolEnv):
            def close(self) -> None:
                closed[id(self)] = self
                super().close()

        return Closing([self.tool], {"train": [Question("q")]}, lambda answer, question: 1.0, syntax="tags")

    def wait_until_closed(self, count: int) -> None:
        deadline = time.monotonic() + LONG
        while len(self.closed) < count and time.monotonic() < deadline:
            time.sleep(0.01)


@pytest.mark.parametrize("lockstep", [False, True])
def test_a_call_that_hangs_is_ended_by_the_limit_of_the_step(lockstep: bool) -> None:
    shop = Hanging(parallel=True)

    def act(request: Request) -> str:
        where = "here" if request.episode == "02/0" else "there"
        return "<answer>x</answer>" if request.turns else f"<hang>{where}</hang><hang>there</hang>"

    episodes = played(shop.make, act, 6, step_seconds=0.4, lockstep=lockstep, threads=2)
    bad = episodes.pop(2)
    assert (bad.stop, bad.success) == (StopReason.ACTION_ERROR, False)
    assert bad.failure == "step took longer than 0.4 seconds (step_seconds); it was left behind"
    assert [(e.reward, e.failure) for e in episodes] == [(1.0, None)] * 5
    shop.go.set()
    shop.wait_until_closed(2)
    assert len(shop.closed) >= 2  # the one that was left behind, too


def test_closing_waits_for_calls_a_little_and_then_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "CLOSE_SECONDS", 0.3)
    shop = Hanging(timeout=LONG)

    def act(request: Request) -> str:
        return "<answer>x</answer>" if request.episode == "0/0" else "<hang>here</hang>"

    with Rollout(shop.make, ScriptedPolicy(act), max_concurrent_episodes=2) as rollout:
        assert next(rollout.play(Group(str(n), Task(n)) for n in range(2))).id == "0/0"
    shop.wait_until_closed(2)
    assert len(shop.closed) == 2
    shop.go.set()


def test_an_interrupt_of_a_tools_own_is_one_failed_episode() -> None:
    def act(request: Request) -> str:
        bad = request.episode == "02/0" and not request.turns
        return "<put>interrupt</put>" if bad else "<answer>x</answer>"

    episodes = played(shop, act, 6)
    assert episodes[2].stop is StopReason.ACTION_ERROR
    assert str(episodes[2].failure).startswith("KeyboardInterrupt")
    assert [e.failure for e in episodes[:2] + episodes[3:]] == [None] * 5


def test_the_users_interrupt_ends_the_rollout() -> None:
    class Interrupted(ToolEnv):
        def step_in_parts(self, action: str) -> Waiting[StepResult]:
            raise KeyboardInterrupt
            yield

    def make() -> Any:
        return Interrupted([put], {"train": [Question("q")]}, lambda answer, question: 1.0)

    with pytest.raises(KeyboardInterrupt):
        played(make, lambda request: "x", 1)


class Raising(ToolEnv):
    def step_in_parts(self, action: str) -> Waiting[StepResult]:
        if self.turn == 1:
            raise {"system": SystemExit(2), "error": RuntimeError("boom")}[action]
        return (yield from super().step_in_parts("<put>a</put>"))


@pytest.mark.parametrize(("action", "failure"), [("system", "SystemExit: 2"), ("error", "RuntimeError: boom")])
@pytest.mark.parametrize("lockstep", [False, True])
def test_a_step_that_raises_is_one_failed_episode(action: str, failure: str, lockstep: bool) -> None:
    def make() -> Any:
        return Raising([put], {"train": [Question("q")]}, score, syntax="tags")

    episodes = played(make, lambda request: action, 3, lockstep=lockstep)
    assert [(e.stop, e.failure, len(e.turns)) for e in episodes] == [(StopReason.ACTION_ERROR, failure, 2)] * 3


class Unstartable(Execution):
    def start(self, done: Callable[[], object]) -> None:
        raise RuntimeError("can't start new thread")


class Stubborn(Unstartable):
    def give_up(self) -> None:
        raise RuntimeError("no")


@pytest.mark.parametrize("mode", ["threads", "lockstep"])
@pytest.mark.parametrize(
    ("waited", "failure"),
    [
        (None, "a step in parts must yield a sequence of jobs, got None"),
        (5, "a step in parts must yield a sequence of jobs, got 5"),
        ("abc", "a step in parts must yield a sequence of jobs, got 'abc'"),
        ([5], "a step in parts must yield jobs (agentgym.waiting.Job), got 5"),
        ([Unstartable(list)], "RuntimeError: can't start new thread"),
        ([Execution(list), Stubborn(list)], "RuntimeError: can't start new thread"),
    ],
)
def test_a_step_that_waits_for_nonsense_is_one_failed_episode(waited: Any, failure: str, mode: str) -> None:
    class Odd(ToolEnv):
        def step_in_parts(self, action: str) -> Waiting[StepResult]:
            if action == "odd":
                yield waited
            return (yield from super().step_in_parts("<put>a</put>"))

    def make() -> Any:
        return Odd([put], {"train": [Question("q")]}, score, syntax="tags", max_turns=2)

    def act(request: Request) -> str:
        return "odd" if request.turns and request.episode == "01/0" else "x"

    episodes = played(make, act, 3, **MODES[mode])
    assert [(e.stop, e.failure) for e in episodes if e.failure] == [(StopReason.ACTION_ERROR, failure)]
    assert [len(e.turns) for e in episodes] == [2] * 3


@pytest.mark.parametrize("lockstep", [False, True])
def test_a_step_in_parts_that_is_no_generator_is_a_failure(lockstep: bool) -> None:
    class Whole(ToolEnv):
        def step_in_parts(self, action: str) -> Any:
            return "done", 1.0, True, False, {}

    def make() -> Any:
        return Whole([put], {"train": [Question("q")]}, score, syntax="tags")

    episodes = played(make, lambda request: "x", 3, lockstep=lockstep)
    assert [e.stop for e in episodes] == [StopReason.ACTION_ERROR] * 3


# How often garbage is looked for --------------------------------------------------------------------------------------


@pytest.fixture
def thresholds() -> Iterator[tuple[int, int, int]]:
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)


def test_garbage_is_looked_for_less_often_while_episodes_are_played(thresholds: tuple[int, int, int]) -> None:
    seen: list[int] = []

    class Looking(ScriptedPolicy):
        def submit(self, request: Request) -> Reply:
            seen.append(gc.get_threshold()[0])
            return super().submit(request)

    for mine, want in ((700, garbage.OBJECTS), (20_000, 20_000), (0, 0)):
        gc.set_threshold(mine, 10, 10)
        with Rollout(shop, Looking(lambda request: "<answer>x</answer>")) as rollout:
            list(rollout.play([Group("g", Task(0))]))
        assert seen.pop() == want
        assert gc.get_threshold() == (mine, 10, 10)
