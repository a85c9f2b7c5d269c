"""The search-and-code environment."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agentgym.check import check_env as check_contract
from agentgym.env import SPLITS, fork
from agentgym.envs.search.world import shared_world
from agentgym.envs.search_code import SearchCodeEnv
from agentgym.envs.search_code.questions import KINDS, draw
from agentgym.errors import SandboxUnavailable, UnknownName, UsageError
from agentgym.tools.python.tool import shared_sandbox

Played = list[tuple[str, tuple[Any, ...]]]


@pytest.fixture(scope="module", autouse=True)
def _sandbox() -> None:
    try:
        shared_sandbox()
    except SandboxUnavailable as error:
        pytest.skip(str(error))


def play(env: SearchCodeEnv, seed: int) -> Played:
    """The expert's actions and what came of them."""
    env.reset(seed=seed)
    turns: Played = []
    while not turns or not (turns[-1][1][2] or turns[-1][1][3]):
        action = env.expert()
        assert action is not None
        turns.append((action, env.step(action)))
    return turns


@pytest.mark.filterwarnings("ignore")
def test_gymnasium_accepts_it() -> None:
    check_env(SearchCodeEnv(), skip_render_check=True)


@pytest.mark.parametrize(
    "options", [{}, {"hops": (0, 2), "fetch": True, "split": "unseen", "max_turns": 40, "evidence_reward": 0.5}]
)
def test_it_keeps_the_contract(options: dict[str, Any]) -> None:
    check_contract(SearchCodeEnv, seeds=(0, 1), **options).raise_on_violation()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_expert_searches_then_computes(split: str, kind: str) -> None:
    env = SearchCodeEnv(split=split, kinds=kind, hops=(0, 1, 2), max_turns=40)
    for seed in range(12):
        turns = play(env, seed)
        assert [action.startswith("<search>") for action, _ in turns[:-2]] == [True] * (len(turns) - 2)
        assert turns[-2][0].startswith("<python>")
        _, reward, _, _, info = turns[-1][1]
        assert (reward, info["success"], info["metrics"]["evidence_recall"]) == (1.0, True, 1.0)
    env.close()


def test_the_program_holds_only_what_the_searches_showed() -> None:
    env = SearchCodeEnv(hops=1, kinds=("squares", "power"), max_turns=40)
    for seed in range(10):
        turns = play(env, seed)
        shown = "\n".join(step[0] for _, step in turns[:-2]) + env.question.text
        numbers = [n for n in turns[-2][0].replace("*", " ").replace("]", " ").replace("[", " ").split() if n.isdigit()]
        assert all(n in shown for n in numbers)


@pytest.mark.parametrize("split", SPLITS)
def test_splits_meet_in_no_entity(split: str) -> None:
    world, _ = shared_world(1000, 0)
    own = {name for number in range(5) for e in world.entities(split, number) for name in world.names(int(e))}
    for seed in range(60):
        question = draw(np.random.default_rng(seed), split, world, tuple(KINDS), (0, 1, 2))
        assert set(question.evidence) <= own


def test_unseen_follows_one_relation_more() -> None:
    world, _ = shared_world(1000, 0)
    levels = {
        split: {draw(np.random.default_rng(s), split, world, ("power",), (1,)).data["level"] for s in range(5)}
        for split in SPLITS
    }
    assert levels == {"train": {1}, "test": {1}, "unseen": {2}}


def test_answers_by_another_way() -> None:
    world, _ = shared_world(1000, 0)
    for seed in range(30):
        days = draw(np.random.default_rng(seed), "train", world, ("days",), (0,))
        first, second = days.data["program"].split("date(")[1:]
        ends = [date(*map(int, part.split(")")[0].split(","))) for part in (first, second)]
        assert days.answers == (str(abs((ends[0] - ends[1]).days)),)
        power = draw(np.random.default_rng(seed), "train", world, ("power",), (0,))
        x, y = (int(value) for _, _, value in power.data["facts"])
        modulus = int(power.text.split("modulo ")[1].split(",")[0])
        assert power.answers == (str(x**y % modulus),)


def test_rewards_by_hand() -> None:
    env = SearchCodeEnv(evidence_reward=0.5, kinds="power")
    _, info = env.reset(seed=0)
    first, second = info["evidence"]
    env.step(f"<search>{first}</search>")
    env.step(f"<python>print('[{second}] is here')</python>")  # no search result
    _, reward, _, _, info = env.step("<answer>-1</answer>")
    assert (reward, info["success"], info["metrics"]["evidence_recall"]) == (0.25, False, 0.5)


def test_a_fork_at_every_turn_goes_on_like_a_fresh_replay() -> None:
    env, fresh = SearchCodeEnv(), SearchCodeEnv()
    actions = [
        "<python>x = 1</python>",
        "<search>Duzir Paro</search>\n<python>x += 1\nprint(x)</python>",
        "<python>x / 0</python>",
        "<python>print(x)</python>",
        "<answer>7</answer>",
    ]
    env.reset(seed=3)
    for turn, action in enumerate(actions):
        twin = fork(env)
        fresh.reset(seed=3)
        for past in actions[:turn]:
            fresh.step(past)
        for coming in actions[turn:]:
            assert twin.step(coming) == fresh.step(coming)
        twin.close()
        env.step(action)


def test_arguments_are_obeyed_or_refused() -> None:
    with pytest.raises(UsageError, match="hops must be 0 to 3, or several of them, got 7"):
        SearchCodeEnv(hops=7)
    with pytest.raises(UnknownName, match="did you mean 'power'"):
        SearchCodeEnv(kinds="powr")
    assert SearchCodeEnv(k=1).fingerprint != SearchCodeEnv(k=2).fingerprint
    assert [t.name for t in SearchCodeEnv(fetch=True).tools.tools] == ["search", "fetch", "python"]
