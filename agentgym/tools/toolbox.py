"""The :class:`Toolbox`: it runs the calls of an episode, and counts what they took."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from agentgym.errors import ToolError, UnknownName, UsageError, WorldFault
from agentgym.records import ToolCall
from agentgym.tools.execution import Execution
from agentgym.tools.plain import as_text, explain, shorten
from agentgym.tools.session import MakeSession, Sessions
from agentgym.tools.tool import Tool
from agentgym.waiting import Waiting, finish

#: Calls of one tool that may outlive their timeout at the same time; a thread cannot be killed, only waited for.
MAX_STUCK = 32

Gate = Callable[[ToolCall], str | None]
"""Asked before a valid call runs (``cost`` is the price, ``result`` is empty): None lets it run, a text refuses it. An
attribute ``seconds`` (a number, or None) says how long it may then take."""


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
        return finish(self.calling(calls, gate=gate))

    def calling(self, calls: Iterable[tuple[str, object]], *, gate: Gate | None = None) -> Waiting[list[ToolCall]]:
        """As :meth:`call_all`, for whoever has something else to do while the calls run."""
        records: list[ToolCall] = []
        batch: list[ToolCall | _Allowed] = []
        for name, arguments in calls:
            known = self._tools.get(name) if isinstance(name, str) else None
            alone = known is not None and not known.parallel
            if alone and batch:
                yield from self._run(batch, records)
            batch.append(self._allow(known, name, arguments, gate))
            if alone:
                yield from self._run(batch, records)
        if batch:
            yield from self._run(batch, records)
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

    def _run(self, batch: list[ToolCall | _Allowed], records: list[ToolCall]) -> Waiting[None]:
        """Run what is allowed, side by side if it is several, and move all to the records."""
        allowed = [call for call in batch if isinstance(call, _Allowed)]
        for call in allowed:
            if (make := call.tool.session) is not None and make not in self._sessions:
                call.opening = Execution(partial(self._sessions.of, make))
                yield (call.opening,)
            self._prepare(call)
        if started := [call.execution for call in allowed if call.execution is not None]:
            yield started
        for call in allowed:
            if call.execution is not None and call.execution.late:
                yield from self._give_up(call, call.execution)
        records += [call if isinstance(call, ToolCall) else self._record(call) for call in batch]
        batch.clear()

    def _prepare(self, call: _Allowed) -> None:
        known = call.tool
        try:
            if call.opening is not None:
                call.opening.result()
            session = () if known.session is None else (self._sessions.of(known.session),)
            if stuck := self._stuck[known.name]:
                stuck.difference_update([e for e in tuple(stuck) if not e.running])
            if len(stuck) >= MAX_STUCK:
                raise ToolError(
                    f"{len(stuck)} calls that ran out of time are still running; {known.name} takes no more"
                )
        except (Exception, SystemExit) as error:
            call.problem = error
        else:
            call.execution = Execution(partial(known.function, *session, **call.arguments), call.limit)

    def _give_up(self, call: _Allowed, execution: Execution) -> Waiting[None]:
        """Make a call's being late its problem."""
        known = call.tool
        if execution.running:
            self._stuck[known.name].add(execution)
        restarted = ""
        if known.session is not None:  # which the late call may still be using, so the episode goes on with another one
            closing = Execution(partial(self._sessions.drop, known.session))
            yield (closing,)
            try:
                restarted = "; its session was closed and the next call starts a new one" if closing.result() else ""
            except (Exception, SystemExit) as error:
                call.problem = error
                return
        whose = "" if call.limit == known.timeout else ", which is all that was left of the budget"
        call.problem = ToolError(f"{known.name} timed out after {call.limit:.3g} s{whose}{restarted}")

    def _record(self, call: _Allowed) -> ToolCall:
        """Count a call that is over, and price it."""
        known, tally = call.tool, self.tally[call.tool.name]
        result, problem = "", None
        try:
            if call.problem is not None:
                raise call.problem
            assert call.execution is not None
            result = as_text(call.execution.result(), known.max_characters)
        except WorldFault:  # nothing that the agent did: the episode cannot go on
            raise
        except (Exception, SystemExit) as error:
            problem = explain(error, known.max_characters)
            tally.errors += 1
        seconds = sum(e.seconds for e in (call.opening, call.execution) if e is not None)
        self.ran += 1
        tally.calls += 1
        tally.seconds += seconds
        tally.cost += known.price
        return ToolCall(known.name, call.shown, result, problem, seconds, known.price)


@dataclass(slots=True)
class _Allowed:
    """A call that may run: its arguments as they were written, and as the function takes them; then how it runs."""

    tool: Tool
    shown: Mapping[str, Any]
    arguments: dict[str, Any]
    limit: float | None = None  #: seconds that it may take
    opening: Execution | None = None  #: of its session, where it is the first to need it
    execution: Execution | None = None
    problem: BaseException | None = None  #: why it could not be started, or that it ran out of time
