"""The processes that verify answers: an answer that ends or holds it up is wrong, one that does not start is not."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentgym.envs.code import reasoning, verifier_client
from agentgym.errors import MissingExtra, WorldFault

FAKE = """
import os, time
def parse(text):
    if "die" in text: os._exit(3)
    if "hang" in text: time.sleep(60)
    if "raise" in text: raise SystemError(text)
    return [text]
def verify(expected, answer):
    return expected == answer
"""


@pytest.fixture
def fake(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A verifier of answers that can be told to misbehave."""
    (tmp_path / "math_verify.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(verifier_client, "_pool", None)
    monkeypatch.setattr(verifier_client, "SECONDS", 2.0)
    yield
    if verifier_client._pool is not None:
        verifier_client._pool.end()


@pytest.mark.parametrize("answer", ["die", "hang", "raise", "\ud800", "\x00\n{"])
def test_an_answer_that_breaks_the_verifier_is_wrong(fake: None, answer: str) -> None:
    assert not verifier_client.same_maths(answer, "x")  # the first question of a new process
    assert verifier_client.same_maths("x", "x")
    assert not verifier_client.same_maths(answer, "x")


def test_an_answer_that_takes_long_holds_up_nobody(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pids, given_up = set(), threading.Event()
    original = verifier_client._Child.ask

    def ask(self: verifier_client._Child, question: Mapping[str, object], seconds: float) -> dict[str, object] | None:
        pids.add(self.process.pid)
        if question.get("answer") != "hang":
            return original(self, question, 60.0)
        assert given_up.wait(60)
        return None

    monkeypatch.setattr(verifier_client._Child, "ask", ask)
    with ThreadPoolExecutor(verifier_client.PROCESSES) as threads:
        slow = [threads.submit(verifier_client.same_maths, "hang", "x") for _ in range(verifier_client.PROCESSES - 1)]
        try:
            assert all(verifier_client.same_maths("x", "x") for _ in range(5))
            assert not any(one.done() for one in slow)
        finally:
            given_up.set()
        assert not any(one.result() for one in slow)
    assert len(pids) <= verifier_client.PROCESSES


def test_a_verifier_that_does_not_start_is_the_worlds_fault(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    python = sys.executable
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorldFault, match=r"the verifying process does not start \(status 1\)"):
        verifier_client.same_maths("x", "x")
    monkeypatch.setattr(sys, "executable", python)
    assert verifier_client.same_maths("x", "x")


def test_a_verifier_that_is_not_installed_says_so(fake: None, tmp_path) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError('no sympy')")
    for _ in range(2):
        with pytest.raises(MissingExtra, match=r"'math_verify' is not installed; run: pip install"):
            verifier_client.same_maths("x", "x")


@pytest.mark.parametrize("name", ["chain_sum", "countdown"])  # one whose verifier evaluates answers, one without
def test_a_verifier_that_takes_for_ever_is_ended(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("reasoning_gym")
    monkeypatch.setattr(verifier_client, "_pool", None)
    monkeypatch.setattr(verifier_client, "SECONDS", 30.0)
    monkeypatch.setattr(reasoning, "verified", lambda *_: pytest.fail("verified in this process"))
    right = str(reasoning.dataset(name)[3]["answer"])
    try:
        assert reasoning.score(right, {"name": name, "index": 3}) == 1.0
        assert verifier_client._pool is not None
        (child,) = verifier_client._pool.idle
        child.process.send_signal(signal.SIGSTOP)  # as one that never comes to an end
        monkeypatch.setattr(verifier_client, "SECONDS", 0.5)
        assert reasoning.score(right, {"name": name, "index": 3}) == 0.0
        assert child.process.returncode == -signal.SIGKILL
        monkeypatch.setattr(verifier_client, "SECONDS", 30.0)
        assert reasoning.score(right, {"name": name, "index": 3}) == 1.0
    finally:
        assert verifier_client._pool is not None
        verifier_client._pool.end()
