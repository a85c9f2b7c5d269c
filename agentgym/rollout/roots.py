"""Which root starts next: those of groups that are open, then those of the next group."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from agentgym.errors import UsageError
from agentgym.records import Episode
from agentgym.rollout.branching import Branching
from agentgym.rollout.live_episode import Group, GroupState


class Roots:
    """The roots that wait until another episode may run.

    Args:
        branching: how many roots a group has.
    """

    def __init__(self, branching: Branching) -> None:
        self._branching = branching
        self._waiting: deque[GroupState] = deque()  # one entry a root
        self._groups: Iterator[Group] = iter(())

    def begin(self, groups: Iterable[Group]) -> None:
        """Take further groups from here."""
        self._groups = iter(groups)

    def next(self) -> GroupState | None:
        """The group whose root starts next; None if no group is left."""
        if not self._waiting:
            group = next(self._groups, None)
            if group is None:
                return None
            if group.size < 1:
                raise UsageError(f"group {group.id!r} has size {group.size}; a group has at least 1 episode")
            self._add(GroupState(group), self._branching.roots(group.size))
        return self._waiting.popleft()

    def ended(self, state: GroupState, last: Episode) -> None:
        """An episode of the group finished: more roots where there is room, and nothing left that could branch."""
        if state.room > 0 and state.finished == state.claimed:
            self._add(state, self._branching.refill(state, last))

    def _add(self, state: GroupState, count: int) -> None:
        """Claim room for roots; they start as other episodes end, before any later group."""
        count = max(1, min(count, state.room))
        state.claimed += count
        self._waiting.extendleft([state] * count)
