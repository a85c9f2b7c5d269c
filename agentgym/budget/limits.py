"""Limits on what an episode may use, from text and to text, and what it has used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from agentgym.errors import UnknownName, UsageError
from agentgym.records import Task

PER_TOOL = "per_tool."
ROUNDING = 1e-9  #: three calls of 0.1 fit into 0.3
_UNITS = {"tool_calls": "tool calls", "turns": "turns", "tokens": "tokens", "seconds": "seconds", "cost": "cost"}
_WHOLE = ("tool_calls", "turns", "tokens")


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
        cost: price of tool calls and of the model, in one unit; see :class:`~agentgym.budget.prices.Prices`.
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


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise UsageError(f"budget {where!r}: {text.strip()!r} is not a number; write 4, inf or tool_calls=4,turns=9")
    return value


def amount(limit: str, number: float) -> str:
    """``3 tool calls``, ``1 call of 'search'``, ``12.5 seconds``, ``cost 0.02``."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:,.4g}"
    if limit == "cost":
        return f"cost {shown}"
    if limit.startswith(PER_TOOL):
        return f"{shown} {'call' if number == 1 else 'calls'} of {limit.removeprefix(PER_TOOL)!r}"
    unit = _UNITS[limit]
    return f"{shown} {unit.removesuffix('s') if number == 1 else unit}"
