"""What is done to text that a model or a tool wrote before anybody else reads it."""

from __future__ import annotations

import re

from pydantic_core import to_json

from agentgym.env import MAX_OBSERVATION, capped
from agentgym.errors import ToolError

_REASON = 500  # characters of an exception's text

# At least two levels, not inside a URL or a closing tag; Windows drives too.
_HOST_PATH = re.compile(r"(?<![\w:/.<])(?:/[^\s/'\":,;<>()\[\]]+){2,}/?|\b[A-Za-z]:\\[^\s'\",;<>]+")


def mend(text: str) -> str:
    """The text with lone surrogates replaced by U+FFFD, so that it can always be encoded as UTF-8."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def shorten(text: str, limit: int = 80) -> str:
    """At most ``limit`` characters of the text; says how many were left out."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def without_paths(text: str) -> str:
    """The text with absolute paths of this machine replaced by ``<path>``."""
    return _HOST_PATH.sub("<path>", text)


def as_text(value: object, limit: int = MAX_OBSERVATION) -> str:
    """A tool's result as the agent reads it: text as it is, nothing for None, anything else as JSON; cut."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else to_json(value, fallback=str, inf_nan_mode="constants").decode()
    return mend(capped(text, limit))


def explain(error: BaseException, limit: int = MAX_OBSERVATION) -> str:
    """An exception as the agent reads it; only ToolError speaks for itself, cut to ``limit``."""
    if isinstance(error, ToolError):
        return mend(capped(str(error), limit))
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    size = len(text)
    message = without_paths(text[: 2 * _REASON])  # looking for paths in megabytes takes seconds
    if size > _REASON:
        message = f"{message[:_REASON]}... ({size} characters)"
    return mend(f"{type(error).__name__}: {message}".removesuffix(": "))
