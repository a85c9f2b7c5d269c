"""Start an HTTP server of this process's own."""

from __future__ import annotations

from typing import Any

from agentgym.errors import MissingExtra


def listen(app: Any, what: str, host: str, port: int) -> None:
    """Serve an ASGI application until interrupted; prints the address once it listens. Port 0 takes a free one."""
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtra("uvicorn", "serve") from error
    config = uvicorn.Config(app, host=host, port=port, log_level="warning")
    socket = config.bind_socket()
    print(f"{what} on http://{host}:{socket.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[socket])
