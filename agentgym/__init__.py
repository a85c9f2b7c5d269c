"""agentgym: a gym for agents that use tools over many turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentgym.env import Info, Text, TextEnv, digest, fork
from agentgym.records import Episode, Sample, StopReason, Task, ToolCall, Turn, Usage
from agentgym.registry import make, register_builtin

__version__ = "0.1.0"


if TYPE_CHECKING:
    from agentgym.check import check_env

__all__ = [
    "Episode",
    "Info",
    "Sample",
    "StopReason",
    "Task",
    "Text",
    "TextEnv",
    "ToolCall",
    "Turn",
    "Usage",
    "check_env",
    "digest",
    "fork",
    "make",
]

register_builtin()


def __getattr__(name: str) -> Any:
    """``check_env`` is imported when it is first used: its rules take a while to load."""
    if name == "check_env":
        from agentgym.check import check_env

        return check_env
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
