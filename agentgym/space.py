"""The space of texts, and how Gymnasium's vector environments hand texts from one process to another."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import unicodedata
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory, write_to_shared_memory


class Text(gym.Space[str]):
    """The space of all Unicode texts (``gymnasium.spaces.Text`` refuses "é")."""

    def __init__(self, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(shape=None, dtype=None, seed=seed)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)

    def sample(self, mask: None = None, probability: None = None) -> str:
        """A short random text, accents and control characters included."""
        size = int(self.np_random.integers(0, 12))
        return "".join(chr(int(c)) for c in self.np_random.integers(1, 0x250, size))

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Text)

    def __repr__(self) -> str:
        return "Text()"


class SharedTexts(Sequence[str]):
    """One text for each of several processes, of any length: a file each in a folder that only this user can read.

    Gymnasium's own shared memory has a fixed size. Like that, this shows what was written last, and a deep copy, which
    is what ``AsyncVectorEnv`` gives its user, is a tuple of texts as they are now. The folder goes with the object, in
    the process that made it.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._folder = Path(tempfile.mkdtemp(prefix="agentgym-texts-"))
        weakref.finalize(self, _remove, self._folder, os.getpid())

    def write(self, index: int, text: str) -> None:
        """Replace a text."""
        (self._folder / str(index)).write_bytes(text.encode("utf-8", "surrogatepass"))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(self._count)[index])
        file = self._folder / str(range(self._count)[index])
        return file.read_bytes().decode("utf-8", "surrogatepass") if file.exists() else ""

    def __len__(self) -> int:
        return self._count

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


@create_shared_memory.register(Text)
def _create(space: Text, n: int = 1, ctx: Any = None) -> SharedTexts:
    return SharedTexts(n)


@read_from_shared_memory.register(Text)
def _read(space: Text, shared_memory: SharedTexts, n: int = 1) -> SharedTexts:
    return shared_memory


@write_to_shared_memory.register(Text)
def _write(space: Text, index: int, value: str, shared_memory: SharedTexts) -> None:
    shared_memory.write(index, value)


# Showing texts --------------------------------------------------------------------------------------------------------

# Most text is this, and is looked at no further.
_UNUSUAL = re.compile(r"[^\t\n\x20-\x7e]")
#: Categories of Unicode: controls, format characters (zero-width, directions, tags), surrogates, private and unassigned
#: characters, line and paragraph separators.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
#: Letters and marks that have no shape either: fillers, the grapheme joiner, and the variation selectors, in which a
#: whole text can be hidden.
_SHAPELESS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef\u2800]"
)


def escape(text: str) -> str:
    """The text with whatever steers a terminal, hides or reorders shown as ``\\x1b`` or ``\\u200b``."""
    return _UNUSUAL.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    character = found[0]
    if unicodedata.category(character) not in _UNSEEN and not _SHAPELESS.match(character):
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
