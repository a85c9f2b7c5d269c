"""Comparing answers, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym.envs.code.judge import same_output
from agentgym.envs.code.scoring import equal, number


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("42", "42"),
        (" 42. ", "42"),
        ("+42", "42"),
        ("42.0", "42"),
        ("1,234,567", "1234567"),
        ("1_000", "1000"),
        ("1e3", "1000"),
        ("-5", "-5"),
        ("−5", "-5"),
        ("$-5$", "-5"),
        ("\\boxed{17}", "17"),
        ("`17`", "17"),
        ("1/2", "0.5"),
        ("0.5", "1/2"),
        ("\\frac{1}{2}", "1/2"),
        ("-\\frac{3}{6}", "-1/2"),
        ("50%", "0.5"),
        ("½", "1/2"),
        ("3.14", "3.14"),
        ("3.1416", "3.14"),
        (".5", "0.5"),
        ("Monday", "monday"),
        ("**Monday**", "Monday"),
        ('"abc"', "abc"),
        ("(3, 4)", "3, 4"),
        ("3,4", "3, 4"),
        ("2026-03-09", "2026-03-09"),
    ],
)
def test_equal(answer: str, expected: str) -> None:
    assert equal(answer, expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", "42"),
        ("-42", "42"),
        ("5", "-5"),
        ("42 or 43", "42"),
        ("4.2", "42"),
        ("15", "1.5"),
        ("12", "1/2"),
        ("1,2", "12"),
        ("3.1416", "3"),
        ("3.15", "3.14"),
        ("42.4", "42"),
        ("1/0", "0"),
        ("3", "3, 4"),
        ("4, 3", "3, 4"),
        ("Tuesday", "Monday"),
        ("x", "42"),
        ("2026-03-9", "2026-03-09"),
        ("inf", "1"),
        ("0.333", "1/3"),
        ("...", "42"),
    ],
)
def test_not_equal(answer: str, expected: str) -> None:
    assert not equal(answer, expected)


@given(st.text(max_size=40))
def test_any_text_is_an_answer(text: str) -> None:
    assert equal(text, "42") in (True, False)


ODD = [*"0123456789/-+.,%$()[]{}eE^_ ×½²①٣−⁄€:'`*", "\\frac", "\\boxed{", "\ud800", "the", "\u200b", "9" * 600]


@given(st.lists(st.sampled_from(ODD), max_size=8).map("".join), st.sampled_from(["5", "1/2", "[1, 3.50]", "red"]))
def test_what_looks_like_a_number_never_raises(answer: str, expected: str) -> None:
    assert equal(answer, expected) in (True, False)
    assert equal(expected, answer) in (True, False)


@given(st.integers(), st.integers(1, 10**6))
def test_spellings_of_one_number(whole: int, below: int) -> None:
    assert equal(f"{whole:,}", str(whole))
    assert equal(f"{whole * below}/{below}", str(whole))
    assert equal(f"{whole + 1}", str(whole)) is False


def test_hostile_numbers_are_no_work() -> None:
    assert number("1e999999999") is None
    assert number("9" * 5000) is None
    assert not equal("9" * 1_000_000, "9")


def test_outputs_are_compared_by_lines() -> None:
    assert same_output("1 2 \n3\n\n", "1 2\n3")
    assert not same_output("1\n2", "1 2")
    assert not same_output(" 1", "1")
    assert not same_output("", "empty")
