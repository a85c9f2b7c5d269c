"""Budgets: limits on what an episode may use, for every environment, enforced by one wrapper.

>>> Budget.parse("tool_calls=4,tokens=2000").tool_calls
4
>>> str(Budget(turns=3))
'turns=3'
"""

from __future__ import annotations

from agentgym.budget.limits import PER_TOOL, UNLIMITED, Budget, Spent, parse_budgets, under
from agentgym.budget.wrapper import BudgetedEnv

__all__ = ["PER_TOOL", "UNLIMITED", "Budget", "BudgetedEnv", "Spent", "parse_budgets", "under"]
