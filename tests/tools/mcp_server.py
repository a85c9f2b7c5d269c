"""A small MCP server for the tests: over stdio, or over HTTP on the port that is given."""

from __future__ import annotations

import os
import sys

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ImageContent, TextContent

server = MCPServer("Sums")


@server.tool()
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@server.tool(name="text.echo")
def echo(text: str) -> str:
    """Say it again."""
    return text


@server.tool()
def environment(name: str) -> str:
    """An environment variable."""
    return os.environ.get(name, "none")


@server.tool()
def picture() -> list[TextContent | ImageContent]:
    """A picture."""
    return [TextContent(type="text", text="look:"), ImageContent(type="image", data="AAAA", mime_type="image/png")]


@server.tool()
async def wait(seconds: float) -> str:
    """Wait."""
    await anyio.sleep(seconds)
    return "done"


@server.tool()
def fail() -> str:
    """Fail."""
    raise ToolError("no luck today")


@server.tool()
def pid() -> int:
    """The server's process."""
    return os.getpid()


@server.tool()
def die() -> str:
    """End the server at once."""
    os._exit(3)


waiting: list[int] = []


@server.tool()
async def meet(number: int) -> str:
    """Wait until so many calls wait."""
    waiting.append(number)
    while len(waiting) < number:
        await anyio.sleep(0.01)
    return "met"


if __name__ == "__main__":
    if sys.argv[1:]:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run("stdio")
