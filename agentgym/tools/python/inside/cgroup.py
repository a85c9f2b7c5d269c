"""The control group of one worker slot: the kernel's own sum of its memory and CPU time, with nothing left out."""

from __future__ import annotations

import contextlib
import os

from agentgym.tools.python.inside import confine

_SLACK = 16 << 20  #: bytes for what the kernel itself needs
_FILES = {
    1: ("memory.limit_in_bytes", "memory.oom_control", "cpuacct.usage"),
    2: ("memory.max", "memory.events", "cpu.stat"),
}


class Group:
    """The fork server joins it, and everything that it forks is in it. The monitor is not.

    Args:
        config: ``"version"`` and, by part, the descriptor of the folder in which the groups are.
        worker_slot: its number.
        limits: memory and files of the worker slot share the group's memory.
    """

    def __init__(self, config: dict[str, int], worker_slot: int, limits: dict[str, float]) -> None:
        self._limit, self._events, self._used = _FILES[config["version"]]
        self._version = config["version"]
        self._folders: dict[str, int] = {}
        for part, parent in config.items():
            if part == "version":
                continue
            with contextlib.suppress(FileExistsError):
                os.mkdir(str(worker_slot), dir_fd=parent)
            self._folders[part] = os.open(str(worker_slot), os.O_RDONLY | os.O_DIRECTORY, dir_fd=parent)
        if "memory" in self._folders:
            self._write("memory", self._limit, int(limits["memory"] + limits["disk"]) + _SLACK)
        self._killed = self._kills()

    def join(self) -> None:
        """Put this process into the group."""
        for part in self._folders:
            self._write(part, "cgroup.procs", 0)

    def cpu(self) -> float:
        """CPU seconds of everything that was ever in it."""
        text = confine.read_at(self._folders["cpu"], self._used)
        return int(text) / 1e9 if self._version == 1 else int(text.split()[1]) / 1e6

    def ran_out(self) -> bool:
        """Whether the kernel ended a process for memory since it was asked last."""
        before, self._killed = self._killed, self._kills()
        return self._killed > before

    def _kills(self) -> int:
        if "memory" not in self._folders:
            return 0
        words = confine.read_at(self._folders["memory"], self._events).split()
        return int(words[words.index(b"oom_kill") + 1])

    def _write(self, part: str, name: str, value: int) -> None:
        fd = os.open(name, os.O_WRONLY, dir_fd=self._folders[part])
        try:
            os.write(fd, b"%d" % value)
        finally:
            os.close(fd)
