from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentgym.env import ReplayWrapper, Text, TextEnv, digest, fork
from agentgym.errors import ForkError, UnknownName


class Counter(TextEnv):
    """Says how often it was stepped; the state is a random start plus that."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = int(self.np_random.integers(100))
        return f"at {self.count}", {"task_id": "c", "anchor": str(self.count)}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.count += len(action)
        return f"at {self.count}", 0.0, False, False, {"task_id": "c", "anchor": str(self.count)}


class Copied(Counter):
    def fork(self) -> Copied:
        twin = Copied()
        twin.count = self.count
        return twin


class Moody(Counter):
    """Not a function of its seed."""

    moods = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        type(self).moods += 1
        self.count = type(self).moods
        return "", {"task_id": "c", "anchor": str(self.count)}


class Noting(gym.Wrapper[str, str, str, str]):
    """A wrapper with state of its own."""

    def __init__(self, env: gym.Env[str, str]) -> None:
        super().__init__(env)
        self.notes: list[str] = []

    def step(self, action: str) -> Any:
        self.notes.append(action)
        return self.env.step(action)


@pytest.fixture(autouse=True)
def registered() -> Any:
    for env in (Counter, Copied, Moody):
        gym.register(f"test/{env.__name__}-v0", entry_point=env, disable_env_checker=True)
    yield
    for env in (Counter, Copied, Moody):
        del gym.registry[f"test/{env.__name__}-v0"]


def make(name: str) -> gym.Env[str, str]:
    return gym.make(f"test/{name}-v0", disable_env_checker=True)


def test_the_text_space_holds_every_text() -> None:
    space = Text(seed=3)
    assert all(text in space for text in ("", "é", "\x00", "\ud800", "x" * 10**6))
    assert not any(other in space for other in (b"x", 3, None, ["a"]))
    assert all(space.sample() in space for _ in range(50))
    assert [Text(seed=3).sample() for _ in range(3)] == [Text(seed=3).sample() for _ in range(3)]
    assert space == Text()
    assert repr(space) == "Text()"


def test_an_unknown_split_is_refused() -> None:
    assert Counter(split="test").split == "test"
    with pytest.raises(UnknownName, match="unknown split 'tets'; did you mean 'test'"):
        Counter(split="tets")
    with pytest.raises(UnknownName, match="unknown split 'unseen'; known: test, train"):
        Counter(split="unseen")


def test_a_digest_depends_on_every_part() -> None:
    assert digest("a", 1) == digest("a", 1)
    assert len({digest("a", 1), digest("a", "1"), digest("a1"), digest("a"), digest(1, "a"), digest("a", 1, None)}) == 6
    assert len(digest()) == 16
    assert digest({"kitchen": 2}) == digest({"kitchen": 2})


def test_the_fingerprint_follows_the_instructions() -> None:
    class Other(Counter):
        pass

    class Told(Counter):
        instructions = "Write a number."

    assert Counter().fingerprint == Counter().fingerprint
    assert len({Counter().fingerprint, Other().fingerprint, Told().fingerprint}) == 3


@pytest.mark.parametrize("name", ["Counter", "Copied"])
def test_a_fork_goes_on_alone(name: str) -> None:
    env = ReplayWrapper(make(name))
    env.reset(seed=4)
    env.step("abc")
    twin = fork(env)
    here = env.unwrapped.count  # type: ignore[attr-defined]
    assert twin.step("xy")[0] == f"at {here + 2}"
    assert env.step("vwxyz")[0] == f"at {here + 5}"
    again = fork(fork(twin))  # a fork can be forked
    assert again.step("")[0] == f"at {here + 2}"


def test_wrappers_are_copied_with_their_state() -> None:
    env = ReplayWrapper(Noting(make("Copied")))
    env.reset(seed=0)
    env.step("one")
    twin = fork(env)
    twin.step("two")
    noting = twin.env
    assert isinstance(noting, Noting)
    assert noting.notes == ["one", "two"]
    assert env.env.notes == ["one"]  # type: ignore[attr-defined]
    assert twin.unwrapped is not env.unwrapped
    assert twin.spec == env.spec


def test_a_replay_that_meets_another_state_is_refused() -> None:
    env = ReplayWrapper(make("Moody"))
    env.reset(seed=1)
    env.step("abc")
    with pytest.raises(
        ForkError, match=r"replaying 1 actions of test/Moody-v0 from seed 1 met anchor '\d+' instead of"
    ):
        fork(env)


def test_what_cannot_be_replayed_says_why() -> None:
    env = ReplayWrapper(make("Counter"))
    with pytest.raises(ForkError, match="fork before reset"):
        fork(env)
    env.reset()
    with pytest.raises(ForkError, match="reset without a seed"):
        fork(env)
    bare = ReplayWrapper(Counter())
    bare.reset(seed=1)
    with pytest.raises(ForkError, match=r"without a spec; create it by agentgym\.make"):
        fork(bare)
    with pytest.raises(ForkError, match=r"has no fork\(\) and no ReplayWrapper"):
        fork(Counter())
    with pytest.raises(ForkError, match=r"has no fork\(\) and no ReplayWrapper"):
        fork(Noting(make("Counter")))


def test_wrappers_around_a_replay_wrapper_are_copied_with_their_state() -> None:
    env = Noting(ReplayWrapper(make("Counter")))
    env.reset(seed=1)
    env.step("one")
    here = env.unwrapped.count  # type: ignore[attr-defined]
    twin = fork(env)
    assert twin.step("four")[0] == f"at {here + 4}"
    assert isinstance(twin, Noting)
    assert (twin.notes, env.notes) == (["one", "four"], ["one"])
    assert env.step("")[0] == f"at {here}"


def test_a_replay_wrapper_forgets_the_episode_before() -> None:
    env = ReplayWrapper(make("Counter"))
    env.reset(seed=1)
    env.step("abcdef")
    env.reset(seed=2, options={})
    env.step("x")
    assert env.replay().step("")[0] == env.step("")[0]


def test_each_instance_has_its_own_generator() -> None:
    one, two = Counter(), Counter()
    one.reset(seed=7)
    expected = np.random.default_rng(7)
    expected.integers(100)
    two.reset(seed=99)
    two.np_random.random(10)
    assert one.np_random.random() == expected.random()
