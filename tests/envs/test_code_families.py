"""Generated tasks: the answers against the experts' programs, splits, levels; calendars against ``datetime``."""

from __future__ import annotations

from collections import Counter
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym.envs.code.families import FAMILIES
from agentgym.envs.code.families.dates import day_number, from_number
from agentgym.envs.code.judge import passed
from agentgym.envs.code.scoring import equal
from agentgym.envs.code.tasks import Draft, finished, generate, side
from agentgym.errors import SandboxUnavailable, UsageError
from agentgym.tools.python import Sandbox
from agentgym.tools.python.tool import shared_sandbox


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    try:
        return shared_sandbox()
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", FAMILIES)
def test_programs_and_answers_agree(sandbox: Sandbox, name: str) -> None:
    """Answers and programs come by different ways (see the families)."""
    for level in (1, 2, 3, 5, 7):
        for seed in range(4):
            draft = FAMILIES[name](np.random.default_rng([seed, level]), level)
            question = finished(draft, name, level)
            if draft.tests is not None:
                assert passed(sandbox, draft.program, draft.tests()) == 5, question.text
                continue
            result = sandbox.run(draft.program, files=draft.files)
            assert result.error is None, (question.text, result.error)
            assert equal(result.stdout, question.answers[0]), (question.text, result.stdout)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("level", [1, 5])
def test_a_seed_says_everything_and_splits_never_meet(name: str, level: int) -> None:
    one = {name: FAMILIES[name]}
    met: dict[str, set[str]] = {}
    for split in ("train", "test", "unseen"):
        questions = [generate(np.random.default_rng(seed), split, one, [level]) for seed in range(6)]
        assert questions == [generate(np.random.default_rng(seed), split, one, [level]) for seed in range(6)]
        assert all(q.data["level"] == level + 2 * (split == "unseen") for q in questions)
        met[split] = {q.text + str(q.data.get("files")) for q in questions}
        assert all(side(q.text, q.data.get("files", {})) == split for q in questions)
        assert all(not q.answers or q.answers[0] for q in questions)
    assert not met["train"] & met["test"]
    assert not (met["train"] | met["test"]) & met["unseen"]


def test_sides_have_their_shares() -> None:
    counts = Counter(side(f"task {i}", {}) for i in range(4000))
    assert 2850 < counts["train"] < 3150
    assert 420 < counts["test"] < 580
    assert side("a", {"f": "1"}) in counts


def test_files_count_for_the_side() -> None:
    assert {side("a", {"f": str(i)}) for i in range(60)} == {"train", "test", "unseen"}


def test_a_family_too_small_for_a_split_says_so() -> None:
    text = next(str(i) for i in range(100) if side(str(i), {}) == "train")
    with pytest.raises(UsageError, match="'one' has no task of level 1 in split 'test'"):
        generate(np.random.default_rng(0), "test", {"one": lambda rng, level: Draft(text, "")}, [1])


@given(st.dates())
def test_day_numbers(day: date) -> None:
    number = day_number((day.year, day.month, day.day))
    assert number == day.toordinal() - 1
    assert from_number(number) == (day.year, day.month, day.day)
    assert number % 7 == day.weekday()


def test_by_hand() -> None:
    """One task of three families, worked out on paper."""
    rng = np.random.default_rng(0)
    circle = next(d for d in (FAMILIES["circle"](rng, 1) for _ in range(200)) if d.text.startswith("10 people"))
    people, step = 10, int(circle.text.split("every ")[1].split(".")[0])
    standing, i = list(range(1, people + 1)), 0
    while len(standing) > 1:
        i = (i + step - 1) % len(standing)
        standing.pop(i)
    assert circle.solve() == str(standing[0])
    number = next(d for d in (FAMILIES["divisors"](rng, 1) for _ in range(200)) if "How many positive" in d.text)
    n = int(number.text.split("does ")[1].split(" ")[0])
    assert number.solve() == str(sum(n % d == 0 for d in range(1, n + 1)))
