"""How far a rollout is, how fast it goes, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agentgym.records import Episode


@dataclass(slots=True, eq=False)
class Pace:
    """Counts what a rollout plays; set a new one as ``rollout.pace`` before ``play``.

    Args:
        what: is played, in a few words.
        total: episodes that will be.
        watch: called after every turn and every episode; it must be quick, or do something only now and then.
        clock: seconds, from any moment on.

    Attributes:
        episodes, turns, tokens: played so far; tokens are those that the policy wrote.
        solved, failed: of these episodes.
    """

    what: str
    total: int
    watch: Callable[[Pace], None] | None = None
    clock: Callable[[], float] = time.monotonic
    episodes: int = 0
    turns: int = 0
    tokens: int = 0
    solved: int = 0
    failed: int = 0
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def turn(self, tokens: int) -> None:
        """A turn was played."""
        self.turns += 1
        self.tokens += tokens
        if self.watch is not None:
            self.watch(self)

    def episode(self, done: Episode) -> None:
        """An episode ended."""
        self.episodes += 1
        if done.failed:
            self.failed += 1
        elif done.solved:
            self.solved += 1
        if self.watch is not None:
            self.watch(self)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self.clock() - self.began

    @property
    def seconds_left(self) -> float | None:
        """Until the last episode ends, if the rest goes like those that ended; None before the first one did."""
        if not self.episodes:
            return None
        return self.seconds / self.episodes * max(0, self.total - self.episodes)

    def __str__(self) -> str:
        """``update 3: 45 of 128 episodes, 1,234 tokens/s, 0:12 left``; turns/s where a policy writes no tokens."""
        speed, unit = (self.tokens, "tokens/s") if self.tokens else (self.turns, "turns/s")
        parts = [f"{self.episodes} of {self.total} episodes", f"{speed / max(self.seconds, 1e-9):,.0f} {unit}"]
        if self.seconds_left is not None:
            parts.append(f"{clock(self.seconds_left)} left")
        return f"{self.what}: {', '.join(parts)}"


def clock(seconds: float) -> str:
    """``0:07``, ``12:30`` or ``3:05:00``."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
