"""What runs below a process, from /proc: for tests that kill a part of the world, or look whether something is left."""

from __future__ import annotations

import os
import time
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Processes below this one."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, ahead = [], [pid]
    while ahead:
        parent = ahead.pop()
        children = [child for child, above in parents.items() if above == parent]
        found += children
        ahead += children
    return found


def browsers() -> set[int]:
    """The main processes of this process's browsers, whichever test started them: those that are of no type."""
    return {pid for pid, line in _lines().items() if b"--remote-debugging" in line and b"--type=" not in line}


def renderers() -> set[int]:
    """The processes of this process's browsers that run the scripts of pages."""
    return {pid for pid, line in _lines().items() if b"--type=renderer" in line}


def alive(pid: int) -> bool:
    """Whether it runs; one that only waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def left_of(pids: set[int] | list[int], seconds: float = 60.0) -> list[int]:
    """Which of them still run after a while; at once if none does."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _lines() -> dict[int, bytes]:
    lines = {}
    for pid in descendants(os.getpid()):
        try:
            lines[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
    return lines
