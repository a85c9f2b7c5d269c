"""Budgets: limits on what an episode may use, for every environment, enforced by one wrapper.

>>> Budget.parse("tool_calls=4,tokens=2000").tool_calls
4
>>> str(Budget(turns=3))
'turns=3'
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import gymnasium as gym

from agentgym import draws
from agentgym.errors import UnknownName, UsageError
from agentgym.prices import Prices
from agentgym.records import CallCounts, StopReason, Task, ToolCall, Usage

PER_TOOL = "per_tool."
_UNITS = {"tool_calls": "tool calls", "turns": "turns", "tokens": "tokens", "seconds": "seconds", "cost": "cost"}
_WHOLE = ("tool_calls", "turns", "tokens")
_SPENT_BY_POLICY = ("tokens", "seconds", "cost")
_ROUNDING = 1e-9  # three calls of 0.1 fit into 0.3


def _limit(name: str, value: float | None, *, whole: bool) -> float | None:
    if value is None or value == math.inf:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise UsageError(f"a budget's {name} must be a number >= 0, or None for no limit; got {value!r}")
    if whole and value != int(value):
        raise UsageError(f"a budget's {name} must be a whole number, got {value!r}")
    return int(value) if whole else float(value)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one episode may use; None or infinity is no limit.

    Attributes:
        tool_calls: calls that ran, those that fail included; refused and malformed ones are not counted.
        turns: actions played.
        tokens: tokens that the policy wrote (not those that it read).
        seconds: time of the policy and of the environment's steps, without waiting for other episodes.
        cost: price of tool calls and of the model, in one unit; see :class:`~agentgym.prices.Prices`.
        per_tool: limits on the calls of single tools, by name.
        limits: all limits that there are, by name (``per_tool.NAME`` for single tools).

    Raises:
        UsageError: a limit is negative, not a number, or not whole where it counts things.
    """

    tool_calls: float | None = None
    turns: float | None = None
    tokens: float | None = None
    seconds: float | None = None
    cost: float | None = None
    per_tool: Mapping[str, float | None] = field(default_factory=dict)
    limits: dict[str, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in _UNITS:
            object.__setattr__(self, name, _limit(name, getattr(self, name), whole=name in _WHOLE))
        tools = {tool: _limit(PER_TOOL + tool, n, whole=True) for tool, n in sorted(self.per_tool.items())}
        object.__setattr__(self, "per_tool", {tool: n for tool, n in tools.items() if n is not None})
        own = {name: getattr(self, name) for name in _UNITS} | {PER_TOOL + tool: n for tool, n in tools.items()}
        object.__setattr__(self, "limits", {name: limit for name, limit in own.items() if limit is not None})

    @classmethod
    def parse(cls, text: str, unit: str = "tool_calls") -> Budget:
        """A budget from text; the inverse of ``str``.

        Args:
            text: ``"4"``, ``"inf"``, ``"tool_calls=4,tokens=2000"`` or ``"per_tool.search=2"``.
            unit: what a bare number limits.

        Raises:
            UsageError: it says something else.
        """
        limits: dict[str, float] = {}
        for part in text.split(","):
            name, equals, value = part.rpartition("=")
            name = name.strip() if equals else unit
            if name in limits:
                raise UsageError(f"budget {text!r} limits {name} twice; several budgets are written a,b,c or a;b")
            if name not in _UNITS and not (name.startswith(PER_TOOL) and len(name) > len(PER_TOOL)):
                raise UnknownName("budget", name, [*_UNITS, PER_TOOL + "TOOL"])
            limits[name] = _number(value, text)
        tools = {name.removeprefix(PER_TOOL): n for name, n in limits.items() if name.startswith(PER_TOOL)}
        return cls(**{name: n for name, n in limits.items() if name in _UNITS}, per_tool=tools)

    def __str__(self) -> str:
        return ",".join(f"{name}={limit!r}" for name, limit in self.limits.items()) or "inf"

    def __hash__(self) -> int:
        return hash(str(self))


UNLIMITED = Budget()


def parse_budgets(text: str, unit: str = "tool_calls") -> tuple[Budget, ...]:
    """Several budgets from text, in the order given.

    ``"0,1,2,inf"`` are limits on ``unit``; ``"tokens=500,1000,inf"`` are limits on tokens; budgets with more than one
    limit are separated by semicolons: ``"tool_calls=2,tokens=500;tool_calls=4,tokens=1000;inf"``.

    Raises:
        UsageError: it says something else, or the same budget twice.
    """
    found: list[Budget] = []
    for part in text.split(";"):
        name, equals, values = part.partition("=")
        if "=" in values:
            found.append(Budget.parse(part, unit))
        else:
            sweep = name.strip() if equals else unit
            found += [Budget.parse(f"{sweep}={value}") for value in (values if equals else part).split(",")]
    if twice := next((b for i, b in enumerate(found) if b in found[:i]), None):
        raise UsageError(f"budget {str(twice)!r} is given twice in {text!r}")
    return tuple(found)


def under(task: Task, budget: Budget) -> Task:
    """The task, to be played under this budget by a :class:`BudgetedEnv`; the record of an episode keeps both."""
    return Task(task.seed, {**task.options, "budget": str(budget)}, task.task_id)


@dataclass(slots=True)
class Spent:
    """What an episode has used so far; fields as in :class:`Budget`, and how many calls never ran."""

    tool_calls: int = 0
    turns: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cost: float = 0.0
    per_tool: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    malformed: int = 0

    def of(self, limit: str) -> float:
        """How much of a limit, named as in :attr:`Budget.limits`."""
        if limit.startswith(PER_TOOL):
            return self.per_tool.get(limit.removeprefix(PER_TOOL), 0)
        number: float = getattr(self, limit)
        return number

    def add(self, tool: str, cost: float) -> None:
        """Count a tool call."""
        self.tool_calls += 1
        self.per_tool[tool] = self.per_tool.get(tool, 0) + 1
        self.cost += cost


class BudgetedEnv(gym.Wrapper[str, str, str, str]):
    """Any environment, under a budget.

    What happens when something is used up:

    * A **tool call** too many, or one whose price does not fit any more, is not run, and its result says so. With
      ``on_exhausted="truncate"`` the episode also ends with that turn.
    * After the last of the **turns** the episode ends. With no turns at all, the first action is not played.
    * Once the **tokens**, **seconds** or **cost** are used up, every call is refused, so that all that is left is to
      answer; with ``"truncate"`` the episode ends, and the action that went over the limit is not played.

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
            budget = draws.choice(self._budgets, self._key, seed, "budget")
        observation, info = self.env.reset(seed=seed, options=others or None)
        self.budget, self.spent, self._state = budget, Spent(), _state_of(info)
        return self._told(observation), {**info, "budget": self.left}

    def charge(self, usage: Usage) -> None:
        """Count what the policy used for the next action: written tokens, cost and ``model_seconds``."""
        self.spent.tokens += usage.completion_tokens
        self.spent.seconds += usage.model_seconds
        self.spent.cost += usage.cost

    def step(self, action: str) -> tuple[str, Any, bool, bool, dict[str, Any]]:
        if self._truncates and (limit := self._over(_SPENT_BY_POLICY)):
            return self._cut(limit, dict(self._state))
        if self.budget.turns == 0:
            return self._cut("turns", dict(self._state))
        observation, reward, terminated, truncated, info = self._play(action)
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
        return {name: number if number > _ROUNDING else 0 for name, number in left.items()}

    def _play(self, action: str) -> tuple[str, Any, bool, bool, dict[str, Any]]:
        """Play the action behind the gate, and count it."""
        base: Any = self.env.unwrapped
        self._running, self._refused = Spent(cost=self.spent.cost), False
        started = time.perf_counter()
        if self._gated:
            base.gate = self._gate
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
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

    def _gate(self, call: ToolCall) -> str | None:
        """Why a call must not run; counts it where it may."""
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
                return f"the budget of {_amount(name, limits[name])} is used up"
        if self.budget.cost is not None and running.cost + price > self.budget.cost + _ROUNDING:
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
        return next((n for n in names if n in limits and self.spent.of(n) > limits[n] + _ROUNDING), None)

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
        text = f"The budget of {_amount(limit, self.budget.limits[limit])} is used up; the episode is over."
        info |= {"success": False, "stop": StopReason.BUDGET, "budget": self.left}
        return text, 0.0, False, True, info

    def _told(self, observation: str) -> str:
        if not self._announce or not self.budget.limits:
            return observation
        return f"{observation}\n\n[budget left: {', '.join(_amount(n, left) for n, left in self.left.items())}]"


def _state_of(info: Mapping[str, Any]) -> dict[str, Any]:
    return {key: info[key] for key in ("task_id", "anchor") if key in info}


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise UsageError(f"budget {where!r}: {text.strip()!r} is not a number; write 4, inf or tool_calls=4,turns=9")
    return value


def _amount(limit: str, number: float) -> str:
    """``3 tool calls``, ``1 call of 'search'``, ``12.5 seconds``, ``cost 0.02``."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:,.4g}"
    if limit == "cost":
        return f"cost {shown}"
    if limit.startswith(PER_TOOL):
        return f"{shown} {'call' if number == 1 else 'calls'} of {limit.removeprefix(PER_TOOL)!r}"
    unit = _UNITS[limit]
    return f"{shown} {unit.removesuffix('s') if number == 1 else unit}"
