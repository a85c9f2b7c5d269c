from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agentgym import keyed_random
from agentgym.env import TextEnv
from agentgym.errors import PolicyError, UsageError
from agentgym.policy import (
    ExpertPolicy,
    HumanPolicy,
    Policy,
    RandomPolicy,
    ReplayPolicy,
    Reply,
    Request,
    ScriptedPolicy,
    check_playable,
)
from agentgym.records import Episode, StopReason, Task, Turn


class Expert(TextEnv):
    def expert(self) -> str | None:
        return "good"


class Clueless(TextEnv):
    def expert(self) -> str | None:
        return None


class Drawing(TextEnv):
    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        return "", {}

    def sample_action(self, rng: np.random.Generator) -> str:
        return f"number {rng.integers(1000)}"


class DrawingExpert(Drawing):
    def expert(self) -> str | None:
        return "good"


class Broken(TextEnv):
    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        raise ZeroDivisionError


def request(key: int = 0, turns: int = 0, env: TextEnv | None = None, episode: str = "e", **info: Any) -> Request:
    return Request(episode, key, "you see", info, [Turn("", "")] * turns, env=env)  # type: ignore[arg-type]


def test_random_takes_any_admissible_action_by_its_key() -> None:
    taken = [RandomPolicy().submit(request(k, admissible=["a", "b", "c"])).action for k in range(300)]
    assert all(60 < taken.count(action) < 140 for action in "abc")
    assert taken == [keyed_random.choice("abc", k) for k in range(300)]


def test_where_actions_are_not_listed_the_environment_draws_them_by_the_key() -> None:
    taken = [RandomPolicy().submit(request(k, env=Drawing())).action for k in range(20)]
    assert taken == [f"number {np.random.default_rng(k).integers(1000)}" for k in range(20)]
    assert RandomPolicy().submit(request(env=Drawing(), admissible=["listed"])).action == "listed"
    noisy = ExpertPolicy(1.0)
    assert noisy.submit(request(7, env=DrawingExpert())).action == taken[7]
    assert noisy.noise == {("e", 0)}


@pytest.mark.parametrize("info", [{}, {"admissible": []}])
def test_random_needs_actions(info: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match=r"random actions need info\['admissible'\] or sample_action"):
        RandomPolicy().submit(request(env=Expert(), **info))


class World(TextEnv):
    """Lists its actions where it is told to; its expert knows the tasks of some seeds."""

    def __init__(self, admissible: tuple[str, ...] = (), known: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.admissible, self.known, self.closed = admissible, known, False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        self.seed = seed
        return "", {"admissible": self.admissible}

    def expert(self) -> str | None:
        return "good" if self.seed in self.known else None

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("policy", "env", "said"),
    [
        (RandomPolicy(), World(("a",)), None),
        (RandomPolicy(), Drawing(), None),
        (RandomPolicy(), World(), "and this environment has neither; add one"),
        (ExpertPolicy(), World(known=(3,)), None),
        (ExpertPolicy(), World(known=(100,)), "this environment has no expert, or one without an action for any of 8"),
        (ExpertPolicy(), Drawing(), "this environment has no expert"),
        (ExpertPolicy(0.1), World(known=(0,)), r"random actions need info\['admissible'\]"),
        (ExpertPolicy(0.1), World(("a",), (0,)), None),
        (ExpertPolicy(0.1), DrawingExpert(), None),
        (RandomPolicy(), Broken(), None),
        (ExpertPolicy(), Broken(), None),
        (ScriptedPolicy(lambda r: ""), World(), None),
    ],
)
def test_what_a_policy_cannot_play_is_refused_before_the_first_episode(
    policy: Policy, env: TextEnv, said: str | None
) -> None:
    if said is None:
        check_playable(policy, env)
    else:
        with pytest.raises(UsageError, match=said):
            check_playable(policy, env)
    assert getattr(env, "closed", True)


def test_the_expert_is_the_environments() -> None:
    assert ExpertPolicy().submit(request(env=Expert())) == Reply("good")
    assert ExpertPolicy().submit(request(env=Clueless())).stop is StopReason.POLICY_STOPPED
    for env in (TextEnv(), None):
        with pytest.raises(PolicyError, match=r"has no expert\(\)"):
            ExpertPolicy().submit(request(env=env))


def test_the_expert_errs_as_often_as_it_is_told() -> None:
    policy = ExpertPolicy(0.25)
    taken = [policy.submit(request(keyed_random.key(k), k, Expert(), admissible=["bad"])).action for k in range(4000)]
    assert 900 < taken.count("bad") < 1100  # 1000 expected, standard deviation 27
    assert policy.noise == {("e", turn) for turn, action in enumerate(taken) if action == "bad"}
    with pytest.raises(PolicyError, match=r"random actions need info\['admissible'\]"):
        ExpertPolicy(1.0).submit(request(env=Expert()))


def test_half_of_the_errors_were_right_before() -> None:
    policy = ExpertPolicy(1.0)
    policy.submit(request(0, 0, Expert(), admissible=["old"]))
    taken = [policy.submit(request(keyed_random.key(k), 1, Expert(), admissible=["new"])).action for k in range(1000)]
    assert taken[0] in ("old", "new")
    policy.release("e")
    assert policy.submit(request(0, 0, Expert(), admissible=["new"])).action == "new"  # another episode of that name


def test_a_replay_plays_the_recording_of_the_task() -> None:
    def recorded(name: str, task: str, *actions: str) -> Episode:
        return Episode(name, "t", Task(0, {}, task), tuple(Turn("", a) for a in actions), StopReason.TERMINATED)

    policy = ReplayPolicy([recorded("g/0", "A", "a0", "a1"), recorded("g/1", "A", "b0"), recorded("h/0", "B", "c0")])
    assert policy.submit(request(episode="g/1", task_id="A")).action == "b0"  # the same episode
    assert policy.submit(request(episode="x/7", task_id="A", turns=1)).action == "a1"  # the first of the task
    assert policy.submit(request(episode="g/0", task_id="B")).action == "c0"  # an id alone does not make it the task
    assert policy.submit(request(episode="h/0", task_id="B", turns=1)).stop is StopReason.POLICY_STOPPED
    with pytest.raises(PolicyError, match="no recorded episode of task 'C'"):
        policy.submit(request(episode="g/0", task_id="C"))


def test_a_script_is_a_function_of_the_request() -> None:
    assert ScriptedPolicy(lambda r: f"{r.observation} {len(r.turns)}").submit(request(turns=3)) == Reply("you see 3")


def test_a_person_is_asked_until_something_is_written() -> None:
    lines = iter(["", "  ", " go north "])
    shown: list[str] = []
    policy = HumanPolicy(lambda prompt: next(lines), shown.append)
    assert policy.submit(request(admissible=["go north", "look"])) == Reply("go north")
    assert shown == ["\nyou see", "go north\nlook", "go north\nlook"]
    lines = iter(["", "x"])
    assert HumanPolicy(lambda prompt: next(lines), shown.append).submit(request()) == Reply("x")
    assert shown[-1] == "(this environment does not list its actions)"


@pytest.mark.parametrize("leaving", [EOFError, KeyboardInterrupt])
def test_a_person_can_leave(leaving: type[BaseException]) -> None:
    def ask(prompt: str) -> str:
        raise leaving

    assert HumanPolicy(ask, lambda text: None).submit(request()).stop is StopReason.POLICY_STOPPED


def test_policies_without_a_model_have_nothing_to_do() -> None:
    policy = RandomPolicy()
    assert policy.advance() is False
    policy.release("e")
