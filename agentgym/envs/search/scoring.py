"""Comparing an answer with the accepted ones: exact match and F1, the best over all of them.

Texts are normalised as for SQuAD (lower case, no punctuation, no articles) with one difference: what makes a number is
kept. ``-5`` is not 5, ``1.5`` is not 15, ``1/2`` is 0.5 and not 12, ``1,000`` is 1000, and an answer that consists of
articles only ("A", a choice) keeps them.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction

from agentgym.envs.boxed import unboxed

ARTICLES = frozenset({"a", "an", "the"})
MAX_CHARACTERS = 10_000
MAX_NUMBER = 100  # longer digit strings are compared as text
_FRAC = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_SPACED_OPERATOR = re.compile(r"(?<=[\d)}])\s+([-+*/^])\s+(?=[\d(\\])")
_VULGAR = re.compile("([¼-¾⅐-⅞])")
_NUMBER = re.compile(r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:/\d+)?")
_DASHES = str.maketrans("−–—‒⁄", "----/")
_OPERATORS = frozenset("-+*/^.:")


def exact_match(answer: str, accepted: Iterable[str]) -> float:
    """1.0 if the answer equals an accepted one after normalisation, else 0.0; an empty answer equals none."""
    words = tokens(answer)
    return float(bool(words) and any(words == tokens(other) for other in accepted))


def f1(answer: str, accepted: Iterable[str]) -> float:
    """2PR / (P + R) of the normalised words as multisets, the best over the accepted answers."""
    words = tokens(answer)
    return max((_overlap(words, tokens(other)) for other in accepted), default=0.0)


@functools.lru_cache(maxsize=100_000)
def tokens(text: str) -> tuple[str, ...]:
    """The words that count, numbers in one spelling (``1.50`` is ``3/2``)."""
    text = unboxed(text[:MAX_CHARACTERS])
    text = _FRAC.sub(r" \1/\2 ", text)
    text = unicodedata.normalize("NFKC", _VULGAR.sub(r" \1", text)).translate(_DASHES).lower()
    text = _SPACED_OPERATOR.sub(r"\1", text)
    words = [word for chunk in text.split() if (word := _word(chunk))]
    return tuple(word for word in words if word not in ARTICLES) or tuple(words[-1:])


def _overlap(words: tuple[str, ...], others: tuple[str, ...]) -> float:
    common = sum((Counter(words) & Counter(others)).values())
    return 2.0 * common / (len(words) + len(others)) if common else 0.0


def _word(chunk: str) -> str:
    """One word without punctuation, or one number in its usual spelling."""
    bare = "".join(c for c in chunk if unicodedata.category(c) != "Sc").strip("()[]{}\"'`,;:!?%*_").rstrip(".")
    if len(bare) <= MAX_NUMBER and _NUMBER.fullmatch(bare):
        return _number(bare)
    return "".join(c for i, c in enumerate(bare) if _counts(bare, i))


def _number(bare: str) -> str:
    top, _, bottom = bare.replace(",", "").partition("/")
    if not bottom:
        return str(Fraction(top))
    return str(Fraction(top) / int(bottom)) if int(bottom) else f"{top}/{bottom}"


def _counts(bare: str, place: int) -> bool:
    """Whether a character is more than punctuation: a sign before a digit, or an operator or point inside a number."""
    c = bare[place]
    if not (unicodedata.category(c).startswith("P") or c in "$+<=>^`|~"):
        return True
    after = bare[place + 1 : place + 2]
    if c not in _OPERATORS or not after.isdigit():
        return False
    return c in "-+." if place == 0 else bare[place - 1].isdigit() or bare[place - 1] in ")}"
