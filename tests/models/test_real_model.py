"""What `benchmarks/real_model.py` measures, in small, on the chat model in the folder ``AGENTGYM_REAL_MODEL``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentgym.models.admission import LIMITS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "real_model.py"
FOLDER = os.environ.get("AGENTGYM_REAL_MODEL", "")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    not FOLDER or not (Path(FOLDER) / "config.json").is_file(),
    reason=f"AGENTGYM_REAL_MODEL={FOLDER!r} is no model folder; make one: python benchmarks/real_model.py make FOLDER",
)
def test_a_chat_model_answers_as_before_after_two_default_updates_and_agrees_with_itself(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    command = [sys.executable, str(SCRIPT), "measure", FOLDER, "--small", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    for way in ("engine", "tree", "engine and tree"):
        assert found["agreement"]["float32"][way]["most"] < 1e-4
        assert found["agreement"]["bfloat16"][way]["mean"] < 0.1
    for precision in ("float32", "bfloat16"):
        judged = found["admission"][precision]
        assert max(judged["attention x 1"].values()) <= judged["limit"]
    assert found["admission"]["bfloat16"]["limit"] == max(LIMITS.values()) == 0.1
    defaults = found["answers"]["defaults"]
    assert defaults["options"]["lr"] == 1e-6
    assert min(defaults["grad_norm"]) > 0  # there was something to learn
    assert defaults["equal"] == defaults["of"] == 4
    assert 0 < defaults["moved"] < 0.01
