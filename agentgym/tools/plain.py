"""What is done to text that a model or a tool wrote before anybody else reads it."""

from __future__ import annotations

import re

# At least two levels, not inside a URL or a closing tag; Windows drives too.
_HOST_PATH = re.compile(r"(?<![\w:/.<])(?:/[^\s/'\":,;<>()\[\]]+){2,}/?|\b[A-Za-z]:\\[^\s'\",;<>]+")


def mend(text: str) -> str:
    """The text with lone surrogates replaced by U+FFFD, so that it can always be encoded as UTF-8."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def shorten(text: str, limit: int = 80) -> str:
    """At most ``limit`` characters of the text; what was left out is counted."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def without_paths(text: str) -> str:
    """The text with absolute paths of this machine replaced by ``<path>``."""
    return _HOST_PATH.sub("<path>", text)
