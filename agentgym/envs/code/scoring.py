"""Whether an answer equals the expected one: numbers by value, lists item by item, anything else as text.

``-5`` is not 5, ``+5`` and ``5.0`` are 5, ``1,234`` is 1234, ``1/2`` and ``0.5`` and ``50%`` are one number, ``1e3`` is
1000. An expected number with decimals stands for what rounds to it: ``3.14`` accepts 3.1416, ``3`` does not.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from agentgym.envs.boxed import unboxed

MAX_CHARACTERS = 10_000
MAX_NUMBER = 1_000  # digits; longer ones are compared as text

_FRAC = re.compile(r"(?:(-)\s*)?\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(-?\d+)\s*\}")
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s*+(?P<whole>\d{1,3}(?:,\d{3})+|\d+(?:_\d{3})*)?(?:\.(?P<part>\d*))?"
    r"(?:[eE](?P<power>[-+]?\d{1,3}))?(?:\s*+/\s*+(?P<below>[-+]?\d+))?\s*+(?P<percent>\\?%?)"
)
_DASHES = str.maketrans("−–—⁄", "---/")
_WRAPPED = (("$", "$"), ("`", "`"), ('"', '"'), ("'", "'"), ("**", "**"), ("\\(", "\\)"), ("\\[", "\\]"))
_ITEMS = (("[", "]"), ("(", ")"), ("{", "}"))


def equal(answer: str, expected: str) -> bool:
    """Whether an answer says the same as the expected one."""
    actual, reference = bare(answer), bare(expected)
    if not actual:
        return False
    if (value := number(reference)) is not None:
        said = number(actual)
        return said is not None and abs(said - value) <= tolerance(reference)
    if "," in reference:
        parts, others = _items(reference), _items(actual)
        return len(parts) == len(others) and all(equal(b, a) for a, b in zip(parts, others, strict=True))
    return " ".join(actual.casefold().split()) == " ".join(reference.casefold().split())


def bare(text: str) -> str:
    """The answer without what often surrounds it: boxes, dollars, quotes, a full stop."""
    text = unboxed(text[:MAX_CHARACTERS])
    text = unicodedata.normalize("NFKC", text).translate(_DASHES).strip()
    text = _FRAC.sub(r"\1\2/\3", text)
    while True:
        before = text
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        for opened, closed in _WRAPPED:
            if len(text) > len(opened) + len(closed) and text.startswith(opened) and text.endswith(closed):
                text = text[len(opened) : -len(closed)].strip()
        if text == before:
            return text


def number(text: str) -> Fraction | None:
    """The number that a text is; None where it is none."""
    if len(text) > MAX_NUMBER or (match := _NUMBER.fullmatch(text)) is None:
        return None
    whole, part, below = match["whole"] or "", match["part"] or "", match["below"]
    if not whole and not part:
        return None
    value = Fraction(int((whole + part).replace(",", "").replace("_", "")), 10 ** len(part))
    value *= Fraction(10) ** int(match["power"] or 0)
    if below is not None:
        if int(below) == 0:
            return None
        value /= int(below)
    if match["percent"]:
        value /= 100
    return -value if match["sign"] == "-" else value


def tolerance(expected: str) -> Fraction:
    """Half a unit of the last decimal that is given; 0 for integers and fractions."""
    match = _NUMBER.fullmatch(expected)
    places = len(match["part"] or "") if match and not match["below"] and not match["power"] else 0
    return Fraction(1, 2 * 10**places) if places else Fraction(0)


def _items(text: str) -> list[str]:
    for opened, closed in _ITEMS:
        if text.startswith(opened) and text.endswith(closed):
            text = text[1:-1]
    return [part.strip() for part in text.split(",")]
