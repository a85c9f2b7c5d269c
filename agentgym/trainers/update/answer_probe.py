"""What the policy believes: the accepted answer's mean log-probability before and after each turn.

    bₜ = 1/L · Σⱼ log π(aⱼ | context after turn t, opening, a_<j)

The answer a stands where the policy would write it: at the start of the next action, inside the environment's answer
markup. IGPO (ICLR 2026). A row is context + opening + answer + closing, joined as ids and never tokenised again,
so which ids are the answer's is known by construction. Rows are leaves of the prefix tree: they cost their few own
tokens, and none of their context where that is scored anyway. The model itself is asked: at temperature 1, whatever
that of sampling is (another one than 1 scores the contexts a second time).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agentgym.models.chat_template import ChatTemplate
from agentgym.models.contexts import Context
from agentgym.policy import Request
from agentgym.records import Episode, Turn
from agentgym.trainers.advantage.information_gain import AnswerProbe
from agentgym.trainers.prefix_tree.tree import Row
from agentgym.trainers.update.batch import context_behind

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Ends thinking that the template began, or spans it; unclosed thinking goes to the end.
_THOUGHT = re.compile(r"\A(?:(?!<think>).)*?</think>|<think>.*?(?:</think>|\Z)", re.DOTALL)
NONE = -1


class AnswerProbes:
    """Makes the rows that must be scored for the beliefs of episodes.

    Args:
        chat, context: the policy's.
        probe: how it is asked.
        markup: what stands around an answer in this environment; see :class:`agentgym.contract.Probe`.
        instructions: the environment's, for contexts that show them on every turn.
        limit: longest row; a belief that does not fit (an observation beyond the model's window) is left out.
    """

    def __init__(
        self,
        chat: ChatTemplate,
        context: Context,
        probe: AnswerProbe | None = None,
        *,
        markup: tuple[str, str] = ("<answer>", "</answer>"),
        instructions: str = "",
        limit: int | None = None,
    ) -> None:
        self.chat, self.context, self.probe = chat, context, probe or AnswerProbe()
        self.instructions, self.limit = instructions, limit
        own = self.probe
        opening, closing = markup if own.opening is None or own.closing is None else (own.opening, own.closing)
        # the lead may hold the model's own markers (<think>), which text of an environment never may
        lead = list(chat.tokenizer.encode(own.lead, add_special_tokens=False)) if own.lead else []
        # Tokenizers write the space before a word with the word: "Answer:" and " Paris", not "Answer: " and "Paris".
        bare = opening.rstrip(" ")
        self._space = opening[len(bare) :]
        self._before = np.array([*lead, *chat.written(bare)], np.int64)
        self._after = np.array([*chat.written(closing), chat.end], np.int64)

    def ask(self, episodes: Sequence[Episode]) -> Questions:
        """The rows of all beliefs of these episodes, whose turns all have samples.

        A belief is asked for before every turn, and after the last one unless the episode terminated there: then that
        turn was the answer. Episodes without accepted answers get none.
        """
        asked = Questions(self.probe)
        for number, episode in enumerate(episodes):
            before = len(asked.before)
            asked.before.extend([NONE] * len(episode.turns))
            asked.after.extend([NONE] * len(episode.turns))
            answers = self._answers(episode)
            if not answers:
                continue
            contexts = episode.contexts()
            for t, context in enumerate(contexts):
                asked.before[before + t] = self._slot(asked, number, episode.id, context, answers)
            for t, turn in enumerate(episode.turns):
                last = t == len(contexts) - 1
                if last and episode.terminated:
                    continue
                if self.probe.removed == "nothing" and not last:
                    asked.after[before + t] = asked.before[before + t + 1]
                    continue
                following = (
                    context_behind(episode)
                    if self.probe.removed == "nothing"
                    else self._without(episode, t, contexts[t], turn)
                )
                asked.after[before + t] = self._slot(asked, number, episode.id, following, answers)
        return asked

    def _answers(self, episode: Episode) -> list[Ints]:
        """Ids of the accepted answers, each once."""
        most = 1 if self.probe.aliases == "first" else self.probe.max_aliases
        texts = list(dict.fromkeys(text for a in episode.answers if (text := str(a).strip())))
        return [np.array(self.chat.written(self._space + text), np.int64) for text in texts[:most]]

    def _without(self, episode: Episode, t: int, context: Sequence[int], turn: Turn) -> list[int]:
        """The context that would follow a turn without its action, or without the thinking in it."""
        assert turn.sample is not None
        action = list(turn.sample.action)
        if self.probe.removed == "action":
            action, turn = [], replace(turn, action="")
        else:
            action, turn = without_thought(self.chat, action), replace(turn, action=_THOUGHT.sub("", turn.action))
        last = t == len(episode.turns) - 1
        observation = episode.final if last else episode.turns[t + 1].observation
        turns = (*episode.turns[:t], turn)
        request = Request(episode.id, 0, observation, {}, turns, self.instructions)
        return self.context(self.chat, request, [*context, *action])

    def _slot(self, asked: Questions, episode: int, key: str, context: Sequence[int], answers: Sequence[Ints]) -> int:
        """Add the rows of one belief, one for each answer; its number, or NONE where it does not fit."""
        longest = len(context) + len(self._before) + max(map(len, answers))
        if self.limit is not None and longest > self.limit:
            asked.left_out += 1
            return NONE
        slot = len(asked.episode)
        asked.episode.append(episode)
        head = np.concatenate([np.asarray(context, np.int64), self._before])
        for alias, answer in enumerate(answers):
            scored = np.arange(len(head), len(head) + len(answer))
            asked.rows.append(Row(np.concatenate([head, answer, self._after]), scored, key))
            asked.place.append((slot, alias))
        return slot


class Questions:
    """Rows to score, and how their scores become beliefs.

    Attributes:
        rows: for :meth:`TokenTree.build`.
        before, after: number of the belief before and after each turn [turns]; -1 where there is none.
        episode: episode of each belief.
        place: belief and alias of each row.
        left_out: beliefs that did not fit.
        by: who is asked.
    """

    def __init__(self, probe: AnswerProbe) -> None:
        self.rows: list[Row] = []
        self.before: list[int] = []
        self.after: list[int] = []
        self.episode: list[int] = []
        self.place: list[tuple[int, int]] = []
        self.left_out = 0
        self.by = probe.by
        self._aliases = probe.aliases

    def columns(self, logprob: Floats) -> dict[str, Floats]:
        """The turn table's ``answer_logprob`` and ``answer_logprob_before``; NaN where there is no belief [turns].

        Args:
            logprob: of every scored token, in the order of the rows.
        """
        value = np.append(self._reduced(self._values(logprob)), np.nan)  # NONE is the last entry
        return {
            "answer_logprob": value[np.array(self.after, np.int64)],
            "answer_logprob_before": value[np.array(self.before, np.int64)],
        }

    def _values(self, logprob: Floats) -> Floats:
        """Mean log-probability of each alias; -inf where an episode has fewer [beliefs, aliases]."""
        place = np.array(self.place, np.int64).reshape(-1, 2)
        out = np.full((len(self.episode), int(place[:, 1].max(initial=0)) + 1), -np.inf)
        lengths = np.array([len(row.scored) for row in self.rows], np.int64)
        if len(lengths):
            starts = np.cumsum(lengths) - lengths
            out[place[:, 0], place[:, 1]] = np.add.reduceat(logprob, starts) / lengths
        return out

    def _reduced(self, values: Floats) -> Floats:
        """One number a belief [beliefs]."""
        if self._aliases == "first" or not len(values):
            return values[:, 0]
        if self._aliases == "mean":
            best = values.max(1)
            number = np.isfinite(values).sum(1)
            return np.asarray(best + np.log(np.exp(values - best[:, None]).sum(1) / number))
        episode = np.array(self.episode, np.int64)
        choice = np.zeros(int(episode.max()) + 1, np.int64)
        choice[episode] = values.argmax(1)  # the last one written stays: the episode's last belief
        return values[np.arange(len(values)), choice[episode]]


def without_thought(chat: ChatTemplate, action: Sequence[int]) -> list[int]:
    """The action's ids without those that write its thinking; what remains keeps the ids that were sampled."""
    ids = list(action)
    while found := _THOUGHT.search(chat.text(ids)):
        del ids[_token_at(chat, ids, found.start()) : _token_at(chat, ids, found.end() - 1) + 1]
    return ids


def _token_at(chat: ChatTemplate, ids: Sequence[int], position: int) -> int:
    """The token that writes the character at this position, by halves."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if len(chat.text(ids[: middle + 1])) > position:
            high = middle
        else:
            low = middle + 1
    return low
