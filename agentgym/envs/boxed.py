"""``\\boxed{...}``, as mathematical answers are framed."""

from __future__ import annotations

import re

_OPENED = re.compile(r"\\boxed\s*\{")


def unboxed(text: str) -> str:
    """The text without its frame: from the first ``\\boxed{`` to the last closing brace, in linear time."""
    opened, closed = _OPENED.search(text), text.rfind("}")
    if opened is None or closed < opened.end():
        return text
    return text[: opened.start()] + text[opened.end() : closed] + text[closed + 1 :]
