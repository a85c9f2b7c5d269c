"""Start an HTTP server of this process's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agentgym.endpoint.guard import Guard, ServerLimits, timed_protocol
from agentgym.errors import MissingExtra


def listen(app: Any, what: str, host: str, port: int, limits: ServerLimits | None = None) -> None:
    """Serve an ASGI application until interrupted; prints the address once it listens. Port 0 takes a free one.

    Args:
        limits: of what a client may send; ``host`` is a name of the server in any case.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtra("uvicorn", "serve") from error
    limits = limits or ServerLimits()
    config = uvicorn.Config(
        Guard(app, replace(limits, hosts=(*limits.hosts, host))),
        host=host,
        port=port,
        log_level="warning",
        http=timed_protocol(limits.seconds),
        ws="none",
        limit_concurrency=limits.connections,
    )
    socket = config.bind_socket()
    print(f"{what} on http://{host}:{socket.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[socket])
