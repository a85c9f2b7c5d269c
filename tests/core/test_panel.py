"""The panel's arithmetic, by hand, and what a user's own policies are told."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentgym.check import check_env
from agentgym.contract.panel import CHANCE, PANEL, Played, Situation
from agentgym.env import TextEnv
from agentgym.envs.tool_env import Question, ToolEnv
from agentgym.errors import UsageError


def played(right: int, tasks: int = 200) -> Played:
    return Played("x", [1.0] * right + [0.0] * (tasks - right))


def test_wilsons_interval() -> None:
    # z = 3, 5 of 100: middle (0.05 + 9 / 200) / 1.09, half 3 / 1.09 * sqrt(0.05 * 0.95 / 100 + 9 / 40000)
    low, high = played(5, 100).interval
    assert low == pytest.approx(0.095 / 1.09 - 3 / 1.09 * (0.000475 + 0.000225) ** 0.5)
    assert high == pytest.approx(0.095 / 1.09 + 3 / 1.09 * (0.000475 + 0.000225) ** 0.5)
    assert played(0).interval == (0.0, pytest.approx(9 / 209))
    assert Played("x").interval == (0.0, 0.0)


def test_above_means_beyond_both_intervals() -> None:
    nothing, chance = played(0), played(20)
    assert next(right for right in range(40) if played(right).above(nothing)) == 11
    assert next(right for right in range(80) if played(right).above(chance)) == 42
    assert not chance.above(chance)
    assert not nothing.above(chance)


def test_returns_have_the_normal_interval() -> None:
    # mean 1, sample variance 2, n = 4: 1 +- 3 * sqrt(2 / 4)
    two = Played("x", [0.0, 0.0, 2.0, 2.0])
    assert two.interval == (pytest.approx(1 - 3 * (4 / 3 / 4) ** 0.5), pytest.approx(1 + 3 * (4 / 3 / 4) ** 0.5))
    assert Played("y", [0.5] * 4).above(Played("x", [0.25] * 4))
    assert not Played("y", [0.25] * 4).above(Played("x", [0.25] * 4))


class Capitals(ToolEnv):
    """Answers by their first letter: short ones are right too often."""

    def __init__(self, *, split: str = "train", scorer: Any = None) -> None:
        tasks = [Question(f"What is the capital of land {n}?", answers=[f"Town{n}"]) for n in range(60)]
        super().__init__([], tasks, scorer or (lambda answer, question: answer in question.answers), split=split)


def test_a_sound_world_of_questions() -> None:
    report = check_env(Capitals, panel_tasks=30)
    assert report.ok, str(report)
    assert [p.policy for p in report.panel] == [p.__name__ for p in (*CHANCE, *PANEL)]
    assert all(len(p.scores) == 30 and not p.raised and not p.untold for p in report.panel)


@pytest.mark.parametrize(
    ("scorer", "found"),
    [
        (lambda answer, question: float("correct" in answer), "grader_words"),
        (lambda answer, question: float(not answer.strip()), "empty"),
        (lambda answer, question: float(len(answer) > 50_000), "very_long"),
        (lambda answer, question: float(answer == question.text), "question_again"),
        (lambda answer, question: float(answer.count("land") > 0 and " " in answer), "all_candidates"),
        (lambda answer, question: float(bool(re.search("NaN|inf|1e|[/%]", answer))), "odd_numbers"),
        (lambda answer, question: 1.0 if "9" * 60 not in answer else int(answer), "odd_numbers: .* raised"),
    ],
)
def test_holes_in_a_scorer_are_found(scorer: Any, found: str) -> None:
    def world(split: str = "train") -> ToolEnv:
        return Capitals(split=split, scorer=scorer)

    report = check_env(world, panel_tasks=60)
    seen = [v.seen for v in report.violations if v.rule == "gaming"]
    assert any(re.search(found, line) for line in seen), str(report)


def test_a_world_of_returns_is_compared_by_them() -> None:
    class Pays(TextEnv):
        """Pays for every word."""

        def reset(self, **kwargs: Any) -> Any:
            super().reset(**kwargs)
            return "Write.", {"task_id": str(kwargs.get("seed")), "anchor": str(kwargs.get("seed"))}

        def step(self, action: str) -> Any:
            return "Done.", float(len(action)), True, False, {"task_id": "0", "anchor": "1"}

    report = check_env(Pays, panel_tasks=10)
    (gaming,) = [v.seen for v in report.violations if v.rule == "gaming"]
    assert gaming.startswith("very_long (whatever there is, again and again) scores 1000")
    assert not [v for v in report.violations if v.rule == "counted"]


# A user's own policies ------------------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str) -> str:
        (tmp_path / "own_attacks.py").write_text(text)
        return "own_attacks"

    yield write
    sys.modules.pop("own_attacks", None)


def test_a_users_own_policy_joins_the_panel(module: Any) -> None:
    module(
        "from os.path import basename\n"
        "def by_number(situation):\n"
        "    'Reads the number.'\n"
        "    assert situation.turn == 0 and situation.observation == situation.question and situation.instructions\n"
        "    return situation.answer('Town' + situation.question.split()[-1].strip('?'))\n"
        "def _helper(situation): raise SystemExit\n"
        "def two(a, b): raise SystemExit\n"
    )
    report = check_env(Capitals, panel_tasks=20, adversary="own_attacks")
    (violation,) = report.violations
    assert violation.seen.startswith("by_number (reads the number) scores 1.000")
    assert [p.policy for p in report.panel][-1] == "by_number"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 3", r"own_attacks has no policy for the panel; write a function \(situation\) -> action"),
        ("def f(situation): return 3", "the panel's f must give a text, got 3"),
        ("def f(situation): return situation.nothing", "the panel's f raised AttributeError"),
    ],
)
def test_a_policy_that_fails_is_no_fault_of_the_environment(module: Any, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_env(Capitals, panel_tasks=3, adversary=module(text))


def test_candidates() -> None:
    def seen(question: str, **info: Any) -> list[str]:
        return Situation("", question, info, 0, "", np.random.default_rng(0), str, lambda: None).candidates

    assert seen("Is it Mira Tolen or 3.5 km?") == ["Is", "it Mira Tolen", "or", "3.5", "km"]
    assert seen("x y", admissible=("left", "right")) == ["left", "right"]
    assert seen("") == ["yes"]
    assert len(seen(" ".join(map(str, range(1000))))) == 200
