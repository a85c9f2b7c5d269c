"""Texts that match a regular expression, drawn at random from its parsed form."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np

from agentgym.errors import UsageError
from agentgym.tools.foreign_schema import matcher
from agentgym.tools.plain import shorten

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_- .,:;!?/@#+*()'\n\t"
_CATEGORIES = {"CATEGORY_DIGIT": r"\d", "CATEGORY_WORD": r"\w", "CATEGORY_SPACE": r"\s"}
_CATEGORIES |= {name.replace("Y_", "Y_NOT_"): sign.upper() for name, sign in tuple(_CATEGORIES.items())}
_MORE = 3  # repetitions beyond the least
_MOST = 10_000  # pieces of a text


def matching(pattern: str, rng: np.random.Generator) -> str:
    """A text in which the pattern is found.

    Characters, sets, repetitions, groups, alternatives and anchors are known; look-around and back-references are not.

    Raises:
        UsageError: it is broken, or uses an unsupported construct.
    """
    try:
        # This walks the tree of the parser of `re`, which has no public name since Python 3.11.
        parsed = importlib.import_module("re._parser").parse(pattern)
        pieces = list(islice(_draw(parsed, rng), _MOST + 1))
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"pattern {pattern!r} cannot be read: {error}") from error
    if len(pieces) > _MOST:
        raise UsageError(f"texts for pattern {shorten(repr(pattern))} are too long; give examples in the schema")
    text = "".join(pieces)
    if not matcher(pattern)(text):
        raise UsageError(f"no text for pattern {pattern!r} can be drawn; give examples in the schema")
    return text


def _draw(parsed: Iterable[Any], rng: np.random.Generator) -> Iterable[str]:
    for code, value in parsed:
        name = str(code)
        if name == "LITERAL":
            yield chr(value)
        elif name == "NOT_LITERAL":
            yield _one([c for c in _LETTERS if c != chr(value)], rng)
        elif name == "ANY":
            yield _one(_LETTERS[:62], rng)
        elif name == "IN":
            yield _one(_members(value), rng)
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most, inner = value
            for _ in range(int(rng.integers(least, min(int(most), least + _MORE), endpoint=True))):
                yield ""  # a repetition of nothing counts too
                yield from _draw(inner, rng)
        elif name == "SUBPATTERN":
            yield from _draw(value[3], rng)
        elif name == "ATOMIC_GROUP":
            yield from _draw(value, rng)
        elif name == "BRANCH":
            yield from _draw(value[1][int(rng.integers(len(value[1])))], rng)
        elif name != "AT":
            raise UsageError(f"{name} in a pattern cannot be drawn; give examples in the schema")


def _members(items: list[tuple[Any, Any]]) -> str:
    """The characters of a set, as far as they are among the usual ones or named in it."""
    negated = bool(items) and str(items[0][0]) == "NEGATE"
    members = set()
    for code, value in items[negated:]:
        name = str(code)
        if name == "LITERAL":
            members.add(chr(value))
        elif name == "RANGE":
            members.update(map(chr, range(value[0], min(value[1], value[0] + 255) + 1)))
        elif name == "CATEGORY":
            members.update(c for c in _LETTERS if re.match(_CATEGORIES[str(value)], c))
    return "".join(c for c in _LETTERS if c not in members) if negated else "".join(sorted(members))


def _one(characters: str | list[str], rng: np.random.Generator) -> str:
    if not characters:
        raise UsageError("a set in a pattern has no usual character; give examples in the schema")
    return characters[int(rng.integers(len(characters)))]
