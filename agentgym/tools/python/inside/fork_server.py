"""Forks the workers of a worker slot, one after the other, and clears the slot between them.

It never sees code, data or the name of a file, so no worker inherits anything of the one before: it is handed
descriptors, and even how a worker ended leaves its memory as soon as the monitor has been told.
"""

from __future__ import annotations

import ctypes
import os
import socket

from agentgym.tools.python.inside import confine, worker
from agentgym.tools.python.inside.confine import Isolation


class Ending(ctypes.Structure):
    """How a worker ended, as wait4(2) tells it: its status, then a ``struct rusage``."""

    _fields_ = [("status", ctypes.c_int), ("used", ctypes.c_long * 18)]

    @property
    def exit_code(self) -> int:
        """Negative: the signal that killed it."""
        return os.waitstatus_to_exitcode(self.status)

    @property
    def cpu(self) -> float:
        """CPU seconds, with those of its children that it waited for."""
        seconds, micro, system_seconds, system_micro = self.used[:4]
        return float(seconds + system_seconds + (micro + system_micro) / 1e6)


def serve(orders: socket.socket, isolation: Isolation, proc: int) -> None:
    """For every order (descriptors of a channel, stdout and stderr): fork a worker, await its end, clear, report."""
    confine.enter_fork_server(isolation, proc)
    ending = Ending()
    while len(descriptors := socket.recv_fds(orders, 1, 3)[1]) == 3:
        pid = os.fork()
        if pid == 0:
            _become_worker(orders, isolation, descriptors)
        for fd in descriptors:
            os.close(fd)
        status, used = ctypes.byref(ending, Ending.status.offset), ctypes.byref(ending, Ending.used.offset)
        confine.libc.wait4(pid, status, 0, used)
        confine.reap_all(isolation, proc)
        confine.renew(isolation, proc)
        orders.sendall(ending)
        ctypes.memset(ctypes.byref(ending), 0, ctypes.sizeof(ending))


def _become_worker(orders: socket.socket, isolation: Isolation, descriptors: list[int]) -> None:
    try:
        orders.sendall(b"\0")  # the kernel adds the number that this process has where the monitor is
        null = os.open("/dev/null", os.O_RDONLY)
        channel, out, err = descriptors
        for fd, number in ((null, 0), (out, 1), (err, 2)):
            os.dup2(fd, number)
        confine.enter_worker(isolation)
        worker.run(channel, int(isolation.limits["output"]))
    finally:
        os._exit(1)
