"""Tools of MCP servers (https://modelcontextprotocol.io) through the official SDK, over stdio or streamable HTTP.

::

    with mcp_tools(["python", "server.py"]) as tools:  # or mcp_tools("http://localhost:8000/mcp")
        env = ToolEnv(tools=tools, ...)
"""

from __future__ import annotations

import asyncio
import atexit
import re
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import IO, Any, Self, overload

from agentgym.errors import AgentGymError, MissingExtra, ToolError, UnknownName, UsageError
from agentgym.tools.loop import background
from agentgym.tools.plain import shorten
from agentgym.tools.tool import MAX_CHARACTERS, Tool

CONNECT_SECONDS = 30.0  #: for a server to start, shake hands and list its tools
CLOSE_SECONDS = 10.0  #: for a server to end; the SDK kills a local one after 4
_MAX_PAGES = 100  # of a server's list of tools
_MAX_ERRORS = 3


#: makes the SDK's transport inside the connection's task; a local server's standard error goes to the file
_MakeTransport = Callable[[AsyncExitStack, IO[str]], Any]


class McpTools(Sequence[Tool]):
    """The tools of one running MCP server; made by :func:`mcp_tools`. A context manager that ends the connection.

    The connection lives in a task of the background loop, so that any thread may call the tools. All episodes share it,
    and whatever state the server keeps. When the server is gone, each call comes back with an error that says so.
    """

    def __init__(self, connection: _Connection, tools: Sequence[Tool]) -> None:
        self._connection, self._tools = connection, tuple(tools)

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
        """End the connection, and a local server with it. Calls afterwards come back with an error."""
        self._connection.close()


def mcp_tools(
    server: str | Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    prefix: str = "",
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
    connection = _Connection(server, env, headers)
    try:
        listed = connection.listed
        known = [t.name for t in listed]
        for name in only or ():
            if name not in known:
                raise UnknownName("MCP tool", name, known)
        tools = [_tool(connection, t, prefix) for t in listed if only is None or t.name in only]
        options: dict[str, Any] = {"timeout": timeout, "price": price, "max_characters": max_characters}
        options["parallel"] = parallel
        return McpTools(connection, [replace(t, **options) for t in tools])
    except AgentGymError:
        connection.close()
        raise


class _Connection:
    """A client that lives in one task of the background loop, as the SDK's task groups demand."""

    def __init__(
        self, server: str | Sequence[str], env: Mapping[str, str] | None, headers: Mapping[str, str] | None
    ) -> None:
        transport = _transport(server, env, headers)
        self.name = "MCP server"
        self.closed = False
        self._log: IO[str] = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed with the connection)
        self._ready: Future[tuple[Any, list[Any]]] = Future()
        self._stop = asyncio.Event()
        self._task = background().submit(self._live(transport))
        try:
            self.client, self.listed = self._ready.result(CONNECT_SECONDS)
        except Exception as error:
            reason = f"no answer within {CONNECT_SECONDS:g} s" if isinstance(error, TimeoutError) else _reason(error)
            told = self._tail()
            self._task.cancel()
            self._log.close()
            raise UsageError(f"cannot connect to the MCP server {server!r}: {reason}{told}") from error
        if self.client.server_info is not None:
            self.name = f"MCP server {self.client.server_info.name!r}"
        atexit.register(self.close)

    async def _live(self, transport: _MakeTransport) -> None:
        from mcp import Client

        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(Client(transport(stack, self._log)))
                self._ready.set_result((client, await _list(client)))
                await self._stop.wait()
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool of the server."""
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED

        if self.closed:
            raise ToolError(f"the connection to the {self.name} was closed")
        if self._task.done():
            raise ToolError(f"the {self.name} is gone")
        try:
            result = await self.client.call_tool(name, dict(arguments))
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                raise ToolError(f"the {self.name} is gone") from error
            raise ToolError(f"the {self.name} refused: {shorten(error.message, 500)}") from error
        text = _text(result)
        if result.is_error:
            raise ToolError(text)
        return text

    def close(self) -> None:
        """Let the task leave its contexts; a second call does nothing."""
        if self.closed:
            return
        self.closed = True
        atexit.unregister(self.close)
        background().loop.call_soon_threadsafe(self._stop.set)
        try:
            self._task.exception(CLOSE_SECONDS)
        except TimeoutError:
            self._task.cancel()
        self._log.close()

    def _tail(self) -> str:
        """The end of what a local server wrote to its standard error."""
        self._log.seek(0)
        text = self._log.read().strip()[-500:]
        return f"; it wrote: {text}" if text else ""


def _transport(
    server: str | Sequence[str], env: Mapping[str, str] | None, headers: Mapping[str, str] | None
) -> _MakeTransport:
    try:
        import httpx2
        from mcp import Client, StdioServerParameters, stdio_client  # noqa: F401 (Client came with 2.0)
        from mcp.client.streamable_http import streamable_http_client
    except ImportError as error:
        raise MissingExtra("mcp>=2", "mcp") from error
    if isinstance(server, str):
        if not re.match(r"https?://", server):
            raise UsageError(f"{server!r} is no http(s) URL; give a command as a list, e.g. ['python', 'server.py']")
        if env is not None:
            raise UsageError("env= is for a server that is started; a URL takes headers=")

        def http(stack: AsyncExitStack, log: IO[str]) -> Any:
            client = httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(CONNECT_SECONDS, read=None))
            stack.push_async_callback(client.aclose)
            return streamable_http_client(server, http_client=client)

        return http
    if headers is not None:
        raise UsageError("headers= is for a URL; a server that is started takes env=")
    if not server:
        raise UsageError("an empty command cannot be started; give e.g. ['python', 'server.py']")
    command = StdioServerParameters(command=server[0], args=list(server[1:]), env=dict(env) if env else None)
    return lambda stack, log: stdio_client(command, errlog=log)


async def _list(client: Any) -> list[Any]:
    listed: list[Any] = []
    cursor = None
    for _ in range(_MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        listed += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return listed


def _tool(connection: _Connection, listed: Any, prefix: str) -> Tool:
    name = prefix + re.sub(r"[^A-Za-z0-9_-]", "_", listed.name)

    async def call(**arguments: Any) -> str:
        return await connection.call(listed.name, arguments)

    check = _checker(listed.input_schema, f"{connection.name}, tool {listed.name!r}")
    return Tool(name, listed.description or listed.title or listed.name, listed.input_schema, check, call)


def _checker(schema: Mapping[str, Any], owner: str) -> Callable[[object], dict[str, Any]]:
    """Check arguments against the server's JSON schema; references to other documents are never fetched."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise UsageError(f"{owner}: broken schema: {error.message}") from error
    validator = kind(schema, registry=Registry())

    def check(arguments: object) -> dict[str, Any]:
        if not isinstance(arguments, dict):
            raise ToolError("arguments must be an object")
        errors = sorted(validator.iter_errors(arguments), key=lambda e: list(map(str, e.absolute_path)))
        if errors:
            raise ToolError("; ".join(map(_explain, errors[:_MAX_ERRORS])))
        return arguments

    return check


def _explain(error: Any) -> str:
    where = ".".join(map(str, error.absolute_path))
    message = shorten(error.message, 200)
    return f"argument {where!r}: {message}" if where else f"arguments: {message}"


def _text(result: Any) -> str:
    """The text of a result; other content is named, not shown."""
    parts = []
    for item in result.content:
        if item.type == "text":
            parts.append(item.text)
        elif item.type == "resource" and hasattr(item.resource, "text"):
            parts.append(item.resource.text)
        else:
            kind = getattr(item, "mime_type", None) or getattr(item, "uri", "")
            parts.append(f"[{item.type} {kind}]".replace(" ]", "]"))
    return "\n".join(parts)


def _reason(error: BaseException) -> str:
    """The innermost of grouped exceptions, by type and message."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".removesuffix(": ")
