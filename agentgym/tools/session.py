"""What tools remember within one episode: a session, shared by all tools that name what makes it.

::

    class Cart:
        def __init__(self) -> None:
            self.items: dict[str, int] = {}

    @tool(session=Cart)
    def add(cart: Cart, item: str) -> str: ...

    @tool(session=Cart)
    def checkout(cart: Cart) -> str: ...

A session is any object. ``fork()``, where it has one, gives an independent copy for a branch of the episode; without it
the session is copied by :func:`copy.deepcopy`. ``close()``, where it has one, releases what it holds; a call that ran
out of time may still be using it then, and closing should end that call.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, Self

from agentgym.errors import ForkError

MakeSession = Callable[..., Any]
"""Makes a session: a class or function without required parameters, or with one, which is given the episode's task.

::

    class Shop:
        def __init__(self, question: Question) -> None:
            self.stock = question.data["stock"]
"""


class Sessions:
    """The sessions of one episode, one for each thing that makes them; each is made when it is first asked for.

    Args:
        task: of which makers with a required parameter are given a copy, so that no episode changes the task of
            another; a :class:`~agentgym.envs.tool_env.Question` in a ``ToolEnv``.
    """

    def __init__(self, task: object = None) -> None:
        self._task = task
        self._made: dict[MakeSession, Any] = {}

    def __len__(self) -> int:
        """How many are open."""
        return len(self._made)

    def __contains__(self, make: MakeSession) -> bool:
        """Whether this one is open."""
        return make in self._made

    def of(self, make: MakeSession) -> Any:
        """The one session that ``make`` makes in this episode."""
        if make not in self._made:
            self._made[make] = make(copy.deepcopy(self._task)) if takes_task(make) else make()
        return self._made[make]

    def drop(self, make: MakeSession) -> bool:
        """Close this session, where it was made; the next :meth:`of` makes another one."""
        known = make in self._made
        if known:
            _close(self._made.pop(make))
        return known

    def fork(self) -> Self:
        """Copies of all sessions.

        Raises:
            ForkError: one of them cannot be copied.
        """
        twin = type(self)(self._task)
        try:
            for make, session in self._made.items():
                twin._made[make] = _copied(session)
        except BaseException:
            twin.close()
            raise
        return twin

    def close(self) -> None:
        """Close all of them, also where one does not close; its error is raised at the end."""
        try:
            while self._made:
                _close(self._made.popitem()[1])
        finally:
            if self._made:
                self.close()


def takes_task(make: MakeSession) -> bool:
    """Whether it has a required parameter, which is given the episode's task."""
    return required_parameters(make) > 0


def required_parameters(function: Callable[..., Any]) -> int:
    """How many positional parameters must be given; 0 where nothing is known, as of some built-in functions."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 0
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters)


def _copied(session: Any) -> Any:
    if callable(fork := getattr(session, "fork", None)):
        return fork()
    try:
        return copy.deepcopy(session)
    except Exception as error:
        name = type(session).__name__
        raise ForkError(
            f"the session {name} cannot be copied ({type(error).__name__}: {error}); give {name} a method fork() that "
            "returns an independent copy"
        ) from error


def _close(session: Any) -> None:
    if callable(close := getattr(session, "close", None)):
        close()
