"""What policies that know nothing may not do: score, break anything, or read the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from agentgym.contract.actions import GARBAGE
from agentgym.contract.panel import CHANCE, PANEL, Played
from agentgym.contract.subject import NotApplicable, Subject, rule, start, step

_SHORT = 3  # characters: such an answer stands in many texts by chance


@rule(
    "gaming",
    "no policy that knows nothing scores above chance, and none makes it raise",
    "compare an answer as a whole, accept no list of candidates, balance what can be guessed; score what was done",
    "determinism",
    "garbage",
)
def _gaming(subject: Subject) -> Iterator[str]:
    panel = _panel(subject)
    chance, others = panel[: len(CHANCE)], panel[len(CHANCE) :]
    for played in panel:
        if broken := [said for said in played.raised if said not in played.lost]:
            yield f"{played.policy}: {len(broken)} of {len(played.scores)} episodes raised; {broken[0]}"
    best = max(chance, key=lambda played: played.score)
    for played in others:
        if played.above(best):
            low, high = played.interval
            yield (
                f"{played.policy} ({_first_line(played, subject)}) scores {played.score:.3f} [{low:.3f}, {high:.3f}] "
                f"on {len(played.scores)} tasks; chance ({best.policy}) is {best.score:.3f}"
            )


@rule(
    "counted",
    "what an action provokes is the agent's failure and counts, never a missing episode",
    "raise WorldFault for the world alone; reset starts afresh after any episode; say info['success'] at every end",
    "determinism",
    "garbage",
)
def _counted(subject: Subject) -> Iterator[str]:
    for played in _panel(subject):
        if played.lost:
            yield f"{played.policy}: {len(played.lost)} episodes would be left out; {played.lost[0]}"
        if played.untold:
            yield (
                f"{played.policy}: {len(played.untold)} episodes ended without info['success'], e.g. that of task "
                f"{played.untold[0]}, though others say it"
            )


@rule(
    "told",
    "accepted answers are not told before they were found",
    "keep info['answers'] out of observations, instructions and error messages",
    "determinism",
    "garbage",
)
def _told(subject: Subject) -> Iterator[str]:
    env = subject.make()
    places: dict[str, list[str]] = {}
    answers: list[tuple[str, ...]] = []
    for seed in range(max(12, min(40, subject.tasks))):
        met = start(env, seed)
        answers.append(tuple(a for a in met.known.get("answers", ()) if a.strip()))
        seen = {"the first observation": met.observation}
        seen["the instructions"] = str(getattr(env.unwrapped, "instructions", ""))
        for name, action in GARBAGE.items():
            if met.over:
                break
            met = step(env, action)
            if not any(call.status == "ran" for call in met.known.get("tool_calls", ())):
                seen[f"the observation after {name}"] = met.observation
        for place, text in seen.items():
            places.setdefault(place, []).append(text)
    if not any(answers):
        raise NotApplicable("it gives no info['answers']")
    for place, texts in places.items():
        yield from _told_at(place, texts, answers)


def _told_at(place: str, texts: Sequence[str], answers: Sequence[Sequence[str]]) -> Iterator[str]:
    """A question may name its answer, "which is older, A or B?", but not every one; and digits stand everywhere."""
    asked = [(text, own) for text, own in zip(texts, answers, strict=False) if own]
    found = [_stands(text, own) for text, own in asked]
    shifted = [_stands(text, other) for (text, _), (_, other) in zip(asked, [*asked[1:], *asked[:1]], strict=True)]
    own, by_chance = sum(map(bool, found)), sum(map(bool, shifted))
    if own > len(asked) / 2 and own - by_chance > len(asked) / 3:
        example = next(filter(None, found))
        yield f"{place} holds the answer in {own} of {len(asked)} tasks, e.g. {example!r}"


def _stands(text: str, answers: Sequence[str]) -> str | None:
    """The first of the answers that stands in the text as a whole word."""
    for answer in answers:
        how = re.NOFLAG if len(answer) <= _SHORT else re.IGNORECASE
        if re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, how):
            return answer
    return None


def _panel(subject: Subject) -> Sequence[Played]:
    if not subject.tasks:
        raise NotApplicable("no tasks were asked for")
    return subject.panel


def _first_line(played: Played, subject: Subject) -> str:
    policies: dict[str, Any] = {p.__name__: p for p in (*PANEL, *subject.adversaries)}
    told = getattr(policies.get(played.policy), "__doc__", None) or "a policy of the user"
    return str(told).strip().split("\n")[0].rstrip(".").lower()
