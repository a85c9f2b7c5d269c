"""Asks verifiers of other people, which may take for ever, in a few processes that are given up when they do.

The processes run :mod:`agentgym.envs.code.verifier`. One is started when all others are busy, so an answer that takes
long holds up nobody until there are :data:`PROCESSES` of that kind.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from agentgym.errors import MissingExtra, WorldFault

SECONDS = 10.0  #: for one answer
PROCESSES = 4  #: that verify at the same time
_START_SECONDS = 60.0  #: to load a verifier
_VERIFIER = "agentgym.envs.code.verifier"  #: what the process runs


class _Child:
    def __init__(self) -> None:
        self.pid = os.getpid()
        environment = {key: value for key, value in os.environ.items() if key in ("PATH", "PYTHONPATH", "HOME", "LANG")}
        self.process = subprocess.Popen(  # noqa: S603  # a fixed list, no shell
            [sys.executable, "-m", _VERIFIER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.replies: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.loaded: set[str] = set()  # kinds of questions that it can answer
        threading.Thread(target=self._read, name="agentgym-verifier", daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.replies.put(line)
        self.replies.put("")

    def ask(self, question: Mapping[str, Any], seconds: float) -> dict[str, Any] | None:
        """The reply; None where there was none in time."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            reply = self.replies.get(timeout=seconds)
        except (OSError, queue.Empty):
            return None
        return dict(json.loads(reply)) if reply else None

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # what it never read is flushed here
            self.process.stdin.close()


class _Pool:
    """The verifying processes of this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.turn = threading.BoundedSemaphore(PROCESSES)
        self.idle: list[_Child] = []  # append and pop are atomic; the last one used is the first to be asked

    def ask(self, question: Mapping[str, Any]) -> object:
        """As :func:`ask`, once a process is free."""
        with self.turn:
            child = self.idle.pop() if self.idle else _Child()
            try:
                self._load(child, question["kind"])
                reply = child.ask(question, SECONDS)
            except MissingExtra:  # it can still answer other questions
                self.idle.append(child)
                raise
            except BaseException:
                child.end()
                raise
            if reply is None:
                child.end()
                return None
            self.idle.append(child)
            return reply["result"]

    def _load(self, child: _Child, kind: str) -> None:
        if kind in child.loaded:
            return
        loaded = child.ask({"kind": kind, "load": True}, _START_SECONDS)
        if loaded is None:
            child.end()
            raise WorldFault(f"the verifying process does not start (status {child.process.returncode})")
        if "missing" in loaded:
            raise MissingExtra(*loaded["missing"])
        child.loaded.add(kind)

    def end(self) -> None:
        """End the processes that are idle."""
        while self.idle:
            self.idle.pop().end()


_lock = threading.Lock()
_pool: _Pool | None = None


def ask(question: Mapping[str, Any]) -> object:
    """What the verifier says; None where it failed over the answer or took too long.

    It is loaded before it sees an answer, so that no answer can be taken for a process that does not start.

    Raises:
        MissingExtra: what it needs is not installed.
        WorldFault: the verifying process does not start.
    """
    global _pool
    with _lock:
        if _pool is None or _pool.pid != os.getpid():  # a forked child needs processes of its own
            _pool = _Pool()
        pool = _pool
    return pool.ask(question)


def same_maths(answer: str, expected: str) -> bool:
    """Whether two mathematical texts (LaTeX or plain) mean the same, by math-verify.

    Raises:
        MissingExtra: math-verify is not installed.
    """
    return ask({"kind": "math", "answer": answer, "expected": expected}) is True
