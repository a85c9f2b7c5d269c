"""Budgets of training episodes: one is drawn for every task, so the members of a group share theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import gymnasium as gym

from agentgym import keyed_random
from agentgym.budget import Budget, BudgetedEnv, parse_budgets, under
from agentgym.contract import probe
from agentgym.env import close_quietly
from agentgym.errors import UsageError
from agentgym.records import Episode, StopReason, Task
from agentgym.trainers.run.config import TrainConfig


class TrainingBudgets:
    """What the section ``budget`` of a configuration asks for.

    Bare numbers limit tool calls where the environment has tools, else turns.

    Args:
        config: the configuration.
        make_env: makes a training environment without a budget.

    Attributes:
        choices: the budgets to draw from; empty: none is asked for, and nothing is changed.

    Raises:
        UsageError: no budget, or one that the environment cannot enforce.
    """

    def __init__(self, config: TrainConfig, make_env: Callable[[], gym.Env[str, str]]) -> None:
        self._config, self._make_env = config, make_env
        self.choices: tuple[Budget, ...] = ()
        if config.budget.limits is not None:
            unit = "tool_calls" if probe(make_env).has_tools else "turns"
            self.choices = parse_budgets(config.budget.limits, unit)
            close_quietly(self.environment())

    def environment(self) -> gym.Env[str, str]:
        """A training environment under the budget of its task."""
        env, config = self._make_env(), self._config
        if not self.choices:
            return env
        return BudgetedEnv(env, self.choices, announce=config.budget.announce, on_exhausted=config.budget.exhausted)

    def drawn(self, tasks: Sequence[Task], key: int) -> list[Task]:
        """The tasks with a budget each, in their options and so in the records of their episodes."""
        if not self.choices:
            return list(tasks)
        return [under(task, keyed_random.choice(self.choices, key, "budget", i)) for i, task in enumerate(tasks)]

    def within(self, episodes: Iterable[Episode]) -> list[Episode]:
        """The episodes that never met the end of their budget: what an expert does without regard to it.

        Raises:
            UsageError: there is none.
        """
        kept = [e for e in episodes if e.stop is not StopReason.BUDGET and not e.call_counts.refused]
        if not kept:
            raise UsageError(
                f"no expert episode stays within budget.limits={self._config.budget.limits}, so there is nothing to "
                "imitate; add a larger one to draw from, e.g. inf, or set sft.episodes=0"
            )
        return kept
