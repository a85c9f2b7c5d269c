"""Tools of MCP servers (https://modelcontextprotocol.io) through the official SDK, over stdio or streamable HTTP.

::

    with mcp_tools(["python", "server.py"]) as tools:  # or mcp_tools("http://localhost:8000/mcp")
        env = ToolEnv(tools=tools, ...)

All episodes share that server and its state. ``mcp_tools(..., per_episode=True)`` gives each episode one of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, overload

from agentgym.env import digest
from agentgym.errors import AgentGymError, ForkError, ToolError, UnknownName, UsageError, WorldFault
from agentgym.tools.foreign_schema import checker
from agentgym.tools.loop import background
from agentgym.tools.mcp_connection import Connection, ServerGone
from agentgym.tools.plain import shorten
from agentgym.tools.tool import MAX_CHARACTERS, Tool

FORK_SECONDS = 60.0  #: for one call that is made again in a branch's own server


class McpTools(Sequence[Tool]):
    """The tools of an MCP server; made by :func:`mcp_tools`. A context manager that ends the connections.

    A connection lives in a task of the background loop, so that any thread may call the tools. All episodes share one,
    and whatever state the server keeps, unless each has its own.

    A server that ends is started, or connected to, again. What made it end decides whose fault that was: where the same
    calls end the new one too, the agent is told that its call did; otherwise it is the world's fault
    (:class:`~agentgym.errors.WorldFault`), and the episode is played once more.
    """

    def __init__(self, owner: _Server, tools: Sequence[Tool]) -> None:
        self._owner, self._tools = owner, tuple(tools)

    @overload
    def __getitem__(self, index: int) -> Tool: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tool]: ...
    def __getitem__(self, index: int | slice) -> Tool | Sequence[Tool]:
        return self._tools[index]

    def __len__(self) -> int:
        return len(self._tools)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connections, and local servers with them. Calls afterwards come back with an error."""
        self._owner.close()


def mcp_tools(
    server: str | Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    prefix: str = "",
    per_episode: bool = False,
    timeout: float = 30.0,
    price: float = 0.0,
    max_characters: int = MAX_CHARACTERS,
    parallel: bool = False,
) -> McpTools:
    """Connect to an MCP server and make tools of what it offers.

    Args:
        server: the URL of a streamable-HTTP server, or the command line of a server to start and talk to over stdio.
        env: environment variables for a command, beside a safe few.
        headers: HTTP headers for a URL, e.g. ``{"Authorization": ...}``.
        only: the server's names of the tools to take; None for all.
        prefix: put before each name, where two servers use the same ones.
        per_episode: connect, or start the server, anew for each episode that calls a tool, so that episodes share no
            state; a branch gets a server in which the episode's calls were made again.
        timeout: seconds that each call may take.
        price: cost of one call of each tool.
        max_characters: length to which results are cut.
        parallel: promises that the server gives calls at the same time the results that it gives one after the other;
            those of one action then run side by side.

    Raises:
        MissingExtra: the SDK is not installed.
        UsageError: the server cannot be reached or started, an option does not belong to its kind, or ``only`` names a
            tool that it does not have.
    """
    origin = _Server(server, env, headers)
    connection = origin.shared()
    try:
        known = [t.name for t in connection.listed]
        for name in only or ():
            if name not in known:
                raise UnknownName("MCP tool", name, known)
        options: dict[str, Any] = {"timeout": timeout, "price": price, "parallel": parallel}
        options |= {"max_characters": max_characters, "session": origin.session if per_episode else None}
        tools = [
            replace(_tool(origin, connection.name, t, prefix, per_episode), **options)
            for t in connection.listed
            if only is None or t.name in only
        ]
    except AgentGymError:
        origin.close()
        raise
    if per_episode:
        connection.close()
    return McpTools(origin, tools)


class _Server:
    """How a server is reached: the connection that episodes share, or the sessions of those that have their own."""

    def __init__(
        self, server: str | Sequence[str], env: Mapping[str, str] | None, headers: Mapping[str, str] | None
    ) -> None:
        self._where = server, env, headers
        self._sessions: set[_Session] = set()  # open ones, also those without a holder
        self._closed = False
        self._connecting = threading.Lock()
        self._shared: Connection | None = None

    def connect(self) -> Connection:
        """A further connection, which starts a local server.

        Raises:
            WorldFault: the server, which could be reached before, cannot be reached or started now.
        """
        try:
            return Connection(*self._where)
        except UsageError as error:
            raise WorldFault(str(error)) from error

    def shared(self) -> Connection:
        """The connection that episodes share; a new one where the server has ended.

        Raises:
            UsageError: the server cannot be reached or started at all.
            WorldFault: it could be before.
        """
        with self._connecting:
            if self._shared is None:
                self._shared = Connection(*self._where)
            elif self._shared.gone and not self._closed:
                self._shared.close()
                self._shared = self.connect()
            return self._shared

    async def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool over the connection that episodes share.

        Raises:
            ToolError: it failed, or it ends the server whenever it is called.
            WorldFault: the server ended otherwise; it was started again.
        """
        connection = self._shared
        if connection is None or connection.gone:
            connection = await asyncio.to_thread(self.shared)
        try:
            return await connection.call(name, arguments)
        except ServerGone as error:
            if await self.ended_by([_Call(name, dict(arguments))]):
                raise _ended_by(error, name) from error
            raise

    async def ended_by(self, calls: Sequence[_Call]) -> bool:
        """Whether these calls end a server without other users."""
        suspect = await asyncio.to_thread(self.connect)
        try:
            for call in calls:
                with contextlib.suppress(ToolError):
                    await suspect.call(call.name, call.arguments)
        except ServerGone:
            return True
        finally:
            await asyncio.to_thread(suspect.close)
        return False

    def session(self) -> _Session:
        """A connection for one episode.

        Raises:
            WorldFault: the server, which could be reached before, cannot be reached or started now.
        """
        if self._closed:
            raise ToolError("the connections to the MCP server were closed")
        session = _Session(self)
        self._sessions.add(session)
        return session

    def close(self) -> None:
        """End the connections of all episodes."""
        self._closed = True
        if self._shared is not None:
            self._shared.close()
        for session in tuple(self._sessions):
            session.close()

    def forget(self, session: _Session) -> None:
        """The session was closed."""
        self._sessions.discard(session)


@dataclass(slots=True)
class _Call:
    """One call of an episode that has its own server."""

    name: str
    arguments: dict[str, Any]
    outcome: str | None = None  #: its result or error, a long one by its beginning and digest; None while it runs


class _Session:
    """A connection of one episode, and the calls that were made through it: to branch, they are made again."""

    def __init__(self, server: _Server) -> None:
        self._server, self._connection = server, server.connect()
        self._calls: list[_Call] = []

    async def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool of the server, and note what came of it."""
        noted = _Call(name, dict(arguments))
        self._calls.append(noted)
        try:
            result = await self._connection.call(name, arguments)
        except ToolError as error:
            noted.outcome = _brief(f"error: {error}")
            raise
        except ServerGone as error:
            if await self._ends_another():
                raise _ended_by(error, name) from error
            raise
        noted.outcome = _brief(result)
        return result

    async def _ends_another(self) -> bool:
        """Whether the calls so far end a new server too; the session then continues with an empty one."""
        calls, self._calls = self._calls, []
        ended = await self._server.ended_by(calls)
        await asyncio.to_thread(self._connection.close)
        self._connection = await asyncio.to_thread(self._server.connect)
        return ended

    def fork(self) -> _Session:
        """A session with its own server, in which all calls were made again.

        Raises:
            ForkError: a call had another result than the first time.
        """
        twin = self._server.session()
        try:
            for number, call in enumerate(self._calls, 1):
                if (outcome := twin._again(call)) != call.outcome:
                    raise ForkError(
                        f"call {number} of {len(self._calls)}, {call.name!r}, had another result when it was made "
                        f"again: {shorten(repr(call.outcome))} became {shorten(repr(outcome))}; the MCP server is not "
                        "deterministic"
                    )
        except BaseException:
            twin.close()
            raise
        return twin

    def _again(self, call: _Call) -> str | None:
        with contextlib.suppress(ToolError, TimeoutError):  # it is noted what came of it
            background().submit(self.call(call.name, call.arguments)).result(FORK_SECONDS)
        return self._calls[-1].outcome

    def close(self) -> None:
        """End the connection, and a local server with it."""
        self._server.forget(self)
        self._connection.close()


def _brief(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:100]}... ({len(text)} characters, {digest(text)})"


def _ended_by(error: ServerGone, name: str) -> ToolError:
    return ToolError(f"{error}: calling {name!r} like this ends it; it was started again, empty")


def _tool(server: _Server, owner: str, listed: Any, prefix: str, per_episode: bool) -> Tool:
    name = prefix + re.sub(r"[^A-Za-z0-9_-]", "_", listed.name)

    async def shared(**arguments: Any) -> str:
        return await server.call(listed.name, arguments)

    async def own(session: _Session, /, **arguments: Any) -> str:
        return await session.call(listed.name, arguments)

    check = checker(listed.input_schema, f"{owner}, tool {listed.name!r}")
    return Tool(
        name,
        listed.description or listed.title or listed.name,
        listed.input_schema,
        check,
        own if per_episode else shared,
    )
