"""Episodes that nobody sampled (an expert's, a person's) as training data."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from agentgym import keyed_random
from agentgym.models.chat_template import ChatTemplate
from agentgym.models.contexts import Context
from agentgym.policy import Request
from agentgym.records import Episode, Sample, Turn


def tokenised(
    episode: Episode,
    chat: ChatTemplate,
    context: Context,
    *,
    instructions: str = "",
    noise: Collection[tuple[str, int]] = (),
) -> Episode:
    """The same episode with a :class:`~agentgym.records.Sample` on every turn, without log-probabilities.

    The contexts are those that the policy would have met, had it written the same actions.

    Args:
        noise: (episode, turn) of actions that are not to be imitated. The reward of every turn becomes 1, theirs 0.
    """
    turns: list[Turn] = []
    before: list[int] = []
    for number, turn in enumerate(episode.turns):
        request = Request(episode.id, 0, turn.observation, {}, episode.turns[:number], instructions)
        ids, action = context(chat, request, before), chat.closed(turn.action)
        reward = float((episode.id, number) not in noise)
        turns.append(replace(turn, reward=reward, sample=Sample.behind(before, ids, action)))
        before = [*ids, *action]
    if episode.terminated:
        return replace(episode, turns=tuple(turns))
    request = Request(episode.id, 0, episode.final, {}, episode.turns, instructions)
    behind = Sample.behind(before, context(chat, request, before), ())
    return replace(episode, turns=tuple(turns), final_context=behind)


def cut_short(episodes: Iterable[Episode], chat: ChatTemplate, max_new_tokens: int) -> str | None:
    """What is wrong where a policy cannot write what it imitates, because that is longer than its actions may be."""
    lengths = [len(chat.written(turn.action)) for e in episodes for turn in e.turns]
    longer = sum(length > max_new_tokens for length in lengths)
    if not longer:
        return None
    return (
        f"{longer} of {len(lengths)} imitated actions are longer than rollout.max_new_tokens={max_new_tokens} and "
        f"will be cut when the policy writes them; set rollout.max_new_tokens={max(lengths) + 1}"
    )


def with_permuted_names(episode: Episode, names: Sequence[Sequence[str]], key: int) -> Episode:
    """The same episode with the names of each set permuted, everywhere in the same way.

    Args:
        names: sets of words without a word in common; only whole words count.
        key: decides the permutation of each set, all equally likely.
    """
    named: dict[str, str] = {}
    for number, members in enumerate(names):
        order = sorted(members, key=lambda word: keyed_random.key(key, number, word))
        named |= zip(members, order, strict=True)
    if not named:
        return episode
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, named))})\b")

    def said(text: str) -> str:
        return pattern.sub(lambda found: named[found[0]], text)

    turns = tuple(replace(t, observation=said(t.observation), action=said(t.action)) for t in episode.turns)
    return replace(episode, turns=turns, final=said(episode.final))
