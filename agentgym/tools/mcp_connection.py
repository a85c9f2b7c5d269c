"""A connection to one MCP server: a client of the official SDK that lives in a task of the background loop."""

from __future__ import annotations

import asyncio
import atexit
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from typing import IO, Any

from agentgym.errors import MissingExtra, ToolError, UsageError, WorldFault
from agentgym.tools.loop import background
from agentgym.tools.plain import shorten

CONNECT_SECONDS = 30.0  #: for a server to start, shake hands and list its tools
CLOSE_SECONDS = 10.0  #: for a server to end; the SDK kills a local one after 4
_MAX_PAGES = 100  # of a server's list of tools

#: makes the SDK's transport inside the connection's task; a local server's standard error goes to the file
_MakeTransport = Callable[[AsyncExitStack, IO[str]], Any]


class ServerGone(WorldFault):
    """The server ended before a call or during it."""


class Connection:
    """A client that lives in one task of the background loop, as the SDK's task groups demand.

    Args:
        server, env, headers: see :func:`agentgym.tools.mcp.mcp_tools`.

    Attributes:
        listed: the server's tools, as it describes them.
        gone: whether a call found that the server has ended.

    Raises:
        MissingExtra: the SDK is not installed.
        UsageError: the server cannot be reached or started, or an option does not belong to its kind.
    """

    def __init__(
        self, server: str | Sequence[str], env: Mapping[str, str] | None, headers: Mapping[str, str] | None
    ) -> None:
        transport = _transport(server, env, headers)
        self.name = "MCP server"
        self.closed = self.gone = False
        self._log: IO[str] = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed with the connection)
        self._ready: Future[tuple[Any, list[Any]]] = Future()
        self._stop = asyncio.Event()
        self._task = background().submit(self._live(transport))
        try:
            self.client, self.listed = self._ready.result(CONNECT_SECONDS)
        except Exception as error:
            reason = f"no answer within {CONNECT_SECONDS:g} s" if isinstance(error, TimeoutError) else _reason(error)
            tail = self._tail()
            self._task.cancel()
            self._log.close()
            raise UsageError(f"cannot connect to the MCP server {server!r}: {reason}{tail}") from error
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
        """Call a tool of the server.

        Raises:
            ToolError: the server says that it failed, or the connection was closed from this side.
            ServerGone: the server has ended.
        """
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED

        if self.closed:
            raise ToolError(f"the connection to the {self.name} was closed")
        if self._task.done() or self.gone:
            self.gone = True
            raise ServerGone(f"the {self.name} is gone")
        try:
            result = await self.client.call_tool(name, dict(arguments))
        except MCPError as error:
            if error.code == CONNECTION_CLOSED and self.closed:
                raise ToolError(f"the connection to the {self.name} was closed") from error
            if error.code == CONNECTION_CLOSED:
                self.gone = True
                raise ServerGone(f"the {self.name} is gone") from error
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
