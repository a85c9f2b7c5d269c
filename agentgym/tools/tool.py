"""Tools: typed Python functions that an agent may call, and the :class:`Toolbox` that runs the calls.

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
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, overload

from agentgym.errors import ToolError, UnknownName, UsageError, WorldFault
from agentgym.records import ToolCall
from agentgym.threads import OutOfTime
from agentgym.tools.execution import Execution
from agentgym.tools.plain import as_text, explain, shorten
from agentgym.tools.schema import NAME, read_function
from agentgym.tools.session import MakeSession, Sessions

#: Calls of one tool that may outlive their timeout at the same time; a thread cannot be killed, only waited for.
MAX_STUCK = 32

#: Characters of a result, or of an error, that the agent sees where a tool does not say otherwise.
MAX_CHARACTERS = 20_000


Gate = Callable[[ToolCall], str | None]
"""Asked before a valid call runs (``cost`` is the price, ``result`` is empty): None lets it run, a text refuses it. An
attribute ``seconds`` (a number, or None) says how long it may then take."""


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


@dataclass(slots=True)
class Tally:
    """What one tool did in one episode."""

    calls: int = 0  #: that ran
    errors: int = 0  #: that came back with an error, those that never ran included
    seconds: float = 0.0  #: wall clock, in calls that ran
    cost: float = 0.0


class Toolbox:
    """Some tools, and the counters and sessions of one episode with them.

    Many episodes share the tools but nothing else: each plays with its own ``toolbox.open()``.

    Args:
        tools: :class:`Tool` objects with distinct names.

    Attributes:
        tally: counters of each tool since :meth:`open`.
        ran: calls that ran, of all tools.
        misfits: calls that did not because the tool is unknown or the arguments are wrong.
    """

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools: dict[str, Tool] = {}
        for item in tools:
            if not isinstance(item, Tool):
                raise UsageError(f"{item!r} is not a tool; decorate the function with @tool")
            if item.name in self._tools:
                raise UsageError(f"two tools are called {item.name!r}; give one of them another name=")
            self._tools[item.name] = item
        self._stuck: dict[str, set[Execution]] = {name: set() for name in self._tools}
        self._start()

    def _start(self, task: object = None) -> None:
        self.tally = {name: Tally() for name in self._tools}
        self.ran = self.misfits = 0
        self._sessions = Sessions(task)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools, in the order given."""
        return tuple(self._tools.values())

    @property
    def cost(self) -> float:
        """What the calls have cost so far."""
        return sum(t.cost for t in self.tally.values())

    def schemas(self) -> list[dict[str, Any]]:
        """All tools in OpenAI's function format, for prompts and native tool calls."""
        return [t.schema for t in self._tools.values()]

    @property
    def session_makers(self) -> tuple[MakeSession, ...]:
        """What makes the sessions of the tools, each once, in the order of the tools."""
        return tuple(dict.fromkeys(t.session for t in self._tools.values() if t.session is not None))

    def session(self, make: MakeSession) -> Any:
        """The episode's session of this maker; made now, if no call needed it yet."""
        return self._sessions.of(make)

    def open(self, task: object = None) -> Toolbox:
        """The same tools for a new episode: counters at zero, no sessions; their makers may be given the task."""
        twin = object.__new__(type(self))
        twin._tools, twin._stuck = self._tools, self._stuck
        twin._start(task)
        return twin

    def fork(self) -> Toolbox:
        """The same tools for a branch: counters and sessions copied.

        Raises:
            ForkError: a session cannot be copied.
        """
        twin = self.open()
        twin.tally = {name: replace(t) for name, t in self.tally.items()}
        twin.ran, twin.misfits = self.ran, self.misfits
        twin._sessions = self._sessions.fork()
        return twin

    def close(self) -> None:
        """Close the episode's sessions; the tools stay usable elsewhere."""
        self._sessions.close()

    def call(self, name: str, arguments: object, *, gate: Gate | None = None) -> ToolCall:
        """Check the arguments, ask the gate, run, time, count and price one call.

        Whatever goes wrong comes back in ``error``: an unknown tool, wrong arguments, a refusal, a timeout, ToolError's
        text, and any other exception by its type and message (no traceback, no paths of this machine). A call that did
        not run costs nothing; its ``status`` says why.

        Raises:
            WorldFault: the tool's own world is broken, e.g. its server is gone.
        """
        return self.call_all([(name, arguments)], gate=gate)[0]

    def call_all(self, calls: Iterable[tuple[str, object]], *, gate: Gate | None = None) -> list[ToolCall]:
        """Several calls, as by :meth:`call`; records, counters and the gate's questions are in the order of the calls.

        Neighbouring calls of ``parallel`` tools run side by side, after the gate was asked about all of them. Any other
        call is asked about and runs when everything before it is done.
        """
        records: list[ToolCall] = []
        batch: list[ToolCall | _Allowed] = []
        for name, arguments in calls:
            known = self._tools.get(name) if isinstance(name, str) else None
            alone = known is not None and not known.parallel
            if alone and batch:
                self._run_batch(batch, records)
            batch.append(self._allow(known, name, arguments, gate))
            if alone:
                self._run_batch(batch, records)
        if batch:
            self._run_batch(batch, records)
        return records

    def _allow(self, known: Tool | None, name: object, arguments: object, gate: Gate | None) -> ToolCall | _Allowed:
        """The call, ready to run, or the record of why it does not."""
        shown = arguments if isinstance(arguments, Mapping) else {}
        if known is None:
            self.misfits += 1
            title = shorten(str(name))
            return ToolCall(title, shown, error=str(UnknownName("tool", title, self._tools)), status="malformed")
        tally = self.tally[known.name]
        try:
            checked = known.check(arguments)
        except Exception as error:
            self.misfits += 1
            tally.errors += 1
            return ToolCall(known.name, shown, error=explain(error, known.max_characters), status="malformed")
        if gate is not None and (refusal := gate(ToolCall(known.name, shown, cost=known.price))) is not None:
            tally.errors += 1
            return ToolCall(known.name, shown, error=refusal, status="refused")
        limits = [s for s in (known.timeout, getattr(gate, "seconds", None)) if s is not None]
        return _Allowed(known, shown, checked, min(limits, default=None))

    def _run_batch(self, batch: list[ToolCall | _Allowed], records: list[ToolCall]) -> None:
        """Run what is allowed, side by side if it is several, and move all to the records."""
        several = len(batch) > 1 and sum(isinstance(call, _Allowed) for call in batch) > 1
        for call in batch:
            if isinstance(call, _Allowed):
                self._execute(call, aside=several)
        records += [call if isinstance(call, ToolCall) else self._record(call) for call in batch]
        batch.clear()

    def _execute(self, call: _Allowed, *, aside: bool) -> None:
        known, begin = call.tool, time.perf_counter()
        try:
            session = () if known.session is None else (self._sessions.of(known.session),)
            stuck = self._stuck[known.name]
            stuck.difference_update([e for e in tuple(stuck) if not e.running])
            if len(stuck) >= MAX_STUCK:
                raise ToolError(
                    f"{len(stuck)} calls that ran out of time are still running; {known.name} takes no more"
                )
        except (Exception, SystemExit) as error:
            call.problem = error
            return
        finally:
            call.seconds = time.perf_counter() - begin
        function = partial(known.function, *session, **call.arguments)
        call.execution = Execution(function, timeout=call.limit, aside=aside)

    def _record(self, call: _Allowed) -> ToolCall:
        """Wait for a call that was started, count it and price it."""
        known, tally = call.tool, self.tally[call.tool.name]
        result, problem = "", None
        try:
            result = as_text(self._wait(call), known.max_characters)
        except WorldFault:  # nothing that the agent did: the episode cannot go on
            raise
        except (Exception, SystemExit) as error:
            problem = explain(error, known.max_characters)
            tally.errors += 1
        seconds = call.seconds + (call.execution.seconds if call.execution is not None else 0.0)
        self.ran += 1
        tally.calls += 1
        tally.seconds += seconds
        tally.cost += known.price
        return ToolCall(known.name, call.shown, result, problem, seconds, known.price)

    def _wait(self, call: _Allowed) -> Any:
        if call.execution is None:
            assert call.problem is not None
            raise call.problem
        known = call.tool
        try:
            return call.execution.result()
        except OutOfTime:
            if call.execution.running:
                self._stuck[known.name].add(call.execution)
        restarted = ""
        # The late call may still be using the session, so the episode goes on with another one.
        if known.session is not None and self._sessions.drop(known.session):
            restarted = "; its session was closed and the next call starts a new one"
        whose = "" if call.limit == known.timeout else ", which is all that was left of the budget"
        raise ToolError(f"{known.name} timed out after {call.limit:.3g} s{whose}{restarted}")


@dataclass(slots=True)
class _Allowed:
    """A call that may run: its arguments as they were written, and as the function takes them; then how it runs."""

    tool: Tool
    shown: Mapping[str, Any]
    arguments: dict[str, Any]
    limit: float | None = None  #: seconds that it may take
    seconds: float = 0.0  #: that its session took to open
    execution: Execution | None = None
    problem: BaseException | None = None  #: why it could not be started
