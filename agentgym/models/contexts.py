"""What the policy sees: the context tokens of a turn.

A part is a function ``(chat, request, before) -> ids``. ``before`` holds the previous turn's context and action as
sampled (empty on the first turn); the longest common prefix of ``before`` and the answer is not computed again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from agentgym.models.chat_template import ChatTemplate
from agentgym.policy import Request


class Context(Protocol):
    """Builds the context of a turn."""

    def __call__(self, chat: ChatTemplate, request: Request, before: Sequence[int]) -> list[int]:
        """The full context as token ids, up to where the action begins."""


def full_history(*, instructions: bool = True, repeat_task: bool = False) -> Context:
    """Everything so far, append-only: each context extends the one before it.

    Args:
        instructions: start with the environment's instructions as the system message.
        repeat_task: repeat the task, the last line of the first observation, behind every later observation. A small
            model then need not find it far back.
    """

    def context(chat: ChatTemplate, request: Request, before: Sequence[int]) -> list[int]:
        if not before:
            return chat.opening(request.instructions if instructions else "", request.observation)
        observation = request.observation
        if repeat_task:
            observation += "\n" + request.turns[0].observation.rsplit("\n", 1)[-1]
        return [*before, *chat.following(observation, before)]

    return context


def window(turns: int = 2, *, instructions: bool = True) -> Context:
    """The first observation, the last ``turns`` (observation, action) pairs and the current observation as one message.

    What GiGPO's released prompts do (2505.10978, history length 2): the length of a context stays bounded, and every
    turn has its own.
    """

    def context(chat: ChatTemplate, request: Request, before: Sequence[int]) -> list[int]:
        system = request.instructions if instructions else ""
        if not request.turns:
            return chat.opening(system, request.observation)
        past = request.turns[max(0, len(request.turns) - turns) :]
        lines = [request.turns[0].observation]
        first = len(request.turns) - len(past)
        for number, turn in enumerate(past, first + 1):
            if number > 1:
                lines.append(f"[observation {number}] {turn.observation}")
            lines.append(f"[action {number}] {turn.action}")
        lines.append(f"[observation {len(request.turns) + 1}] {request.observation}")
        return chat.opening(system, "\n".join(lines))

    return context


_REPORT = ("<report>", "</report>")
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
KEEP_A_REPORT = (
    "Of all that happened you will see only the task, your report, your last action and its result. So write in every "
    "action, between <report> and </report>, a new report of everything that you know and still need to know."
)


def workspace(*, instructions: bool = True) -> Context:
    """The task, the report that the policy rewrites, its last action and what came of it, in one message.

    sₜ = (q, Mₜ, aₜ₋₁, oₜ₋₁), M₀ = ∅: IterResearch (2511.07327). However long an episode, its contexts stay about as
    short as the report. Mₜ is what the last action that has one writes between ``<report>`` and ``</report>``; the
    action is shown without it and without its thinking.

    Args:
        instructions: start with the environment's instructions, and with what a report is, as the system message.
    """

    def context(chat: ChatTemplate, request: Request, before: Sequence[int]) -> list[int]:
        system = "\n\n".join(filter(None, (request.instructions, KEEP_A_REPORT))) if instructions else ""
        if not request.turns:
            return chat.opening(system, request.observation)
        reports = [found[-1] for turn in request.turns if (found := _split_reports(turn.action)[0])]
        action = _split_reports(_THOUGHT.sub("", request.turns[-1].action))[1].strip()
        lines = [
            request.turns[0].observation,
            f"[report] {reports[-1].strip() if reports else 'nothing yet'}",
            f"[action] {action}",
            f"[result] {request.observation}",
        ]
        return chat.opening(system, "\n".join(lines))

    return context


def _split_reports(action: str) -> tuple[list[str], str]:
    """What stands between the marks of reports, and what is left without them; in linear time."""
    reports: list[str] = []
    left: list[str] = []
    position, (opened, closed) = 0, _REPORT
    while (start := action.find(opened, position)) >= 0 and (end := action.find(closed, start)) >= 0:
        reports.append(action[start + len(opened) : end])
        left.append(action[position:start])
        position = end + len(closed)
    return reports, "".join(left) + action[position:]
