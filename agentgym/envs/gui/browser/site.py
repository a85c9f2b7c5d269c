"""The web server of the pages: one for the process, on a port of 127.0.0.1; each episode has an address of its own."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson

from agentgym.envs.gui.commands import Command
from agentgym.envs.gui.widgets import Widget
from agentgym.envs.gui.world import World

_FOLDER = Path(__file__).parent
_FILES = {
    "page.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}
_MAX_BODY = 20_000


def described(world: World) -> dict[str, Any]:
    """The screen as the page draws it."""
    rendered, state = world.render(), world.state
    screen, ids = rendered.screen, world.ids()
    zone = rendered.windowed()

    def widgets(listed: list[Widget]) -> list[dict[str, Any]]:
        return [{**widget._asdict(), "id": ids[widget.key] if widget.key else ""} for widget in listed]

    zones: list[dict[str, Any]] = []
    for kind, listed, window in screen.zones:
        visible = listed[rendered.top : rendered.top + window] if window else listed
        zones.append({"kind": kind, "widgets": widgets(list(visible))})
        if window:
            zones[-1] |= {"above": rendered.top, "below": max(0, len(listed) - rendered.top - window)}
    dialog = screen.dialog
    return {
        "title": screen.title,
        "task": world.task.sentence,
        "here": world.here,
        "tabs": world.tabs,
        "apps": list(world.task.apps),
        "back": bool(state.past),
        "messages": widgets(rendered.messages),
        "zones": zones,
        "dialog": None if dialog is None else {"title": dialog.title, "widgets": widgets(list(dialog.widgets))},
        "scrolls": zone is not None,
    }


def act(world: World, done: Mapping[str, Any]) -> None:
    """What a user of the page did; nothing where the screen does not allow it (any more)."""
    name, key, text = (str(done.get(part, "")) for part in ("name", "key", "text"))
    rendered = world.render()
    visible = rendered.shown()
    if name in ("click", "check", "type", "select"):
        widget = next((w for w in visible if w.key == key and key), None)
        if widget is None or "disabled" in widget.states or (name == "select" and text not in widget.options):
            return
    elif name == "press":
        if not any(w.shortcut == text and "disabled" not in w.states for w in visible):
            return
    elif name == "scroll":
        if rendered.windowed() is None or text not in ("up", "down"):
            return
    elif name == "back":
        if not world.state.past:
            return
    elif name != "show" or text not in world.task.apps or text == world.here:
        return
    world.perform(Command(name, key, text))


class Site:
    """The server.

    Attributes:
        origin: ``http://127.0.0.1:PORT``.
    """

    def __init__(self) -> None:
        self._worlds: dict[str, World] = {}
        files = {name: (_FOLDER / name).read_bytes() for name in _FILES}
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2] or "page.html"
                if name in _FILES and self._world() is not None:
                    self._answer(200, files[name], _FILES[name])
                else:
                    self._answer(404, b"", "text/plain")

            def do_POST(self) -> None:
                world = self._world()
                size = int(self.headers.get("Content-Length") or 0)
                if world is None or not self.path.endswith("/act") or not 0 <= size <= _MAX_BODY:
                    self.close_connection = True
                    self._answer(404, b"", "text/plain")
                    return
                done = orjson.loads(self.rfile.read(size) or b"{}")
                if done:
                    act(world, done)
                self._answer(200, orjson.dumps(described(world)), "application/json")

            def _world(self) -> World | None:
                if self.headers.get("Host") != site.origin.removeprefix("http://"):
                    return None
                return site._worlds.get(self.path.split("/")[1])

            def _answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response_only(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.origin = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, name="agentgym-gui", daemon=True).start()

    def publish(self, world: World) -> str:
        """Serve a world; returns the address of its page, which nobody can guess."""
        token = secrets.token_urlsafe(16)
        self._worlds[token] = world
        return f"{self.origin}/{token}/"

    def withdraw(self, address: str) -> None:
        """Serve it no longer."""
        self._worlds.pop(address.split("/")[3], None)


@cache
def shared_site() -> Site:
    """The process's server, started at first use."""
    return Site()
