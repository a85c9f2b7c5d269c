"""A sensible person's next action, from what has been seen so far and nothing else.

It looks for the object at the likeliest places first (weight of finding it there over the turns it costs to look),
brings it to the tool the task needs, then to the goal. It goes on from any state, however it came about.
"""

from __future__ import annotations

from agentgym.envs.household.catalogue import LAMP, OBJECTS, PLACES
from agentgym.envs.household.generator import House
from agentgym.envs.household.state import NOWHERE, State


def next_action(state: State) -> str:
    """A good action in a state that does not solve the task yet."""
    house = state.house
    if state.held == NOWHERE:
        item = _known_target(state)
        return _search(state, house.goal.object) if item is None else _fetch(state, item)
    if state.held not in house.targets:
        return _lay_down(state, state.at)
    if house.goal.family == "examine":
        return _hold_to_lamp(state)
    return _treat_and_deliver(state)


def _known_target(state: State) -> int | None:
    """A target that was seen and is not yet where it belongs: the nearest, a treated one before others."""
    treated, goal_places = state.treated(), state.house.goal_places
    best, best_rank = None, (True, True)
    for item in state.house.targets:
        place = state.where[item]
        if not state.seen >> place & 1 or goal_places >> place & treated >> item & 1:
            continue
        rank = (not treated >> item & 1, place != state.at)
        if best is None or rank < best_rank:
            best, best_rank = item, rank
    return best


def _fetch(state: State, item: int) -> str:
    place = state.where[item]
    way = _way_into(state, place)
    return way or f"take {state.house.item_names[item]} from {state.house.place_names[place]}"


def _lay_down(state: State, place: int) -> str:
    way = _way_into(state, place)
    return way or f"move {state.house.item_names[state.held]} to {state.house.place_names[place]}"


def _way_into(state: State, place: int) -> str | None:
    """The action that is needed first to reach into a place; None where nothing is in the way."""
    if state.at != place:
        return state.house.going[place]
    if not state.opened >> place & 1:
        return "open " + state.house.place_names[place]
    return None


def _hold_to_lamp(state: State) -> str:
    house = state.house
    lamp = next((i for i in house.lamps if state.seen >> state.where[i] & 1), None)
    if lamp is None:
        return _search(state, LAMP)
    place = state.where[lamp]
    return house.going[place] if state.at != place else "use " + house.item_names[lamp]


def _treat_and_deliver(state: State) -> str:
    house, item = state.house, state.held
    if not state.treated() >> item & 1:
        tools = [i for i, kind in enumerate(house.place_kinds) if kind.tool == house.goal.family]
        place = state.at if state.at in tools else tools[0]
        if state.at != place:
            return house.going[place]
        return f"{house.goal.family} {house.item_names[item]} with {house.place_names[place]}"
    at_goal = state.at != NOWHERE and house.goal_places >> state.at & 1
    first = (house.goal_places & -house.goal_places).bit_length() - 1
    return _lay_down(state, state.at if at_goal else first)


def _search(state: State, kind: str) -> str:
    """Look into the next place that was not seen yet."""
    house, seen = state.house, state.seen
    place = next(p for p in search_order(house, kind) if not seen >> p & 1)
    return house.going[place] if state.at != place else "open " + house.place_names[place]


def search_order(house: House, kind: str) -> list[int]:
    """All places by the chance of finding the kind there per turn that looking costs; equals in the order of names.

    What a task wants at a place is not there yet, so its own places come last.
    """
    if kind in house.orders:
        return house.orders[kind]
    prior = OBJECTS[kind].prior
    names = [place.name for place in house.place_kinds]
    goal_place = house.goal.place if kind == house.goal.object else ""
    worth = {
        name: 0.0
        if name == goal_place
        else -prior.get(name, 0) / (names.count(name) * (2 if PLACES[name].openable else 1))
        for name in set(names)
    }
    house.orders[kind] = sorted(range(len(names)), key=[worth[name] for name in names].__getitem__)
    return house.orders[kind]
