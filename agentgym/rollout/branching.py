"""How the episodes of a group come about: from ``reset``, or forked from a state that another one has reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from agentgym.policy import Policy, Reply
from agentgym.records import Episode
from agentgym.rollout.live_episode import GroupState, LiveEpisode


class Branching(Protocol):
    """How the episodes of a group come about. :class:`Independent` has a default for every method.

    Attributes:
        probe: ask about a turn as soon as so many tokens of its reply are there, where the policy can show them, so
            that branches are generated beside the reply; 0, or a policy that cannot: ask on the whole reply.
    """

    probe: int

    def begin(self, policy: Policy) -> None:
        """A call of :meth:`Rollout.play` begins."""

    def roots(self, size: int) -> int:
        """How many episodes of a group of ``size`` start from ``reset`` at once."""

    def branches(self, episode: LiveEpisode, reply: Reply) -> int:
        """How many copies to fork before this reply's action is played; each continues with an action of its own.

        Asked once for each state that an episode meets, and only while the group has room; the engine takes at most as
        many as fit. With ``probe`` the reply may be its first tokens only, without an action text.
        """

    def refill(self, group: GroupState, last: Episode) -> int:
        """How many more roots to start now that ``last`` finished and nothing is left that could branch; at least 1."""

    def keeps(self, group: GroupState, episode: Episode) -> bool:
        """Whether a finished episode is one of its group; one that is not is handed out without a group."""

    def ended(self, episode: Episode) -> None:
        """An episode has finished."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to branch as it would have; empty if nothing."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""


class Independent:
    """Every episode starts from ``reset``."""

    probe = 0

    def begin(self, policy: Policy) -> None:
        return

    def roots(self, size: int) -> int:
        return size

    def branches(self, episode: LiveEpisode, reply: Reply) -> int:
        return 0

    def refill(self, group: GroupState, last: Episode) -> int:
        return group.room

    def keeps(self, group: GroupState, episode: Episode) -> bool:
        return True

    def ended(self, episode: Episode) -> None:
        return

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        return
