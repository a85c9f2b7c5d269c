"""What a good searcher does next, from the question and from what its searches brought."""

from __future__ import annotations

from collections.abc import Sequence

from agentgym.envs.tool_env import ToolEnv
from agentgym.records import ToolCall
from agentgym.tools.syntax.base import Call


def next_move(env: ToolEnv) -> Call | str | None:
    """The next call, the answer, or None where the searches did not bring what it follows from.

    In the invented world it looks up one subject after another, each named by the question or by a document that it
    has seen, and answers once all were found. Over other corpora, where the facts are not known, it searches for the
    question, then for the titles of missing evidence that the results mention, and gives the accepted answer that
    they mention (yes and no need no mention).
    """
    facts = env.question.data.get("facts")
    if facts is None:
        return _explore(env)
    for subject, relation, _ in facts:
        if not env.documents_shown([subject]):
            return _look_up(subject, relation, env.calls, can_fetch="fetch" in env.syntax.tools)
    return env.question.answers[0]


def _look_up(subject: str, relation: str, calls: Sequence[ToolCall], *, can_fetch: bool) -> Call | None:
    """The name; then, where its own document was not among the first, more exactly; then nothing."""
    again = Call("fetch", {"document": subject}) if can_fetch else Call("search", {"query": f"{subject} {relation}"})
    for call in (Call("search", {"query": subject}), again):
        if not any(earlier.name == call.name and earlier.arguments == call.arguments for earlier in calls):
            return call
    return None


def _explore(env: ToolEnv) -> Call | str | None:
    question, calls = env.question, env.calls
    if not calls:
        return Call("search", {"query": question.text})
    results = "\n".join(call.result for call in calls if call.error is None)
    queries = {str(call.arguments.get("query")) for call in calls}
    for document in question.evidence:
        title = document.partition("#")[0]
        if title in results and title not in queries and not env.documents_shown([document]):
            return Call("search", {"query": title})
    lowered = results.lower()
    return next((a for a in question.answers if a.lower() in lowered or a.lower() in ("yes", "no")), None)
