"""``agentgym check``: text or JSON, the panel, and a user's own policies in it."""

from __future__ import annotations

import json
import sys

import pytest

from agentgym.cli import main

HOUSE = "agentgym/Household-v0"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(["check", HOUSE, "--seeds", "1", "--turns", "5", *arguments])
    return left.value.code, capsys.readouterr()


def test_text_and_json_say_the_same(capsys):
    status, said = run(capsys, "--tasks", "4", "--json")
    told = json.loads(said.out)
    assert (status, told["ok"], told["violations"]) == (0, True, [])
    assert {"gaming", "counted"} <= set(told["held"])
    nothing = {"tasks": 4, "score": 0.0, "low": 0.0, "high": pytest.approx(9 / 13), "raised": 0, "lost": 0}
    assert told["panel"][0] == {"policy": "random_play"} | nothing
    status, said = run(capsys, "--tasks", "4")
    assert (status, said.out.splitlines()[0]) == (0, f"{HOUSE}: {len(told['held'])} rules hold")
    assert "  the panel on 4 tasks, score [interval]:" in said.out
    assert "    grader_words       0.000 [0.000, 0.692]" in said.out


def test_without_tasks_there_is_no_panel(capsys):
    status, said = run(capsys, "--tasks", "0")
    assert status == 0
    assert "not judged: gaming (no tasks were asked for)" in said.out
    assert "the panel" not in said.out


def test_an_adversary_of_the_user(capsys, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_attacks.py").write_text("def looks(situation):\n    return 'look'\n")
    status, said = run(capsys, "--tasks", "2", "--adversary", "my_attacks")
    assert status == 0
    assert "    looks              0.000" in said.out
    status, said = run(capsys, "--adversary", "no_such_module")
    assert status == 2
    assert "cannot import 'no_such_module'" in said.err
    del sys.modules["my_attacks"]
