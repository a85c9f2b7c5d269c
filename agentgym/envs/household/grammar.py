"""What the agent may write, what it reads back, and which actions are possible now."""

from __future__ import annotations

from collections.abc import Callable

from agentgym.envs.household.generator import listing
from agentgym.envs.household.state import NOWHERE, State

LONGEST = 200  #: characters; nothing longer is an action

FORMS = {
    "go": "go to R",
    "take": "take O from R",
    "move": "move O to R",
    "open": "open R",
    "close": "close R",
    "use": "use L",
    "clean": "clean O with R",
    "heat": "heat O with R",
    "cool": "cool O with R",
    "examine": "examine R or O",
    "inventory": "inventory",
    "look": "look",
}

INSTRUCTIONS = f"""You act in a house, one action a turn, until the task is done. Actions: {", ".join(FORMS.values())}.
R is a receptacle such as fridge 1, O an object such as mug 2, L a lamp such as desklamp 1; write only the action.
You see what is at a receptacle when you are there and it is open. You carry one object at a time.
Clean with a sinkbasin, heat with a microwave, cool with a fridge.
To look at an object under a lamp, carry it to the lamp and use the lamp."""


class ActionError(Exception):
    """An action that is not understood or not possible; the message is the observation."""


def act(state: State, action: str) -> str:
    """Change the state as the action says and return the observation.

    Raises:
        ActionError: the action is not understood or not possible; the state is as before.
    """
    words = action.lower().split() if len(action) <= LONGEST else []
    handler = _HANDLERS.get(words[0]) if words else None
    if handler is None:
        raise ActionError("Not understood. An action starts with " + ", ".join(FORMS) + ".")
    return handler(state, words)


def admissible(state: State) -> list[str]:
    """Every action that is possible now, in a fixed order."""
    house, at = state.house, state.at
    if at == NOWHERE:
        return [*house.going, "inventory", "look"]
    place, kind, held = house.place_names[at], house.place_kinds[at], state.held
    actions = [*house.going[:at], *house.going[at + 1 :]]
    is_open = state.opened >> at & 1
    if kind.openable:
        actions.append(("close " if is_open else "open ") + place)
    visible = state.inside[at] if is_open else ()
    if held == NOWHERE:
        actions += [f"take {house.item_names[i]} from {place}" for i in visible if not house.item_kinds[i].fixed]
    else:
        name = house.item_names[held]
        if is_open:
            actions.append(f"move {name} to {place}")
        if kind.tool in house.item_kinds[held].abilities:
            actions.append(f"{kind.tool} {name} with {place}")
        actions.append("examine " + name)
    for i in visible:
        actions.append("examine " + house.item_names[i])
        if house.item_kinds[i].fixed:
            actions.append("use " + house.item_names[i])
    actions += ["examine " + place, "inventory", "look"]
    return actions


def _go(state: State, words: list[str]) -> str:
    if len(words) != 4 or words[1] != "to":
        raise _misspelt("go")
    place = state.house.place_index.get(words[2] + " " + words[3])
    if place is None:
        raise ActionError("There is no such receptacle.")
    name = state.house.place_names[place]
    if place == state.at:
        raise ActionError(f"You are already at {name}.")
    state.go(place)
    return f"You arrive at {name}. {_scene(state)}"


def _take(state: State, words: list[str]) -> str:
    if len(words) != 6 or words[3] != "from":
        raise _misspelt("take")
    _need_to_be_at(state, words[4] + " " + words[5])
    _need_open(state)
    name = words[1] + " " + words[2]
    item = state.house.item_index.get(name)
    if item is None or state.where[item] != state.at:
        raise _not_here()
    if state.house.item_kinds[item].fixed:
        raise ActionError(f"You cannot take the {name}.")
    if state.held != NOWHERE:
        raise ActionError(f"You already carry the {state.house.item_names[state.held]}.")
    state.take(item)
    return f"You pick up the {name} from the {state.house.place_names[state.at]}."


def _move(state: State, words: list[str]) -> str:
    if len(words) != 6 or words[3] not in ("to", "in", "on", "in/on"):
        raise _misspelt("move")
    name = _need_to_carry(state, words[1] + " " + words[2])
    place = _need_to_be_at(state, words[4] + " " + words[5])
    _need_open(state)
    state.put()
    return f"You move the {name} to the {place}."


def _open(state: State, words: list[str]) -> str:
    name = _door(state, words, "open")
    if state.opened >> state.at & 1:
        raise ActionError(f"The {name} is already open.")
    state.swing()
    return f"You open the {name}. In it, you see {_contents(state)}."


def _close(state: State, words: list[str]) -> str:
    name = _door(state, words, "close")
    if not state.opened >> state.at & 1:
        raise ActionError(f"The {name} is already closed.")
    state.swing()
    return f"You close the {name}."


def _use(state: State, words: list[str]) -> str:
    if len(words) != 3:
        raise _misspelt("use")
    name = words[1] + " " + words[2]
    item = state.house.item_index.get(name)
    if item is None or not _in_view(state, item):
        raise _not_here()
    if not state.house.item_kinds[item].fixed:
        raise ActionError(f"You cannot use the {name}.")
    state.switch(item)
    return f"You turn {'on' if state.lit >> item & 1 else 'off'} the {name}."


def _treat(state: State, words: list[str]) -> str:
    verb = words[0]
    if len(words) != 6 or words[3] != "with":
        raise _misspelt(verb)
    name = _need_to_carry(state, words[1] + " " + words[2])
    place = _need_to_be_at(state, words[4] + " " + words[5])
    if state.house.place_kinds[state.at].tool != verb:
        raise ActionError(f"You cannot {verb} anything with the {place}.")
    if verb not in state.house.item_kinds[state.held].abilities:
        raise ActionError(f"You cannot {verb} the {name}.")
    {"clean": state.wash, "heat": state.heat, "cool": state.cool}[verb](state.held)
    return f"You {verb} the {name} using the {place}."


def _examine(state: State, words: list[str]) -> str:
    if len(words) != 3:
        raise _misspelt("examine")
    name = words[1] + " " + words[2]
    if name in state.house.place_index:
        _need_to_be_at(state, name)
        return _scene(state)
    item = state.house.item_index.get(name)
    if item is None or not _in_view(state, item):
        raise _not_here()
    bit = 1 << item
    masks = (("clean", state.clean), ("hot", state.hot), ("cool", state.cold), ("lit", state.lit))
    properties = [word for word, mask in masks if mask & bit]
    if not properties:
        return f"There is nothing special about the {name}."
    return f"The {name} is {' and '.join(properties)}."


def _inventory(state: State, words: list[str]) -> str:
    if len(words) != 1:
        raise _misspelt("inventory")
    if state.held == NOWHERE:
        return "You are not carrying anything."
    return f"You are carrying a {state.house.item_names[state.held]}."


def _look(state: State, words: list[str]) -> str:
    if len(words) != 1:
        raise _misspelt("look")
    if state.at == NOWHERE:
        return state.house.overview
    return f"You are at {state.house.place_names[state.at]}. {_scene(state)}"


_HANDLERS: dict[str, Callable[[State, list[str]], str]] = {
    "go": _go,
    "take": _take,
    "move": _move,
    "put": _move,
    "open": _open,
    "close": _close,
    "use": _use,
    "clean": _treat,
    "heat": _treat,
    "cool": _treat,
    "examine": _examine,
    "inventory": _inventory,
    "look": _look,
}


def _scene(state: State) -> str:
    """What the agent sees where it stands."""
    kind, name = state.house.place_kinds[state.at], state.house.place_names[state.at]
    if not kind.openable:
        return f"{'On' if kind.preposition == 'on' else 'In'} the {name}, you see {_contents(state)}."
    if state.opened >> state.at & 1:
        return f"The {name} is open. In it, you see {_contents(state)}."
    return f"The {name} is closed."


def _contents(state: State) -> str:
    names = state.house.item_names
    return listing([names[i] for i in state.inside[state.at]])


def _in_view(state: State, item: int) -> bool:
    """Whether the agent carries the item, or stands where it lies in the open."""
    if item == state.held:
        return True
    return state.at != NOWHERE and state.where[item] == state.at and bool(state.opened >> state.at & 1)


def _misspelt(verb: str) -> ActionError:
    return ActionError(f"Not understood. Write: {FORMS[verb]}.")


def _not_here() -> ActionError:
    """The same words for an object elsewhere and for one that does not exist, so that guessing reveals nothing."""
    return ActionError("You see no such object here.")


def _need_to_be_at(state: State, name: str) -> str:
    """The name of the place, if the agent stands there."""
    place = state.house.place_index.get(name)
    if place is None:
        raise ActionError("There is no such receptacle.")
    if place != state.at:
        raise ActionError(f"You are not at {name}.")
    return name


def _need_open(state: State) -> None:
    if not state.opened >> state.at & 1:
        raise ActionError(f"The {state.house.place_names[state.at]} is closed.")


def _need_to_carry(state: State, name: str) -> str:
    """The name of the item, if the agent carries it."""
    if state.held == NOWHERE or state.house.item_names[state.held] != name:
        raise ActionError("You do not carry that.")
    return name


def _door(state: State, words: list[str], verb: str) -> str:
    """The name of the place to open or close, if the agent stands at it and it can be."""
    if len(words) != 3:
        raise _misspelt(verb)
    name = _need_to_be_at(state, words[1] + " " + words[2])
    if not state.house.place_kinds[state.at].openable:
        raise ActionError(f"You cannot {verb} the {name}.")
    return name
