"""How calls and answers are written in an action; one file a syntax, found by its name.

A new syntax is a new file here with a class ``SYNTAX`` derived from :class:`agentgym.tools.syntax.base.Syntax`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache

from agentgym.errors import UnknownName
from agentgym.tools.syntax.base import Syntax
from agentgym.tools.tool import Tool


@cache  # the folder is read once, and not for every environment that is made
def syntaxes() -> tuple[str, ...]:
    """The names of all syntaxes."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base"))


def make_syntax(name: str, tools: Iterable[Tool] = ()) -> Syntax:
    """The syntax of that name for these tools.

    Raises:
        UnknownName: there is none; the nearest names are offered.
        UsageError: a tool's name means something else in this syntax.
    """
    if name not in syntaxes():
        raise UnknownName("syntax", name, syntaxes())
    made: Syntax = importlib.import_module(f"{__name__}.{name}").SYNTAX(tools)
    return made
