"""Episodes that nobody sampled (an expert's, a person's) as training data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from agentgym.policy import Request
from agentgym.records import Episode, Sample, Turn
from agentgym.trainers.chat import Chat
from agentgym.trainers.contexts import Context
from agentgym.trainers.generation import common_prefix


def tokenised(episode: Episode, chat: Chat, context: Context, *, instructions: str = "") -> Episode:
    """The same episode with a :class:`~agentgym.records.Sample` on every turn, without log-probabilities.

    The contexts are those that the policy would have met, had it written the same actions.
    """
    return replace(episode, turns=tuple(_turns(episode, chat, context, instructions)))


def _turns(episode: Episode, chat: Chat, context: Context, instructions: str) -> Iterator[Turn]:
    before: list[int] = []
    for number, turn in enumerate(episode.turns):
        request = Request(episode.id, 0, turn.observation, {}, episode.turns[:number], instructions)
        ids = context(chat, request, before)
        action = chat.closed(turn.action)
        keep = common_prefix(before, ids)
        yield replace(turn, sample=Sample(keep, tuple(ids[keep:]), tuple(action)))
        before = [*ids, *action]
