"""Further tools for the agent: an option of every command that plays an environment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer

ToolOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODULE:NAME", help="Give the agent this tool too; repeat it for more. The same as extra_tools=[...]."
    ),
]


def tool_settings(tools: Sequence[str] | None) -> list[str]:
    """The option as ``key=value`` arguments of an environment."""
    return [f"extra_tools={json.dumps(list(tools))}"] if tools else []
