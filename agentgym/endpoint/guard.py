"""What a server of ours lets in: bodies of bounded size and time, names it goes by, headers that come in time."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

_Receive = Callable[[], Awaitable[Mapping[str, Any]]]
_Send = Callable[[Mapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one client may take from all others.

    Attributes:
        body: bytes of a request's body.
        seconds: for the headers of a request, and for its body, from the first byte to the last.
        connections: at the same time; more are answered with status 503.
        hosts: names by which the server may be called, beside addresses, ``localhost`` and this machine's name. A page
            in somebody's browser reaches servers of that machine only by a name of its own.
    """

    body: int = 8_000_000
    seconds: float = 30.0
    connections: int = 1024
    hosts: Collection[str] = ()


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Guard:
    """An ASGI application before another one, which sees whole bodies that are small enough, and no strange names."""

    def __init__(self, app: Any, limits: ServerLimits) -> None:
        self._app, self._limits = app, limits
        self._names = {name.lower() for name in ("localhost", socket.gethostname(), *limits.hosts)}

    async def __call__(self, scope: Mapping[str, Any], receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check_name(headers.get(b"host", "localhost"))
            body = await self._whole_body(headers.get(b"content-length", "0"), receive)
        except _Refused as refused:
            await _answer(send, refused.status, str(refused))
            return
        except ConnectionResetError:  # nobody is there to be answered
            return
        pending = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Mapping[str, Any]:
            return pending.pop() if pending else await receive()

        await self._app(scope, replayed, send)

    def _check_name(self, host: str) -> None:
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            if name.lower() not in self._names:
                raise _Refused(
                    421, f"this server is not called {name[:80]!r}; start it with --allow-host to add a name"
                ) from None

    async def _whole_body(self, announced: str, receive: _Receive) -> bytes:
        limits, body, more = self._limits, bytearray(), True
        until = time.monotonic() + limits.seconds
        too_large = _Refused(413, f"a request has at most {limits.body} bytes; send less at once")
        if announced.isdigit() and int(announced[:30]) > limits.body:
            raise too_large
        while more:
            try:
                message = await asyncio.wait_for(receive(), until - time.monotonic())
            except TimeoutError:
                raise _Refused(408, f"the request did not come within {limits.seconds:g} s") from None
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > limits.body:
                raise too_large
        return bytes(body)


async def _answer(send: _Send, status: int, message: str) -> None:
    body = json.dumps({"detail": message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def timed_protocol(seconds: float) -> Any:
    """uvicorn's HTTP, except that a connection is closed on which a request's headers do not come in time."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class TimedProtocol(H11Protocol):  # type: ignore[misc]
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect_headers()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_expecting()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._expect_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_expecting()
            super().connection_lost(exc)

        def _expect_headers(self) -> None:
            self._stop_expecting()
            self._late = self.loop.call_later(seconds, self.transport.close)

        def _stop_expecting(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return TimedProtocol
