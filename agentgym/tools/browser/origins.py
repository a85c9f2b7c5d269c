"""Where a browser may go: an allow-list of origins whose names are resolved once."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from agentgym.errors import ToolError, UsageError

#: Where a browser may go if nothing else is said.
LOCALHOST = ("http://localhost:*", "http://127.0.0.1:*")
_PORTS = {"http": 80, "https": 443}
_WEB = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_LOOPBACK_NAME = "localhost"

Resolve = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port; ``port`` None is any."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Origin:
        """``https://example.org``, ``http://localhost:8000`` or ``http://localhost:*``.

        Raises:
            UsageError: it is none.
        """
        wrong = UsageError(f"{text!r} is not an origin; write it like https://example.org or http://localhost:8000")
        any_port = text.endswith(":*")
        try:
            parts = urlsplit(text.removesuffix(":*"))
            host, port = parts.hostname, parts.port
        except ValueError:
            raise wrong from None
        if parts.scheme not in _PORTS or not host or parts.path.strip("/") or parts.query or parts.username:
            raise wrong
        return cls(parts.scheme, host, None if any_port else port or _PORTS[parts.scheme])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.port is None:
            return f"{self.scheme}://{host}:*"
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")


def resolve(host: str) -> str:
    """One address of a host.

    Raises:
        OSError: it has none.
    """
    return str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])


class AllowList:
    """The origins that a browser may talk to.

    Every name is resolved here, once: what a name means later, or to the browser, does not matter. A name whose address
    is not public is refused, so that no name leads into a private network; such an address is listed as itself.

    Args:
        origins: as text, see :meth:`Origin.parse`.
        resolve: finds a host's address.

    Raises:
        UsageError: no origin, one that is none, one without an address, or a name with an address that is not public.
    """

    def __init__(self, origins: Iterable[str] = LOCALHOST, *, resolve: Resolve = resolve) -> None:
        self.origins = tuple(map(Origin.parse, origins))
        if not self.origins:
            raise UsageError("a browser needs at least one origin that it may open, e.g. http://localhost:8000")
        self._addresses = {origin.host: _address(origin.host, resolve) for origin in self.origins}

    def __str__(self) -> str:
        return ", ".join(map(str, self.origins))

    def address(self, scheme: str | None, host: str, port: int) -> str | None:
        """Where to connect to; None where that is not allowed.

        Args:
            scheme: None is either, as for a tunnel.
        """
        for origin in self.origins:
            if origin.host == host.lower() and origin.port in (None, port) and scheme in (None, origin.scheme):
                return self._addresses[origin.host]
        return None

    def check(self, url: str) -> None:
        """Refuse an address that an agent wants to open.

        Raises:
            ToolError: it is no web address, or not on the list.
        """
        if not url.startswith(("http://", "https://")):
            raise ToolError(f"{url[:200]!r} is not a web address; it must begin with http:// or https://")
        if not self.allows(url):
            raise ToolError(f"{url[:200]!r} may not be opened; allowed are {self}")

    def allows(self, url: str) -> bool:
        """Whether an address of the web, a socket's included, is at an allowed origin."""
        try:
            parts = urlsplit(url)
            scheme, host, port = _WEB[parts.scheme], parts.hostname or "", parts.port
        except (ValueError, KeyError):
            return False
        return parts.username is None and self.address(scheme, host, port or _PORTS[scheme]) is not None


def _address(host: str, resolve: Resolve) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        address = resolve(host)
    except OSError as error:
        raise UsageError(f"the host {host!r} cannot be resolved: {error}; list its address, or leave it out") from error
    if host != _LOOPBACK_NAME and not ipaddress.ip_address(address).is_global:
        raise UsageError(f"{host!r} has the address {address}, which is not public; list the address itself")
    return address
