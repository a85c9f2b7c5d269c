"""Owns one worker at a time: hands it calls, watches its limits, collects its output, tells how each call ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agentgym.tools.python.inside import confine, fork_server, frames
from agentgym.tools.python.inside.cgroup import Group
from agentgym.tools.python.inside.confine import Isolation
from agentgym.tools.python.inside.usage import Processes, Usage, cpu_of

TICK = 0.02  #: at most this many seconds between two looks at memory, CPU time and processes
HASTE = 0.001  #: at least this many
FIRST = 0.003  #: seconds to the first look, when most calls are over
PACE = 16 << 30  #: bytes a second that several processes may fill: the less room, the sooner the next look
DRAIN = 64  #: a call that writes this many times ``Limits.output`` is killed

AT_REST = 2.0  #: at most this many seconds between two looks at a worker slot that is stopped

_SENDER = struct.Struct("3i")  # struct ucred: process, user and group id


@dataclass
class Pipe:
    """One captured stream: the first bytes are kept, all are counted."""

    fd: int
    room: int
    kept: bytearray = field(default_factory=bytearray)
    written: int = 0

    def drain(self) -> bool:
        """Read what is there; False at its end."""
        while True:
            try:
                data = os.read(self.fd, 1 << 16)
            except BlockingIOError:
                return True
            if not data:
                return False
            self.written += len(data)
            self.kept += data[: self.room - len(self.kept)]
            if len(data) < 4096:
                return True

    def start(self) -> None:
        """Forget what came before this call."""
        self.drain()
        self.kept.clear()
        self.written = 0


class Monitor:
    """One worker slot, seen from inside its isolation."""

    def __init__(
        self, link: socket.socket, isolation: Isolation, ids: tuple[int, int], group: Group | None = None
    ) -> None:
        for number in (signal.SIGINT, signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)  # process 1 of a namespace hears only what it handles
        self.link, self.isolation, self.limits, self.group = link, isolation, isolation.limits, group
        self.proc = confine.enter_worker_slot(isolation, ids)
        self.orders, theirs = socket.socketpair()
        self.orders.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.fork_server = confine.fork(isolation.mode, confine.FORK_SERVER_NAMESPACES)
        if self.fork_server == 0:
            self.orders.close()
            link.close()
            if group is not None:
                group.join()
            fork_server.serve(theirs, isolation, self.proc)
            os._exit(0)
        theirs.close()
        confine.enter_monitor(isolation)
        (self.root,) = confine.descendants(self.proc, confine.own_pid(self.proc))
        if isolation.mode == "uids":  # whatever an earlier monitor left in this worker slot
            confine.signal_all(isolation, self.proc, signal.SIGKILL)
            self._clear(confine.clear_home)
        self._start_worker()

    def _start_worker(self) -> None:
        channel, theirs = socket.socketpair()
        (out_r, out_w), (err_r, err_w) = os.pipe(), os.pipe()
        descriptors = (theirs.detach(), out_w, err_w)
        socket.send_fds(self.orders, [b"\0"], descriptors)
        for fd in descriptors:
            os.close(fd)
        for fd in (out_r, err_r, channel.fileno()):
            os.set_blocking(fd, False)
        room = int(self.limits["output"])
        self.channel, self.out, self.err = channel, Pipe(out_r, room), Pipe(err_r, room)
        self.pid = _SENDER.unpack(self.orders.recvmsg(1, socket.CMSG_SPACE(_SENDER.size))[1][0][2])[0]
        self.pidfd = os.pidfd_open(self.pid)
        self.processes = Processes(self.isolation, self.proc, self.root, self.group)
        self.cpu_before = 0.0
        self.ended, self.exit_code = False, 0
        self.broken = 0  # the limit that was broken between two calls

    def _renew(self) -> None:
        """Another worker in place of this one."""
        self._end_worker()
        self._clear(confine.clear_home)
        self.channel.close()
        for fd in (self.out.fd, self.err.fd, self.pidfd):
            os.close(fd)
        self._start_worker()

    def serve(self) -> None:
        """Run calls until the supervisor hangs up or a session's worker is gone, then leave nothing behind."""
        reading = frames.Frames()
        awake = True
        try:
            while data := self._next(at_rest=not awake):
                for _, kind, payload in reading.feed(data):
                    if kind != frames.CALL:
                        return
                    one_shot, call = payload[:1] == b"1", payload[1:]
                    if not awake and not self.broken:
                        self._discard()
                        confine.signal_all(self.isolation, self.proc, signal.SIGCONT)
                    self.link.sendall(frames.frame(0, frames.RESULT, self._run(call)))
                    if one_shot:
                        self.link.sendall(frames.frame(0, frames.READY))
                        self._renew()
                    elif self.ended:
                        return
                    awake = one_shot
        finally:
            self.orders.close()  # ends the fork server
            confine.reap_all(self.isolation, self.proc)
            self._clear(confine.leave_worker_slot)

    def _clear(self, function: Callable[[Isolation], None]) -> None:
        """Clear the worker slot; one that cannot be cleared is never used again."""
        try:
            function(self.isolation)
        except OSError:
            self.link.sendall(frames.frame(0, frames.SPOILED))
            raise

    def _next(self, *, at_rest: bool) -> bytes:
        """What the supervisor sends next. Until then what is stopped stays so, and within its limits."""
        pause = FIRST
        while at_rest and not self.ended and not select.select([self.link], [], [], pause)[0]:
            usage = self.processes.look(at_rest=True)
            if usage.awake:  # the kernel wakes a process group that is orphaned, for one
                confine.signal_all(self.isolation, self.proc, signal.SIGSTOP)
            if usage.memory > self.limits["memory"]:
                self.broken |= frames.MEMORY
            if usage.cpu - self.cpu_before >= self.limits["cpu"]:
                self.broken |= frames.CPU
            if self.broken:
                self._end_worker()
            pause = FIRST if usage.awake else min(2 * pause, AT_REST)
        return self.link.recv(1 << 20)

    def _discard(self) -> None:
        """Drop what the stopped worker said after its last report."""
        with contextlib.suppress(BlockingIOError):
            while self.channel.recv(1 << 16):
                continue

    def _run(self, call: bytes) -> bytes:
        if self.broken:
            return frames.pack(frames.VERDICT.pack(frames.KILLED, 0, 0.0, 0.0, 0, self.broken, 0, 0), b"", b"", b"")
        self.out.start()
        self.err.start()
        watch = _Watch(self, frames.frame(0, frames.CALL, call))
        report = watch.wait()
        cpu = max(watch.peak.cpu, self.processes.cpu(cpu_of(self.pid)))
        if report is None:
            cpu = max(cpu, self._end_worker())
            if self.group is not None and self.group.ran_out():  # the kernel was faster than this process
                watch.stop(frames.MEMORY)
        else:  # nothing runs on after a report
            confine.signal_all(self.isolation, self.proc, signal.SIGSTOP)
        for pipe in (self.out, self.err):
            pipe.drain()
            if pipe.written > pipe.room:
                watch.limits |= frames.OUTPUT
        cpu, self.cpu_before = cpu - self.cpu_before, cpu
        status = frames.REPORTED if report is not None else frames.KILLED if watch.killed else frames.EXITED
        written = (self.out.written, self.err.written)
        verdict = frames.VERDICT.pack(
            status, self.exit_code, watch.seconds, cpu, watch.peak.memory, watch.limits, *written
        )
        return frames.pack(verdict, bytes(self.out.kept), bytes(self.err.kept), report or b"")

    def _end_worker(self) -> float:
        """Kill the worker, have the fork server clear up, note how it ended; CPU seconds with its children's."""
        if self.ended:
            return 0.0
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        with contextlib.suppress(PermissionError):  # under a user id of its own it was never stopped
            os.kill(self.fork_server, signal.SIGCONT)
        ending = fork_server.Ending.from_buffer_copy(self.orders.recv(ctypes.sizeof(fork_server.Ending)))
        self.ended, self.exit_code = True, ending.exit_code
        return ending.cpu


class _Watch:
    """One call, from sending it to its report or its end by a limit."""

    def __init__(self, monitor: Monitor, message: bytes) -> None:
        self.monitor, self.message = monitor, memoryview(message)
        self.limits, self.killed = 0, False
        self.peak = Usage()
        self.reading = frames.Frames(8 * int(monitor.limits["output"]) + 65536)
        self.began = time.monotonic()
        self.seconds = 0.0

    def wait(self) -> bytes | None:
        """The worker's report; None where the call was killed or the worker ended without one."""
        monitor, poll = self.monitor, select.poll()
        channel = monitor.channel.fileno()
        for fd in (monitor.out.fd, monitor.err.fd, monitor.pidfd, monitor.link.fileno()):
            poll.register(fd, select.POLLIN)
        poll.register(channel, select.POLLIN | select.POLLOUT)
        report, gone, tick = None, False, self.began + FIRST
        while report is None and not gone and not self.killed:
            due = min(tick, self.began + monitor.limits["wall"])
            ready = dict(poll.poll(max(0.0, due - time.monotonic()) * 1000))
            for pipe in (monitor.out, monitor.err):
                if pipe.fd in ready and not pipe.drain():
                    poll.unregister(pipe.fd)
            if channel in ready:
                if ready[channel] & select.POLLOUT:
                    self._send(poll)
                report, gone = self._receive()
            gone = gone or monitor.pidfd in ready
            if monitor.link.fileno() in ready:  # nobody waits for this call any more
                self.killed = True
            tick = self._look(tick)
        self.seconds = time.monotonic() - self.began
        return report

    def _send(self, poll: select.poll) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            self.message = self.message[self.monitor.channel.send(self.message) :]
        if not self.message:
            poll.modify(self.monitor.channel.fileno(), select.POLLIN)

    def _receive(self) -> tuple[bytes | None, bool]:
        """(report, whether the worker stopped making sense)."""
        try:
            data = self.monitor.channel.recv(1 << 16)
            complete = self.reading.feed(data)
        except BlockingIOError:
            return None, False
        except (frames.FrameError, ConnectionResetError):
            return None, True
        return (complete[0][2], False) if complete else (None, not data)

    def _look(self, tick: float) -> float:
        """Compare with the limits; returns when to look again."""
        monitor, limits, now = self.monitor, self.monitor.limits, time.monotonic()
        if now - self.began >= limits["wall"]:
            self.stop(frames.WALL)
        if monitor.out.written + monitor.err.written > DRAIN * limits["output"]:
            self.stop(frames.OUTPUT)
        if now < tick:
            return tick
        usage = monitor.processes.look()
        self.peak.memory = max(self.peak.memory, usage.memory)
        self.peak.cpu = usage.cpu
        if usage.memory > limits["memory"]:
            self.stop(frames.MEMORY)
        if usage.cpu - monitor.cpu_before >= limits["cpu"]:
            self.stop(frames.CPU)
        if usage.tasks >= limits["processes"]:
            self.limits |= frames.PROCESSES
        room = 0 if usage.hiding else limits["memory"] - usage.memory
        return time.monotonic() + min(TICK, max(HASTE, room / PACE))

    def stop(self, limit: int) -> None:
        """End the call because of a limit."""
        if not self.killed:
            self.limits |= limit
            self.killed = True
