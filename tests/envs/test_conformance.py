"""Every environment that is known by name keeps the contract, in every split."""

from __future__ import annotations

import pytest

from agentgym import registry
from agentgym.check import check_env
from agentgym.errors import MissingExtra


@pytest.mark.parametrize("env_id", registry.env_ids())
def test_it_keeps_the_contract(env_id: str) -> None:
    try:
        splits = getattr(registry.make(env_id).unwrapped, "splits", ())
    except MissingExtra as error:
        pytest.skip(str(error))
    for split in splits:
        check_env(env_id, split=split, panel_tasks=25).raise_on_violation()
