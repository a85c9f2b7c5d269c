"""Texts to tokens and back, append-only.

A chat is a token list that only ever grows: an opening (instructions and first observation), then for each turn the
action exactly as it was sampled and the next observation. Nothing that was sampled is rendered or tokenised again, so
the tokens of a longer conversation extend those of the shorter one, whatever the template does with old turns.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

from agentgym.errors import UsageError

_SYSTEM, _USER, _ACTION, _NEXT = "instructions 4710", "observation 4711", "action 4712", "observation 4713"


class ChatTemplate:
    """A tokenizer with its chat template, cut into the pieces that are needed.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        ends: further tokens that end an action, e.g. those of the model's ``generation_config``.

    Attributes:
        end: the token that ends an action by the template.
        ends: every token that ends an action.

    Raises:
        UsageError: the tokenizer has no chat template, or one that does not keep the texts it is given.
    """

    def __init__(self, tokenizer: Any, ends: Collection[int] = ()) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise UsageError(
                "the tokenizer has no chat_template; set tokenizer.chat_template and save it with the model"
            )
        self.tokenizer = tokenizer
        turns = [_message("user", _USER), _message("assistant", _ACTION)]
        played = self._render([*turns, _message("user", _NEXT)], prompt=True)
        at, then = played.rfind(_ACTION), played.rfind(_NEXT)
        if at < 0 or then < at:
            raise UsageError("the chat template does not show an action and the observation after it in this order")
        #: what stands between an action and the next observation, and between that and the next action
        self._between, self._after = played[at + len(_ACTION) : then], played[then + len(_NEXT) :]
        end = self._encode(self._between)
        self.end = end[0] if end and end[0] in self.special_ids else tokenizer.eos_token_id
        if self.end is None:
            raise UsageError(
                "the chat template ends an action with no special token and the tokenizer has no eos_token"
            )
        self.ends = frozenset({self.end, tokenizer.eos_token_id, *ends} - {None})
        self._between_ended = end[1:] if end and end[0] == self.end else end
        self._between_cut = end if end and end[0] == self.end else [self.end, *end]
        self._suffix = lru_cache(maxsize=65536)(self._suffix_ids)
        self._frame = lru_cache(maxsize=64)(self._frame_ids)

    @classmethod
    def of(cls, model: Any, tokenizer: Any) -> ChatTemplate:
        """The chat of a model, whose ``generation_config`` may name several end tokens."""
        told = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        return cls(tokenizer, told if isinstance(told, list) else [] if told is None else [told])

    @property
    def special_ids(self) -> set[int]:
        """Ids that end or structure messages; an observation can never contain one."""
        return set(self.tokenizer.all_special_ids) | set(self.tokenizer.get_added_vocab().values())

    def opening(self, instructions: str, observation: str) -> list[int]:
        """Ids of a conversation's start, up to where the first action begins.

        Instructions are the system message, or where the template has none, the beginning of the first observation.
        """
        before, after = self._frame(instructions)
        return [*before, *self.plain(observation), *after]

    def following(self, observation: str, before: Sequence[int]) -> list[int]:
        """Ids from one action to the next: its end if it was cut off, the observation, a start.

        Args:
            before: everything up to the action's last token; whichever end token it wrote stays the only one.
        """
        head = self._between_ended if before[-1] in self.ends else self._between_cut
        return [*head, *self._suffix(observation)]

    def closed(self, action: str) -> list[int]:
        """Ids of an action that nobody sampled (a demonstration), end token included."""
        return [*self.plain(action), self.end]

    def plain(self, text: str) -> list[int]:
        """Ids of a text; special tokens spelled out in it are split like any other text: nobody can forge a message."""
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def text(self, action: Sequence[int]) -> str:
        """The action's text without the token that ended it."""
        ids = action[:-1] if action and action[-1] in self.ends else action
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _frame_ids(self, instructions: str) -> tuple[list[int], list[int]]:
        """What stands before and after the first observation."""
        user = _message("user", _USER)
        if not instructions:
            before, _, after = self._render([user], prompt=True).rpartition(_USER)
            return self._encode(before), self._encode(after)
        head, marker, rest = self._with_system([_message("system", _SYSTEM), user]).partition(_SYSTEM)
        if not marker:
            before_ids, after_ids = self._frame("")
            return [*before_ids, *self.plain(f"{instructions}\n\n")], after_ids
        between, _, after = rest.rpartition(_USER)
        return [*self._encode(head), *self.plain(instructions), *self._encode(between)], self._encode(after)

    def _with_system(self, messages: list[dict[str, str]]) -> str:
        """The messages as the template shows them; nothing where it refuses a system message."""
        from jinja2 import TemplateError

        try:
            return self._render(messages, prompt=True)
        except TemplateError:
            return ""

    def _suffix_ids(self, observation: str) -> tuple[int, ...]:
        return (*self.plain(observation), *self._encode(self._after))

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _render(self, messages: list[dict[str, str]], *, prompt: bool) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
