"""Shared by all tests: helper modules beside this file are found by name, and what a machine lacks is skipped."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agentgym.errors import MissingExtra, SandboxUnavailable
from agentgym.tools.browser import find_chromium

sys.path.insert(0, str(Path(__file__).parent))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("chromium") is not None:
        try:
            find_chromium()
        except (MissingExtra, SandboxUnavailable) as missing:
            pytest.skip(str(missing))
