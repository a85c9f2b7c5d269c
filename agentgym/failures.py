"""Episodes that ended in an error: how many, by whose fault, the first reason of each kind, and when it is too many.

What the agent's action provoked counts as its failure like any other. What the world or the policy's server broke is
left out of every mean; the means then speak of the others alone, and they are the truth only while those are most.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from agentgym.records import Episode, StopReason

WARNED = 0.05  #: share of failed episodes above which a warning is given
_SHOWN = 200  # characters of a reason


class Failures(NamedTuple):
    """What went wrong in some episodes.

    Attributes:
        episodes: how many there are, failed ones included.
        failed: how many the world or the policy ended (:attr:`Episode.failed`); they are left out of every mean.
        failure: the first one's reason, in one line.
        action_errors: how many ended because the environment raised over the agent's action; they count.
        action_error: the first one's reason, in one line.
    """

    episodes: int = 0
    failed: int = 0
    failure: str | None = None
    action_errors: int = 0
    action_error: str | None = None

    @classmethod
    def of(cls, episodes: Iterable[Episode]) -> Failures:
        """Of finished episodes; the first reason is that of the first in the order given."""
        count, failed, broken = 0, list[Episode](), list[Episode]()
        for episode in episodes:
            count += 1
            if episode.failed:
                failed.append(episode)
            elif episode.stop is StopReason.ACTION_ERROR:
                broken.append(episode)
        return cls(count, len(failed), _reason(failed), len(broken), _reason(broken))

    @classmethod
    def together(cls, parts: Sequence[Failures]) -> Failures:
        """The sum, with the first reasons of all."""
        return cls(
            sum(part.episodes for part in parts),
            sum(part.failed for part in parts),
            next((part.failure for part in parts if part.failure is not None), None),
            sum(part.action_errors for part in parts),
            next((part.action_error for part in parts if part.action_error is not None), None),
        )

    @property
    def share(self) -> float:
        """Share of the episodes that failed."""
        return self.failed / self.episodes if self.episodes else 0.0

    @property
    def all_ended_in_errors(self) -> bool:
        """Whether no episode came to an end of its own."""
        return 0 < self.episodes == self.failed + self.action_errors

    def as_dict(self) -> dict[str, Any]:
        """The counts and reasons, as they stand beside the means."""
        return {name: value for name, value in self._asdict().items() if name != "episodes"}

    def lines(self) -> list[str]:
        """What a reader of the means must know, in sentences; nothing where nothing went wrong."""
        told = []
        if self.failed:
            warning = f"warning, more than {100 * WARNED:g} %: " if self.share > WARNED else ""
            told.append(
                f"{warning}{self.failed} of {self.episodes} episodes failed in the world or the policy and are "
                f"left out; the first: {self.failure}"
            )
        if self.action_errors:
            told.append(
                f"{self.action_errors} of {self.episodes} episodes broke the environment by an action and count as "
                f"failures; the first: {self.action_error}"
            )
        if self.all_ended_in_errors:
            told.append("every episode ended in an error, so nothing is known about the policy")
        return told


def _reason(episodes: list[Episode]) -> str | None:
    if not episodes:
        return None
    line = " ".join(str(episodes[0].failure).split())
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "..."
