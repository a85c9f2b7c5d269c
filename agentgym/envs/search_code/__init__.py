"""The search-and-code world, ``agentgym/SearchCode-v0``: look facts up, then compute with them."""

from __future__ import annotations

from agentgym.envs.search_code.env import SearchCodeEnv

__all__ = ["SearchCodeEnv"]
