"""Exact match and F1 by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym import make
from agentgym.envs.search.scoring import exact_match, f1, tokens


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("The Beatles!", "beatles"),
        ("mira  TOLEN.", "Mira Tolen"),
        ("U.S.", "US"),
        ("well-known", "wellknown"),
        ("1,000", "1000"),
        ("$5.00", "5"),
        ("1.50", "1.5"),
        (".5", "1/2"),
        ("½", "0.5"),
        ("2½", "2 1/2"),
        (r"\frac{1}{2}", "1/2"),
        (r"\boxed{12}", "12"),
        ("−5", "-5"),
        ("(-5)", "-5"),
        ("1990–1995", "1990-1995"),
        ("3√3 - 6", "3√3-6"),
        ("A", "a"),
        ("the A", "A"),
        ("ＡＢＣ", "abc"),
    ],
)
def test_the_same_answer(answer: str, accepted: str) -> None:
    assert exact_match(answer, [accepted]) == 1.0
    assert f1(answer, [accepted]) == 1.0


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("-5", "5"),
        ("1.5", "15"),
        ("1/2", "12"),
        ("10:30", "1030"),
        ("3√3 - 6", "3√3 + 6"),
        ("2^3", "23"),
        ("1990-05-01", "19900501"),
        ("", ""),
        ("!", "?"),
        ("1/0", "10"),
        ("B", "A"),
        ("/5", "1/5"),
        ("-/5", "-1/5"),
    ],
)
def test_another_answer(answer: str, accepted: str) -> None:
    assert exact_match(answer, [accepted]) == 0.0
    assert f1(answer, [accepted]) == 0.0


def test_f1_counts_words_as_multisets() -> None:
    # common: mira, tolen = 2; 2 * 2 / (3 + 2)
    assert f1("Mira Tolen Junior", ["Mira Tolen"]) == pytest.approx(0.8)
    # "new" is common once only: 2 * 1 / (2 + 1)
    assert f1("new new", ["New"]) == pytest.approx(2 / 3)
    assert f1("nothing", ["New York"]) == 0.0
    assert f1("x", []) == 0.0


def test_every_accepted_answer_earns_the_same() -> None:
    accepted = ["New York City", "NYC", "The Big Apple", "City of New York", "Gotham"]
    for one in accepted:
        assert exact_match(one, accepted) == 1.0
        assert f1(one, accepted) == 1.0
    # The best over all, not the first: 2 * 1 / (1 + 2) against "Big Apple".
    assert f1("apple", accepted) == pytest.approx(2 / 3)


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_text_has_a_score(answer: str, other: str) -> None:
    assert 0.0 <= f1(answer, [other]) <= 1.0
    assert exact_match(answer, [other]) <= f1(answer, [other])
    assert f1(answer, [other]) == pytest.approx(f1(other, [answer]))
    assert exact_match(answer, [answer]) == float(bool(tokens(answer)))


ODD = [*"0123456789/-+.,%()[]{}eE^_ ×½²①٣−⁄€:'", "\\frac", "\\boxed{", "\ud800", "the", "\u200b", "9" * 60]


@given(st.lists(st.sampled_from(ODD), max_size=8).map("".join), st.sampled_from(["5", "1/2", "-3.5 men"]))
def test_what_looks_like_a_number_never_raises(answer: str, accepted: str) -> None:
    assert 0.0 <= exact_match(answer, [accepted]) <= f1(answer, [accepted]) <= 1.0


@pytest.mark.parametrize("answer", ["/5", "-/5", "+⁄5", "5/0", "-", "/", ".", "½/", "\ud800/5"])
def test_an_answer_that_is_nearly_a_number_ends_the_episode_as_a_failure(answer: str) -> None:
    env = make("agentgym/Search-v0")
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(f"<answer>{answer}</answer>")
    assert (reward, terminated, info["success"]) == (0.0, True, False)


@given(st.fractions(max_denominator=1000), st.fractions(max_denominator=1000))
def test_numbers_are_equal_as_numbers(a: object, b: object) -> None:
    assert exact_match(str(a), [str(b)]) == float(a == b)


def test_huge_numbers_and_texts_are_only_compared() -> None:
    assert exact_match("9" * 5_000, ["9" * 5_000]) == 1.0
    assert exact_match("9" * 5_000, ["8" * 5_000]) == 0.0
    assert exact_match("x" * 1_000_000, ["y"]) == 0.0
