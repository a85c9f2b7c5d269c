"""Texts to token ids, with a say in which added tokens a text may spell out.

A tokenizer's added tokens structure a conversation (``<|im_end|>``, ``<tool_call>``, ``<think>``). Spelled out in a
document they must not become them. Hugging Face tokenizers have a flag for that, but it belongs to the object, covers
the tokens marked as special alone, and is set anew by every call: two threads undo each other's. So each
:class:`PlainText` encodes with a copy of its own that nobody sets afterwards.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Collection
from itertools import pairwise
from typing import Any

from agentgym.errors import UsageError


def added_tokens(tokenizer: Any, *, special: bool = False) -> frozenset[str]:
    """The added tokens that can structure a conversation: of two characters or more, and not white space alone.

    Args:
        special: only those that are marked as special.
    """
    named = set(tokenizer.all_special_tokens) if special else set(tokenizer.get_added_vocab())
    if special:
        named |= {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return frozenset(token for token in named if len(token) > 1 and not token.isspace())


def structural_ids(tokenizer: Any, tokens: Collection[str]) -> frozenset[int]:
    """The ids of these tokens. The one for unknown characters is none of them, where it stands for nothing else."""
    ids = frozenset(tokenizer.convert_tokens_to_ids(sorted(tokens)))
    roles = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
    return ids if tokenizer.unk_token_id in roles else ids - {tokenizer.unk_token_id}


class PlainText:
    """Encodes texts; the ``split`` tokens, spelled out in one, are letters like any others.

    Safe to use from several threads, and independent of what is done with the tokenizer.

    Args:
        tokenizer: a Hugging Face tokenizer.
        split: added tokens that no text becomes.
    """

    def __init__(self, tokenizer: Any, split: Collection[str] = ()) -> None:
        self._forbidden = structural_ids(tokenizer, split)
        self._tokenizer, self._backend = _copied(tokenizer, frozenset(split))
        self._spelled = re.compile("|".join(map(re.escape, sorted(split, key=len, reverse=True))) or r"(?!)")
        kept = sorted(added_tokens(tokenizer) - frozenset(split), key=len, reverse=True)
        self._kept = re.compile(f"({'|'.join(map(re.escape, kept))})") if kept and split else None

    def __call__(self, text: str, *, special: bool = False) -> list[int]:
        """The ids of a text. Half a surrogate pair, which no encoding can hold, is read as a question mark.

        Args:
            special: with what the tokenizer puts around a whole text, e.g. a beginning-of-sequence token.
        """
        text = text.encode("utf-8", "replace").decode()
        ids = self._ids(text, special)
        if self._forbidden.isdisjoint(ids):
            return ids
        # A word of the vocabulary is one of them as well: break every such word, or else every word.
        for pieces in (_broken(self._spelled, text), list(text)):
            ids = [i for piece in pieces for i in self._ids(piece, special=False)]
            if self._forbidden.isdisjoint(ids):
                return ids
        raise UsageError(f"this tokenizer cannot write {text[:80]!r} without tokens that structure a conversation")

    def _ids(self, text: str, special: bool) -> list[int]:
        if self._backend is not None:
            return list(self._backend.encode(text, add_special_tokens=special).ids)
        if not self._forbidden:
            return list(self._tokenizer.encode(text, add_special_tokens=special))
        if self._kept is None:
            return list(self._tokenizer.encode(text, add_special_tokens=special, split_special_tokens=True))
        ids: list[int] = []
        for number, piece in enumerate(self._kept.split(text)):  # every other piece is an added token
            if number % 2:
                ids.append(self._tokenizer.convert_tokens_to_ids(piece))
            elif piece:
                ids += self._tokenizer.encode(piece, add_special_tokens=False, split_special_tokens=True)
        return ids


def _copied(tokenizer: Any, split: frozenset[str]) -> tuple[Any, Any]:
    """The tokenizer's own copy, and of one written in Rust the copy of what it is made of, with its flag set."""
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        return copy.deepcopy(tokenizer), None
    described = json.loads(backend.to_str())
    for token in described["added_tokens"]:
        token["special"] = token["content"] in split
    own = Tokenizer.from_str(json.dumps(described))
    own.no_truncation()
    own.no_padding()
    own.encode_special_tokens = True  # which means: split what is marked
    return tokenizer, own


def _broken(spelled: re.Pattern[str], text: str) -> list[str]:
    """The text in pieces, cut behind the first character of every match."""
    cuts = [0, *(match.start() + 1 for match in spelled.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts)]
