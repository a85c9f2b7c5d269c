"""A household in text: find things, clean, heat or cool them, put them where they are wanted.

The six families of tasks and the grammar are those of ALFWorld (Shridhar et al., 2021); houses are generated from the
seed, and everything is a pure function of it.
"""

from __future__ import annotations

import copy
import operator
from typing import Any, Self

from gymnasium.error import ResetNeeded

from agentgym.env import TextEnv, digest
from agentgym.envs.household import catalogue, generator, grammar, planner
from agentgym.envs.household.state import State
from agentgym.errors import UnknownName, UsageError

__all__ = ["HouseholdEnv"]

SHOW_ACTIONS = ("nothing", "relevant", "all")


class HouseholdEnv(TextEnv):
    """``agentgym/Household-v0``: one task in one house; reward 1.0 on the turn that solves it, else 0.0.

    ``reset(seed=n)`` starts task ``n`` of the split, a house and what to do in it; without a seed the number is drawn.
    ``reset(options={"family": f})`` asks for a family: ``put``, ``examine``, ``clean``, ``heat``, ``cool`` or ``two``.

    No house with its task is in both train and test. ``unseen`` has larger houses and asks for objects at places that
    are a goal in neither. ``info`` has ``family`` besides the common keys; ``anchor`` hashes the house, the task, and
    where and how everything is, but neither the turn nor what the agent has seen.

    Args:
        split: ``"train"``, ``"test"`` or ``"unseen"``.
        max_turns: an episode that is not solved by then is truncated.
        show_actions: which admissible actions every observation ends with: ``"nothing"``, ``"relevant"`` (what can be
            done to the kind of object asked for, besides examining it) or ``"all"`` (as the prompts of GiGPO's ALFWorld
            runs do).

    Raises:
        UsageError: ``max_turns`` is not a positive integer.
        UnknownName: ``show_actions`` is none of these.
    """

    splits: tuple[str, ...] = ("train", "test", "unseen")
    instructions = grammar.INSTRUCTIONS
    permutable_names = (tuple(o.name for o in catalogue.OBJECTS.values() if not o.fixed), *catalogue.STORES)

    def __init__(self, *, split: str = "train", max_turns: int = 50, show_actions: str = "nothing") -> None:
        super().__init__(split=split)
        if not isinstance(max_turns, int) or max_turns < 1:
            raise UsageError(f"max_turns={max_turns!r}: give a positive integer, e.g. 50")
        if show_actions not in SHOW_ACTIONS:
            raise UnknownName("show_actions", show_actions, SHOW_ACTIONS)
        self.max_turns, self.show_actions = max_turns, show_actions
        self._state: State | None = None
        self._turns = 0
        self._over = False

    @property
    def fingerprint(self) -> str:
        """Content hash of grammar, catalogue and generator, and of which actions are shown."""
        objects = [(o.name, o.rooms, sorted(o.abilities), dict(o.prior), o.fixed) for o in catalogue.OBJECTS.values()]
        rooms, places = dict(catalogue.ROOMS), dict(catalogue.PLACES)
        held_out = sorted(catalogue.HELD_OUT)
        return digest(
            super().fingerprint, catalogue.VERSION, grammar.FORMS, objects, rooms, places, held_out, self.show_actions
        )

    @property
    def family(self) -> str:
        """The family of the running task."""
        return self._running().house.goal.family

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start a task.

        Raises:
            UsageError: an option other than ``family``, or a family that does not exist.
        """
        super().reset(seed=seed)
        family = _family(options)
        number = operator.index(seed) if seed is not None else int(self.np_random.integers(2**31))
        house = generator.build(self.split, number, family)
        self._state = State(house)
        self._turns, self._over = 0, False
        info = self._info(self._state)
        room, task = house.introduction.rsplit("\n", 1)
        return f"{room}{self._list(info)}\n{task}", info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one action. One that is not understood or not possible costs a turn and says why.

        Raises:
            gymnasium.error.ResetNeeded: no episode is running.
        """
        state = self._running()
        if self._over:
            raise ResetNeeded("the episode is over: call reset() before step()")
        error = None
        try:
            observation = grammar.act(state, action)
        except grammar.ActionError as refusal:
            observation = error = str(refusal)
        self._turns += 1
        solved = state.solved()
        truncated = not solved and self._turns >= self.max_turns
        info = self._info(state)
        if error is not None:
            info["error"] = error
        if solved or truncated:
            self._over = True
            info["success"] = solved
        return observation + self._list(info), 1.0 if solved else 0.0, solved, truncated, info

    def expert(self) -> str | None:
        """A good next action for somebody who has seen what the agent has seen; None when the episode is over.

        Followed from the start, it solves every task of every split in 50 turns.
        """
        return None if self._over else planner.next_action(self._running())

    def fork(self) -> Self:
        """An independent copy of the running episode; the house, which never changes, is shared."""
        twin = copy.copy(self)
        twin._state = self._running().copy()
        twin._np_random = copy.deepcopy(self._np_random)
        twin.observation_space, twin.action_space = type(self.observation_space)(), type(self.action_space)()
        return twin

    def _list(self, info: dict[str, Any]) -> str:
        """The line that lists actions; empty where there are none to list."""
        if self.show_actions == "nothing":
            return ""
        actions = info["admissible"]
        if self.show_actions == "relevant":
            goal = self._running().house.goal.object
            actions = [a for a in actions if goal in a.split(" ") and not a.startswith("examine ")]
        return f"\nYou can: {', '.join(actions)}." if actions else ""

    def _info(self, state: State) -> dict[str, Any]:
        house = state.house
        return {
            "task_id": house.task_id,
            "anchor": f"{state.code:016x}",
            "admissible": grammar.admissible(state),
            "family": house.goal.family,
        }

    def _running(self) -> State:
        if self._state is None:
            raise ResetNeeded("no episode is running: call reset() first")
        return self._state


def _family(options: dict[str, Any] | None) -> str | None:
    """The family that the reset options ask for."""
    options = options or {}
    if unknown := sorted(set(options) - {"family"}, key=str):
        raise UsageError(f"reset option {unknown[0]!r} is not known here; the only one is 'family'")
    family = options.get("family")
    if family is not None and family not in catalogue.FAMILIES:
        raise UnknownName("family", str(family), catalogue.FAMILIES)
    return family
