"""How the pages of one task are worded and arranged. ``unseen`` has words and arrangements that no other split has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from agentgym.keyed_random import Dice

T = TypeVar("T")
Words = Mapping[str, tuple[str, str, str]]

#: what a label says in the first and second wording, which train and test draw from, and in the third, unseen's
COMMON: Words = {
    "save": ("Save", "Apply", "Keep changes"),
    "cancel": ("Cancel", "Close", "Never mind"),
    "ok": ("OK", "Confirm", "Yes, do it"),
    "delete": ("Delete", "Remove", "Discard"),
    "search": ("Search", "Find", "Look for"),
    "undo": ("Undo", "Undo last change", "Take back"),
    "edit": ("Edit", "Change", "Modify"),
    "new": ("New", "Create", "Add"),
    "name": ("Name", "Title", "Called"),
    "send": ("Send", "Send now", "Dispatch"),
    "move": ("Move", "Move to folder", "Relocate"),
}


class Look(NamedTuple):
    """Wording and arrangement.

    Attributes:
        wording: 0, 1 or 2: which of its three words a label has.
        order: 0 to 3: see :meth:`arrange`.
    """

    wording: int
    order: int

    def arrange(self, items: Sequence[T]) -> list[T]:
        """The items in this look's order: as given, first last; and for ``unseen`` last first, or both."""
        order = self.order
        turned = [*items[1:], *items[:1]] if order & 1 else list(items)
        return turned[::-1] if order & 2 else turned


def draw(dice: Dice, split: str) -> Look:
    """A look for a task of the split."""
    if split == "unseen":
        return Look(2, 2 + dice.below(2))
    return Look(dice.below(2), dice.below(2))
