"""What an episode found and cited of the documents that support the accepted answer.

A document was shown where a line of a tool's result begins with its id in brackets, ``[id] ``, as search results are
written; an action cites it by ``[id]``.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentgym.records import Episode

NAN = float("nan")


def evidence_columns(episodes: Sequence[Episode]) -> dict[str, list[float]]:
    """The turn table's ``evidence_recall`` and ``evidence_cited``, NaN where an episode names no evidence.

    ``evidence_recall``: share of the supporting documents shown up to and with the turn's results. ``evidence_cited``:
    share of them that earlier turns showed and the turn's action cites: a citation without reading does not count.

    Returns:
        No columns where no episode names evidence.
    """
    if not any(episode.evidence for episode in episodes):
        return {}
    recall: list[float] = []
    cited: list[float] = []
    for episode in episodes:
        wanted = [" ".join(document.split()) for document in dict.fromkeys(episode.evidence)]
        shown: set[str] = set()
        for turn in episode.turns:
            cited.append(sum(f"[{d}]" in turn.action for d in shown) / len(wanted) if wanted else NAN)
            results = [call.result for call in turn.tool_calls if call.error is None]
            shown.update(d for d in wanted if d not in shown and any(_shows(result, d) for result in results))
            recall.append(len(shown) / len(wanted) if wanted else NAN)
    return {"evidence_recall": recall, "evidence_cited": cited}


def _shows(result: str, document: str) -> bool:
    start = f"[{document}] "
    return result.startswith(start) or f"\n{start}" in result
