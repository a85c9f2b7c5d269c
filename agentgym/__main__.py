"""``python -m agentgym`` is the command ``agentgym``."""

from __future__ import annotations

from agentgym.cli import main

main()
