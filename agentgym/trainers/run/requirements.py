"""What an algorithm needs from an environment, checked before the first rollout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agentgym.errors import UsageError

#: column of the turn table -> the key of ``info`` that it is made from
KEYS = {
    "answer_logprob": "answers",
    "answer_logprob_before": "answers",
    "evidence_recall": "evidence",
    "evidence_cited": "evidence",
}
_WHAT = {"answers": "the policy's belief in the accepted answer", "evidence": "the documents that support the answer"}


def check_environment(env: Any, needs: Iterable[str]) -> None:
    """Reset once and look for what the parts read. Single tasks may still lack it; they get no such credit.

    Args:
        env: the environment; it is reset.
        needs: of the algorithm.

    Raises:
        UsageError: a key of ``info`` is missing.
    """
    wanted = sorted({KEYS[name] for name in needs if name in KEYS})
    if not wanted:
        return
    _, info = env.reset(seed=0)
    for key in wanted:
        if not info.get(key):
            raise UsageError(
                f"the recipe reads {_WHAT[key]}, but this environment's reset gives no info[{key!r}]; add it there, or "
                "choose a recipe that reads rewards only, e.g. grpo"
            )
