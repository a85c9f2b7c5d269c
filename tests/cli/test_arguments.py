from __future__ import annotations

from typing import Any

import pytest

from agentgym.cli.console.arguments import environment, parse_policy, parse_settings, parse_value
from agentgym.cli.console.printing import printable
from agentgym.errors import UsageError
from agentgym.policy import ExpertPolicy, HumanPolicy, RandomPolicy


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("1_000", 1000),
        ("3e-5", 3e-5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("2.", 2.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("None", None),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("inf", "inf"),
        ("nan", "nan"),
        ("", ""),
        ("-", "-"),
        ("e5", "e5"),
        ("a b", "a b"),
        ("[1, a, 2.5]", [1, "a", 2.5]),
        ("{a: 1}", {"a": 1}),
        ('"3"', "3"),
        ("'true'", "true"),
        ("a=b", "a=b"),
    ],
)
def test_values_are_read_as_people_mean_them(text: str, value: Any) -> None:
    read = parse_value(text)
    assert read == value
    assert type(read) is type(value)


def test_settings_keep_their_order_and_later_equal_signs() -> None:
    assert list(parse_settings(["b=1", "a=x=y", "c="]).items()) == [("b", 1), ("a", "x=y"), ("c", "")]


@pytest.mark.parametrize("pair", ["a", "=1", "a b=1", "1a=2", "a-b=1", ""])
def test_what_is_no_setting_is_refused(pair: str) -> None:
    with pytest.raises(UsageError, match="is not a setting; write key=value"):
        parse_settings([pair])


def test_an_environment_takes_settings_and_split() -> None:
    made = environment("agentgym/Household-v0", ["max_turns=7"], "unseen")().unwrapped
    assert (made.max_turns, made.split) == (7, "unseen")  # type: ignore[attr-defined]


def test_policies_by_name() -> None:
    assert isinstance(parse_policy("random")(), RandomPolicy)
    assert isinstance(parse_policy("person")(), HumanPolicy)
    expert = parse_policy("expert:0.25")()
    assert isinstance(expert, ExpertPolicy)
    assert expert.epsilon == 0.25
    assert parse_policy("expert")() is not parse_policy("expert")()


@pytest.mark.parametrize("text", ["expert:-0.1", "expert:1.1", "expert:true", "expert:x"])
def test_the_experts_share_of_errors_is_a_probability(text: str) -> None:
    with pytest.raises(UsageError, match="must be a number from 0 to 1"):
        parse_policy(text)


def test_what_could_steer_a_terminal_is_shown() -> None:
    assert printable("a\tb\né") == "a\tb\né"
    assert printable("\x1b[2J\r\x00\x9b") == r"\x1b[2J\x0d\x00\x9b"
    assert printable("\u202eevil\u2066\ud800") == r"\u202eevil\u2066\ud800"
