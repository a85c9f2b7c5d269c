"""Texts to tokens and back, append-only.

A chat is a token list that only ever grows: an opening (instructions and first observation), then for each turn the
action exactly as it was sampled and the next observation. Nothing that was sampled is rendered or tokenised again, so
the tokens of a longer conversation extend those of the shorter one, whatever the template does with old turns.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from agentgym.errors import UsageError
from agentgym.models.plain_text import PlainText, added_tokens, structural_ids

_SYSTEM, _USER, _ACTION, _NEXT = "instructions 4710", "observation 4711", "action 4712", "observation 4713"
_CONTENT = "content {:09d}"
_ROLE = re.compile(r"[a-z][a-z_]{0,31}")


class ChatTemplate:
    """A tokenizer with its chat template, cut into the pieces that are needed. Safe to use from several threads.

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
        structural = added_tokens(tokenizer)
        special = added_tokens(tokenizer, special=True)
        #: ids that end or structure messages; an observation can never contain one
        self.special_ids = structural_ids(tokenizer, structural | special)
        self._plain = PlainText(tokenizer, structural | special)
        #: ids of a text as the model writes it: what is added without being special (``<tool_call>``) is one token
        self.written = PlainText(tokenizer, special) if structural - special else self._plain
        self._encode = lru_cache(maxsize=1024)(PlainText(tokenizer))
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

    def opening(self, instructions: str, observation: str) -> list[int]:
        """Ids of a conversation's start, up to where the first action begins.

        Instructions are the system message, or where the template has none, the beginning of the first observation.
        """
        before, after, _ = self._frame(instructions)
        return [*before, *self.plain(observation), *after]

    def following(self, observation: str, before: Sequence[int]) -> list[int]:
        """Ids from one action to the next: its end if it was cut off, the observation, a start.

        Args:
            before: everything up to the action's last token; whichever end token it wrote stays the only one.
        """
        head = self._between_ended if before[-1] in self.ends else self._between_cut
        return [*head, *self._suffix(observation)]

    def closed(self, action: str) -> list[int]:
        """Ids of an action that nobody sampled (a demonstration), end token included.

        What the tokenizer added without calling it special (``<tool_call>``, ``<think>``) is one token in it, as the
        model writes it; what is special is split.
        """
        return [*self.written(action), self.end]

    def plain(self, text: str) -> list[int]:
        """Ids of a text; added tokens spelled out in it are split like any other text: nobody can forge a message, a
        call or a result. Those of white space alone stay."""
        return self._plain(text)

    def conversation(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a whole conversation, up to where the next action begins: what the policy would see.

        The template shows place holders; each ``content`` is encoded apart and cannot forge a message. An assistant's
        is encoded as an action. A first message of the role ``system`` that the template does not show begins the next.

        Args:
            messages: with ``role`` and ``content``.

        Raises:
            UsageError: a role that is no word, or messages that the template refuses or does not show once, in order.
        """
        shown = [(message["role"], [message["content"]]) for message in messages]
        for role, _ in shown:
            if not _ROLE.fullmatch(role):
                raise UsageError(f"a role is a word in small letters, got {role[:80]!r}")
        if len(shown) > 1 and shown[0][0] == "system" and not self._frame(_SYSTEM)[2]:
            (_, [first]), (role, [second]), *rest = shown
            shown = [(role, [f"{first}\n\n", second]), *rest]
        marks = [_CONTENT.format(number) for number in range(len(shown))]
        left = self._rendered([_message(role, mark) for (role, _), mark in zip(shown, marks, strict=True)])
        ids: list[int] = []
        for number, ((role, contents), mark) in enumerate(zip(shown, marks, strict=True), 1):
            before, found, left = left.partition(mark)
            if not found or mark in left:
                how = "more than once" if found else "not at all or not in this order"
                raise UsageError(
                    f"the chat template shows message {number} of {len(shown)}, of role {role!r}, {how}; "
                    "leave it out or put it into another"
                )
            encode = self.written if role == "assistant" else self._plain
            ids += [*self._encode(before), *(i for content in contents for i in encode(content))]
        return [*ids, *self._encode(left)]

    def text(self, action: Sequence[int]) -> str:
        """The action's text without the token that ended it."""
        ids = action[:-1] if action and action[-1] in self.ends else action
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _frame_ids(self, instructions: str) -> tuple[list[int], list[int], bool]:
        """What stands before and after the first observation, and whether a system message was shown there."""
        user = _message("user", _USER)
        if not instructions:
            before, _, after = self._render([user], prompt=True).rpartition(_USER)
            return self._encode(before), self._encode(after), False
        head, marker, rest = self._with_system([_message("system", _SYSTEM), user]).partition(_SYSTEM)
        if not marker:
            before_ids, after_ids, _ = self._frame("")
            return [*before_ids, *self.plain(f"{instructions}\n\n")], after_ids, False
        between, _, after = rest.rpartition(_USER)
        ids = [*self._encode(head), *self.plain(instructions), *self._encode(between)]
        return ids, self._encode(after), True

    def _with_system(self, messages: list[dict[str, str]]) -> str:
        """The messages as the template shows them; nothing where it refuses a system message."""
        from jinja2 import TemplateError

        try:
            return self._render(messages, prompt=True)
        except TemplateError:
            return ""

    def _suffix_ids(self, observation: str) -> tuple[int, ...]:
        return (*self.plain(observation), *self._encode(self._after))

    def _rendered(self, messages: list[dict[str, str]]) -> str:
        """Other people's messages.

        Raises:
            UsageError: the template refuses them.
        """
        from jinja2 import TemplateError

        try:
            return self._render(messages, prompt=True)
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            raise UsageError(f"the chat template refuses these messages: {error}") from error

    def _render(self, messages: list[dict[str, str]], *, prompt: bool) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
