"""The search world, ``agentgym/Search-v0``: questions that are answered by searching an encyclopedia."""

from __future__ import annotations

from agentgym.envs.search.env import SearchEnv

__all__ = ["SearchEnv"]
