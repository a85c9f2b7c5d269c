"""Characters that a reader does not see, shown as escapes: text that is shown may come from a model."""

from __future__ import annotations

import re
import unicodedata

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
