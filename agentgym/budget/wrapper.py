"""The wrapper that enforces a budget."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import gymnasium as gym

from agentgym import keyed_random
from agentgym.budget.limits import PER_TOOL, ROUNDING, UNLIMITED, Budget, Spent, amount
from agentgym.budget.prices import Prices
from agentgym.env import StepResult, step_in_parts
from agentgym.errors import UnknownName, UsageError
from agentgym.records import CallCounts, StopReason, ToolCall, Usage
from agentgym.waiting import Waiting, finish

_SPENT_BY_POLICY = ("tokens", "seconds", "cost")


class BudgetedEnv(gym.Wrapper[str, str, str, str]):
    """Any environment, under a budget.

    What happens when something is used up:

    * A **tool call** too many, or one whose price does not fit any more, is not run, and its result says so. With
      ``on_exhausted="truncate"`` the episode also ends with that turn.
    * After the last of the **turns** the episode ends. With no turns at all, the first action is not played.
    * Once the **tokens**, **seconds** or **cost** are used up, every call is refused, so that all that is left is to
      answer; with ``"truncate"`` the episode ends, and the action that went over the limit is not played.
    * What still runs when the **seconds** are used up is left behind: a tool call, which has then failed, or with
      ``"truncate"`` the whole step (a rollout does this), which ends the episode.

    Calls are refused through the attribute ``gate`` that environments with tools have
    (:class:`agentgym.envs.tool_env.ToolEnv`). An environment without it has nothing to refuse: its episodes are always
    truncated, and a turn whose calls (counted in ``info["tool_calls"]``) went over a limit earns nothing.

    The episode that is ended here is ``truncated`` with ``info["stop"] = "budget"`` and, unless the environment says
    otherwise, ``info["success"] = False``. ``info["budget"]`` always says what is left of each limit.

    Tokens, and the cost and time of the policy, are known to whoever asks it: tell them by :meth:`charge` before each
    ``step`` (a rollout does). A fork has counters of its own.

    ``reset(options={"budget": "tool_calls=2"})`` sets the budget of that one episode (:func:`under`). Of several
    budgets, one is drawn for each episode, the same for the same ``reset(seed=...)``, so the members of a group share
    theirs.

    Args:
        env: what to wrap.
        budget: the budget, or several to draw from.
        announce: append what is left to each observation.
        on_exhausted: ``"refuse"`` or ``"truncate"``.
        prices: price list of the tools; a price here replaces the tool's own, also in the records.
        key: key of the draw.

    Attributes:
        budget: of the running episode.
        spent: what it has used.

    Raises:
        UsageError: a limit on tool calls for an environment without tools, no budget, or a budget inside another one.
    """

    def __init__(
        self,
        env: gym.Env[str, str],
        budget: Budget | Sequence[Budget] = UNLIMITED,
        *,
        announce: bool = False,
        on_exhausted: Literal["refuse", "truncate"] = "refuse",
        prices: Prices | None = None,
        key: int = 0,
    ) -> None:
        super().__init__(env)
        if on_exhausted not in ("refuse", "truncate"):
            raise UnknownName("way to handle an exhausted budget", on_exhausted, ["refuse", "truncate"])
        self._budgets = (budget,) if isinstance(budget, Budget) else tuple(budget)
        if not self._budgets:
            raise UsageError("no budget is given; Budget() is one without limits")
        while isinstance(env, gym.Wrapper):
            if isinstance(env, BudgetedEnv):
                raise UsageError("the environment has a budget already; put all limits into one Budget")
            env = env.env
        self._gated = hasattr(env, "gate")
        self._has_tools = self._gated or hasattr(env, "tools")
        for one in self._budgets:
            self._check(one)
        self._announce, self._prices, self._key = announce, prices or Prices(), key
        self._truncates = on_exhausted == "truncate" or not self._gated
        self.budget, self.spent = self._budgets[0], Spent()
        self._running = Spent()  # calls that were let through in the current step
        self._refused = False  # whether a call of the current step was not
        self._state: dict[str, Any] = {}  # what info said of the state that the next action meets

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        others = dict(options or {})
        asked = others.pop("budget", None)
        if asked is not None:
            budget = Budget.parse(str(asked))
            self._check(budget)
        elif seed is None:
            budget = self._budgets[int(self.np_random.integers(len(self._budgets)))]
        else:
            budget = keyed_random.choice(self._budgets, self._key, seed, "budget")
        observation, info = self.env.reset(seed=seed, options=others or None)
        self.budget, self.spent, self._state = budget, Spent(), _state_of(info)
        return self._told(observation), {**info, "budget": self.left}

    def charge(self, usage: Usage) -> None:
        """Count what the policy used for the next action: written tokens, cost and ``model_seconds``."""
        self.spent.tokens += usage.completion_tokens
        self.spent.seconds += usage.model_seconds
        self.spent.cost += usage.cost

    def step(self, action: str) -> StepResult:
        return finish(self.step_in_parts(action))

    def step_in_parts(self, action: str) -> Waiting[StepResult]:
        if self._truncates and (limit := self._over(_SPENT_BY_POLICY)):
            return self._cut(limit, dict(self._state))
        if self.budget.turns == 0:
            return self._cut("turns", dict(self._state))
        observation, reward, terminated, truncated, info = yield from self._play(action)
        self._state = _state_of(info)
        if not self._gated and (limit := self._over(self._spent_by_calls)):
            return self._cut(limit, info)
        info["budget"] = self.left
        if terminated or truncated:
            return observation, reward, terminated, truncated, info
        if self._ends():
            return observation, reward, False, True, {"success": False, **info, "stop": StopReason.BUDGET}
        return self._told(observation), reward, False, False, info

    @property
    def left(self) -> dict[str, float]:
        """What is left of each limit, by its name; never below 0."""
        left = {name: limit - self.spent.of(name) for name, limit in self.budget.limits.items()}
        return {name: number if number > ROUNDING else 0 for name, number in left.items()}

    def _play(self, action: str) -> Waiting[StepResult]:
        """Play the action behind the gate, and count it."""
        base: Any = self.env.unwrapped
        self._running, self._refused = Spent(cost=self.spent.cost), False
        started = time.perf_counter()
        if self._gated:
            base.gate = _Gate(self, started)
        try:
            observation, reward, terminated, truncated, info = yield from step_in_parts(self.env, action)
        finally:
            if self._gated:
                base.gate = None
        self.spent.seconds += time.perf_counter() - started
        info = dict(info)
        self._count(info)
        return observation, reward, terminated, truncated, info

    def _check(self, budget: Budget) -> None:
        if not self._has_tools and (budget.tool_calls is not None or budget.per_tool):
            name = self.spec.id if self.spec is not None else type(self.unwrapped).__name__
            raise UsageError(f"{name} has no tools, so tool calls cannot be limited ({budget}); limit turns instead")
        known = [tool.name for tool in getattr(getattr(self.unwrapped, "tools", None), "tools", ())]
        for tool in budget.per_tool:
            if known and tool not in known:
                raise UnknownName("tool", tool, known)

    def seconds_left(self, usage: Usage) -> float | None:
        """How long the step after ``usage`` may take until it is :meth:`out_of_time`; None: any time."""
        if self.budget.seconds is None or not self._truncates:
            return None
        left = self.budget.seconds - self.spent.seconds - usage.model_seconds
        return left if left > 0 else None  # else the step itself ends the episode

    def out_of_time(self) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """What to make of a step that still ran when the seconds were used up; it is left behind."""
        self.spent.turns += 1
        self.spent.seconds = max(self.spent.seconds, self.budget.seconds or 0.0)
        return self._cut("seconds", dict(self._state))

    def ask(self, call: ToolCall) -> str | None:
        """Why a call must not run; counts it where it may. What the environment's gate asks."""
        price = self._prices.call(call)
        problem = self._refusal(call.name, price)
        if problem is None:
            self._running.add(call.name, price)
            return None
        self._refused = True
        return f"refused: {problem}; go on without it"

    def _refusal(self, tool: str, price: float) -> str | None:
        running, limits = self._running, self.budget.limits
        for name in ("tool_calls", PER_TOOL + tool, "tokens", "seconds"):
            if name in limits and self.spent.of(name) + running.of(name) >= limits[name]:
                return f"the budget of {amount(name, limits[name])} is used up"
        if self.budget.cost is not None and running.cost + price > self.budget.cost + ROUNDING:
            left = max(0.0, self.budget.cost - running.cost)
            return f"a call of {tool!r} costs {price:g} and {left:g} of the budget is left"
        return None

    def _count(self, info: dict[str, Any]) -> None:
        """Count the turn and its calls, at the prices of the list."""
        spent, calls = self.spent, info.get("tool_calls", ())
        spent.turns += 1
        counts = CallCounts.of(calls)
        spent.refused += counts.refused
        spent.malformed += counts.malformed
        if self._prices.tools:
            info["tool_calls"] = calls = tuple(map(self._priced, calls))
        for call in calls:
            if call.status == "ran":
                spent.add(call.name, call.cost)

    def _priced(self, call: ToolCall) -> ToolCall:
        return replace(call, cost=self._prices.call(call)) if call.status == "ran" else call

    def _over(self, names: Iterable[str]) -> str | None:
        """One of these limits of which more than all is used."""
        limits = self.budget.limits
        return next((n for n in names if n in limits and self.spent.of(n) > limits[n] + ROUNDING), None)

    @property
    def _spent_by_calls(self) -> Iterable[str]:
        return ("tool_calls", "cost", *(PER_TOOL + tool for tool in self.budget.per_tool))

    def _ends(self) -> bool:
        """Whether the episode ends after the turn just played."""
        if self.budget.turns is not None and self.spent.turns >= self.budget.turns:
            return True
        if not self._truncates:
            return False
        left = self.left
        return self._refused or any(left.get(name) == 0 for name in _SPENT_BY_POLICY)

    def _cut(self, limit: str, info: dict[str, Any]) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """End the episode: the action went over a limit and earns nothing."""
        text = f"The budget of {amount(limit, self.budget.limits[limit])} is used up; the episode is over."
        info |= {"success": False, "stop": StopReason.BUDGET, "budget": self.left}
        return text, 0.0, False, True, info

    def _told(self, observation: str) -> str:
        if not self._announce or not self.budget.limits:
            return observation
        return f"{observation}\n\n[budget left: {', '.join(amount(n, left) for n, left in self.left.items())}]"


class _Gate:
    """What lets the calls of one step through.

    Attributes:
        seconds: how long the next call may take; None for any time.
    """

    def __init__(self, env: BudgetedEnv, began: float) -> None:
        self._env, self._began = env, began

    def __call__(self, call: ToolCall) -> str | None:
        return self._env.ask(call)

    @property
    def seconds(self) -> float | None:
        limit = self._env.budget.seconds
        used = self._env.spent.seconds + time.perf_counter() - self._began
        return None if limit is None else max(0.0, limit - used)


def _state_of(info: Mapping[str, Any]) -> dict[str, Any]:
    return {key: info[key] for key in ("task_id", "anchor") if key in info}
