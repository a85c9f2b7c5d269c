# Runs in every forked worker worker_slot: descriptors instead of paths, and little to import.
# ruff: noqa: PTH108
"""The first process in the sandbox: routes frames between the host and the monitors, and keeps some monitors ready."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections import deque
from typing import Any

from agentgym.tools.python.inside import confine, frames, landlock, seccomp
from agentgym.tools.python.inside.cgroup import Group
from agentgym.tools.python.inside.confine import Isolation
from agentgym.tools.python.inside.monitor import Monitor

_FULL, _SPOILED = b"full", b"spoiled"


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
    seccomp.prepare(wake_others=confine.wake_others(config["mode"]))
    os.environ.clear()
    # The code must not find these files by import; the list keeps them alive.
    hidden = [sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "agentgym"]
    gc.collect()
    gc.freeze()
    mine, theirs = socket.socketpair()
    if os.fork() == 0:
        mine.close()
        _monitor_fork_server(theirs, config)
    theirs.close()
    _Router(config, mine).run()
    hidden.clear()
    os._exit(0)


def _monitor_fork_server(orders: socket.socket, config: dict[str, Any]) -> None:
    """Fork a monitor for every order. It never sees code or data, so no worker inherits another one's."""
    groups = config["groups"] or {}
    keep = sorted({2, orders.fileno(), *(value for part, value in groups.items() if part != "version")})
    for fd, following in itertools.pairwise([*keep, 4096]):
        os.closerange(fd + 1, following)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    config["rules"] = landlock.prepare(confine.libc) if config["mode"] == "uids" else None
    try:
        while True:
            data, fds, _, _ = socket.recv_fds(orders, 4, 1)
            if not data or not fds:
                os._exit(0)
            _fork_monitor(int.from_bytes(data, "big"), socket.socket(fileno=fds[0]), orders, config)
    finally:
        os._exit(1)


def _fork_monitor(worker_slot: int, link: socket.socket, orders: socket.socket, config: dict[str, Any]) -> None:
    ids = (os.geteuid(), os.getegid())
    if confine.fork(config["mode"], confine.MONITOR_NAMESPACES) == 0:
        try:
            orders.close()
            home = config["home"].format(worker_slot=worker_slot)
            uid = config["uid_base"] + worker_slot
            isolation = Isolation(config["mode"], uid, home, config["limits"], config["rules"])
            group = Group(config["groups"], worker_slot, config["limits"]) if config["groups"] else None
            Monitor(link, isolation, ids, group).serve()
        except BaseException:  # this process ends here in any case; the host reads what was printed
            traceback.print_exc()
        finally:
            os._exit(0)
    link.close()


class _Router:
    """Knows the links to the monitors: by lease, and with the worker slot of each."""

    def __init__(self, config: dict[str, Any], monitor_fork_server: socket.socket) -> None:
        self.monitor_fork_server = monitor_fork_server
        self.free = list(range(config["worker_slots"]))[::-1]
        self.wanted = int(config["spares"])
        self.spares: deque[socket.socket] = deque()
        self.lent: set[socket.socket] = set()  # those with a stateless call
        self.leases: dict[int, socket.socket] = {}
        self.monitors: dict[socket.socket, tuple[int, frames.Frames]] = {}
        self.owner: dict[socket.socket, int] = {}
        self.spoiled: set[socket.socket] = set()  # those whose worker slot cannot be cleared
        self.pending: deque[tuple[int, int, bytes]] = deque()  # first calls that wait for a lent worker slot
        self.selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Route until the host hangs up; the monitors then find their links closed and clean up."""
        self.selector.register(0, selectors.EVENT_READ)
        self._refill()
        frames.write_all(1, frames.frame(0, frames.READY))
        host = frames.Frames()
        while True:
            for key, _ in self.selector.select():
                if key.fd != 0:
                    self._from_monitor(key.fileobj)  # type: ignore[arg-type]
                    continue
                data = os.read(0, 1 << 20)
                if not data:
                    return
                for lease, kind, payload in host.feed(data):
                    self._from_host(lease, kind, payload)

    def _from_host(self, lease: int, kind: int, payload: bytes) -> None:
        monitor = self.leases.get(lease)
        if kind == frames.CLOSE:
            self.pending = deque(call for call in self.pending if call[0] != lease)
            if monitor is not None:
                monitor.shutdown(socket.SHUT_WR)  # it cleans up and hangs up; only then is its worker slot free
            return
        if monitor is None:
            monitor = self.spares.popleft() if self.spares else self._spawn()
            if monitor is None:
                if self.lent:  # soon back: worker slots that were given up are missing now
                    self.pending.append((lease, kind, payload))
                else:
                    frames.write_all(1, frames.frame(lease, frames.GONE, _FULL))
                return
            self.leases[lease] = monitor
            self.owner[monitor] = lease
            if payload[:1] == b"1":
                self.lent.add(monitor)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it just ended; its end of file follows
            monitor.sendall(frames.frame(lease, kind, payload))
        self._refill()

    def _from_monitor(self, monitor: socket.socket) -> None:
        try:
            data = monitor.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            self._forget(monitor)
            return
        for _, kind, payload in self.monitors[monitor][1].feed(data):
            if kind == frames.READY:
                self._take_back(monitor)
            elif kind == frames.SPOILED:
                self.spoiled.add(monitor)
            else:
                frames.write_all(1, frames.frame(self.owner[monitor], kind, payload))

    def _take_back(self, monitor: socket.socket) -> None:
        """A stateless call is over. The next one waits in the link should the monitor not have cleared up by then."""
        del self.leases[self.owner.pop(monitor)]
        self.lent.discard(monitor)
        self.spares.append(monitor)
        self._resume()

    def _resume(self) -> None:
        """A worker slot came back, or never will: the calls that wait for one."""
        waited, self.pending = self.pending, deque()
        for lease, kind, payload in waited:
            self._from_host(lease, kind, payload)

    def _spawn(self) -> socket.socket | None:
        if not self.free:
            return None
        worker_slot = self.free.pop()
        mine, theirs = socket.socketpair()
        socket.send_fds(self.monitor_fork_server, [worker_slot.to_bytes(4, "big")], [theirs.fileno()])
        theirs.close()
        self.monitors[mine] = (worker_slot, frames.Frames())
        self.selector.register(mine, selectors.EVENT_READ)
        return mine

    def _refill(self) -> None:
        while len(self.spares) + len(self.lent) < self.wanted and (monitor := self._spawn()) is not None:
            self.spares.append(monitor)

    def _forget(self, monitor: socket.socket) -> None:
        """A monitor ended; its worker slot is free. If it died, the next one there first clears what it finds."""
        self.selector.unregister(monitor)
        worker_slot, _ = self.monitors.pop(monitor)
        monitor.close()
        spoiled = monitor in self.spoiled
        self.spoiled.discard(monitor)
        if not spoiled:
            self.free.insert(0, worker_slot)
        self.lent.discard(monitor)
        if monitor in self.spares:
            self.spares.remove(monitor)
        lease = self.owner.pop(monitor, None)
        if lease is not None:
            del self.leases[lease]
            frames.write_all(1, frames.frame(lease, frames.GONE, _SPOILED if spoiled else b""))
        if not self.free and not self.monitors:  # every worker slot is spoiled: the host starts another sandbox
            os._exit(1)
        self._resume()
