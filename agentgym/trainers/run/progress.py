"""Who is told what a run does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Progress(Protocol):
    """Is told what happens; the command line draws it."""

    def __call__(self, stage: str, metrics: Mapping[str, Any]) -> None:
        """``stage``: ``sft``, ``update`` or ``evaluation``; any other text is a message.

        An object that also has a method ``playing(pace)`` is told after every turn how far a rollout is.
        """


def silent(stage: str, metrics: Mapping[str, Any]) -> None:
    """Show nothing."""
