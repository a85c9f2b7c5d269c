"""The process that verifies answers: an answer that ends or holds it up is wrong, one that does not start is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from agentgym.envs.code import verifier_client
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
    monkeypatch.setattr(verifier_client, "_running", None)
    monkeypatch.setattr(verifier_client, "SECONDS", 2.0)
    yield
    if verifier_client._running is not None:
        verifier_client._running.end()


@pytest.mark.parametrize("answer", ["die", "hang", "raise", "\ud800", "\x00\n{"])
def test_an_answer_that_breaks_the_verifier_is_wrong(fake: None, answer: str) -> None:
    assert not verifier_client.same_maths(answer, "x")  # the first question of a new process
    assert verifier_client.same_maths("x", "x")
    assert not verifier_client.same_maths(answer, "x")


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
