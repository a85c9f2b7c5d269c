"""What is drawn while something is played: redrawn on a terminal, a plain line now and then in a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agentgym.cli.console.printing import printable
from agentgym.rollout.pace import Pace

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SHARE = 0.01  #: of the time may go into drawing
LEAST = 0.25  #: seconds between two drawings on a terminal
FIRST, MOST = 10.0, 60.0  #: seconds to the first line in a file; each wait is twice the one before, up to the most


class Throttle:
    """Says when to draw again, so that drawing takes at most a share of the time, however much one drawing takes.

    Args:
        share: see above.
        least: seconds from one drawing to the next, at least.
        clock: seconds, from any moment on.
    """

    def __init__(self, share: float = SHARE, least: float = LEAST, clock: Callable[[], float] = time.perf_counter):
        self._share, self._least, self._clock = share, least, clock
        self._next = clock()

    def __call__(self, draw: Callable[[], object]) -> bool:
        """Call ``draw`` if it is time; whether it was."""
        began = self._clock()
        if began < self._next:
            return False
        draw()
        ended = self._clock()
        self._next = ended + max(self._least, (ended - began) * (1 / self._share - 1))
        return True


class Live:
    """Draws how far a rollout is, and what stands above that.

    Args:
        console: where to.
        above: makes what is shown above the line, on a terminal.
        clock: seconds, from any moment on.
    """

    def __init__(
        self,
        console: Console,
        above: Callable[[], RenderableType] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._console, self._above, self._clock = console, above, clock
        self._throttle = Throttle(clock=clock)
        self._pace: Pace | None = None
        self._live: Any = None
        self._wait, self._next_line = FIRST, clock() + FIRST

    def playing(self, pace: Pace) -> None:
        """A turn or an episode was played. Costs next to nothing unless it is time to draw."""
        if pace is not self._pace:
            self._pace = pace
            self._wait, self._next_line = FIRST, self._clock() + FIRST
        if self._console.is_terminal:
            self._throttle(self.draw)
        elif self._clock() >= self._next_line:
            self._wait = min(MOST, 2 * self._wait)
            self._next_line = self._clock() + self._wait
            self._console.print(printable(str(pace)), markup=False, highlight=False)

    def draw(self) -> None:
        """Draw now; on a terminal only."""
        from rich.console import Group
        from rich.live import Live as RichLive
        from rich.text import Text

        if not self._console.is_terminal:
            return
        parts = [self._above()] if self._above is not None else []
        if self._pace is not None:
            parts.append(Text(printable(str(self._pace)), style="cyan", no_wrap=True, overflow="ellipsis"))
        if self._live is None:
            self._live = RichLive(console=self._console, auto_refresh=False, transient=self._above is None)
            self._live.__enter__()
        self._live.update(Group(*parts), refresh=True)

    def rest(self) -> None:
        """Nothing is played now: the line goes, what stands above it is drawn as it is now."""
        self._pace = None
        if self._above is not None:
            self.draw()

    def close(self) -> None:
        """Nothing more is drawn, unless something is played again."""
        self.rest()
        if self._live is not None:
            self._live.__exit__(None, None, None)
            self._live = None
