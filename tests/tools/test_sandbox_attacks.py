"""Every attack of benchmarks/attacks.py, on every sandbox that this machine has."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from agentgym.errors import MissingExtra, SandboxUnavailable

ROOT = Path(__file__).parent.parent.parent


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("agentgym_attacks", ROOT / "benchmarks" / "attacks.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


attacks = _load()
KINDS = ("bubblewrap", "docker")


@pytest.fixture(scope="module", params=KINDS)
def place(request: pytest.FixtureRequest) -> Iterator[object]:
    try:
        context = attacks.arena(request.param)
        arena = context.__enter__()
    except (SandboxUnavailable, MissingExtra) as error:
        pytest.skip(str(error))
    yield arena
    context.__exit__(None, None, None)


@pytest.mark.parametrize("attack", attacks.ATTACKS, ids=lambda attack: attack.name)
def test_attack_is_contained_and_leaves_nothing(place, attack) -> None:
    place.run(attack)


def test_the_arena_notices_an_attack_that_works(place) -> None:
    wins = attacks.Attack("none", attacks.ATTEMPT + "attempt(os.getpid)", attacks.printed("", "refused"))
    with pytest.raises(AssertionError, match="OPEN"):
        place.run(wins)


def test_the_document_lists_every_attack_contained_on_both() -> None:
    text = (ROOT / "docs" / "security.md").read_text().partition(attacks.BEGIN)[2].partition(attacks.END)[0]
    rows = [re.split(r" \| ", line.strip("| ")) for line in text.strip().splitlines()]
    assert rows[0] == ["attack", *KINDS]
    assert [row[0] for row in rows[2:]] == [attack.name for attack in attacks.ATTACKS]
    assert "NOT CONTAINED" not in text
    assert all(len(row) == 3 and "–" not in row[1:] for row in rows[2:])
