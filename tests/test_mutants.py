"""The list of faults that ``make mutants`` puts into the package: each still applies, and its tests exist."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

_spec = importlib.util.spec_from_file_location("mutants", Path(__file__).parent / "mutants.py")
assert _spec is not None
assert _spec.loader is not None
mutants = importlib.util.module_from_spec(_spec)
sys.modules["mutants"] = mutants
_spec.loader.exec_module(mutants)


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=str)
def test_a_mutant_applies(mutant: Any) -> None:
    compile(mutant.source(), mutant.file, "exec")
    assert (Path(__file__).parent / mutant.tests.partition(" -k ")[0]).is_file()


def test_a_mutant_whose_text_is_gone_is_told() -> None:
    with pytest.raises(ValueError, match=r"records: no such text -> x: the text stands there 0 times; write"):
        mutants.Mutant("records", "no such text", "x", "test_mutants.py").source()


@pytest.mark.parametrize(("code", "outcome"), [(0, mutants.SURVIVED), (1, mutants.KILLED), (2, mutants.BROKEN)])
def test_a_fault_is_there_while_its_tests_run_and_not_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, outcome: str
) -> None:
    file = tmp_path / "agentgym" / "records.py"
    file.parent.mkdir()
    file.write_text((mutants.ROOT / "agentgym" / "records.py").read_text())
    seen = []
    monkeypatch.setattr(mutants, "asked", lambda tests, copy: seen.append(file.read_text()) or code)
    fault = mutants.Mutant("records", "class Episode:", "class Event:", "test_docs.py -k x")
    assert mutants.run(fault, tmp_path) == outcome
    assert "class Event:" in seen[0]
    assert "class Event:" not in file.read_text()


def test_all_tests_of_a_file_are_asked_together() -> None:
    one, two = (mutants.Mutant("f", "a", "b", f"test_a.py -k {word}") for word in "xy")
    whole = mutants.Mutant("f", "a", "b", "test_b.py")
    found = mutants.together([one, two, one, whole, whole._replace(tests="test_b.py -k z")])
    assert found == ["test_a.py -k (x) or (y)", "test_b.py"]
