"""What is said of episodes that ended in an error, and that success stays the truth where worlds or agents fail."""

from __future__ import annotations

from typing import Any

import pytest

from agentgym import keyed_random
from agentgym.env import TextEnv
from agentgym.errors import WorldFault
from agentgym.evaluate import Row, evaluate, result
from agentgym.failures import Failures
from agentgym.policy import ScriptedPolicy
from agentgym.records import Episode, StopReason, Task, Turn

TASKS = 400


class Guess(TextEnv):
    """Guess the coin, in 1 to 3 turns; how and when it breaks is for the subclasses to say."""

    faults = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.seed, self.turn = seed or 0, 0
        self.key = keyed_random.key("coin", self.seed)
        return "which?", {"task_id": f"coin/{self.seed}", "anchor": f"{self.seed}/0"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        done = self.turn > keyed_random.choice((0, 1, 2), self.key, "turns")
        right = done and action == "heads"
        self.may_break(right, done)
        info: dict[str, Any] = {"task_id": f"coin/{self.seed}", "anchor": f"{self.seed}/{self.turn}"}
        return "", float(right), done, False, info | ({"success": right} if done else {})

    def may_break(self, right: bool, done: bool) -> None:
        """Never."""


class Unlucky(Guess):
    """30 % of all episodes meet a broken world, when they are played again as well."""

    def may_break(self, right: bool, done: bool) -> None:
        type(self).faults += 1
        if done and keyed_random.uniform(keyed_random.key("world", type(self).faults), "breaks") < 0.3:
            raise WorldFault("the server is gone")


class Doomed(Guess):
    """30 % of the tasks cannot be played in this world, however often they are tried."""

    def may_break(self, right: bool, done: bool) -> None:
        if done and keyed_random.uniform(self.key, "doomed") < 0.3:
            raise WorldFault("the server is gone")


class Provoked(Guess):
    """Nine of ten wrong answers raise: an agent would look perfect if these were left out."""

    def may_break(self, right: bool, done: bool) -> None:
        if done and not right and keyed_random.uniform(self.key, "raises") < 0.9:
            raise ZeroDivisionError("Fraction(5, 0)")


def toss(request: Any) -> str:
    return "heads" if keyed_random.uniform(request.key, "toss") < 0.67 else "tails"


def played(make: type[Guess]) -> Row:
    return evaluate(make, ScriptedPolicy(toss), tasks=range(TASKS)).rows[0]


@pytest.fixture(scope="module")
def truth() -> float:
    success = played(Guess).success
    assert success is not None
    assert 0.6 < success < 0.75
    return success


def test_success_is_the_truth_where_the_world_fails_at_random(truth: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unlucky, "faults", 0)
    found = played(Unlucky)
    assert 0.05 < found.failures.share < 0.13  # 0.3 of 0.3: each was tried once more
    assert found.interval.low < truth < found.interval.high
    doomed = played(Doomed)
    assert 0.25 < doomed.failures.share < 0.35
    assert doomed.interval.low < truth < doomed.interval.high
    assert doomed.episodes + doomed.failed == TASKS
    assert doomed.failures.action_errors == 0


def test_success_is_the_truth_where_the_agent_breaks_the_world(truth: float) -> None:
    found = played(Provoked)
    assert found.success == truth
    assert (found.episodes, found.failed) == (TASKS, 0)
    assert 0.2 < found.failures.action_errors / TASKS < 0.4
    assert found.stops["action_error"] == found.failures.action_errors
    assert found.means["reward"].mean == truth


def test_a_row_tells_how_many_failed_and_why() -> None:
    (curve,) = result([evaluate(Doomed, ScriptedPolicy(toss), tasks=range(60))], {})["policies"]
    assert curve["rows"][0]["failed"] == curve["rows"][0]["stops"]["world_fault"] > 0
    assert curve["rows"][0]["failure"] == "WorldFault: the server is gone"
    assert (curve["rows"][0]["action_errors"], curve["rows"][0]["action_error"]) == (0, None)
    (curve,) = result([evaluate(Provoked, ScriptedPolicy(toss), tasks=range(60))], {})["policies"]
    assert (curve["rows"][0]["failed"], curve["rows"][0]["failure"]) == (0, None)
    assert curve["rows"][0]["action_error"] == "ZeroDivisionError: Fraction(5, 0)"


# In words -------------------------------------------------------------------------------------------------------------


def episodes(world: int = 0, policy: int = 0, action: int = 0, well: int = 0) -> list[Episode]:
    kinds = [
        *[(StopReason.TERMINATED, None)] * well,
        *[(StopReason.WORLD_FAULT, "OSError:\n no  door")] * world,
        *[(StopReason.POLICY_ERROR, "PolicyError: no answer")] * policy,
        *[(StopReason.ACTION_ERROR, "ValueError: " + "x" * 300)] * action,
    ]
    return [Episode(f"{i}", "e", Task(i), (Turn("", ""),), stop, failure=why) for i, (stop, why) in enumerate(kinds)]


def test_nothing_is_said_where_nothing_went_wrong() -> None:
    assert Failures.of(episodes(well=3)).lines() == []
    assert Failures.of([]).lines() == []
    assert Failures.of([]).share == 0.0


def test_each_kind_is_counted_with_its_first_reason() -> None:
    found = Failures.of(episodes(world=2, policy=1, action=4, well=93))
    assert found[:4] == (100, 3, "OSError: no door", 4)
    assert found.lines() == [
        "3 of 100 episodes failed in the world or the policy and are left out; the first: OSError: no door",
        f"4 of 100 episodes broke the environment by an action and count as failures; the first: {found.action_error}",
    ]
    assert found.action_error == ("ValueError: " + "x" * 300)[:200] + "..."
    assert found.as_dict() == {
        "failed": 3, "failure": "OSError: no door", "action_errors": 4, "action_error": found.action_error
    }  # fmt: skip


@pytest.mark.parametrize(("failed", "warned"), [(5, False), (6, True)])
def test_above_five_percent_is_a_warning(failed: int, warned: bool) -> None:
    (line,) = Failures.of(episodes(policy=failed, well=100 - failed)).lines()
    assert line.startswith("warning, more than 5 %: ") is warned


@pytest.mark.parametrize("kinds", [{"world": 2}, {"action": 2}, {"policy": 1, "action": 1}])
def test_where_all_ended_in_errors_nothing_is_known(kinds: dict[str, int]) -> None:
    found = Failures.of(episodes(**kinds))
    assert found.all_ended_in_errors
    assert found.lines()[-1] == "every episode ended in an error, so nothing is known about the policy"
    assert not Failures.of(episodes(**kinds, well=1)).all_ended_in_errors
    assert not Failures.of([]).all_ended_in_errors


def test_the_sum_of_parts_keeps_the_first_reasons() -> None:
    parts = [Failures.of(episodes(well=2)), Failures(3, 1, "a", 1, "b"), Failures(3, 1, "c", 2, "d")]
    assert Failures.together(parts) == Failures(8, 2, "a", 3, "b")
    assert Failures.together([]) == Failures()
