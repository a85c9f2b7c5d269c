"""A sandbox for a test, or the reason why there is none here."""

from __future__ import annotations

from typing import Any

import pytest

from agentgym.errors import MissingExtra, SandboxUnavailable
from agentgym.tools.python import open_sandbox
from agentgym.tools.python.sandbox import ProcessSandbox


def sandbox_or_skip(kind: str, **options: Any) -> ProcessSandbox:
    """As :func:`open_sandbox`; where this machine has no such sandbox the test is skipped, and says why."""
    try:
        made = open_sandbox(kind, **options)
    except (SandboxUnavailable, MissingExtra) as error:
        pytest.skip(str(error))
    assert isinstance(made, ProcessSandbox)
    return made
