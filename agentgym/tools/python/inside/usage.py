# Runs in every forked worker slot: descriptors instead of paths, and little to import.
# ruff: noqa: PTH208
"""What the processes of a worker slot hold and have used, read from /proc while they run."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from functools import cache

from agentgym.tools.python.inside import confine
from agentgym.tools.python.inside.cgroup import Group
from agentgym.tools.python.inside.confine import Isolation

_CLOCK = os.sysconf("SC_CLK_TCK")
_GRAIN = 2 / _CLOCK  #: CPU seconds of children by which /proc may be behind
_HELD = (b"RssAnon", b"RssShmem", b"VmSwap", b"VmPTE")  # of /proc/PID/status: what a process keeps for itself
_PIPE = 1 << 16  #: bytes that a pipe holds
_FEW = 8  #: buffers of sockets and pipes are looked at where they could hold an eighth of ``Limits.memory``
_STILL = (b"T", b"t", b"Z", b"X")  # stopped, or ended


@dataclass(slots=True)
class Usage:
    """A sum over processes.

    Attributes:
        memory: bytes; pages shared after a fork count once. What many sockets and pipes could hold counts as held.
        cpu: seconds since the first process began, those of processes that are gone included.
        tasks: processes and threads.
        awake: whether one of them is not stopped.
        hiding: whether processes ended that nobody waited for.
    """

    memory: int = 0
    cpu: float = 0.0
    tasks: int = 0
    awake: bool = False
    hiding: bool = False


@dataclass(slots=True)
class _Process:
    """One process, as it was seen last.

    Attributes:
        parent: its parent's id.
        began: when it started; tells it from another one with its id.
        own: its CPU seconds.
        waited: those of its children that it waited for.
        debt: those of its children that ended and should be in ``waited``, beyond what is.
        unseen: what those children could have used after they were seen last, if they were not waited for.
    """

    parent: int
    began: bytes
    own: float
    waited: float
    debt: float = 0.0
    unseen: float = 0.0


@dataclass
class Processes:
    """All processes below ``root``, as ``proc`` counts them.

    CPU time of a child is in its parent's account once the parent waited for it. A parent that ignores SIGCHLD never
    waits: what such a child had used when it was last seen, and could have used since, is added here. A control group
    needs none of this.
    """

    isolation: Isolation
    proc: int
    root: int
    group: Group | None = None
    _known: dict[int, _Process] = field(default_factory=dict)
    _hidden: float = 0.0
    _looked: float = field(default_factory=time.monotonic)
    _before: float = 0.0

    def __post_init__(self) -> None:
        self._before = self.group.cpu() if self.group is not None else 0.0

    def look(self, *, at_rest: bool = False) -> Usage:
        """The sum now. ``at_rest``: all are stopped and stay so; what they hold is theirs to lose first."""
        total, seen = Usage(), dict[int, _Process]()
        pids = confine.descendants(self.proc, self.root)
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                seen[pid] = self._read(pid, total, crowd=len(pids) > 1)
            if pid not in seen and pid in self._known:  # it just ended: its parent's account may be older
                seen[pid] = self._known[pid]
        total.hiding = self._settle(seen)
        total.cpu = self.cpu(self._hidden + sum(one.own + one.waited for one in seen.values()))
        if len(pids) > 1 and total.memory > self.isolation.limits["memory"]:
            # Pages shared after a fork were counted twice. Counting exactly is slow: let nothing grow meanwhile.
            confine.signal_all(self.isolation, self.proc, signal.SIGSTOP)
            total.memory = sum(self._proportional(pid) for pid in pids)
            if not at_rest:
                confine.signal_all(self.isolation, self.proc, signal.SIGCONT)
        total.memory += (buffers := self._buffers(pids))
        if at_rest:  # code can lower its own score while it runs; and the kernel does not see whose buffers are full
            for pid in pids:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                    confine.fall_first(self.proc, pid, confine.HOARD_SCORE if buffers else confine.SCORE)
        return total

    def cpu(self, counted: float) -> float:
        """CPU seconds since the first process began: what was counted, or what the kernel says where it does."""
        return counted if self.group is None else self.group.cpu() - self._before

    def _buffers(self, pids: list[int]) -> int:
        """Bytes that the kernel would hold in sockets and pipes if all were full; 0 where they are few."""
        most = int(self.isolation.limits["open_files"])
        names: set[str] = set()
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                place = self._place(pid)
                try:
                    names.update(self._opened(place))
                except PermissionError:
                    if _HELD[0] in self._status(place):  # it does not just end: it made itself unreadable
                        names.update(f"socket:{pid}-{number}" for number in range(most))
        sockets = sum(name.startswith("socket:") for name in names)
        pipes = sum(name.startswith("pipe:") for name in names)
        held = sockets * _socket_buffer() + pipes * _PIPE
        return held if _FEW * held > self.isolation.limits["memory"] else 0

    def _place(self, pid: int) -> str:
        """Where /proc tells of a process: of a thread that lives where its first one ended, and tells nothing more.

        Raises:
            ProcessLookupError: all of it ended.
        """
        if _stat(self.proc, str(pid))[0] != b"Z":
            return str(pid)
        folder = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.proc)
        try:
            threads = [name for name in os.listdir(folder) if name != str(pid)]
        finally:
            os.close(folder)
        if not threads:
            raise ProcessLookupError(pid)
        return f"{pid}/task/{threads[0]}"

    def _opened(self, place: str) -> list[str]:
        """What the descriptors of a process stand for."""
        folder = os.open(f"{place}/fd", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.proc)
        try:
            return [os.readlink(name, dir_fd=folder) for name in os.listdir(folder)]
        finally:
            os.close(folder)

    def _read(self, pid: int, total: Usage, *, crowd: bool) -> _Process:
        fields, values = _stat(self.proc, str(pid)), self._status(str(pid))
        state, held = fields[0], values
        if state == b"Z" and values.get(b"Threads", b"1").strip() != b"1":  # its first thread ended alone
            place = self._place(pid)
            state, held = _stat(self.proc, place)[0], self._status(place)
        total.memory += _held(held)
        total.tasks += int(values.get(b"Threads", b"1"))
        numbers = values.get(b"NSpid", b"0").split()  # one for every namespace, that of /proc first
        number = int(numbers[min(1, len(numbers) - 1)])  # in this process's own
        if crowd and len(numbers) > 1:  # a crowd must not keep this process from looking
            confine.give_way(number)
        total.awake = total.awake or state not in _STILL
        own = max(cpu_of(number), sum(map(int, fields[11:13])) / _CLOCK)
        process = _Process(int(fields[1]), fields[19], own, sum(map(int, fields[13:15])) / _CLOCK)
        before = self._known.get(pid)
        if before is not None and before.began == process.began:
            process.debt, process.unseen = before.debt - (process.waited - before.waited), before.unseen
        return process

    def _settle(self, seen: dict[int, _Process]) -> bool:
        """Charge what ended without being waited for; whether anything did."""
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        gone = {pid: one for pid, one in self._known.items() if pid not in seen or seen[pid].began != one.began}
        for one in gone.values():
            parent = one.parent
            while parent in gone:  # what they waited for is in their parents' account
                parent = gone[parent].parent
            if parent in seen:
                seen[parent].debt += one.own + one.waited
                seen[parent].unseen += passed
        hiding = False
        for one in seen.values():
            if one.debt > _GRAIN:
                hiding = True
                self._hidden += one.debt + min(one.unseen, one.debt)
                one.debt = 0.0
            if one.debt <= 0.0:
                one.debt, one.unseen = max(one.debt, -_GRAIN), 0.0
        self._known = seen
        return hiding

    def _status(self, place: str) -> dict[bytes, bytes]:
        lines = confine.read_at(self.proc, f"{place}/status").splitlines()
        return {name: rest for name, _, rest in (line.partition(b":") for line in lines)}

    def _proportional(self, pid: int) -> int:
        """Bytes of a process, pages that several share divided among them."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            place = self._place(pid)
            values = self._status(place)
            try:
                for line in confine.read_at(self.proc, f"{place}/smaps_rollup").splitlines():
                    if line.startswith(b"Pss_Anon:"):
                        return int(line.split()[1]) * 1024 + _held(values, _HELD[1:])
            except (PermissionError, FileNotFoundError):  # it made itself unreadable: all that it maps is its own
                return _held(values)
        return 0


def _stat(proc: int, place: str) -> list[bytes]:
    """The fields of /proc/PID/stat from its state on."""
    return confine.read_at(proc, f"{place}/stat").rpartition(b")")[2].split()


@cache
def _socket_buffer() -> int:
    """Bytes that a socket holds; code cannot change it."""
    one, two = socket.socketpair()
    with one, two:
        return one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def cpu_of(pid: int) -> float:
    """CPU seconds of all threads of a process, exact where /proc counts in hundredths; 0 where it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3)
    except OSError:
        return 0.0


def _held(values: dict[bytes, bytes], names: tuple[bytes, ...] = _HELD) -> int:
    return sum(int(values.get(name, b"0").split()[0]) for name in names) * 1024
