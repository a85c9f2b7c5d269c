"""agentgym: a gym for agents that use tools over many turns."""

from __future__ import annotations

from agentgym.env import Info, Text, TextEnv, digest, fork
from agentgym.records import Episode, Sample, StopReason, Task, ToolCall, Turn, Usage
from agentgym.registry import make, register_builtin

__version__ = "0.1.0"


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
    "digest",
    "fork",
    "make",
]

register_builtin()
