"""The code world, ``agentgym/Code-v0``: tasks that are hard in the head and easy with Python."""

from __future__ import annotations

from agentgym.envs.code.env import CodeEnv

__all__ = ["CodeEnv"]
