"""Between the environment and a backend: refuses impossible commands and reports changes."""

from __future__ import annotations

import copy
from typing import Self

from agentgym.envs.gui.commands import Command
from agentgym.envs.gui.snapshot import Backend, Snapshot, Write, changes, impossible, whole

OBSERVE = ("diff", "full")
CLOSED = "The dialog is closed."
NOTHING = "Nothing changed."


class Impossible(Exception):
    """A command that cannot be done on this screen; the message is the observation."""


class Driver:
    """One agent's hands and eyes.

    Args:
        backend: what it drives.
        observe: ``"diff"`` tells what has changed on a page that was shown before, ``"full"`` always everything.
        write: writes the actions that a refusal recommends.

    Attributes:
        backend: as given.
        now: the snapshot of the screen.
    """

    def __init__(self, backend: Backend, observe: str, write: Write = str) -> None:
        self.backend, self._observe, self._write = backend, observe, write
        self.now = backend.snapshot()
        self._page = self.now  # the last page that was shown, without its dialog

    def first(self) -> str:
        """The first observation."""
        return whole(self.now)

    def do(self, command: Command) -> str:
        """Perform a command and tell what came of it.

        Raises:
            Impossible: nothing was done.
        """
        if (reason := impossible(self.now, command, self._write)) is not None:
            raise Impossible(reason)
        self.backend.perform(command)
        before, self.now = self.now, self.backend.snapshot()
        return whole(self.now) if self._observe == "full" else self._changes(before, self.now)

    def fork(self) -> Self:
        """An independent copy."""
        twin = copy.copy(self)
        twin.backend = self.backend.fork()
        return twin

    def _changes(self, before: Snapshot, now: Snapshot) -> str:
        if now.dialog:
            if before.dialog != now.dialog:
                return whole(now)
            changed = changes(before, now)
            return whole(now) if changed is None else changed or NOTHING
        page, self._page = self._page, now
        changed = changes(page, now) if page.title == now.title and page.here == now.here else None
        if changed is None:
            return whole(now)
        return "\n".join(filter(None, (CLOSED, changed))) if before.dialog else changed or NOTHING
