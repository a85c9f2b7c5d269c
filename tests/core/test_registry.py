from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import agentgym
from agentgym import registry
from agentgym.env import ReplayWrapper, TextEnv
from agentgym.errors import UnknownName, UsageError

MODULE = """
import gymnasium
from agentgym import TextEnv

class Mine(TextEnv):
    "A world of my own."

    def __init__(self, *, size: int = 1, split: str = "train") -> None:
        super().__init__(split=split)
        self.size = size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return f"size {self.size}", {"task_id": "1", "anchor": "1"}

gymnasium.register("mine/World-v0", entry_point="my_worlds:Mine", disable_env_checker=True)
"""


@pytest.fixture
def my_worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "my_worlds.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_worlds", None)
    gym.registry.pop("mine/World-v0", None)


def test_built_in_environments_are_known_to_gymnasium() -> None:
    assert "agentgym/Household-v0" in gym.registry
    assert "agentgym/Household-v0" in registry.env_ids()
    assert isinstance(gym.make("agentgym:agentgym/Household-v0").unwrapped, TextEnv)


def test_built_in_environments_are_known_under_another_name_of_the_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "DISTRIBUTION", "some-fork-of-it")
    monkeypatch.setattr(registry, "_loaded", False)
    spec = gym.registry.pop("agentgym/Household-v0")
    try:
        registry.register_builtin()
        assert "agentgym/Household-v0" in gym.registry
    finally:
        gym.registry["agentgym/Household-v0"] = spec


def test_make_gives_a_replay_wrapper_and_passes_arguments_on() -> None:
    env = agentgym.make("agentgym/Household-v0", split="test")
    assert isinstance(env, ReplayWrapper)
    assert env.unwrapped.split == "test"  # type: ignore[attr-defined]


@pytest.mark.usefixtures("my_worlds")
def test_a_module_before_the_colon_is_imported() -> None:
    with pytest.raises(UnknownName):
        registry.make("mine/World-v0")
    assert registry.make("my_worlds:mine/World-v0", size=3).reset()[0] == "size 3"
    assert registry.make("mine/World-v0").reset()[0] == "size 1"  # and stays known


def test_an_entry_point_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_class.py").write_text(MODULE.partition("gymnasium.register")[0])
    monkeypatch.syspath_prepend(str(tmp_path))

    def entry_points(group: str) -> list[EntryPoint]:
        assert group == "agentgym.envs"
        return [EntryPoint("mine/World-v0", "my_class:Mine", group)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    monkeypatch.setattr(registry, "_loaded", False)
    assert registry.env_ids() == ["mine/World-v0"]
    assert "my_class" not in sys.modules  # registering imports nothing
    try:
        assert registry.make("mine/World-v0", size=2).reset()[0] == "size 2"
    finally:
        del gym.registry["mine/World-v0"], sys.modules["my_class"]


def test_a_malformed_entry_point_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = EntryPoint("no version, no name!", "x:Y", "agentgym.envs")
    monkeypatch.setattr(registry, "entry_points", lambda group: [bad])
    monkeypatch.setattr(registry, "_loaded", False)
    with pytest.raises(UsageError, match="entry point 'no version, no name!' = 'x:Y' in group"):
        registry.env_ids()


@pytest.mark.parametrize(
    ("env_id", "said"),
    [
        ("agentgym/Houshold-v0", "unknown environment 'agentgym/Houshold-v0'; did you mean 'agentgym/Household-v0'"),
        ("no_such_module:me/World-v0", "cannot import 'no_such_module': No module named 'no_such_module'"),
        ("..:x", "cannot import '..': that is no module name"),
        ("", "unknown environment ''"),
    ],
)
def test_a_wrong_name_is_refused(env_id: str, said: str) -> None:
    with pytest.raises(UsageError) as told:
        registry.make(env_id)
    assert str(told.value).startswith(said)


def test_wrong_arguments_are_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"cannot be made with \{'rooms': 3\}: .* unexpected keyword argument 'rooms'"):
        registry.make("agentgym/Household-v0", rooms=3)
    with pytest.raises(UnknownName, match="unknown split 'x'"):
        registry.make("agentgym/Household-v0", split="x")


def test_a_missing_dependency_is_named() -> None:
    def entry_point(**kwargs: Any) -> TextEnv:
        import not_installed_anywhere  # type: ignore[import-not-found]  # noqa: F401

        raise AssertionError

    gym.register("test/Needs-v0", entry_point=entry_point, disable_env_checker=True)
    try:
        with pytest.raises(UsageError, match="needs the module 'not_installed_anywhere', which is not installed"):
            registry.make("test/Needs-v0")
    finally:
        del gym.registry["test/Needs-v0"]


def test_a_function_that_hands_its_arguments_on_takes_a_split_if_its_environment_has_some() -> None:
    class Splits(TextEnv):
        def __init__(self, *, size: int, **options: Any) -> None:
            super().__init__(**options)

    class Plain(gym.Env[str, str]):
        def __init__(self, **options: Any) -> None:
            super().__init__()

    known = {
        "tests/Named-v0": TextEnv,
        "tests/HandsOn-v0": lambda **options: TextEnv(**options),
        "tests/Splits-v0": Splits,
        "tests/Plain-v0": Plain,
        "tests/Neither-v0": lambda: TextEnv(),
    }
    for env_id, entry_point in known.items():
        gym.register(env_id, entry_point=entry_point)
    try:
        taken = {
            env_id: registry.takes_split(env_id, **({"size": 1} if "Splits" in env_id else {})) for env_id in known
        }
    finally:
        for env_id in known:
            del gym.registry[env_id]
    assert [env_id for env_id, takes in taken.items() if takes] == list(known)[:3]
