"""``agentgym/Search-v0``: questions that are answered by searching."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from agentgym import keyed_random
from agentgym.env import StepResult, digest
from agentgym.envs.search.datasets import changed, context_passages, read_questions
from agentgym.envs.search.expert import next_move
from agentgym.envs.search.questions import Catalogue
from agentgym.envs.search.scoring import exact_match, f1
from agentgym.envs.search.world import MAX_FACTS, shared_world
from agentgym.envs.tasks import SplitQuestions, TaskSequence
from agentgym.envs.tool_env import Question, Score, ToolEnv
from agentgym.errors import UnknownName, UsageError
from agentgym.tools.search import Bm25Index, Retriever, SearchR1Client, fetch_tool, open_index, search_tool
from agentgym.tools.search.corpus import read_corpus
from agentgym.tools.syntax.base import Call
from agentgym.waiting import Waiting

INSTRUCTIONS = "Answer the question with the help of searches. Give the answer alone, in as few words as possible."
REWARDS = {"em": exact_match, "f1": f1}
#: Seconds after which a call of any retriever but the embedded one is given up; HTTP clients give up earlier.
SLOW_TIMEOUT = 30.0


class SearchEnv(ToolEnv):
    """Search an encyclopedia, several times if need be, and answer.

    Two kinds of tasks: questions about an invented world, which nobody can answer from memory (the default), or a file
    of the user's own questions. Over the invented world the splits share no person, place, work, organisation or event,
    and ``unseen`` asks for one hop more.

    The last turn's reward is the score of the answer (exact match or F1, the best over all accepted answers), plus
    ``format_reward`` if every action of an answered episode was understood, plus ``evidence_reward`` times the share of
    the supporting documents that the tools showed (``evidence_recall``, see ``ToolEnv``). ``info["success"]`` is exact
    match.

    Args:
        split: ``"train"``, ``"test"`` or ``"unseen"``.
        hops: documents that the answer's line of reasoning passes through, 1 to 4, or several such numbers; default 2.
        kinds: ``"chain"``, ``"comparison"``, ``"count"``; default chains only.
        documents: how many the invented world has, 400 to 1,000,000; default 1000.
        world: seed of the invented world; default 0.
        facts: how many facts a document of it states at most, 1 to 4, and so how much there is to choose from;
            default 4. With fewer there are chains only.
        questions: a JSON-lines file or ``hf:NAME`` (see :mod:`agentgym.envs.search.datasets`) instead of the world's.
        corpus: another corpus to search: a JSON-lines file, a folder made by ``agentgym index``, the URL of a Search-R1
            server, or a retriever. Left out with ``questions``: the passages that these bring along.
        k: passages a search shows.
        characters: length at which a passage is cut.
        fetch: whether there is a tool that opens a document by its id.
        reward: ``"em"`` or ``"f1"``.
        format_reward: see above.
        evidence_reward: see above.
        syntax: how calls are written.
        max_turns: actions before the episode is truncated.
        expert_redundancy: probability that the expert opens the document that it has found last, though a search has
            shown it, and again after that; needs ``fetch`` and the invented world. A policy that imitates it makes more
            calls than a task needs, as many language models do.
    """

    splits = ("train", "test", "unseen")

    def __init__(
        self,
        *,
        split: str = "train",
        hops: int | Sequence[int] | None = None,
        kinds: str | Sequence[str] | None = None,
        documents: int | None = None,
        world: int | None = None,
        facts: int | None = None,
        questions: str | None = None,
        corpus: str | Path | Retriever | None = None,
        k: int = 2,
        characters: int = 300,
        fetch: bool = False,
        reward: Literal["em", "f1"] = "em",
        format_reward: float = 0.0,
        evidence_reward: float = 0.0,
        syntax: str = "tags",
        max_turns: int = 6,
        expert_redundancy: float = 0.0,
    ) -> None:
        if split not in self.splits:
            raise UnknownName("split", split, self.splits)
        if reward not in REWARDS:
            raise UnknownName("reward", reward, REWARDS)
        if not 0 <= expert_redundancy < 1:
            raise UsageError(f"expert_redundancy is a probability below 1, got {expert_redundancy!r}")
        if expert_redundancy and not fetch:
            raise UsageError("expert_redundancy opens documents, which needs fetch=true")
        if questions is None:
            size, seed = 1000 if documents is None else documents, 0 if world is None else world
            stated = MAX_FACTS if facts is None else facts
            encyclopedia, index = shared_world(size, seed, stated)
            tasks: TaskSequence = Catalogue(encyclopedia, split, hops=_several(hops, 2), kinds=_several(kinds, "chain"))
            source: tuple[object, ...] = ("world", size, seed, stated)
            self.permutable_names = encyclopedia.words
            retriever: Retriever = index if corpus is None else open_corpus(corpus)
        else:
            world_options: dict[str, Any] = {"hops": hops, "kinds": kinds, "documents": documents, "world": world}
            world_options |= {"facts": facts, "expert_redundancy": expert_redundancy or None}
            if misplaced := [name for name, value in world_options.items() if value is not None]:
                raise UsageError(f"{', '.join(misplaced)} belong to the invented world; leave them out with questions=")
            tasks = SplitQuestions(read_questions(questions, split))
            source = ("questions", questions)
            retriever = open_corpus(corpus) if corpus is not None else _own_index(questions, changed(questions))
        timeout = None if isinstance(retriever, Bm25Index) else SLOW_TIMEOUT
        tools = [search_tool(retriever, k=k, characters=characters, timeout=timeout)]
        if fetch:
            tools.append(fetch_tool(retriever, timeout=timeout))
        super().__init__(
            tools,
            tasks,
            self._score,
            syntax=syntax,
            max_turns=max_turns,
            instructions=INSTRUCTIONS,
            split=split,
        )
        self._measure = REWARDS[reward]
        self._weights, self._expert_redundancy = (format_reward, evidence_reward), expert_redundancy
        self._data = digest(source, k, characters, reward, format_reward, evidence_reward, *_parts(retriever))
        self._misread = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self._misread = 0
        return super().reset(seed=seed, options=options)

    def step_in_parts(self, action: str) -> Waiting[StepResult]:
        observation, reward, terminated, truncated, info = yield from super().step_in_parts(action)
        self._misread += "error" in info
        return observation, reward, terminated, truncated, info

    def score(self, answer: str | None) -> Score:
        for_format, for_evidence = self._weights
        bonus = for_evidence * self.evidence_recall if for_evidence else 0.0
        if answer is None:
            return Score(bonus, False)
        value = self._score(answer, self.question)
        return value._replace(reward=value.reward + bonus + (for_format if not self._misread else 0.0))

    def _score(self, answer: str, question: Question) -> Score:
        return Score(self._measure(answer, question.answers), bool(exact_match(answer, question.answers)))

    def expert(self) -> str | None:
        """The next search, named by what the question and the results so far say, or the answer at their end; see
        :func:`agentgym.envs.search.expert.next_move`."""
        move = self._redundant_call() or next_move(self)
        if move is None:
            return None
        return self.syntax.render(answer=move) if isinstance(move, str) else self.syntax.render([move])

    def _redundant_call(self) -> Call | None:
        """Opens the document found last, as long as two turns are left for each that is still to be found."""
        documents = self.documents_shown(self.question.evidence)
        left = self.max_turns - self.turn - 2 * (len(self.question.evidence) - len(documents))
        if not documents or left <= 1:
            return None
        if keyed_random.uniform("habit", self.question.id, len(self.calls)) >= self._expert_redundancy:
            return None
        return Call("fetch", {"document": documents[-1]})

    @property
    def anchor(self) -> str:
        """Digest of the task and the set of results seen; the wording of a search does not matter."""
        return digest(self._task, sorted({call.result for call in self.calls if call.error is None}))

    @property
    def fingerprint(self) -> str:
        return digest(super().fingerprint, self._data)


def open_corpus(corpus: str | Path | Retriever) -> Retriever:
    """A retriever from what a user names: a JSON-lines file, an index folder, a server's URL, or a retriever.

    Raises:
        UsageError: it is none of these.
    """
    if not isinstance(corpus, (str, Path)):
        if not isinstance(corpus, Retriever):
            raise UsageError(f"a corpus has search(query, k) and fetch(id); {type(corpus).__name__} has not")
        return corpus
    if str(corpus).startswith(("http://", "https://")):
        return _shared_client(str(corpus))
    path = Path(corpus)
    if path.is_dir():
        return _shared_index(str(path), path.stat().st_mtime_ns)
    if not path.is_file():
        raise UsageError(f"no corpus {str(corpus)!r}; give a JSON-lines file, an index folder or a server's URL")
    return _shared_index(str(path), path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _shared_client(url: str) -> SearchR1Client:
    return SearchR1Client(url)


@functools.lru_cache(maxsize=8)
def _shared_index(path: str, when: int) -> Bm25Index:
    """``when`` it was written: a file that was written anew is read anew."""
    return open_index(path) if Path(path).is_dir() else Bm25Index.of(list(read_corpus(path)))


@functools.lru_cache(maxsize=8)
def _own_index(questions: str, when: int) -> Bm25Index:
    return Bm25Index.of(context_passages(questions))


def _parts(retriever: Retriever) -> tuple[object, ...]:
    """What is known of a corpus without reading all of it."""
    return (len(retriever),) if isinstance(retriever, Bm25Index) else (type(retriever).__name__,)


def _several(value: Any, default: Any) -> list[Any]:
    chosen = default if value is None else value
    return [chosen] if isinstance(chosen, (int, str)) else list(chosen)
