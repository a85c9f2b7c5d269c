"""Tools: typed Python functions that an agent may call (:class:`agentgym.tools.toolbox.Toolbox` runs the calls).

::

    @tool(timeout=5)
    def search(query: str, k: int = 3) -> str:
        \"\"\"Search the encyclopedia.

        Args:
            query: what to look for.
            k: how many passages.
        \"\"\"

A tool that remembers something within an episode (a cart, an interpreter, a browser page) names what makes it:
``@tool(session=Cart)``; its function takes the session as first parameter, which the model never sees. Tools that name
the same maker share one session per episode (:mod:`agentgym.tools.session`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, overload

from agentgym.errors import UsageError
from agentgym.registry import import_named
from agentgym.tools.schema import NAME, read_function
from agentgym.tools.session import MakeSession

#: Characters of a result, or of an error, that the agent sees where a tool does not say otherwise.
MAX_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that an agent may call; made by :func:`tool`.

    Attributes:
        name: what the agent calls it.
        description: what it does, for the prompt.
        parameters: JSON schema of the arguments.
        check: arguments as written -> keyword arguments; raises ToolError naming the field.
        function: what runs; sync or async.
        timeout: seconds that a call may take, None for no limit (then it runs inline, without a thread).
        price: cost of one call.
        session: makes what the tool remembers in an episode, shared with every tool that names the same maker; None for
            a tool that remembers nothing.
        max_characters: length to which results are cut; a note tells the agent how long they were.
        parallel: whether neighbouring calls of one turn may run at the same time; see :func:`tool`.
        shows: ``shows(result, document_id)`` -> whether a result contains that document; None for a tool that shows no
            documents.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    check: Callable[[object], dict[str, Any]] = field(repr=False)
    function: Callable[..., Any] = field(repr=False)
    timeout: float | None = None
    price: float = 0.0
    session: MakeSession | None = field(default=None, repr=False)
    max_characters: int = MAX_CHARACTERS
    parallel: bool = False
    shows: Callable[[str, str], bool] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UsageError(f"tool name {self.name!r} must be 1 to 64 letters, digits, '_' or '-'; pass name=...")
        if self.timeout is not None and not self.timeout > 0:
            raise UsageError(f"tool {self.name!r}: timeout must be positive seconds or None, got {self.timeout!r}")
        if not self.price >= 0:
            raise UsageError(f"tool {self.name!r}: price must not be negative, got {self.price!r}")
        if not isinstance(self.max_characters, int) or self.max_characters < 1:
            raise UsageError(
                f"tool {self.name!r}: max_characters must be a whole number from 1 up, got {self.max_characters!r}"
            )
        if self.session is not None and (not callable(self.session) or not isinstance(self.session, Hashable)):
            raise UsageError(
                f"tool {self.name!r}: session must be a class or function that makes one, got {self.session!r}; "
                "tools share a session by naming the same one"
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function itself, unchecked and uncounted."""
        return self.function(*args, **kwargs)

    @property
    def schema(self) -> dict[str, Any]:
        """The tool in OpenAI's function format."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}

    @property
    def first(self) -> str | None:
        """The first parameter, which plain-text syntaxes fill; None where there is none."""
        return next(iter(self.parameters.get("properties", ())), None)

    @property
    def waits(self) -> bool:
        """Whether a call may wait on something outside the process, so that it is better not stepped inline."""
        return self.timeout is not None or self.parallel or inspect.iscoroutinefunction(self.function)


def named(name: str) -> Tool:
    """The tool, or typed function, that ``module:name`` names; the module is imported.

    Raises:
        UsageError: not of that form, no such module, or nothing in it that could be a tool.
    """
    module, _, own = name.rpartition(":")
    if not module or not own.isidentifier():
        raise UsageError(f"{name!r} names no tool; write MODULE:NAME, e.g. my_tools:calculator")
    found = getattr(import_named(module), own, None)
    if isinstance(found, Tool):
        return found
    if not inspect.isroutine(found):
        raise UsageError(f"{module!r} has no tool {own!r}; decorate a function of that name with @tool")
    return tool(found)


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    function: Callable[..., Any],
    /,
    *,
    name: str | None = None,
    timeout: float | None = None,
    price: float = 0.0,
    session: MakeSession | None = None,
    max_characters: int = MAX_CHARACTERS,
    parallel: bool = False,
) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    timeout: float | None = None,
    price: float = 0.0,
    session: MakeSession | None = None,
    max_characters: int = MAX_CHARACTERS,
    parallel: bool = False,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    timeout: float | None = None,
    price: float = 0.0,
    session: MakeSession | None = None,
    max_characters: int = MAX_CHARACTERS,
    parallel: bool = False,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a tool of a typed function (``@tool``, ``@tool(timeout=5)``, ``tool(index.search, name="search")``).

    The docstring is the description, its ``Args:`` describe the parameters, the annotations give the JSON schema.

    Args:
        function: what runs; its text or JSON-able result goes to the agent. Raise ToolError to tell the agent why not.
        name: the function's name if left out.
        timeout: seconds; a sync call that is out of time goes on in its thread, an async one is cancelled.
        price: cost of one call, in whatever unit budgets use.
        session: a class or function that makes the session of an episode; the function's first parameter receives it.
            Tools that name the same one share the session. Where it has a required parameter, it is given the task.
        max_characters: length to which results are cut; a note tells the agent how long they were.
        parallel: promises that calls, of this tool and of other parallel ones, may run at the same time in several
            threads and give the results that they give one after the other. Neighbouring calls of one action then do.

    Raises:
        UsageError: a description or annotation is missing, or an option is out of range.
    """

    def make(target: Callable[..., Any]) -> Tool:
        title = name if name is not None else getattr(target, "__name__", type(target).__name__)
        if not inspect.isroutine(target):
            target = getattr(target, "__call__", target)  # noqa: B004 (an object's method, which has a docstring)
        known = read_function(target, title, skip_first=session is not None)
        return Tool(
            name=title,
            description=known.description,
            parameters=known.parameters,
            check=known.check,
            function=target,
            timeout=timeout,
            price=price,
            session=session,
            max_characters=max_characters,
            parallel=parallel,
        )

    return make if function is None else make(function)
