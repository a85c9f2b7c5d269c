"""What the generator makes: disjoint splits, plausible houses, tasks that are open at the start."""

from __future__ import annotations

from collections import Counter

import pytest

from agentgym.envs.household import HouseholdEnv
from agentgym.envs.household.catalogue import (
    FAMILIES,
    GOALS,
    HELD_OUT,
    LAMP,
    OBJECTS,
    PLACES,
    ROOM_OBJECTS,
    ROOMS,
    TOOLS,
    UNSEEN_GOALS,
    Goal,
)
from agentgym.envs.household.generator import Dice, build, listing, split_of
from agentgym.envs.household.state import State

SPLITS = ("train", "test", "unseen")
NUMBER = 600
HOUSES = {split: [build(split, n) for n in range(NUMBER)] for split in SPLITS}


def kinds(names):
    return [name.rsplit(" ", 1)[0] for name in names]


def task(house):
    """What decides the split: the goal and the receptacles."""
    goal = house.goal
    return (goal.family, goal.object, goal.place, *kinds(house.place_names))


# ---- the tables ----------------------------------------------------------------------------------------------------


def test_tables_agree():
    assert not set(OBJECTS) & set(PLACES)
    assert set(TOOLS) <= set(PLACES)
    for room in ROOMS.values():
        assert {*room.required, *room.extras} <= set(PLACES)
    for kind in OBJECTS.values():
        assert set(kind.prior) <= set(PLACES)
        assert min(kind.prior.values()) > 0
        assert set(kind.rooms) <= set(ROOMS)
        assert kind.abilities <= {"clean", "heat", "cool", "two", "examine"}
    for name in (*PLACES, *OBJECTS):
        assert name.isascii()
        assert name.isalpha()
        assert name.islower()


def test_an_object_always_has_somewhere_to_lie_besides_its_goal():
    for room, names in ROOM_OBJECTS.items():
        for name in names:
            assert len(set(ROOMS[room].required) & set(OBJECTS[name].prior)) >= 2, name


def test_a_lamp_is_always_in_the_open_and_has_a_place_in_its_rooms():
    assert not any(PLACES[place].openable for place in OBJECTS[LAMP].prior)
    for room in OBJECTS[LAMP].rooms:
        assert set(ROOMS[room].required) & set(OBJECTS[LAMP].prior)


def test_every_fifth_pair_is_held_out_of_all_families():
    pairs = {(g.object, g.place) for table in (GOALS, UNSEEN_GOALS) for goals in table.values() for g in goals}
    assert abs(len(HELD_OUT) - len(pairs) / 5) < 1
    for family in FAMILIES:
        assert len(UNSEEN_GOALS[family]) >= 5
        assert len(GOALS[family]) >= 15
        assert all((g.object, g.place) in HELD_OUT for g in UNSEEN_GOALS[family])
        assert not any((g.object, g.place) in HELD_OUT for g in GOALS[family])


def test_goals_make_sense():
    assert Goal("heat", "apple", "microwave", "kitchen") not in (*GOALS["heat"], *UNSEEN_GOALS["heat"])
    assert not [g for g in (*GOALS["heat"], *UNSEEN_GOALS["heat"]) if g.room != "kitchen"]
    assert {g.room for g in GOALS["clean"]} == {"kitchen", "bathroom"}
    assert {g.room for g in GOALS["examine"]} == {"bedroom", "livingroom"}
    assert [Goal(f, "mug", "cabinet", "kitchen").sentence for f in ("put", "two", "clean", "heat", "cool")] == [
        "put a mug in cabinet.",
        "put two mug in cabinet.",
        "put a clean mug in cabinet.",
        "put a hot mug in cabinet.",
        "put a cool mug in cabinet.",
    ]
    assert Goal("put", "book", "shelf", "bedroom").sentence == "put a book on shelf."
    assert Goal("examine", "book", LAMP, "bedroom").sentence == "look at book under the desklamp."


def test_listing():
    assert listing([]) == "nothing"
    assert listing(["mug 1"]) == "a mug 1"
    assert listing(["mug 1", "pen 2"]) == "a mug 1, and a pen 2"
    assert listing(["mug 1", "pen 1", "pen 2"]) == "a mug 1, a pen 1, and a pen 2"


def test_dice_are_a_pure_function_of_their_name_and_fair():
    assert [Dice("a").below(1000) for _ in range(3)] == [Dice("a").below(1000)] * 3
    counts = Counter(Dice(f"die {n}").between(1, 6) for n in range(6000))
    assert sorted(counts) == [1, 2, 3, 4, 5, 6]
    assert all(850 < count < 1150 for count in counts.values())  # 5 standard deviations: 144


# ---- the splits ----------------------------------------------------------------------------------------------------


def test_train_and_test_are_disjoint_by_a_rule_that_knows_no_seed():
    for split in ("train", "test"):
        for house in HOUSES[split]:
            assert split_of(house.goal, kinds(house.place_names)) == split
    assert not {task(h) for h in HOUSES["train"]} & {task(h) for h in HOUSES["test"]}


def test_unseen_pairs_are_goals_nowhere_else():
    asked = {split: {(h.goal.object, h.goal.place) for h in HOUSES[split]} for split in SPLITS}
    assert asked["unseen"] <= HELD_OUT
    assert not (asked["train"] | asked["test"]) & HELD_OUT


def test_houses_are_many():
    for split in SPLITS:
        assert len({h.task_id for h in HOUSES[split]}) == NUMBER
        assert len({h.code for h in HOUSES[split]}) == NUMBER
        assert len({task(h) for h in HOUSES[split]}) > 0.9 * NUMBER


def test_families_come_about_equally_often():
    for split in SPLITS:
        counts = Counter(h.goal.family for h in HOUSES[split])
        assert set(counts) == set(FAMILIES)
        assert min(counts.values()) > 60  # expected 100


# ---- the houses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_sizes(split):
    for house in HOUSES[split]:
        objects = [k for k in house.item_kinds if not k.fixed]
        if split == "unseen":
            assert 15 <= len(house.place_names) <= 20
            assert 13 <= len(objects) <= 20
        else:
            assert 6 <= len(house.place_names) <= 11
            assert 6 <= len(objects) <= 11
        assert max(Counter(k.name for k in house.item_kinds).values()) <= 3


@pytest.mark.parametrize("split", SPLITS)
def test_everything_lies_where_it_may(split):
    for house in HOUSES[split]:
        for kind, place in zip(house.item_kinds, house.starts, strict=True):
            assert house.place_kinds[place].name in kind.prior
        assert [list(c) for c in house.contents] == [
            [i for i, p in enumerate(house.starts) if p == place] for place in range(len(house.place_names))
        ]


@pytest.mark.parametrize("split", SPLITS)
def test_the_task_is_open_and_can_be_done(split):
    for house in HOUSES[split]:
        goal = house.goal
        assert not State(house).solved()
        assert len(house.targets) >= goal.count
        places = kinds(house.place_names)
        assert not any(places[house.starts[i]] == goal.place for i in house.targets)
        if goal.family == "examine":
            assert house.lamps
        else:
            assert goal.place in places
        assert all(tool in places for tool, verb in TOOLS.items() if verb == goal.family)


@pytest.mark.parametrize("split", SPLITS)
def test_names_are_numbered_from_one_and_sorted(split):
    for house in HOUSES[split][:100]:
        for names in (house.place_names, house.item_names):
            seen = Counter()
            for name in names:
                kind, number = name.split()
                seen[kind] += 1
                assert int(number) == seen[kind]
            assert kinds(names) == sorted(kinds(names))


def test_objects_lie_at_places_as_often_as_their_weights_say():
    """Over all distractors, the likeliest place that the house has is met as often as its share of the weights."""
    met, expected, variance = 0, 0.0, 0.0
    for house in HOUSES["train"]:
        places = kinds(house.place_names)
        for i, kind in enumerate(house.item_kinds):
            if i not in house.targets:
                weights = {place: weight for place, weight in kind.prior.items() if place in places}
                best = max(weights, key=weights.__getitem__)
                share = weights[best] / sum(weights.values())
                met += places[house.starts[i]] == best
                expected += share
                variance += share * (1 - share)
    assert abs(met - expected) < 5 * variance**0.5


def test_first_observations_are_short():
    lengths = [len(h.introduction.split()) for h in HOUSES["train"]]
    assert 45 <= sum(lengths) / NUMBER <= 75
    assert max(lengths) <= 90


def test_a_seed_gives_this_house_for_ever():
    """Raise ``VERSION`` in the catalogue when this has to change."""
    observation, info = HouseholdEnv(split="test").reset(seed=123)
    assert observation == (
        "You are in the middle of a room. Looking quickly around you, you see a cabinet 1, a coffeetable 1, "
        "a countertop 1, a drawer 1, a fridge 1, a microwave 1, a sidetable 1, a sinkbasin 1, and a sofa 1.\n"
        "Your task is to: put a clean knife on countertop."
    )
    assert (info["task_id"], info["anchor"]) == ("household/test/clean/123", "8e61c330c19ea774")
