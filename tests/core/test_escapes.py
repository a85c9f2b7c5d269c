"""No character without a shape is shown as it is, and all others are."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from agentgym.space import escape


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc é 漢 \U0001f600", "a\tb\nc é 漢 \U0001f600"),
        ("\x1b[2J\r\x00\x9b", r"\x1b[2J\x0d\x00\x9b"),
        ("\u200bzero\u200d\ufeff\u2060", r"\u200bzero\u200d\ufeff\u2060"),
        ("\u061c\u202e\u2066", r"\u061c\u202e\u2066"),
        ("\U000e0041\U000e0042", r"\U000e0041\U000e0042"),
        ("a\ufe0fb\U000e0101", r"a\ufe0fb\U000e0101"),
        ("\u3164\u115f\u034f", r"\u3164\u115f\u034f"),
        ("\ud800\u2028\ue000\xad", r"\ud800\u2028\ue000\xad"),
        ("", ""),
    ],
)
def test_examples(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_every_character_of_unicode() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        category, shown = unicodedata.category(character), escape(character)
        if category in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") and character not in "\t\n":
            assert shown.startswith("\\"), hex(code)
            assert shown.isascii()
        elif shown != character:
            assert category in ("Mn", "Lo", "So"), hex(code)
