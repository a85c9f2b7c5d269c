"""Texts between processes: Gymnasium's vector environments work with ours."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from agentgym.env import TextEnv
from agentgym.envs.tool_env import Question, ToolEnv
from agentgym.space import SharedTexts
from agentgym.tools.tool import tool

HOUSE = "agentgym/Household-v0"


@tool
def shout(word: str) -> str:
    """Say it louder.

    Args:
        word: what to say.
    """
    return word.upper()


class Loud(TextEnv):
    """Answers with its action, often."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return f"seed {seed}", {"task_id": "t", "anchor": "a"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return action * 200_000, 0.0, False, False, {"task_id": "t", "anchor": "a"}


def asking(**options: Any) -> ToolEnv:
    return ToolEnv([shout], [Question(f"say {i}", answers=["x"]) for i in range(9)], lambda a, q: 1.0, syntax="tags")


@pytest.fixture(autouse=True)
def worlds() -> Iterator[None]:
    gym.register("test/Loud-v0", entry_point=Loud, disable_env_checker=True)
    gym.register("test/Asking-v0", entry_point=asking, disable_env_checker=True)
    yield
    del gym.registry["test/Loud-v0"], gym.registry["test/Asking-v0"]


def played(env_id: str, mode: str, actions: list[list[str]], **settings: Any) -> list[Any]:
    """What a vector environment shows, turn for turn."""
    vector = gym.make_vec(env_id, num_envs=2, vectorization_mode=mode, vector_kwargs=settings)
    try:
        shown: list[Any] = [vector.reset(seed=[3, 4])[0]]
        for each in actions:
            observation, reward, terminated, truncated, info = vector.step(each)  # type: ignore[arg-type]
            shown.append((observation, reward.tolist(), terminated.tolist(), truncated.tolist(), list(info["anchor"])))
        return shown
    finally:
        vector.close()


@pytest.mark.parametrize(
    ("mode", "settings"),
    [("sync", {}), ("async", {}), ("async", {"shared_memory": False}), ("async", {"context": "spawn"})],
    ids=str,
)
def test_vector_environments_show_what_single_ones_show(mode: str, settings: dict[str, Any]) -> None:
    shown = played(HOUSE, mode, [["look", "inventory"], ["jump", "look"]], **settings)
    singles = [gym.make(HOUSE, disable_env_checker=True) for _ in range(2)]
    assert shown[0] == tuple(env.reset(seed=seed)[0] for env, seed in zip(singles, (3, 4), strict=True))
    for (observations, *_), actions in zip(shown[1:], [["look", "inventory"], ["jump", "look"]], strict=True):
        assert observations == tuple(env.step(a)[0] for env, a in zip(singles, actions, strict=True))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_episode_that_ends_begins_anew_and_calls_are_told(mode: str) -> None:
    vector = gym.make_vec("test/Asking-v0", num_envs=2, vectorization_mode=mode)
    vector.reset(seed=0)
    observations, _, ended, _, info = vector.step(["<shout>hey</shout>", "<answer>x</answer>"])  # type: ignore[arg-type]
    assert ended.tolist() == [False, True]
    assert observations[0] == "<result>\nHEY\n</result>"
    assert info["tool_calls"][0][0].result == "HEY"
    observations, _, _, _, _ = vector.step(["<shout>hey</shout>", ""])  # type: ignore[arg-type]
    assert observations[1].startswith("say ")
    vector.close()


def test_any_text_of_any_length_comes_through() -> None:
    for text in ("é", "\r\n", "\ud800", "\0"):
        (_, (observations, *_)) = played("test/Loud-v0", "async", [[text, "b"]])
        assert observations == (text * 200_000, "b" * 200_000)


def test_shared_texts_show_what_was_written_last_and_a_copy_does_not_change() -> None:
    texts = SharedTexts(2)
    theirs = pickle.loads(pickle.dumps(texts))
    assert tuple(texts) == ("", "")
    theirs.write(1, "new\n")
    before = copy.deepcopy(texts)
    theirs.write(1, "newer")
    assert (before, texts[1], texts[-2:]) == (("", "new\n"), "newer", ("", "newer"))
    with pytest.raises(IndexError):
        texts[2]


def test_the_folder_goes_with_the_object_that_made_it_alone() -> None:
    texts = SharedTexts(1)
    folder = Path(texts._folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    theirs = pickle.loads(pickle.dumps(texts))
    theirs.write(0, "x")
    del theirs
    gc.collect()
    assert folder.exists()
    del texts
    gc.collect()
    assert not folder.exists()
