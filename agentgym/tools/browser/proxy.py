"""The only way out of a browser's context: a proxy that connects to listed origins and to nothing else.

A browser asks it for every request, whatever caused it: a link, a redirect, a script, a frame, a socket. It never
resolves a name: :class:`~agentgym.tools.browser.origins.AllowList` did.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self
from urllib.parse import urlsplit

from agentgym.tools.browser.origins import AllowList

_MAX_HEAD = 64 * 1024
_HEAD_SECONDS = 10.0
_CHUNK = 64 * 1024


class OriginProxy:
    """An HTTP proxy on a port of 127.0.0.1. Runs on the event loop that starts it.

    Args:
        allowed: what it connects to.
        max_bytes: that one connection may carry from the server; then it is cut.

    Attributes:
        port: where it listens.
    """

    def __init__(self, allowed: AllowList, *, max_bytes: int = 64 * 2**20) -> None:
        self._allowed, self._max_bytes = allowed, max_bytes
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> Self:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_MAX_HEAD)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """Stop, and cut what is running."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._running):
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                async with asyncio.timeout(_HEAD_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                await self._forward(head, reader, writer)
        except (TimeoutError, asyncio.CancelledError):  # cut, by the clock or by close()
            pass
        finally:
            self._running.discard(task)
            writer.close()

    async def _forward(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *headers = head.decode("latin-1").split("\r\n")
        method, target, version = line.split(" ")
        tunnel = method == "CONNECT"
        parts = urlsplit(f"//{target}" if tunnel else target)
        host, port = parts.hostname or "", parts.port or 80
        # A tunnel carries https, or a socket: which of the two cannot be seen.
        address = self._allowed.address(None if tunnel else parts.scheme, host, port)
        if address is None:
            # No answer at all: one from here would be shown as if the refused origin had sent it.
            return
        try:
            server_reader, server_writer = await asyncio.wait_for(asyncio.open_connection(address, port), _HEAD_SECONDS)
        except (OSError, TimeoutError):
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return
        try:
            if tunnel:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                kept = [h for h in headers if h and not h.lower().startswith(("proxy-", "connection:"))]
                # One request a connection, so that each is looked at.
                request = "\r\n".join([f"{method} {path} {version}", *kept, "Connection: close", "", ""])
                server_writer.write(request.encode("latin-1"))
            await self._pump(reader, writer, server_reader, server_writer)
        finally:
            server_writer.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        """Both ways, until the server has said all or the browser has gone."""
        there = asyncio.ensure_future(_copy(reader, server_writer, None))
        try:
            await _copy(server_reader, writer, self._max_bytes)
        finally:
            there.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await there


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, limit: int | None) -> None:
    copied = 0
    while data := await source.read(_CHUNK):
        copied += len(data)
        if limit is not None and copied > limit:
            return
        target.write(data)
        await target.drain()
