"""Played episodes with every word of what comes back, and the promises of the environment contract."""

from __future__ import annotations

import random
import subprocess
import sys
import tracemalloc
import warnings
from dataclasses import replace

import gymnasium as gym
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from agentgym.env import fork
from agentgym.envs.household import HouseholdEnv, catalogue, generator
from agentgym.envs.household.catalogue import FAMILIES, Goal
from agentgym.envs.household.generator import House
from agentgym.errors import UnknownName, UsageError

SPLITS = ("train", "test", "unseen")


def play(env, seed, actions):
    """Observations, rewards, ends and infos of an episode as comparable text."""
    out = [env.reset(seed=seed)]
    for action in actions:
        out.append(env.step(action))
        if out[-1][2] or out[-1][3]:
            break
    return repr(out)


def random_actions(split, seed, count=60):
    """Admissible actions of an episode drawn at random, until it ends."""
    env, rng, actions = HouseholdEnv(split=split), random.Random(seed), []
    _, info = env.reset(seed=seed)
    for _ in range(count):
        actions.append(rng.choice(info["admissible"]))
        _, _, terminated, truncated, info = env.step(actions[-1])
        if terminated or truncated:
            break
    return actions


# ---- played by hand ------------------------------------------------------------------------------------------------

KITCHEN = ("cabinet", "cabinet", "countertop", "fridge", "microwave", "sinkbasin")
BEDROOM = ("bed", "desk", "drawer", "drawer", "sidetable")


@pytest.fixture
def start(monkeypatch):
    """Start an episode in a house made by hand: items as ``"mug 1": "cabinet 2"``."""

    def make(family, kind, place, places, items):
        names = [f"{k} {places[:i].count(k) + 1}" for i, k in enumerate(places)]
        house = House(
            task_id="household/train/hand/0",
            goal=Goal(family, kind, place, ""),
            places=places,
            items=[name.split()[0] for name in items],
            starts=[names.index(where) for where in items.values()],
        )
        assert list(items) == list(house.item_names)
        monkeypatch.setattr(generator, "build", lambda split, number, family: house)
        env = HouseholdEnv()
        return env, env.reset(seed=0)[0]

    return make


def check(env, script):
    """Play ``action -> observation`` pairs; only the last one may pay and end the episode."""
    script = [line.strip().split(" -> ") for line in script.strip().splitlines()]
    for i, (action, expected) in enumerate(script):
        observation, reward, terminated, truncated, info = env.step(action)
        last = i == len(script) - 1
        assert (action, observation) == (action, expected)
        assert (reward, terminated, truncated) == (float(last), last, False)
        assert info.get("success") == (True if last else None)
        assert "error" not in info


def test_put(start):
    env, first = start("put", "plate", "fridge", KITCHEN, {"plate 1": "cabinet 2"})
    assert first == (
        "You are in the middle of a room. Looking quickly around you, you see a cabinet 1, a cabinet 2, "
        "a countertop 1, a fridge 1, a microwave 1, and a sinkbasin 1.\nYour task is to: put a plate in fridge."
    )
    check(
        env,
        """
        go to cabinet 2 -> You arrive at cabinet 2. The cabinet 2 is closed.
        open cabinet 2 -> You open the cabinet 2. In it, you see a plate 1.
        take plate 1 from cabinet 2 -> You pick up the plate 1 from the cabinet 2.
        inventory -> You are carrying a plate 1.
        close cabinet 2 -> You close the cabinet 2.
        go to fridge 1 -> You arrive at fridge 1. The fridge 1 is closed.
        open fridge 1 -> You open the fridge 1. In it, you see nothing.
        move plate 1 to fridge 1 -> You move the plate 1 to the fridge 1.
        """,
    )


def test_two(start):
    items = {"book 1": "bed 1", "book 2": "drawer 2", "pen 1": "bed 1"}
    env, first = start("two", "book", "desk", BEDROOM, items)
    assert first.endswith("Your task is to: put two book on desk.")
    check(
        env,
        """
        look -> You are in the middle of a room. Looking quickly around you, you see a bed 1, a desk 1, a drawer 1, \
a drawer 2, and a sidetable 1.
        inventory -> You are not carrying anything.
        go to bed 1 -> You arrive at bed 1. On the bed 1, you see a book 1, and a pen 1.
        take book 1 from bed 1 -> You pick up the book 1 from the bed 1.
        look -> You are at bed 1. On the bed 1, you see a pen 1.
        go to desk 1 -> You arrive at desk 1. On the desk 1, you see nothing.
        move book 1 to desk 1 -> You move the book 1 to the desk 1.
        go to drawer 2 -> You arrive at drawer 2. The drawer 2 is closed.
        open drawer 2 -> You open the drawer 2. In it, you see a book 2.
        take book 2 from drawer 2 -> You pick up the book 2 from the drawer 2.
        go to desk 1 -> You arrive at desk 1. On the desk 1, you see a book 1.
        put book 2 on desk 1 -> You move the book 2 to the desk 1.
        """,
    )


def test_examine(start):
    items = {"desklamp 1": "sidetable 1", "pen 1": "sidetable 1", "watch 1": "drawer 1"}
    env, first = start("examine", "watch", "desklamp", BEDROOM, items)
    assert first.endswith("Your task is to: look at watch under the desklamp.")
    check(
        env,
        """
        go to sidetable 1 -> You arrive at sidetable 1. On the sidetable 1, you see a desklamp 1, and a pen 1.
        use desklamp 1 -> You turn on the desklamp 1.
        examine desklamp 1 -> The desklamp 1 is lit.
        use desklamp 1 -> You turn off the desklamp 1.
        examine desklamp 1 -> There is nothing special about the desklamp 1.
        go to drawer 1 -> You arrive at drawer 1. The drawer 1 is closed.
        open drawer 1 -> You open the drawer 1. In it, you see a watch 1.
        take watch 1 from drawer 1 -> You pick up the watch 1 from the drawer 1.
        go to sidetable 1 -> You arrive at sidetable 1. On the sidetable 1, you see a desklamp 1, and a pen 1.
        use desklamp 1 -> You turn on the desklamp 1.
        """,
    )


def test_a_lamp_that_is_lit_elsewhere_does_not_count(start):
    env, _ = start("examine", "pen", "desklamp", BEDROOM, {"desklamp 1": "desk 1", "pen 1": "bed 1"})
    check(
        env,
        """
        go to desk 1 -> You arrive at desk 1. On the desk 1, you see a desklamp 1.
        use desklamp 1 -> You turn on the desklamp 1.
        go to bed 1 -> You arrive at bed 1. On the bed 1, you see a pen 1.
        take pen 1 from bed 1 -> You pick up the pen 1 from the bed 1.
        go to desk 1 -> You arrive at desk 1. On the desk 1, you see a desklamp 1.
        """,
    )


def test_examine_with_the_lamp_lit_beforehand(start):
    env, _ = start("examine", "pen", "desklamp", BEDROOM, {"desklamp 1": "desk 1", "pen 1": "desk 1"})
    check(
        env,
        """
        go to desk 1 -> You arrive at desk 1. On the desk 1, you see a desklamp 1, and a pen 1.
        use desklamp 1 -> You turn on the desklamp 1.
        take pen 1 from desk 1 -> You pick up the pen 1 from the desk 1.
        """,
    )


def test_clean(start):
    env, first = start("clean", "fork", "countertop", KITCHEN, {"fork 1": "sinkbasin 1", "fork 2": "countertop 1"})
    assert first.endswith("Your task is to: put a clean fork on countertop.")
    check(
        env,
        """
        go to sinkbasin 1 -> You arrive at sinkbasin 1. In the sinkbasin 1, you see a fork 1.
        take fork 1 from sinkbasin 1 -> You pick up the fork 1 from the sinkbasin 1.
        clean fork 1 with sinkbasin 1 -> You clean the fork 1 using the sinkbasin 1.
        examine fork 1 -> The fork 1 is clean.
        go to countertop 1 -> You arrive at countertop 1. On the countertop 1, you see a fork 2.
        move fork 1 to countertop 1 -> You move the fork 1 to the countertop 1.
        """,
    )


def test_heat(start):
    env, first = start("heat", "egg", "sinkbasin", KITCHEN, {"egg 1": "microwave 1"})
    assert first.endswith("Your task is to: put a hot egg in sinkbasin.")
    check(
        env,
        """
        go to microwave 1 -> You arrive at microwave 1. The microwave 1 is closed.
        open microwave 1 -> You open the microwave 1. In it, you see a egg 1.
        examine microwave 1 -> The microwave 1 is open. In it, you see a egg 1.
        take egg 1 from microwave 1 -> You pick up the egg 1 from the microwave 1.
        close microwave 1 -> You close the microwave 1.
        go to sinkbasin 1 -> You arrive at sinkbasin 1. In the sinkbasin 1, you see nothing.
        move egg 1 to sinkbasin 1 -> You move the egg 1 to the sinkbasin 1.
        examine egg 1 -> There is nothing special about the egg 1.
        take egg 1 from sinkbasin 1 -> You pick up the egg 1 from the sinkbasin 1.
        go to microwave 1 -> You arrive at microwave 1. The microwave 1 is closed.
        heat egg 1 with microwave 1 -> You heat the egg 1 using the microwave 1.
        go to sinkbasin 1 -> You arrive at sinkbasin 1. In the sinkbasin 1, you see nothing.
        clean egg 1 with sinkbasin 1 -> You clean the egg 1 using the sinkbasin 1.
        examine egg 1 -> The egg 1 is clean and hot.
        move egg 1 to sinkbasin 1 -> You move the egg 1 to the sinkbasin 1.
        """,
    )


def test_cool_and_heat_undo_each_other(start):
    env, first = start("cool", "mug", "microwave", KITCHEN, {"mug 1": "countertop 1"})
    assert first.endswith("Your task is to: put a cool mug in microwave.")
    check(
        env,
        """
        go to countertop 1 -> You arrive at countertop 1. On the countertop 1, you see a mug 1.
        take mug 1 from countertop 1 -> You pick up the mug 1 from the countertop 1.
        go to fridge 1 -> You arrive at fridge 1. The fridge 1 is closed.
        cool mug 1 with fridge 1 -> You cool the mug 1 using the fridge 1.
        go to microwave 1 -> You arrive at microwave 1. The microwave 1 is closed.
        heat mug 1 with microwave 1 -> You heat the mug 1 using the microwave 1.
        open microwave 1 -> You open the microwave 1. In it, you see nothing.
        move mug 1 to microwave 1 -> You move the mug 1 to the microwave 1.
        examine mug 1 -> The mug 1 is hot.
        take mug 1 from microwave 1 -> You pick up the mug 1 from the microwave 1.
        go to fridge 1 -> You arrive at fridge 1. The fridge 1 is closed.
        cool mug 1 with fridge 1 -> You cool the mug 1 using the fridge 1.
        examine mug 1 -> The mug 1 is cool.
        go to microwave 1 -> You arrive at microwave 1. The microwave 1 is open. In it, you see nothing.
        move mug 1 to microwave 1 -> You move the mug 1 to the microwave 1.
        """,
    )


def test_wrong_actions_say_why_and_change_nothing(start):
    items = {"desklamp 1": "desk 1", "mug 1": "desk 1", "mug 2": "drawer 1", "pen 1": "desk 1"}
    env, _ = start("put", "mug", "fridge", ("desk", "drawer", "fridge", "microwave"), items)
    not_understood = (
        "Not understood. An action starts with "
        "go, take, move, open, close, use, clean, heat, cool, examine, inventory, look."
    )
    script = """
        take mug 1 from desk 1 -> You are not at desk 1.
        examine mug 1 -> You see no such object here.
        go to fridge 2 -> There is no such receptacle.
        go to the fridge 1 -> Not understood. Write: go to R.
        look around -> Not understood. Write: look.
        inventory please -> Not understood. Write: inventory.
        examine -> Not understood. Write: examine R or O.
        go to desk 1
        go to desk 1 -> You are already at desk 1.
        open desk 1 -> You cannot open the desk 1.
        close the desk 1 -> Not understood. Write: close R.
        take mug 1 desk 1 -> Not understood. Write: take O from R.
        take mug 2 from desk 1 -> You see no such object here.
        take mug 9 from desk 1 -> You see no such object here.
        take desklamp 1 from desk 1 -> You cannot take the desklamp 1.
        use pen 1 -> You cannot use the pen 1.
        use desklamp 2 -> You see no such object here.
        use desklamp -> Not understood. Write: use L.
        move mug 1 to desk 1 -> You do not carry that.
        take pen 1 from desk 1
        take mug 1 from desk 1 -> You already carry the pen 1.
        examine fridge 1 -> You are not at fridge 1.
        go to drawer 1
        take mug 2 from drawer 1 -> The drawer 1 is closed.
        examine mug 2 -> You see no such object here.
        move pen 1 to drawer 1 -> The drawer 1 is closed.
        move pen 1 in drawer -> Not understood. Write: move O to R.
        close drawer 1 -> The drawer 1 is already closed.
        open drawer 1
        open drawer 1 -> The drawer 1 is already open.
        heat pen 1 with drawer 1 -> You cannot heat anything with the drawer 1.
        go to microwave 1
        heat pen 1 with microwave 1 -> You cannot heat the pen 1.
        heat mug 1 with microwave 1 -> You do not carry that.
        heat pen 1 -> Not understood. Write: heat O with R.
        """.strip().splitlines()
    _, info = env.reset(seed=0)
    for line in script:
        action, _, error = line.strip().partition(" -> ")
        before = info["anchor"], info["admissible"]
        observation, reward, _, _, info = env.step(action)
        assert (action, info.get("error", "")) == (action, error)
        if error:
            assert observation == error
            assert (info["anchor"], info["admissible"], reward) == (*before, 0.0)
    for action in ("", " \n ", "dance", "x" * 3_000_000, "go\0to desk 1", "{" * 150):
        assert env.step(action)[0] == not_understood


def test_case_and_blanks_do_not_matter(start):
    env, _ = start("put", "mug", "fridge", KITCHEN, {"mug 1": "countertop 1"})
    observation, _, _, _, info = env.step("  GO to\tCounterTop   1\n")
    assert observation == "You arrive at countertop 1. On the countertop 1, you see a mug 1."
    assert "error" not in info


def test_nothing_longer_than_200_characters_is_an_action():
    env = HouseholdEnv()
    env.reset(seed=0)
    assert "error" not in env.step("look".ljust(200))[-1]
    assert env.step("look".ljust(201))[-1]["error"].startswith("Not understood. An action starts with go, take,")


def test_instructions_name_every_action():
    for form in ("go to R", "take O from R", "move O to R", "use L", "heat O with R", "inventory", "look"):
        assert form in HouseholdEnv.instructions


# ---- the contract --------------------------------------------------------------------------------------------------


def test_gymnasium_check():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(HouseholdEnv(), skip_render_check=True)


@pytest.mark.parametrize("split", SPLITS)
def test_expert_solves_every_task(split):
    env = HouseholdEnv(split=split)
    turns = []
    for seed in range(300):
        env.reset(seed=seed)
        for turn in range(1, 51):
            _, reward, terminated, _, info = env.step(env.expert())
            assert "error" not in info
            if terminated:
                assert (reward, info["success"]) == (1.0, True)
                turns.append(turn)
                break
    assert len(turns) == 300
    assert 5 <= sum(turns) / 300 <= 15
    assert env.expert() is None


@pytest.mark.parametrize("split", SPLITS)
def test_expert_goes_on_from_any_state(split):
    env = HouseholdEnv(split=split, max_turns=1000)
    for seed in range(100):
        rng = random.Random(seed)
        _, info = env.reset(seed=seed)
        for _ in range(rng.randrange(60)):
            *_, terminated, _, info = env.step(rng.choice(info["admissible"]))
            if terminated:
                break
        for _ in range(0 if info.get("success") else 50):
            *_, terminated, _, info = env.step(env.expert())
            if terminated:
                break
        assert info["success"]


def test_expert_knows_only_what_was_seen(start):
    """Two houses that differ in a place not yet seen: the expert goes there in both."""
    firsts = []
    for where in ("cabinet 1", "cabinet 2"):
        env, _ = start("put", "plate", "fridge", KITCHEN, {"plate 1": where})
        actions = []
        for _ in range(5):
            actions.append(env.expert())
            env.step(actions[-1])
        firsts.append(actions)
    before = ["go to countertop 1", "go to sinkbasin 1", "go to cabinet 1", "open cabinet 1"]
    assert firsts[0] == [*before, "take plate 1 from cabinet 1"]
    assert firsts[1] == [*before, "go to cabinet 2"]


def test_truncated_at_the_limit_and_then_over():
    env = HouseholdEnv(max_turns=3)
    with pytest.raises(ResetNeeded, match=r"call reset\(\) first"):
        env.step("look")
    env.reset(seed=1)
    ends = [env.step("look")[2:] for _ in range(3)]
    assert [e[:2] for e in ends] == [(False, False), (False, False), (False, True)]
    assert ["success" in e[2] for e in ends] == [False, False, True]
    assert ends[2][2]["success"] is False
    with pytest.raises(ResetNeeded, match="episode is over"):
        env.step("look")
    assert env.expert() is None
    env.reset(seed=1)
    assert env.step("look")[2:4] == (False, False)


def test_solved_in_the_last_turn_is_not_truncated():
    env = HouseholdEnv()
    env.reset(seed=3)
    actions = []
    while (action := env.expert()) is not None:
        actions.append(action)
        env.step(action)
    exact = HouseholdEnv(max_turns=len(actions))
    exact.reset(seed=3)
    assert [exact.step(a)[2:4] for a in actions][-1] == (True, False)


@pytest.mark.parametrize("max_turns", [0, -1, 2.5, "9"])
def test_bad_max_turns(max_turns):
    with pytest.raises(UsageError, match="give a positive integer"):
        HouseholdEnv(max_turns=max_turns)


def test_bad_split_and_options():
    with pytest.raises(UnknownName, match="unknown split 'tset'; did you mean 'test'"):
        HouseholdEnv(split="tset")
    env = HouseholdEnv()
    with pytest.raises(UsageError, match="reset option 'level' is not known here; the only one is 'family'"):
        env.reset(seed=0, options={"level": 3})
    with pytest.raises(UnknownName, match="unknown family 'heta'; did you mean 'heat'"):
        env.reset(seed=0, options={"family": "heta"})


@pytest.mark.parametrize("family", FAMILIES)
def test_family_option(family):
    env = HouseholdEnv(split="test")
    for seed in range(5):
        _, info = env.reset(seed=seed, options={"family": family})
        assert info["family"] == env.family == family
        assert info["task_id"] == f"household/test/{family}/{seed}"


def test_the_option_gives_the_same_task_as_the_draw():
    env = HouseholdEnv()
    for seed in range(20):
        drawn = env.reset(seed=seed)
        assert env.reset(seed=seed, options={"family": drawn[1]["family"]}) == drawn


def test_without_a_seed_tasks_follow_from_the_last_seed():
    a, b = HouseholdEnv(), HouseholdEnv()
    a.reset(seed=5)
    b.reset(seed=5)
    following = [a.reset()[1]["task_id"] for _ in range(4)]
    assert following == [b.reset()[1]["task_id"] for _ in range(4)]
    assert len(set(following)) == 4


@pytest.mark.parametrize("split", SPLITS)
def test_same_seed_same_episode_byte_for_byte(split):
    for seed in range(20):
        actions = random_actions(split, seed)
        assert play(HouseholdEnv(split=split), seed, actions) == play(HouseholdEnv(split=split), seed, actions)


def test_episodes_do_not_depend_on_the_hash_seed():
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from agentgym.envs.household import HouseholdEnv as H\n"
        "e = H(split='test'); print(e.fingerprint, [e.reset(seed=s) for s in range(20)])"
    )
    outputs = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": s}, capture_output=True, check=True).stdout
        for s in ("1", "2")
    }
    assert len(outputs) == 1


def test_instances_do_not_disturb_each_other():
    actions = {seed: random_actions("train", seed) for seed in (7, 8)}
    alone = [play(HouseholdEnv(), seed, actions[seed]) for seed in (7, 8)]
    a, b = HouseholdEnv(), HouseholdEnv()
    both = [[a.reset(seed=7)], [b.reset(seed=8)]]
    for i in range(max(map(len, actions.values()))):
        for env, seed, out in ((a, 7, both[0]), (b, 8, both[1])):
            if i < len(actions[seed]):
                out.append(env.step(actions[seed][i]))
    assert [repr(out) for out in both] == alone


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_fork_equals_going_on(seed, wrapped):
    actions = random_actions("test", seed)
    env = HouseholdEnv(split="test")
    if wrapped:
        env = gym.wrappers.OrderEnforcing(env)
    env.reset(seed=seed)
    cut = random.Random(seed).randrange(len(actions))
    for action in actions[:cut]:
        env.step(action)
    twin = fork(env)
    expert_there = env.unwrapped.expert()
    went_on = [env.step(a) for a in actions[cut:]]
    assert twin.unwrapped.expert() == expert_there  # the original has gone on, the copy has not
    assert [twin.step(a) for a in actions[cut:]] == went_on
    assert twin.reset() == env.reset()
    assert twin.unwrapped.np_random is not env.unwrapped.np_random


def test_a_fork_does_not_change_the_original():
    env = HouseholdEnv()
    _, info = env.reset(seed=2)
    twin = env.fork()
    while (action := twin.expert()) is not None:
        twin.step(action)
    observation, *_, after = env.step("look")
    assert observation.startswith("You are in the middle of a room.")
    assert (after["anchor"], after["admissible"]) == (info["anchor"], info["admissible"])


def test_fork_before_reset():
    with pytest.raises(ResetNeeded, match=r"call reset\(\) first"):
        HouseholdEnv().fork()


def test_members_of_a_group_start_from_the_same_anchor_and_tasks_do_not():
    env = HouseholdEnv()
    anchors = [env.reset(seed=s)[1]["anchor"] for s in range(200)]
    assert anchors == [HouseholdEnv().reset(seed=s)[1]["anchor"] for s in range(200)]
    assert len(set(anchors)) == 200


GARBLED = HouseholdEnv(max_turns=10**9)
GARBLED.reset(seed=4)
VERBS = ["go", "take", "move", "put", "open", "close", "use", "clean", "heat", "cool", "examine", "inventory", "look"]
WORDS = [
    *VERBS,
    "to",
    "from",
    "in",
    "on",
    "with",
    "1",
    "2",
    "-1",
    "é",
    "١",
    "cabinet",
    "drawer",
    "fridge",
    "mug",
    "pen",
]


@given(st.one_of(st.text(), st.lists(st.sampled_from(WORDS), max_size=7).map(" ".join)))
def test_no_text_raises(text):
    observation, reward, terminated, truncated, info = GARBLED.step(text)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert observation.isprintable()
    assert observation.isascii()
    if "error" in info:
        assert observation == info["error"]


@pytest.mark.parametrize("text", ["take " * 1_000_000, "\x00\x1b[2J\u202e" * 100_000, "\ud800", '{"name": "go", "arg'])
def test_hostile_text(text):
    observation, *_, info = GARBLED.step(text)
    assert info["error"] == observation
    assert len(observation) < 130


def test_fingerprint_is_of_the_class_not_of_the_instance():
    env = HouseholdEnv(split="unseen", max_turns=5)
    assert env.fingerprint == HouseholdEnv().fingerprint
    assert len(env.fingerprint) == 16


def test_fingerprint_changes_with_what_is_listed():
    assert len({HouseholdEnv(show_actions=name).fingerprint for name in ("nothing", "relevant", "all")}) == 3


@pytest.mark.parametrize("show_actions", ["nothing", "relevant", "all"])
def test_admissible_actions_are_shown(show_actions):
    """The same episode with and without the list; the first observation still ends with the task."""
    plain, env = HouseholdEnv(), HouseholdEnv(show_actions=show_actions)
    for seed in range(12):
        bare, (shown, info) = plain.reset(seed=seed)[0], env.reset(seed=seed)
        assert shown.rsplit("\n", 1)[1] == bare.rsplit("\n", 1)[1]
        kind = env._state.house.goal.object
        over, length = False, 0
        while True:
            named = [a for a in info["admissible"] if show_actions == "all" or f" {kind} " in f" {a} "]
            if show_actions == "relevant":
                named = [a for a in named if a.split()[0] != "examine"]
            line = f"\nYou can: {', '.join(named)}." if named and show_actions != "nothing" else ""
            assert shown == (bare + line if length else f"{line}\n".join(bare.rsplit("\n", 1)))
            if over:
                break
            action = env.expert()
            bare = plain.step(action)[0]
            shown, _, over, _, info = env.step(action)
            length += 1


def test_a_list_that_does_not_exist_is_named():
    with pytest.raises(UnknownName, match=r"unknown show_actions 'relevent'.*relevant"):
        HouseholdEnv(show_actions="relevent")


def test_permutable_words_are_the_kinds_of_objects_that_can_be_carried():
    kinds, *_ = HouseholdEnv.permutable_names
    assert set(kinds) == {o.name for o in catalogue.OBJECTS.values()} - {"desklamp"}
    assert not set(kinds) & set(catalogue.PLACES)


def test_permutable_places_are_no_tools_and_behave_alike():
    _, *places = HouseholdEnv.permutable_names
    assert {name for names in places for name in names} == set(catalogue.PLACES) - {"sinkbasin", "microwave", "fridge"}
    for names in places:
        assert len({replace(catalogue.PLACES[name], name="") for name in names}) == 1


def test_fingerprint_changes_with_a_table(monkeypatch):
    before = HouseholdEnv().fingerprint
    monkeypatch.setattr(catalogue, "VERSION", 99)
    assert HouseholdEnv().fingerprint != before


def test_an_instance_is_small():
    HouseholdEnv().reset(seed=0)
    tracemalloc.start()
    envs = [HouseholdEnv() for _ in range(20)]
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / len(envs) < 100_000
