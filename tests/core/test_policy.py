from __future__ import annotations

from typing import Any

import pytest

from agentgym import draws
from agentgym.env import TextEnv
from agentgym.errors import PolicyError
from agentgym.policy import ExpertPolicy, PersonPolicy, RandomPolicy, ReplayPolicy, Reply, Request, ScriptedPolicy
from agentgym.records import Episode, StopReason, Task, Turn


class Expert(TextEnv):
    def expert(self) -> str | None:
        return "good"


class Clueless(TextEnv):
    def expert(self) -> str | None:
        return None


def request(key: int = 0, turns: int = 0, env: TextEnv | None = None, episode: str = "e", **info: Any) -> Request:
    return Request(episode, key, "you see", info, [Turn("", "")] * turns, env=env)  # type: ignore[arg-type]


def test_random_takes_any_admissible_action_by_its_key() -> None:
    taken = [RandomPolicy().submit(request(k, admissible=["a", "b", "c"])).action for k in range(300)]
    assert all(60 < taken.count(action) < 140 for action in "abc")
    assert taken == [draws.choice("abc", k) for k in range(300)]


@pytest.mark.parametrize("info", [{}, {"admissible": []}])
def test_random_needs_admissible_actions(info: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match=r"needs info\['admissible'\]"):
        RandomPolicy().submit(request(**info))


def test_the_expert_is_the_environments() -> None:
    assert ExpertPolicy().submit(request(env=Expert())) == Reply("good")
    assert ExpertPolicy().submit(request(env=Clueless())).stop is StopReason.POLICY_STOPPED
    for env in (TextEnv(), None):
        with pytest.raises(PolicyError, match=r"has no expert\(\)"):
            ExpertPolicy().submit(request(env=env))


def test_the_expert_errs_as_often_as_it_is_told() -> None:
    policy = ExpertPolicy(0.25)
    taken = [policy.submit(request(draws.key(k), k, Expert(), admissible=["bad"])).action for k in range(4000)]
    assert 900 < taken.count("bad") < 1100  # 1000 expected, standard deviation 27
    assert policy.noise == {("e", turn) for turn, action in enumerate(taken) if action == "bad"}
    with pytest.raises(PolicyError, match=r"a noisy expert needs info\['admissible'\]"):
        ExpertPolicy(1.0).submit(request(env=Expert()))


def test_half_of_the_errors_were_right_before() -> None:
    policy = ExpertPolicy(1.0)
    policy.submit(request(0, 0, Expert(), admissible=["old"]))
    taken = [policy.submit(request(draws.key(k), 1, Expert(), admissible=["new"])).action for k in range(1000)]
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
    policy = PersonPolicy(lambda prompt: next(lines), shown.append)
    assert policy.submit(request(admissible=["go north", "look"])) == Reply("go north")
    assert shown == ["\nyou see", "go north\nlook", "go north\nlook"]
    lines = iter(["", "x"])
    assert PersonPolicy(lambda prompt: next(lines), shown.append).submit(request()) == Reply("x")
    assert shown[-1] == "(this environment does not list its actions)"


@pytest.mark.parametrize("leaving", [EOFError, KeyboardInterrupt])
def test_a_person_can_leave(leaving: type[BaseException]) -> None:
    def ask(prompt: str) -> str:
        raise leaving

    assert PersonPolicy(ask, lambda text: None).submit(request()).stop is StopReason.POLICY_STOPPED


def test_policies_without_a_model_have_nothing_to_do() -> None:
    policy = RandomPolicy()
    assert policy.advance() is False
    policy.release("e")
