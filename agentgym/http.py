"""HTTP requests whose answers are bounded in time and in size, whatever the server does."""

from __future__ import annotations

import base64
import os
import ssl
import threading
import time
import urllib.request
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpcore
import httpx

MOST = 64_000_000  #: bytes of an answer
_CONNECT_SECONDS = 10.0
_SLICE = 1 << 16  # bytes sent between two looks at the clock

_Pools = dict[tuple[int, str | None], httpcore.ConnectionPool]  # by process and proxy


class Answer(NamedTuple):
    """What a server answered: its status, its headers (names in lower case), its whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NoAnswer(Exception):
    """No connection, one that broke, or something that is no answer; the text says what."""


class AnswerTooLarge(NoAnswer):
    """A server sent more than it may; the connection was closed."""


@dataclass(slots=True)
class _Request:
    until: float  #: when it is out of time
    over: bool = False


_running = threading.local()  # ``request`` of this thread


class HttpClient:
    """Sends requests over pooled connections, from any thread.

    A time limit is for the whole answer, from the request to its last byte. HTTP libraries limit each read by itself: a
    server that sends a byte now and then, of its headers or its body, would never be given up. Answers are asked for
    uncompressed, and compressed ones are refused, so that few bytes stay few. Proxies are those of the environment.

    Args:
        headers, auth: of every request; ``auth`` is a user and a password.
        connections: requests at the same time; the others wait, on their own time.
        most: bytes of an answer.
    """

    def __init__(
        self,
        *,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        connections: int = 64,
        most: int = MOST,
    ) -> None:
        wanted = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "agentgym", **(headers or {})}
        if auth is not None:
            wanted["Authorization"] = "Basic " + base64.b64encode(":".join(auth).encode()).decode()
        self._headers = [(name.encode("ascii"), value.encode("utf-8")) for name, value in wanted.items()]
        self._turn, self._most = threading.BoundedSemaphore(connections), most
        self._lock = threading.Lock()
        self._pools: _Pools = {}
        weakref.finalize(self, _close, self._pools)

    def request(self, method: str, url: str, content: bytes | None = None, *, seconds: float) -> Answer:
        """Send a request, wait for the whole answer.

        Raises:
            TimeoutError: it was not complete in time.
            AnswerTooLarge: it has more bytes than it may.
            NoAnswer: no connection, or it broke; or the answer is compressed, or no HTTP.
        """
        address = httpx.URL(url)
        target = httpcore.URL(
            scheme=address.raw_scheme, host=address.raw_host, port=address.port, target=address.raw_path
        )
        timeouts = {"connect": min(_CONNECT_SECONDS, seconds)}
        running = _Request(time.monotonic() + seconds)
        if not self._turn.acquire(timeout=seconds):
            raise TimeoutError(f"no connection was free within {seconds:g} s")
        _running.request = running
        try:
            with self._pool(address).stream(
                method, target, headers=self._headers, content=content, extensions={"timeout": timeouts}
            ) as response:
                headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
                return Answer(response.status, headers, self._whole(headers, response.iter_stream()))
        except httpcore.TimeoutException as error:
            raise TimeoutError(f"no answer within {seconds:g} s") from error
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.ProxyError,
            httpcore.UnsupportedProtocol,
        ) as error:
            raise NoAnswer(f"{type(error).__name__}: {error}".removesuffix(": ")) from error
        finally:
            running.over, _running.request = True, None
            self._turn.release()

    def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        with self._lock:
            _close(self._pools)

    def _whole(self, headers: Mapping[str, str], chunks: Iterable[bytes]) -> bytes:
        if headers.get("content-encoding", "identity") != "identity":
            raise NoAnswer("a compressed answer, which was not asked for")
        body = bytearray()
        for chunk in chunks:
            body += chunk
            if len(body) > self._most:
                raise AnswerTooLarge(f"more than {self._most / 1e6:g} MB")
        return bytes(body)

    def _pool(self, address: httpx.URL) -> httpcore.ConnectionPool:
        """The connections for an address; a forked child has none of its parent's."""
        key = (os.getpid(), _proxy(address))
        with self._lock:
            if key not in self._pools:
                self._pools[key] = httpcore.ConnectionPool(
                    ssl_context=httpx.create_ssl_context(),
                    proxy=httpcore.Proxy(key[1]) if key[1] is not None else None,
                    max_connections=None,  # a full pool closes connections that other threads have just been given
                    network_backend=_Backend(),
                )
            return self._pools[key]


def _close(pools: _Pools) -> None:
    while pools:
        (process, _), pool = pools.popitem()
        if process == os.getpid():  # a parent's are not a forked child's to close
            pool.close()


def _proxy(address: httpx.URL) -> str | None:
    """The proxy that the environment names for an address (``HTTP_PROXY``, ``NO_PROXY`` ...)."""
    known = urllib.request.getproxies()
    found = known.get(address.scheme) or known.get("all")
    if found is None or urllib.request.proxy_bypass(address.host):
        return None
    return found if "://" in found else f"http://{found}"


# Connections on the clock of the request that uses them ---------------------------------------------------------------


def _left(timeout: float | None, error: type[httpcore.TimeoutException]) -> float | None:
    """Seconds that the next wait may take."""
    request: _Request | None = getattr(_running, "request", None)
    if request is None:  # a connection is being closed
        return timeout
    left = request.until - time.monotonic()
    if left <= 0:
        raise error("out of time")
    return left if timeout is None else min(timeout, left)


class _Backend(httpcore.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(super().connect_tcp(host, port, left, local_address, socket_options))


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner
        self._request: _Request | None = None  # the last one that was sent over it

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._request = getattr(_running, "request", None)
        for start in range(0, len(buffer), _SLICE):
            self._inner.write(buffer[start : start + _SLICE], _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _left(timeout, httpcore.ConnectTimeout)))

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable" and self._request is not None and not self._request.over:
            # The pool takes a connection with something to read for one that the server closed, and closes it too. It
            # looks without a lock: this one was idle a moment ago, and what can be read is the answer.
            return False
        return self._inner.get_extra_info(info)
