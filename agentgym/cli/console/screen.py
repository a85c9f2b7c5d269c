"""The table of an evaluation: redrawn on a terminal while its rows are played, printed at the end elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from agentgym.cli.console.printing import printable
from agentgym.cli.console.results import result_lines

if TYPE_CHECKING:
    from rich.console import RenderableType

    from agentgym.budget import Budget
    from agentgym.evaluate import Curve, Mean, Row
    from agentgym.records import Episode
    from agentgym.rollout import Pace

_COLUMNS = (
    "budget",
    "success",
    "95 %",
    "calls",
    "turns",
    "tokens",
    "seconds",
    "cost",
    "solved/call",
    "cost/solved",
    "wasted",
    "refused",
    "malformed",
    "action errors",
    "failed",
)


class Screen:
    """All rows, and how fast the one that is played goes.

    Args:
        to_stderr: keep standard output for the results.
        budgets: one row each, for every policy.
        count: episodes of a row.
    """

    def __init__(self, *, to_stderr: bool, budgets: Sequence[Budget], count: int) -> None:
        from rich.console import Console

        from agentgym.cli.console.live import Live

        self._console = Console(stderr=to_stderr)
        if not self._console.is_terminal:
            self._console = Console(stderr=to_stderr, width=240)
        self._terminal = self._console.is_terminal
        self._live = Live(self._console if self._terminal else Console(stderr=True, width=240), self._table)
        self._budgets, self._count = budgets, count
        self._done: list[tuple[str, list[str]]] = []
        self._rows: list[list[str]] = []  # of this policy, that are complete
        self._episodes: Collection[Episode] = ()
        self._name, self._playing = "", -1  # of which policy, the row of which budget
        self._kept = (0, 0)  # episodes that a row began with, and how many of them were solved
        self._pace: Pace | None = None

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *problem: Any) -> None:
        self._live.close()
        if not self._terminal and self._done:
            self._console.print(self._table())

    def begin(self, name: str) -> None:
        """The rows of another policy begin."""
        self._name, self._playing, self._pace, self._rows = name, -1, None, []

    def row(self, budget: Budget, episodes: Collection[Episode]) -> None:
        """A row begins with these episodes, or has these by now."""
        number = self._budgets.index(budget)
        if number != self._playing:
            if self._terminal and self._playing >= 0:
                self._rows.append(self._complete())
            self._playing, self._pace, self._episodes = number, None, episodes
            self._kept = len(episodes), sum(e.solved for e in episodes)

    def playing(self, pace: Pace) -> None:
        """A turn or an episode of the row was played."""
        self._pace = pace
        self._live.playing(pace)

    def end(self, curve: Curve) -> None:
        """All rows of the policy are played."""
        self._done += [(curve.policy, _cells(r)) for r in curve.rows]
        self._playing, self._pace, self._rows = -1, None, []
        self._live.rest()

    def _table(self) -> RenderableType:
        from rich.text import Text

        rows = [[name, *cells] for name, cells in self._done]
        rows += [[self._name, *cells] for cells in self._rows]
        if self._playing >= 0:
            rows.append([self._name, *self._so_far()])
        if not rows:
            return Text()
        lines = result_lines(("policy", *_COLUMNS), rows, self._console.width)
        return Text("\n".join(map(printable, lines)), no_wrap=True, overflow="ignore")

    def _complete(self) -> list[str]:
        """The row that was played, without the intervals of means, which take time: they come with the last row."""
        from agentgym.evaluate import row

        return _cells(row(self._budgets[self._playing], list(self._episodes), resamples=1))

    def _so_far(self) -> list[str]:
        """The row that is played: figures over all its episodes would cost as much as playing some of them."""
        played, solved = self._kept
        failed = 0
        if self._pace is not None:
            played, solved, failed = played + self._pace.episodes, solved + self._pace.solved, self._pace.failed
        counted = played - failed
        success = f"{100 * solved / counted:.1f} %" if counted else "-"
        cells = [f"{self._budgets[self._playing]}  {played}/{self._count}", success]
        return cells + ["-"] * (len(_COLUMNS) - len(cells))


def _cells(row: Row) -> list[str]:
    low, high = (f"{100 * bound:.1f}" for bound in row.interval)
    return [
        str(row.budget),
        "-" if row.success is None else f"{100 * row.success:.1f} %",
        f"{low} to {high}" if row.episodes else "-",
        *(_mean(row.means[name]) for name in ("calls", "turns", "tokens")),
        _mean(row.clocks["seconds"]),
        _mean(row.means["cost"]),
        _number(row.productivity),
        _number(row.cost_of_pass),
        *map(str, (row.wasted, row.refused, row.malformed, row.failures.action_errors, row.failed)),
    ]


def _mean(mean: Mean) -> str:
    half = (mean.high - mean.low) / 2
    return f"{_number(mean.mean)} ±{_number(half)}" if half > 0 else _number(mean.mean)


def _number(value: float | None) -> str:
    from numpy import format_float_positional

    if value is None or value != value:
        return "-"
    if float(value).is_integer() or abs(value) >= 100:
        return f"{value:.0f}"
    return format_float_positional(value, precision=3, fractional=False, trim="-")
