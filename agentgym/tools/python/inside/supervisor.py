# Runs in every forked cell: descriptors instead of paths, and little to import.
# ruff: noqa: PTH108
"""The first process in the cage: routes frames between the host and the keepers, and keeps some keepers ready."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections import deque
from typing import Any

from agentgym.tools.python.inside import confine, frames, seccomp
from agentgym.tools.python.inside.confine import Walls
from agentgym.tools.python.inside.keeper import Keeper

_FULL = b"full"


def main(config_text: str) -> None:
    """Serve the host on descriptors 0 and 1 until it hangs up."""
    config: dict[str, Any] = json.loads(config_text)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for a child
    if config["mode"] == "uids":
        with contextlib.suppress(FileNotFoundError):
            os.unlink("/dev/zero")  # a shared mapping of it is memory that no limit counts
    for name in config["preload"]:
        with contextlib.suppress(ImportError):
            __import__(name)
    seccomp.prepare()
    os.environ.clear()
    # The code must not find these files by import; the list keeps them alive.
    hidden = [sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "agentgym"]
    gc.collect()
    gc.freeze()
    mine, theirs = socket.socketpair()
    if os.fork() == 0:
        mine.close()
        _zygote(theirs, config)
    theirs.close()
    _Router(config, mine).run()
    hidden.clear()
    os._exit(0)


def _zygote(orders: socket.socket, config: dict[str, Any]) -> None:
    """Fork a keeper for every order. It never sees code or data, so no worker inherits another one's."""
    os.closerange(orders.fileno() + 1, 4096)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    try:
        while True:
            data, fds, _, _ = socket.recv_fds(orders, 4, 1)
            if not data or not fds:
                os._exit(0)
            _fork_keeper(int.from_bytes(data, "big"), socket.socket(fileno=fds[0]), orders, config)
    finally:
        os._exit(1)


def _fork_keeper(slot: int, link: socket.socket, orders: socket.socket, config: dict[str, Any]) -> None:
    ids = (os.geteuid(), os.getegid())
    if confine.fork(config["mode"], confine.KEEPER) == 0:
        try:
            orders.close()
            home = config["home"].format(slot=slot)
            walls = Walls(config["mode"], config["uid_base"] + slot, home, config["limits"])
            Keeper(link, walls, ids).serve()
        except BaseException:  # this process ends here in any case; the host reads what was printed
            traceback.print_exc()
        finally:
            os._exit(0)
    link.close()


class _Router:
    """Cells by number, keepers by slot."""

    def __init__(self, config: dict[str, Any], zygote: socket.socket) -> None:
        self.zygote = zygote
        self.free = list(range(config["slots"]))[::-1]
        self.wanted = int(config["spares"])
        self.spares: deque[socket.socket] = deque()
        self.lent: set[socket.socket] = set()  # those with a stateless call
        self.cells: dict[int, socket.socket] = {}
        self.keepers: dict[socket.socket, tuple[int, frames.Frames]] = {}
        self.owner: dict[socket.socket, int] = {}
        self.selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Route until the host hangs up; the keepers then find their links closed and clean up."""
        self.selector.register(0, selectors.EVENT_READ)
        self._refill()
        frames.write_all(1, frames.frame(0, frames.READY))
        host = frames.Frames()
        while True:
            for key, _ in self.selector.select():
                if key.fd != 0:
                    self._from_keeper(key.fileobj)  # type: ignore[arg-type]
                    continue
                data = os.read(0, 1 << 20)
                if not data:
                    return
                for cell, kind, payload in host.feed(data):
                    self._from_host(cell, kind, payload)

    def _from_host(self, cell: int, kind: int, payload: bytes) -> None:
        keeper = self.cells.get(cell)
        if kind == frames.CLOSE:
            if keeper is not None:
                keeper.shutdown(socket.SHUT_WR)  # it cleans up and hangs up; only then is its slot free
            return
        if keeper is None:
            keeper = self.spares.popleft() if self.spares else self._spawn()
            if keeper is None:
                frames.write_all(1, frames.frame(cell, frames.GONE, _FULL))
                return
            self.cells[cell] = keeper
            self.owner[keeper] = cell
            if payload[:1] == b"1":
                self.lent.add(keeper)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it just ended; its end of file follows
            keeper.sendall(frames.frame(cell, kind, payload))
        self._refill()

    def _from_keeper(self, keeper: socket.socket) -> None:
        try:
            data = keeper.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            self._forget(keeper)
            return
        for _, kind, payload in self.keepers[keeper][1].feed(data):
            if kind == frames.READY:
                self._take_back(keeper)
            else:
                frames.write_all(1, frames.frame(self.owner[keeper], kind, payload))

    def _take_back(self, keeper: socket.socket) -> None:
        """A stateless call is over. The next one waits in the link should the keeper not have cleared up by then."""
        del self.cells[self.owner.pop(keeper)]
        self.lent.discard(keeper)
        self.spares.append(keeper)

    def _spawn(self) -> socket.socket | None:
        if not self.free:
            return None
        slot = self.free.pop()
        mine, theirs = socket.socketpair()
        socket.send_fds(self.zygote, [slot.to_bytes(4, "big")], [theirs.fileno()])
        theirs.close()
        self.keepers[mine] = (slot, frames.Frames())
        self.selector.register(mine, selectors.EVENT_READ)
        return mine

    def _refill(self) -> None:
        while len(self.spares) + len(self.lent) < self.wanted and (keeper := self._spawn()) is not None:
            self.spares.append(keeper)

    def _forget(self, keeper: socket.socket) -> None:
        """A keeper ended; its slot is free. Should it have died, the next one there first clears what it finds."""
        self.selector.unregister(keeper)
        slot, _ = self.keepers.pop(keeper)
        keeper.close()
        self.free.insert(0, slot)
        self.lent.discard(keeper)
        if keeper in self.spares:
            self.spares.remove(keeper)
        cell = self.owner.pop(keeper, None)
        if cell is not None:
            del self.cells[cell]
            frames.write_all(1, frames.frame(cell, frames.GONE))
