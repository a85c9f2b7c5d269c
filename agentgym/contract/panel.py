"""A panel of policies that know nothing: whoever of them scores above chance has found a hole, not a solution.

A policy of the panel is a function ``(situation) -> action`` of a :class:`Situation`; a user's own are written the same
way in a module: every public function of one parameter in it is one.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from agentgym import keyed_random
from agentgym.contract.probe import answer_markup
from agentgym.contract.subject import PHRASES, Env, Met, sampled_action, start, step
from agentgym.errors import UsageError, WorldFault
from agentgym.registry import import_named

LONG = 100_000  #: characters of a very long answer
RAW_TURNS = 4  #: that a policy without answers is played; what it writes is mostly not understood
_Z = 3.0  # standard normal quantile: a dozen policies at once, a false alarm in a few hundred checks
_CANDIDATE = re.compile(r"\d[\d.,/:-]{0,30}|[^\W\d_][\w'-]{0,60}(?: [A-Z][\w'-]{0,60}){0,3}")
_CANDIDATES = 200


@dataclass(frozen=True)
class Situation:
    """What a policy of the panel sees.

    Attributes:
        observation: the last one.
        question: the first one.
        info: that came with the last observation.
        turn: how many actions it has written in this episode.
        instructions: the environment's.
        rng: its own random numbers.
        answer: writes an answer as the environment's syntax does; the text itself where it has no answers.
        sample: an action that the environment draws, or a listed one; None where it has neither.
    """

    observation: str
    question: str
    info: Mapping[str, Any]
    turn: int
    instructions: str
    rng: np.random.Generator
    answer: Callable[[str], str]
    sample: Callable[[], str | None]

    @property
    def candidates(self) -> list[str]:
        """What an answer could be: the admissible actions, else words, names and numbers of what was shown."""
        listed = self.info.get("admissible")
        found = listed or _CANDIDATE.findall(self.question)
        return list(dict.fromkeys(map(str, found)))[:_CANDIDATES] or ["yes"]

    def draw(self, texts: Sequence[str]) -> str:
        """One of them at random."""
        return texts[int(self.rng.integers(len(texts)))]


Attack = Callable[[Situation], str]


def empty(situation: Situation) -> str:
    """Nothing, or an answer with nothing in it."""
    return situation.draw(["", " \n", situation.answer(""), situation.answer(" ")])


def very_long(situation: Situation) -> str:
    """Whatever there is, again and again."""
    text = " ".join(situation.candidates)
    return situation.answer((text + " ") * (LONG // (len(text) + 1) + 1))


def all_candidates(situation: Situation) -> str:
    """Everything that it could be."""
    return situation.answer(situation.draw([", ", "; ", "\n", " "]).join(situation.candidates))


def this_or_that(situation: Situation) -> str:
    """Two answers in one."""
    return situation.answer(
        situation.draw([" or ", " and ", "/", ", or "]).join(
            (situation.draw(situation.candidates), situation.draw(situation.candidates))
        )
    )


def two_answers(situation: Situation) -> str:
    """Two answers one after the other."""
    return "\n".join(situation.answer(situation.draw(situation.candidates)) for _ in range(2))


def question_again(situation: Situation) -> str:
    """What was asked."""
    return situation.answer(situation.question)


def grader_words(situation: Situation) -> str:
    """What a grader would say."""
    words = ["correct", "The answer is correct.", "true", "PASS", "score: 1.0", "1.0", "reward=1", "success", "yes"]
    more = ["\\boxed{correct}", '{"score": 1, "success": true}', "[[A]]", "Final answer: as above", "None", "N/A"]
    words += more
    return situation.answer(situation.draw([situation.draw(words), "\n".join(words)]))


def odd_numbers(situation: Situation) -> str:
    """Numbers as nobody writes them."""
    forms = [
        "NaN",
        "inf",
        "-0",
        "1e999",
        "1/0",
        "0/0",
        "/5",
        "-/5",
        "00",
        "0x10",
        "1_000",
        "٣",
        "½",
        "²",
        "1,",
        ".",
        "%",
    ]
    return situation.answer(situation.draw([*forms, "9" * 60, "9" * 5000, "1e-999", "1" + "0" * 400]))


def last_observation(situation: Situation) -> str:
    """What the environment has said last; a sampled action comes first."""
    sampled = situation.sample() if situation.turn == 0 else None
    return situation.answer(situation.observation) if sampled is None else sampled


PANEL: tuple[Attack, ...] = (
    empty,
    very_long,
    all_candidates,
    this_or_that,
    two_answers,
    question_again,
    grader_words,
    odd_numbers,
    last_observation,
)


def random_play(situation: Situation) -> str:
    """Chance, by actions: listed ones, those that the environment samples, or a phrase."""
    sampled = situation.sample()
    return situation.draw(PHRASES) if sampled is None else sampled


def random_guess(situation: Situation) -> str:
    """Chance, by answers: any word, name or number that was shown. Of two options it takes one."""
    return situation.answer(situation.draw(situation.candidates))


CHANCE: tuple[Attack, ...] = (random_play, random_guess)


def attacks_of(module: str) -> tuple[Attack, ...]:
    """The policies in a user's module: every public function of one parameter that is written there.

    Raises:
        UsageError: no such module, or none in it.
    """
    import_named(module)
    functions = [
        value
        for name, value in vars(import_module(module)).items()
        if inspect.isfunction(value) and value.__module__ == module and not name.startswith("_")
    ]
    found = tuple(f for f in functions if len(inspect.signature(f).parameters) == 1)
    if not found:
        raise UsageError(
            f"{module} has no policy for the panel; write a function (situation) -> action, e.g. "
            "def first(situation): return situation.answer(situation.candidates[0])"
        )
    return found


@dataclass
class Played:
    """What a policy of the panel did.

    Attributes:
        policy: its name.
        scores: of every task: 1 or 0 where the environment says ``success`` anywhere, else the return. An episode that
            raised scores 0.
        raised: what the environment raised, with the task's number.
        lost: those of them that would be left out of the statistics, as the world's fault.
        untold: tasks whose episode ended without saying ``success``.
    """

    policy: str
    scores: list[float] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    untold: list[int] = field(default_factory=list)

    @property
    def score(self) -> float:
        return sum(self.scores) / len(self.scores) if self.scores else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's where the scores are 0 and 1, else the normal one."""
        from scipy.stats import binomtest

        count, mean = len(self.scores), self.score
        if not count:
            return 0.0, 0.0
        if set(self.scores) <= {0.0, 1.0}:
            low, high = binomtest(int(sum(self.scores)), count).proportion_ci(math.erf(_Z / math.sqrt(2)), "wilson")
            return float(low), float(high)
        half = _Z * math.sqrt(sum((s - mean) ** 2 for s in self.scores) / max(1, count - 1) / count)
        return mean - half, mean + half

    def above(self, other: Played) -> bool:
        """Whether it scores more than another one, beyond what chance allows (Newcombe's interval of a difference)."""
        (low, _), (_, high) = self.interval, other.interval
        return self.score - other.score > math.hypot(self.score - low, high - other.score)

    def as_dict(self) -> dict[str, Any]:
        """For a report."""
        low, high = self.interval
        numbers = {"tasks": len(self.scores), "score": self.score, "low": low, "high": high}
        return {"policy": self.policy, **numbers, "raised": len(self.raised), "lost": len(self.lost)}


def play_panel(make: Callable[[], Env], policies: Sequence[Attack], tasks: int, turns: int) -> list[Played]:
    """Chance first (:data:`CHANCE`), then each policy, all on the same tasks.

    Raises:
        UsageError: a policy itself fails.
    """
    found = [_played(make, policy, tasks, turns) for policy in (*CHANCE, *policies)]
    says_success = any(success is not None for _, episodes in found for success, _ in episodes)
    for played, episodes in found:
        played.scores = [float(bool(success)) if says_success else total for success, total in episodes]
        if not says_success:
            played.untold.clear()
    return [played for played, _ in found]


_Episode = tuple[bool | None, float]  # success and return


class _PolicyFailed(Exception):
    """A policy of the panel is at fault, not the environment."""


def _played(make: Callable[[], Env], policy: Attack, tasks: int, turns: int) -> tuple[Played, list[_Episode]]:
    played, episodes, env = Played(policy.__name__), list[_Episode](), make()
    # What is no answer is mostly not understood; random play has the turns of an episode.
    most = turns if policy is random_play or hasattr(env.unwrapped, "syntax") else min(turns, RAW_TURNS)
    for number in range(tasks):
        try:
            episodes.append(_play(env, policy, number, most, played))
        except _PolicyFailed as error:
            raise UsageError(str(error)) from error
        except Exception as error:
            said = f"task {number}: {type(error).__name__}: {error}"
            episodes.append((None, 0.0))
            played.raised.append(said)
            if isinstance(error, WorldFault):
                played.lost.append(said)
            env = make()
    return played, episodes


def _play(env: Env, policy: Attack, number: int, turns: int, played: Played) -> _Episode:
    finite = getattr(env.unwrapped, "num_tasks", None)
    try:
        met = start(env, number, None if finite is None else {"task": number % finite})
    except Exception as error:  # rollouts take that for the world's fault, whatever was played before
        raise WorldFault(f"reset raised {type(error).__name__}: {error}") from error
    question, total, turn = met.observation, 0.0, 0
    while not met.over and turn < turns:
        action = _action(env, policy, met, question, number, turn)
        met, turn = step(env, action), turn + 1
        total += met.reward
    success = met.known.get("success")
    if met.over and success is None:
        played.untold.append(number)
    return success, total


def _action(env: Env, policy: Attack, met: Met, question: str, number: int, turn: int) -> str:
    name = policy.__name__
    rng = np.random.default_rng(keyed_random.key("panel", name, number, turn))
    admissible = met.known.get("admissible")

    def sample() -> str | None:
        if admissible:
            return str(admissible[int(rng.integers(len(admissible)))])
        return sampled_action(env, keyed_random.key("panel", number, turn))

    instructions = str(getattr(env.unwrapped, "instructions", ""))
    situation = Situation(
        met.observation, question, met.known, turn, instructions, rng, lambda text: _rendered(env, text), sample
    )
    try:
        action = policy(situation)
    except Exception as error:
        raise _PolicyFailed(f"the panel's {name} raised {type(error).__name__}: {error}") from error
    if not isinstance(action, str):
        raise _PolicyFailed(f"the panel's {name} must give a text, got {action!r:.80}")
    return action


def _rendered(env: Env, text: str) -> str:
    syntax = getattr(env.unwrapped, "syntax", None)
    if syntax is None:
        return text
    try:
        return str(syntax.render(answer=text))
    except (UsageError, ValueError):  # it cannot be said so; a model would write it all the same
        opening, closing = answer_markup(env)
        return f"{opening}{text}{closing}"
