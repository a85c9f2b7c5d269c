"""agentgym: a gym for agents that use tools over many turns."""

from __future__ import annotations

from agentgym.env import Info, Text, TextEnv, digest, fork
from agentgym.records import Episode, Sample, StopReason, Task, ToolCall, Turn, Usage

__version__ = "0.1.0"
