"""Verifiers of other people that may take for ever, in a process of their own that is given up when they do.

``python -m agentgym.envs.code.verifier`` answers one JSON line on its standard output for each on its standard input.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from agentgym.errors import MissingExtra, ToolError

SECONDS = 10.0  #: for one answer
_START_SECONDS = 60.0  #: for the first, which imports

_MEMORY = 4 << 30  #: bytes of address space

_lock = threading.Lock()
_running: _Child | None = None


class _Child:
    def __init__(self) -> None:
        self.pid = os.getpid()
        environment = {key: value for key, value in os.environ.items() if key in ("PATH", "PYTHONPATH", "HOME", "LANG")}
        self.process = subprocess.Popen(  # noqa: S603  # a fixed list, no shell
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.replies: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.seconds = _START_SECONDS
        threading.Thread(target=self._read, name="agentgym-verifier", daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.replies.put(line)
        self.replies.put("")

    def ask(self, line: str) -> str:
        """The reply; empty where there was none in time."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            reply = self.replies.get(timeout=self.seconds)
        except (OSError, queue.Empty):
            return ""
        self.seconds = SECONDS
        return reply

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()


def ask(question: Mapping[str, Any]) -> object:
    """What the verifier says; None where it failed or took too long.

    Raises:
        MissingExtra: what it needs is not installed.
        ToolError: the verifying process could not be started at all.
    """
    global _running
    with _lock:
        if _running is None or _running.pid != os.getpid():
            _running = _Child()
        reply = _running.ask(json.dumps(question))
        if not reply:
            first = _running.seconds == _START_SECONDS
            ended = _running.process.poll()
            _running.end()
            _running = None
            if first and ended is not None:
                raise ToolError(f"the verifying process ended with status {ended}; nothing is known about the answer")
            return None
    value = json.loads(reply)
    if "missing" in value:
        raise MissingExtra(*value["missing"])
    return value["result"]


def same_maths(answer: str, expected: str) -> bool:
    """Whether two mathematical texts (LaTeX or plain) mean the same, by math-verify.

    Raises:
        MissingExtra: math-verify is not installed.
    """
    return ask({"kind": "math", "answer": answer, "expected": expected}) is True


def _reply(question: Mapping[str, Any]) -> dict[str, Any]:
    kind = question["kind"]
    try:
        if kind == "math":
            return {"result": _math(question["answer"], question["expected"])}
        from agentgym.envs.code.reasoning import verified

        return {"result": verified(*(question[key] for key in ("answer", "name", "index")))}
    except MissingExtra as error:
        return {
            "missing": ["math_verify", "math"] if kind == "math" else ["reasoning_gym", "reasoning"],
            "why": str(error),
        }


def _math(answer: str, expected: str) -> bool:
    try:
        from math_verify import parse, verify  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise MissingExtra("math_verify", "math") from error
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
