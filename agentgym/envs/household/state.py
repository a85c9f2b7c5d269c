"""The true state of a running episode, and a digest of it that is kept up to date turn by turn."""

from __future__ import annotations

import hashlib
import struct

from agentgym.envs.household.generator import MAX_ITEMS, MAX_PLACES, House

HELD = -1  #: the place of the item that the agent carries
NOWHERE = -1  #: where the agent stands before it first goes anywhere; also "carries nothing"


def _keys(name: str, count: int) -> tuple[int, ...]:
    """``count`` fixed random 64-bit numbers."""
    return struct.unpack(f"<{count}Q", hashlib.shake_128(f"household/{name}".encode()).digest(8 * count))


# Zobrist hashing: every fact has a random key, and a state's code is the exclusive or of the keys of its facts. So it
# depends on the state alone, not on the way there, and changing one fact costs one or two operations.
_AT = _keys("at", MAX_PLACES + 1)
_OPEN = _keys("open", MAX_PLACES)
_WHERE = tuple(_keys(f"where/{item}", MAX_PLACES + 1) for item in range(MAX_ITEMS))  # the last key: carried
_FACTS = {name: _keys(name, MAX_ITEMS) for name in ("clean", "hot", "cold", "lit")}
_CLEAN, _HOT, _COLD, _LIT = _FACTS["clean"], _FACTS["hot"], _FACTS["cold"], _FACTS["lit"]


class State:
    """Where everything is and how it is. Masks have bit ``1 << index`` of a place or an item.

    Attributes:
        at: the place where the agent stands, or :data:`NOWHERE`.
        held: the item it carries, or :data:`NOWHERE`.
        where: place of each item, or :data:`HELD`.
        inside: items at each place, ascending.
        opened: mask of the places that are open; those that cannot be closed always are.
        clean, hot, cold, lit: masks of items.
        seen: mask of the places whose contents the agent has seen; what it knows, not part of the state or its code.
        code: 64-bit hash of house, task and state.
    """

    __slots__ = ("at", "clean", "code", "cold", "held", "hot", "house", "inside", "lit", "opened", "seen", "where")

    def __init__(self, house: House) -> None:
        self.house = house
        self.at = self.held = NOWHERE
        self.where = list(house.starts)
        self.inside = list(house.contents)
        self.opened = house.always_open
        self.clean = self.hot = self.cold = self.lit = self.seen = 0
        code = house.code ^ _AT[NOWHERE]
        for item, place in enumerate(house.starts):
            code ^= _WHERE[item][place]
        self.code = code

    def copy(self) -> State:
        """An independent state; only the house, which never changes, is shared."""
        twin = object.__new__(State)
        twin.house = self.house
        twin.at, twin.held = self.at, self.held
        twin.where, twin.inside = self.where.copy(), self.inside.copy()
        twin.opened, twin.seen, twin.code = self.opened, self.seen, self.code
        twin.clean, twin.hot, twin.cold, twin.lit = self.clean, self.hot, self.cold, self.lit
        return twin

    def go(self, place: int) -> None:
        self.code ^= _AT[self.at] ^ _AT[place]
        self.at = place
        self.seen |= self.opened & 1 << place

    def take(self, item: int) -> None:
        place = self.at
        self.inside[place] = tuple([i for i in self.inside[place] if i != item])
        self.where[item], self.held = HELD, item
        self.code ^= _WHERE[item][place] ^ _WHERE[item][HELD]

    def put(self) -> None:
        """Lay down the carried object."""
        item, place = self.held, self.at
        self.inside[place] = tuple(sorted((*self.inside[place], item)))
        self.where[item], self.held = place, NOWHERE
        self.code ^= _WHERE[item][HELD] ^ _WHERE[item][place]

    def swing(self) -> None:
        """Open the place if it is closed, close it if it is open."""
        self.opened ^= 1 << self.at
        self.code ^= _OPEN[self.at]
        self.seen |= self.opened & 1 << self.at

    def switch(self, lamp: int) -> None:
        self.lit ^= 1 << lamp
        self.code ^= _LIT[lamp]

    def wash(self, item: int) -> None:
        if not self.clean >> item & 1:
            self.clean |= 1 << item
            self.code ^= _CLEAN[item]

    def heat(self, item: int) -> None:
        self._warm(item, hot=True)

    def cool(self, item: int) -> None:
        self._warm(item, hot=False)

    def _warm(self, item: int, *, hot: bool) -> None:
        bit = 1 << item
        if bool(self.hot & bit) != hot:
            self.hot ^= bit
            self.code ^= _HOT[item]
        if bool(self.cold & bit) == hot:
            self.cold ^= bit
            self.code ^= _COLD[item]

    def treated(self) -> int:
        """Mask of the items that are as the task wants them, wherever they are."""
        family = self.house.goal.family
        if family == "clean":
            return self.clean
        if family == "heat":
            return self.hot
        return self.cold if family == "cool" else -1

    def solved(self) -> bool:
        """Whether the task is done in this state."""
        house = self.house
        if house.goal.family == "examine":
            return self.held in house.targets and any(
                self.lit >> i & 1 and self.where[i] == self.at for i in house.lamps
            )
        treated, goal_places = self.treated(), house.goal_places
        done = [i for i in house.targets if self.where[i] >= 0 and goal_places >> self.where[i] & treated >> i & 1]
        return len(done) >= house.goal.count
