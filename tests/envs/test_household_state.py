"""The anchor against the whole state, and the list of admissible actions against everything that can be written."""

from __future__ import annotations

import itertools
import random

import pytest

from agentgym.envs.household.generator import build
from agentgym.envs.household.grammar import ActionError, act, admissible
from agentgym.envs.household.planner import next_action, search_order
from agentgym.envs.household.state import NOWHERE, State

SPLITS = ("train", "test", "unseen")


def facts(state):
    """The true state, spelled out (``seen`` is what the agent knows, ``code`` is under test)."""
    open_places = [state.opened >> p & 1 for p in range(len(state.house.place_names))]
    masks = (state.clean, state.hot, state.cold, state.lit)
    return (state.at, state.held, tuple(state.where), tuple(open_places), masks)


def wander(split, number, turns, seed=0):
    """States of a random walk, the first included."""
    state, rng = State(build(split, number)), random.Random(seed)
    yield state.copy()
    for _ in range(turns):
        act(state, rng.choice(admissible(state)))
        yield state.copy()


def everything(house):
    """Every action that the names of a house allow."""
    places, items = house.place_names, house.item_names
    yield from ("look", "inventory")
    yield from (f"go to {p}" for p in places)
    yield from (f"{verb} {p}" for verb in ("open", "close") for p in places)
    yield from (f"use {i}" for i in items)
    yield from (f"examine {x}" for x in (*places, *items))
    for p, i in itertools.product(places, items):
        yield from (f"take {i} from {p}", f"move {i} to {p}")
        yield from (f"{verb} {i} with {p}" for verb in ("clean", "heat", "cool"))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("number", range(4))
def test_equal_codes_if_and_only_if_equal_states(split, number):
    by_code, by_facts = {}, {}
    for seed in range(4):
        for state in wander(split, number, 300, seed):
            assert by_code.setdefault(state.code, facts(state)) == facts(state)
            assert by_facts.setdefault(facts(state), state.code) == state.code
    assert len(by_code) == len(by_facts) > 100


@pytest.mark.parametrize("number", range(10))
def test_the_inner_tables_stay_consistent(number):
    for state in wander("unseen", number, 200):
        assert (state.held == NOWHERE) == (-1 not in state.where)
        assert state.held == NOWHERE or state.where[state.held] == -1
        for place, inside in enumerate(state.inside):
            assert list(inside) == [i for i, p in enumerate(state.where) if p == place]
        assert not state.hot & state.cold
        assert state.house.always_open & ~state.opened == 0


def played(house, script):
    state = State(house)
    for action in script:
        act(state, action)
    return state


def test_the_order_of_actions_does_not_matter():
    house = next(h for n in range(99) if {"cabinet 1", "fridge 1"} <= set((h := build("train", n)).place_names))
    one = ["go to cabinet 1", "open cabinet 1", "go to fridge 1", "open fridge 1", "look", "go to sinkbasin 1"]
    other = ["go to fridge 1", "open fridge 1", "inventory", "go to cabinet 1", "open cabinet 1", "go to sinkbasin 1"]
    assert played(house, one).code == played(house, other).code
    detour = [*one[:4], "close fridge 1", "open fridge 1", one[5]]
    assert played(house, detour).code == played(house, one).code
    assert played(house, one[:4]).code != played(house, other[:5]).code  # the agent stands elsewhere


def test_looking_and_failing_do_not_change_the_code():
    state = State(build("train", 0))
    before = state.code
    for action in ("look", "inventory"):
        act(state, action)
    with pytest.raises(ActionError, match="no such receptacle"):
        act(state, "go to moon 1")
    assert state.code == before


def test_heat_then_cool_is_only_cool_and_twice_is_once():
    house = next(h for n in range(99) if (h := build("train", n)).goal.family == "heat")
    state = State(house)
    item = house.targets[0]
    state.heat(item)
    hot = state.code
    state.heat(item)
    assert state.code == hot
    state.cool(item)
    cold = state.code
    assert (state.hot, state.cold) == (0, 1 << item)
    fresh = State(house)
    fresh.cool(item)
    assert fresh.code == cold != hot
    fresh.wash(item)
    fresh.wash(item)
    assert fresh.clean == 1 << item
    assert fresh.code != cold


def test_a_copy_shares_nothing_that_changes():
    state = State(build("train", 3))
    twin = state.copy()
    before = facts(state), state.code, state.seen, [*state.inside]
    rng = random.Random(1)
    for _ in range(100):
        act(twin, rng.choice(admissible(twin)))
    assert (facts(state), state.code, state.seen, [*state.inside]) == before


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("number", range(3))
def test_admissible_is_exactly_what_works(split, number):
    """Every listed action runs; every other one that the names allow is refused and leaves the state alone."""
    house = build(split, number)
    possible = list(everything(house))
    for state in list(wander(split, number, 60, seed=number))[::6]:
        listed = admissible(state)
        assert len(listed) == len(set(listed))
        works = set()
        for action in possible:
            trial = state.copy()
            try:
                act(trial, action)
                works.add(action)
            except ActionError:
                assert (facts(trial), trial.code, trial.seen) == (facts(state), state.code, state.seen)
        assert works == set(listed)


@pytest.mark.parametrize("number", range(20))
def test_the_planner_acts_admissibly_in_any_state(number):
    for state in wander("unseen", number, 80, seed=number):
        if not state.solved():
            assert next_action(state) in admissible(state)


def test_search_order_is_likeliest_first_per_turn():
    house = next(
        h
        for n in range(999)
        if (h := build("train", n)).goal.object != "knife"
        and {"drawer 1", "countertop 1", "sinkbasin 1"} <= set(h.place_names)
        and not {"drawer 2", "countertop 2", "sinkbasin 2", "diningtable 1"} & set(h.place_names)
    )
    # knives: countertop 5 for one turn, sinkbasin 3 for one, drawer 5 for two (go and open)
    order = [house.place_names[p] for p in search_order(house, "knife")]
    assert order[:3] == ["countertop 1", "sinkbasin 1", "drawer 1"]
    assert sorted(order) == sorted(house.place_names)


def test_search_looks_last_where_the_task_wants_the_object():
    house = next(h for n in range(99) if (h := build("train", n)).goal.family == "put")
    prior = house.item_kinds[house.targets[0]].prior
    wanted = [p for p in search_order(house, house.goal.object) if house.goal_places >> p & 1]
    likely = [p for p, kind in enumerate(house.place_kinds) if kind.name in prior and p not in wanted]
    order = search_order(house, house.goal.object)
    assert max(map(order.index, likely)) < min(map(order.index, wanted))
