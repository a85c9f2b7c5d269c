"""What the processes of a worker slot hold and have used, read from /proc while they run."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field

from agentgym.tools.python.inside import confine
from agentgym.tools.python.inside.confine import Isolation

_CLOCK = os.sysconf("SC_CLK_TCK")
_GRAIN = 2 / _CLOCK  #: CPU seconds of children by which /proc may be behind
_HELD = (b"RssAnon", b"RssShmem", b"VmSwap", b"VmPTE")  # of /proc/PID/status: what a process keeps for itself
_STILL = (b"T", b"t", b"Z", b"X")  # stopped, or ended


@dataclass(slots=True)
class Usage:
    """A sum over processes.

    Attributes:
        memory: bytes; pages shared after a fork count once.
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
    waits: what such a child had used when it was last seen, and could have used since, is added here.
    """

    isolation: Isolation
    proc: int
    root: int
    _known: dict[int, _Process] = field(default_factory=dict)
    _hidden: float = 0.0
    _looked: float = field(default_factory=time.monotonic)

    def look(self, *, resume: bool = True) -> Usage:
        """The sum now. ``resume``: let go on what had to be stopped for counting."""
        total, seen = Usage(), dict[int, _Process]()
        pids = confine.descendants(self.proc, self.root)
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                seen[pid] = self._read(pid, total, crowd=len(pids) > 1)
            if pid not in seen and pid in self._known:  # it just ended: its parent's account may be older
                seen[pid] = self._known[pid]
        total.hiding = self._settle(seen)
        total.cpu = self._hidden + sum(one.own + one.waited for one in seen.values())
        if len(pids) > 1 and total.memory > self.isolation.limits["memory"]:
            # Pages shared after a fork were counted twice. Counting exactly is slow: let nothing grow meanwhile.
            confine.signal_all(self.isolation, self.proc, signal.SIGSTOP)
            total.memory = sum(self._proportional(pid) for pid in pids)
            if resume:
                confine.signal_all(self.isolation, self.proc, signal.SIGCONT)
        return total

    def _read(self, pid: int, total: Usage, *, crowd: bool) -> _Process:
        values = self._status(pid)
        total.memory += _held(values)
        total.tasks += int(values.get(b"Threads", b"1"))
        numbers = values.get(b"NSpid", b"0").split()  # one for every namespace, that of /proc first
        number = int(numbers[min(1, len(numbers) - 1)])  # in this process's own
        if crowd and len(numbers) > 1:  # a crowd must not keep this process from looking
            confine.give_way(number)
        fields = confine.read_at(self.proc, f"{pid}/stat").rpartition(b")")[2].split()
        total.awake = total.awake or fields[0] not in _STILL
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

    def _status(self, pid: int) -> dict[bytes, bytes]:
        lines = confine.read_at(self.proc, f"{pid}/status").splitlines()
        return {name: rest for name, _, rest in (line.partition(b":") for line in lines)}

    def _proportional(self, pid: int) -> int:
        """Bytes of a process, pages that several share divided among them."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            values = self._status(pid)
            try:
                for line in confine.read_at(self.proc, f"{pid}/smaps_rollup").splitlines():
                    if line.startswith(b"Pss_Anon:"):
                        return int(line.split()[1]) * 1024 + _held(values, _HELD[1:])
            except PermissionError:  # it made itself unreadable: all that it maps is its own
                return _held(values)
        return 0


def cpu_of(pid: int) -> float:
    """CPU seconds of all threads of a process, exact where /proc counts in hundredths; 0 where it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3)
    except OSError:
        return 0.0


def _held(values: dict[bytes, bytes], names: tuple[bytes, ...] = _HELD) -> int:
    return sum(int(values.get(name, b"0").split()[0]) for name in names) * 1024
