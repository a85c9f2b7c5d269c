"""The process that runs verifiers of other people; see :mod:`agentgym.envs.code.verifier_client`.

``python -m agentgym.envs.code.verifier`` answers one JSON line on its standard output for each on its standard input.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
from collections.abc import Mapping
from typing import Any

_MEMORY = 4 << 30  #: bytes of address space


def _reply(question: Mapping[str, Any]) -> dict[str, Any]:
    if question.get("load"):
        return _loaded(question["kind"])
    try:
        if question["kind"] == "math":
            return {"result": _math(question["answer"], question["expected"])}
        from agentgym.envs.code.reasoning import verified

        return {"result": verified(*(question[key] for key in ("answer", "name", "index")))}
    except Exception as error:  # over an odd answer
        return {"result": None, "why": repr(error)}


def _loaded(kind: str) -> dict[str, Any]:
    module, extra = ("math_verify", "math") if kind == "math" else ("reasoning_gym", "reasoning")
    try:
        importlib.import_module(module)
        if kind != "math":  # so that no answer's time is spent on it
            importlib.import_module("agentgym.envs.code.reasoning")
    except ImportError as error:
        return {"missing": [module, extra], "why": str(error)}
    return {"result": None}


def _math(answer: str, expected: str) -> bool:
    from math_verify import parse, verify  # type: ignore[import-untyped,unused-ignore]

    # Without dollars a text counts as LaTeX only where it is in an environment.
    readings = [parse(text) or parse(f"${text}$") for text in (expected, answer)]
    return bool(readings[0] and readings[1] and verify(*readings))


def main() -> None:
    """Answer until the other side hangs up."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a verifier prints is no reply
    for line in sys.stdin:
        print(json.dumps(_reply(json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
