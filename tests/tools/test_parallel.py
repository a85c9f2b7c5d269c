"""Calls of one turn that run side by side: where the tools say so, and with the same records as one after the other."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agentgym.budget import Budget, BudgetedEnv
from agentgym.envs.tool_env import Question, ToolEnv
from agentgym.errors import ToolError, WorldFault
from agentgym.records import ToolCall
from agentgym.tools.tool import Tool, tool
from agentgym.tools.toolbox import Toolbox

LONG = 30  # seconds; nobody waits so long unless the test fails


class World:
    """Tools that log what they do, and wait for each other."""

    def __init__(self, together: int = 1) -> None:
        self.log: list[str] = []
        self.barrier = threading.Barrier(together)
        self.late = threading.Event()

    def tools(self, *, parallel: bool = True, timeout: float | None = None) -> list[Tool]:
        def meet(name: str) -> str:
            """Wait for the others.

            Args:
                name: who.
            """
            self.log.append(f"begin {name}")
            self.barrier.wait(LONG)
            self.log.append(f"end {name}")
            if name == "bad":
                raise ToolError("no luck")
            if name == "fault":
                raise WorldFault("the world broke")
            if name == "slow":
                self.late.wait(LONG)
            return f"met {name} in {threading.current_thread() is threading.main_thread()}"

        def plain(name: str) -> str:
            """Do it.

            Args:
                name: who.
            """
            self.log.append(f"plain {name}")
            return name

        return [tool(meet, parallel=parallel, timeout=timeout, price=0.5), tool(plain)]


def calls(*names: str) -> list[tuple[str, object]]:
    return [(name.split()[0], {"name": name.split()[1]}) for name in names]


def test_calls_of_a_parallel_tool_run_at_the_same_time() -> None:
    world = World(together=3)
    box = Toolbox(world.tools())
    made = box.call_all(calls("meet a", "meet b", "meet c"))  # each waits until all three run
    assert [c.result for c in made] == [f"met {n} in False" for n in "abc"]
    assert [c.arguments for c in made] == [{"name": n} for n in "abc"]
    assert (box.ran, box.cost, box.tally["meet"].calls) == (3, 1.5, 3)
    assert all(c.seconds > 0 for c in made)


def test_without_the_promise_they_run_one_after_the_other() -> None:
    world = World()
    box = Toolbox(world.tools(parallel=False))
    assert [c.result for c in box.call_all(calls("meet a", "meet b"))] == ["met a in True", "met b in True"]
    assert world.log == ["begin a", "end a", "begin b", "end b"]
    assert not box.tools[0].waits
    assert tool(box.tools[0].function, parallel=True).waits


def test_one_alone_needs_no_thread() -> None:
    assert Toolbox(World().tools()).call("meet", {"name": "a"}).result == "met a in True"
    made = Toolbox(World().tools()).call_all(calls("meet a", "plain b", "meet c"))
    assert [c.result for c in made] == ["met a in True", "b", "met c in True"]


def test_records_are_in_the_order_of_the_calls_whoever_is_first() -> None:
    ended: list[int] = []
    turn = [threading.Event() for _ in range(5)]

    @tool(parallel=True)
    def backwards(place: int) -> int:
        """End in the opposite order.

        Args:
            place: which.
        """
        if place < 4:
            turn[place + 1].wait(LONG)
        ended.append(place)
        turn[place].set()
        return place

    made = Toolbox([backwards]).call_all([("backwards", {"place": place}) for place in range(5)])
    assert ended == [4, 3, 2, 1, 0]
    assert [c.result for c in made] == ["0", "1", "2", "3", "4"]


def test_others_wait_for_them_and_they_for_others() -> None:
    world = World(together=2)
    box = Toolbox(world.tools())
    made = box.call_all(calls("plain a", "meet b", "nothing x", "meet c", "plain d", "meet e", "meet f"))
    assert [c.name for c in made] == ["plain", "meet", "nothing", "meet", "plain", "meet", "meet"]
    assert made[2].status == "malformed"
    begun = [line for line in world.log if not line.startswith("end")]
    assert (begun[0], begun[3]) == ("plain a", "plain d")
    assert sorted(begun[1:3]) == ["begin b", "begin c"]
    assert sorted(begun[4:]) == ["begin e", "begin f"]


def test_the_gate_is_asked_in_order_and_before_any_of_them_runs() -> None:
    world = World(together=2)
    asked: list[str] = []

    def gate(call: ToolCall) -> str | None:
        world.log.append(f"ask {call.arguments['name']}")
        asked.append(call.name)
        return "the budget is used up" if len(asked) in (2, 5) else None

    made = Toolbox(world.tools()).call_all(calls("meet a", "meet b", "meet c", "plain d", "plain e"), gate=gate)
    assert [c.status for c in made] == ["ran", "refused", "ran", "ran", "refused"]
    assert [c.cost for c in made] == [0.5, 0.0, 0.5, 0.0, 0.0]
    assert world.log[:3] == ["ask a", "ask b", "ask c"]
    assert world.log[-3:] == ["ask d", "plain d", "ask e"]


def test_one_that_fails_leaves_the_others_alone() -> None:
    world = World(together=3)
    box = Toolbox(world.tools(timeout=1.0))
    made = box.call_all(calls("meet a", "meet bad", "meet slow"))
    world.late.set()
    assert [(c.result, c.error) for c in made] == [
        ("met a in False", None),
        ("", "no luck"),
        ("", "meet timed out after 1 s"),
    ]
    assert (box.tally["meet"].calls, box.tally["meet"].errors) == (3, 2)


def test_a_broken_world_is_no_result() -> None:
    with pytest.raises(WorldFault, match="the world broke"):
        Toolbox(World(together=2).tools()).call_all(calls("meet a", "meet fault"))


def test_coroutines_run_side_by_side() -> None:
    met: list[int] = []

    @tool(parallel=True, timeout=LONG)
    async def meet(place: int) -> int:
        """Wait for the others.

        Args:
            place: which.
        """
        met.append(place)
        while len(met) < 3:
            await asyncio.sleep(0.001)
        return place

    made = Toolbox([meet]).call_all([("meet", {"place": place}) for place in range(3)])
    assert [c.result for c in made] == ["0", "1", "2"]


class Shelf:
    """A session that several calls may use at once."""

    def __init__(self) -> None:
        self.lock, self.books = threading.Lock(), set[str]()
        self.barrier = threading.Barrier(2)

    def fork(self) -> Shelf:
        return Shelf()


@tool(session=Shelf, parallel=True)
def shelve(shelf: Shelf, book: str) -> str:
    """Put a book on the shelf.

    Args:
        book: which.
    """
    shelf.barrier.wait(LONG)
    with shelf.lock:
        shelf.books.add(book)
    return f"{book} is on the shelf"


def test_they_may_share_a_session() -> None:
    box = Toolbox([shelve])
    made = box.call_all([("shelve", {"book": "a"}), ("shelve", {"book": "b"})])
    assert [c.error for c in made] == [None, None]
    assert box.session(Shelf).books == {"a", "b"}


# --- in an environment --------------------------------------------------------------------------------------------


def square_env(parallel: bool) -> ToolEnv:
    def square(number: int) -> int:
        """Square a number.

        Args:
            number: which; 13 fails.
        """
        if number == 13:
            raise ToolError("unlucky")
        return number * number

    tasks = {"train": [Question("Squares?", ["done"])]}
    return ToolEnv([tool(square, parallel=parallel)], tasks, lambda a, q: a in q.answers, syntax="tags")


@pytest.mark.parametrize("budget", [Budget(), Budget(tool_calls=3), Budget(tool_calls=3, cost=0)])
def test_episodes_are_those_of_calls_one_after_the_other(budget: Budget) -> None:
    def play(parallel: bool) -> list[Any]:
        env = BudgetedEnv(square_env(parallel), budget)
        seen: list[Any] = [env.reset(seed=0)]
        for numbers in ((3, 13, 2), ("x", 4, 5), (1,)):
            seen.append(env.step("".join(f"<square>{n}</square>" for n in numbers)))
        return [*seen, env.spent.tool_calls, env.spent.refused, env.left]

    one, other = play(True), play(False)
    assert one == other
    if budget.tool_calls == 3:
        statuses = [[c.status for c in step[4]["tool_calls"]] for step in one[1:4]]
        assert statuses == [["ran"] * 3, ["malformed", "refused", "refused"], ["refused"]]
