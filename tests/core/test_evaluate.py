"""Intervals, figures and sweeps: against scipy, against hand-computed values, and against being killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate
from scipy import stats as scipy_stats

from agentgym import TextEnv
from agentgym.budget import UNLIMITED, Budget, parse_budgets
from agentgym.errors import PolicyError, StoreError, UsageError, WorldFault
from agentgym.evaluate import (
    Curve,
    SweepFolder,
    area,
    calls_of,
    compare,
    evaluate,
    mean_intervals,
    paired,
    result,
    row,
    success_plot,
    tasks_of,
    timing,
    wilson,
)
from agentgym.evaluate.intervals import smallest_sufficient
from agentgym.policy import ScriptedPolicy
from agentgym.records import Episode, StopReason, Task, ToolCall, Turn, Usage
from agentgym.rollout import Group
from agentgym.store import read_episodes

# Statistics -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95]))
def test_wilson_is_scipys(counts: tuple[int, int], confidence: float) -> None:
    expected = scipy_stats.binomtest(*counts).proportion_ci(confidence, method="wilson")
    assert wilson(*counts, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_by_hand() -> None:
    # p = .5, n = 4, z = 1.959964: (.5 + z²/8 ± z √(.25/4 + z²/64)) / (1 + z²/4)
    assert wilson(2, 4) == pytest.approx((0.150039, 0.849961), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


def test_bootstrap_of_means_is_scipys() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=(60, 2))
    mine = mean_intervals(values, resamples=20_000)
    for column, interval in zip(values.T, mine, strict=True):
        theirs = scipy_stats.bootstrap((column,), np.mean, n_resamples=20_000, method="percentile", rng=2)
        assert interval == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)


def test_a_resample_takes_whole_rows() -> None:
    """Where the columns of a row add up to 1 their means do: each interval is the other one's mirror image."""
    first = np.random.default_rng(3).random(40)
    one, other = mean_intervals(np.column_stack([first, 1.0 - first]))
    assert (1.0 - other.high, 1.0 - other.low) == pytest.approx(tuple(one), abs=1e-12)


def test_batches_do_not_change_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(20.0)[:, None]
    whole = mean_intervals(values, resamples=1001)
    monkeypatch.setattr("agentgym.evaluate.intervals._CHUNK", 64)
    assert mean_intervals(values, resamples=1001)[0] == pytest.approx(tuple(whole[0]), abs=1.0)
    assert paired([1.0], [0.5])[:3] == (0.5, 0.5, 0.5)


def test_a_constant_has_no_spread() -> None:
    assert mean_intervals([[0.1, 3.0]] * 7) == [(0.1, 0.1), (3.0, 3.0)]
    assert all(math.isnan(bound) for bound in mean_intervals(np.empty((0, 1)))[0])


def test_paired_bootstrap() -> None:
    rng = np.random.default_rng(5)
    b = rng.normal(size=80)
    a = b + rng.normal(0.25, 1.0, size=80)
    found = paired(a, b)
    difference = a - b
    theirs = scipy_stats.bootstrap((difference,), np.mean, n_resamples=20_000, method="percentile", rng=3)
    assert found.mean == pytest.approx(difference.mean())
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)
    # Far from the tails the resampled null agrees with the t test.
    assert found.p == pytest.approx(scipy_stats.ttest_rel(a, b).pvalue, abs=0.015)
    assert found.pairs == 80
    assert paired(b, a).mean == -found.mean
    assert paired(a, b) == found  # the same draws every time


def test_no_difference_is_certain() -> None:
    same = paired([1, 0, 1, 1], [1, 0, 1, 1])
    assert same == (0.0, 0.0, 0.0, 1.0, 4)
    assert paired([], []).pairs == 0


@given(st.lists(st.tuples(st.integers(0, 64), st.floats(0, 1)), min_size=2, max_size=8, unique_by=lambda p: p[0]))
def test_area_is_the_trapezoid(points: list[tuple[int, float]]) -> None:
    budgets, successes = zip(*points, strict=True)
    xs = np.log2(1 + np.sort(budgets))
    ys = [success for _, success in sorted(points)]
    assert area(budgets, successes) == pytest.approx(integrate.trapezoid(ys, xs))


def test_area_by_hand() -> None:
    # log2(1 + b) = 0, 1, 2 for b = 0, 1, 3: (0 + .5)/2 + (.5 + 1)/2
    assert area([3, 0, 1], [1.0, 0.0, 0.5]) == pytest.approx(1.0)
    assert area([4], [1.0]) is None


def test_the_smallest_sufficient_budget() -> None:
    assert smallest_sufficient([8, 4, 2], [0.8, 0.76, 0.7], unlimited=0.8) == 4
    assert smallest_sufficient([2], [0.7], unlimited=0.8) is None
    assert smallest_sufficient([0, 2], [0.0, 0.0], unlimited=0.0) is None


# Figures of records ---------------------------------------------------------------------------------------------------


USAGE = Usage(100, 10, 0.5, model_seconds=2.0, tool_seconds=1.0)


def calls(*texts: str) -> tuple[ToolCall, ...]:
    """``search:fox`` ran, ``search:fox!`` failed, ``search:fox-`` was refused, ``search:fox?`` was malformed."""
    made = []
    for text in texts:
        error = {"!": "no such page", "-": "refused: the budget is used up", "?": "what?"}.get(text[-1])
        status: Any = {"-": "refused", "?": "malformed"}.get(text[-1], "ran")
        name, _, query = text.rstrip("!-?").partition(":")
        made.append(ToolCall(name, {"query": query}, error=error, cost=0.0 if error else 0.25, status=status))
    return tuple(made)


def episode(number: int, success: bool | None, *turns: tuple[ToolCall, ...], **kwargs: Any) -> Episode:
    stop = kwargs.pop("stop", StopReason.TERMINATED)
    played = tuple(Turn("o", "a", 0.5, tool_calls=made, usage=USAGE) for made in turns)
    return Episode(f"{number}/0", "e", Task(number), played, stop, success=success, group=str(number), **kwargs)


FOUR = [
    episode(0, True, calls("search:a", "search:b"), calls("search:a"), ()),
    episode(1, True, calls("search:a!", "search:a", "open:a"), ()),
    episode(2, False, calls("search:c"), calls("search:c-", "search:d-"), calls("search:c?")),
    replace(episode(3, None, (), stop=StopReason.BUDGET), turns=(Turn("o", "a", usage=USAGE),)),
]
BROKEN = episode(4, True, calls("search:x"), stop=StopReason.WORLD_FAULT, failure="OSError: gone")


def test_calls_are_counted_once_each() -> None:
    assert calls_of(FOUR[0]) == (3, 0, 1, 0, 0, 0.75)
    assert calls_of(FOUR[1]) == (3, 1, 0, 0, 0, 0.5)  # asking again after an error is no waste
    assert calls_of(FOUR[2]) == (1, 0, 0, 2, 1, 0.25)
    again = replace(FOUR[0], turns=(replace(FOUR[0].turns[0], tool_calls=calls("search:a", "search:a!", "search:a!")),))
    assert calls_of(again) == (3, 2, 0, 0, 0, 0.25)  # a failed repeat is wasted once


def test_what_the_environment_does_not_call_is_solved_by_reward() -> None:
    assert [episode(0, success, ()).solved for success in (True, False, None)] == [True, False, True]
    assert not FOUR[3].solved


def test_an_episode_that_was_cut_off_is_not_solved_by_reward() -> None:
    for stop in (StopReason.TURN_LIMIT, StopReason.BUDGET, StopReason.CONTEXT_FULL, StopReason.POLICY_STOPPED):
        cut = replace(episode(0, None, ()), stop=stop)
        assert cut.reward > 0
        assert not cut.solved
        assert replace(cut, success=True).solved


def test_the_figures_of_a_row() -> None:
    found = row(Budget(tool_calls=3), [*FOUR, BROKEN])
    assert (found.episodes, found.failed, found.successes, found.success) == (4, 1, 2, 0.5)
    assert found.interval == wilson(2, 4)
    assert found.means["calls"].mean == 7 / 4
    assert found.means["turns"].mean == 9 / 4
    assert found.means["tokens"].mean == 90 / 4
    assert found.means["prompt_tokens"].mean == 900 / 4
    assert found.means["reward"].mean == 4.0 / 4
    assert found.means["cost"].mean == (9 * 0.5 + 1.5) / 4
    assert found.clocks["seconds"].mean == 27 / 4
    assert (found.errors, found.repeats, found.wasted, found.refused, found.malformed) == (1, 1, 2, 2, 1)
    assert found.productivity == 2 / 7
    assert found.cost_of_pass == pytest.approx((6.0 / 4) / 0.5)
    assert found.stops == {"budget": 1, "terminated": 3, "world_fault": 1}
    low, high = found.means["calls"][1:]
    assert 0.0 <= low < 7 / 4 < high <= 3.0
    assert "seconds" not in found.as_dict()


def test_the_order_of_episodes_does_not_matter() -> None:
    assert row(UNLIMITED, FOUR) == row(UNLIMITED, FOUR[::-1])


def test_nothing_solved_and_nothing_played() -> None:
    found = row(UNLIMITED, [FOUR[3]])
    assert (found.productivity, found.cost_of_pass) == (None, None)
    empty = row(UNLIMITED, [BROKEN])
    assert (empty.success, empty.interval, empty.means["calls"].mean) == (
        None,
        (0.0, 1.0),
        pytest.approx(math.nan, nan_ok=True),
    )
    assert json.loads(json.dumps(empty.as_dict(), allow_nan=False))["calls"] == {
        "mean": None,
        "low": None,
        "high": None,
    }


def curve(name: str, successes: dict[str, list[bool]]) -> Curve:
    played = {Budget.parse(b): tuple(episode(i, s, ()) for i, s in enumerate(marks)) for b, marks in successes.items()}
    return Curve(name, tuple(row(b, e) for b, e in played.items()), tuple(played.values()))


def test_the_figures_of_a_curve() -> None:
    found = curve("p", {"inf": [True] * 4, "3": [True] * 4, "0": [False] * 4, "1": [True, True, False, False]})
    assert (found.limit, found.sufficient) == ("tool_calls", 3)
    assert found.area == pytest.approx(1.0)
    assert found.greatest_area == pytest.approx(2.0)
    mixed = curve("p", {"2": [True], "turns=2": [True]})
    assert (mixed.limit, mixed.area, mixed.sufficient) == (None, None, None)


def test_two_policies_are_compared_task_by_task() -> None:
    first = curve("a", {"1": [True, True, False], "inf": [True, True, True]})
    second = curve("b", {"inf": [False, True, True], "4": [True]})
    (only,) = compare(first, second)
    assert only.budget == UNLIMITED
    assert only.success == paired([1, 1, 1], [0, 1, 1], seed=0)._replace(
        low=only.success.low, high=only.success.high, p=only.success.p
    )
    failed = Curve(
        "b", second.rows, ((replace(second.episodes[0][0], stop=StopReason.POLICY_ERROR), *second.episodes[0][1:]), ())
    )
    assert compare(first, failed)[0].success.mean == 0.0
    assert compare(first, failed)[0].success.pairs == 2


def test_the_plot_shows_every_row_and_trusts_no_name() -> None:
    curves = [curve("<b>&", {"0": [False], "2": [True, False], "inf": [True]}), curve("other", {"0": [True]})]
    text = success_plot(curves, 'a "title" & more')
    assert text is not None
    root = ElementTree.fromstring(text)
    told = [e.text for e in root.iter("{http://www.w3.org/2000/svg}title")]
    assert told[0] == 'a "title" & more'
    assert told[1] == "<b>&, tool_calls=0: 0.0 % (0.0 to 79.3), 1 episodes"
    assert told[3].startswith("<b>&, inf: 100.0 %")
    assert len(told) == 1 + 4
    heights = [float(e.get("cy", "")) for e in root.iter("{http://www.w3.org/2000/svg}circle")]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.11)  # 0, 50, 100 %
    assert success_plot([curve("p", {"inf": [True]})], "") is None
    assert success_plot([curve("p", {"1": [True]}), curve("q", {"turns=1": [True]})], "") is None


# Sweeps ---------------------------------------------------------------------------------------------------------------


class Coin(TextEnv):
    """Solved by ``heads`` after as many turns as the seed's last digit; dies where the seed says so."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.seed, self.turn = seed or 0, 0
        return "toss", self.info()

    def info(self) -> dict[str, Any]:
        return {"task_id": f"coin/{self.seed}", "anchor": f"{self.seed}/{self.turn}", "admissible": ["heads", "tails"]}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        if self.seed == 13:
            raise WorldFault("the coin is gone")
        done = self.turn > self.seed % 5
        return "again", float(done), done, False, self.info() | ({"success": action == "heads"} if done else {})


def toss(request: Any) -> str:
    return "heads" if request.key % 3 else "tails"


BUDGETS = parse_budgets("0,1,2,4,inf", "turns")


def test_a_sweep_plays_the_same_tasks_under_every_budget() -> None:
    seen: list[tuple[str, int]] = []
    found = evaluate(
        Coin,
        ScriptedPolicy(toss),
        tasks=range(10),
        budgets=BUDGETS,
        progress=lambda budget, episodes: seen.append((str(budget), len(episodes))),
    )
    assert [r.budget for r in found.rows] == list(BUDGETS)
    for episodes in found.episodes:
        assert [e.task.seed for e in episodes] == list(range(10))
    # Seeds s with s % 5 < budget are played to their end, two of each; the draws do not depend on the budget.
    assert [r.stops.get("terminated", 0) for r in found.rows] == [0, 2, 4, 8, 10]
    ended = {e.id: e.success for e in found.episodes[-1]}
    for episodes in found.episodes:
        assert all(e.success == ended[e.id] for e in episodes if e.terminated)
    assert [count for budget, count in seen if budget == "inf"] == list(range(11))
    assert found.limit == "turns"


def test_groups_are_played_as_they_are_and_tasks_may_depend_on_how_many_there_are() -> None:
    group = Group("eval.3.0", Task(5))
    (episodes,) = evaluate(Coin, ScriptedPolicy(toss), tasks=[group]).episodes
    assert [(e.id, e.task.seed, e.task.options) for e in episodes] == [("eval.3.0/0", 5, {})]  # no budget, no option
    budgeted = evaluate(Coin, ScriptedPolicy(toss), tasks=[group], budgets=BUDGETS[-2:]).episodes
    assert [[e.task.options for e in row] for row in budgeted] == [[{"budget": "turns=4"}], [{"budget": "inf"}]]

    class Few(Coin):
        num_tasks = 3

    asked: list[int | None] = []
    for world, tasks in ((Coin, [7, 8]), (Few, [7, 8])):
        evaluate(world, ScriptedPolicy(toss), tasks=lambda count, tasks=tasks: asked.append(count) or tasks)
    assert asked == [None, 3]
    assert tasks_of(None, 2, seed=4) == [Task(4), Task(5)]
    assert tasks_of(3, 5) == [Task(n, {"task": n}) for n in range(3)]


def test_a_broken_environment_is_counted_and_left_out() -> None:
    found = evaluate(Coin, ScriptedPolicy(toss), tasks=[12, 13, 14])
    assert (found.rows[0].episodes, found.rows[0].failed) == (2, 1)
    assert found.episodes[0][1].failure == "WorldFault: the coin is gone"


def test_tasks_and_budgets_must_be_possible() -> None:
    with pytest.raises(UsageError, match="no tasks to evaluate on"):
        evaluate(Coin, ScriptedPolicy(toss), tasks=[])
    with pytest.raises(UsageError, match="Coin has no tools"):
        evaluate(Coin, ScriptedPolicy(toss), tasks=[1], budgets=[Budget(tool_calls=1)])


def test_a_continued_sweep_plays_only_what_is_missing(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "s", {"env": "coin"})
    whole = evaluate(Coin, ScriptedPolicy(toss), tasks=range(6), budgets=BUDGETS)
    evaluate(Coin, ScriptedPolicy(toss), tasks=range(4), budgets=BUDGETS[:2], folder=folder)
    asked: list[str] = []

    def act(request: Any) -> str:
        asked.append(request.episode)
        return toss(request)

    again = SweepFolder(tmp_path / "s", {"env": "coin"})
    found = evaluate(Coin, ScriptedPolicy(act), tasks=range(6), budgets=BUDGETS[:2], folder=again)
    assert set(asked) == {"00004.4/0", "00005.5/0"}
    found = evaluate(Coin, ScriptedPolicy(act), tasks=range(6), budgets=BUDGETS, folder=again)
    assert result([found], {}) == result([whole], {})
    assert found == whole


def test_failed_episodes_are_played_again(tmp_path: Path) -> None:
    def fails(request: Any) -> str:
        raise PolicyError("the server is down")

    folder = SweepFolder(tmp_path / "s", {})
    assert evaluate(Coin, ScriptedPolicy(fails), tasks=range(3), folder=folder).rows[0].failed == 3
    assert evaluate(Coin, ScriptedPolicy(toss), tasks=range(3), folder=folder).rows[0].failed == 0
    assert [e.failed for e in folder.kept("policy", UNLIMITED).values()] == [False] * 3


def test_a_folder_belongs_to_one_sweep(tmp_path: Path) -> None:
    SweepFolder(tmp_path / "s", {"env": "coin", "seed": 0}).writer("policy", UNLIMITED).close()
    with pytest.raises(StoreError, match=r"s holds results with seed=0, not 1; choose another folder"):
        SweepFolder(tmp_path / "s", {"env": "coin", "seed": 1})
    with pytest.raises(StoreError, match="exists and is not a run folder"):
        SweepFolder(tmp_path, {})
    folder = SweepFolder(tmp_path / "s", {"env": "coin", "seed": 0})
    assert folder.file("../../x y", BUDGETS[0]).parent == tmp_path / "s"
    assert folder.file("a b", BUDGETS[0]) != folder.file("a-b", BUDGETS[0])


SWEEP = """
import json, sys, time
from agentgym.budget import parse_budgets
from agentgym.evaluate import SweepFolder, evaluate, result
from agentgym.policy import ScriptedPolicy
sys.path.insert(0, sys.argv[1])
from test_evaluate import Coin, toss

def slow(request):
    time.sleep(0.002)
    return toss(request)

folder = SweepFolder(sys.argv[2], {"env": "coin"})
curve = evaluate(
    Coin, ScriptedPolicy(slow), tasks=range(40), budgets=parse_budgets("1,2,4,inf", "turns"),
    max_concurrent_episodes=4, folder=folder,
    progress=lambda b, e: print(len(e), flush=True),
)
folder.write("result.json", result([curve], {"env": "coin"}))
"""


def sweep_until(folder: Path, lines: int | None) -> None:
    """Run the sweep in a process; kill -9 it after so many lines of progress."""
    command = [sys.executable, "-c", SWEEP, str(Path(__file__).parent), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if lines is None:
            process.stdout.read()
        else:
            for _ in range(lines):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == (0 if lines is None else -signal.SIGKILL)


def test_a_sweep_killed_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    sweep_until(tmp_path / "whole", None)
    folder = tmp_path / "killed"
    sweep_until(folder, 15)
    kept = sum(len(SweepFolder(folder, {"env": "coin"}).kept("policy", b)) for b in BUDGETS)
    assert kept >= 14  # of the 15 lines, one was the beginning
    sweep_until(folder, 60)
    assert not (folder / "result.json").exists()
    sweep_until(folder, None)
    assert (folder / "result.json").read_bytes() == (tmp_path / "whole" / "result.json").read_bytes()
    # Nothing that was finished was played twice.
    ids = [(e.task.options["budget"], e.id) for e in read_episodes(folder) if not e.failed]
    assert len(ids) == len(set(ids)) == 4 * 39  # one seed always fails


def test_times_stand_apart() -> None:
    found = evaluate(Coin, ScriptedPolicy(lambda r: time.sleep(0.001) or "heads"), tasks=range(3))
    (clock,) = timing([found])["policies"][0]["rows"]
    assert clock["seconds"]["mean"] >= 0.001
    assert "seconds" not in json.dumps(result([found], {}))
