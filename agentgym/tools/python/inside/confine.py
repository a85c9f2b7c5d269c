# Runs in every forked worker slot: descriptors instead of paths, and little to import.
# ruff: noqa: PTH101, PTH103, PTH106, PTH208
"""Isolation of one worker slot (a monitor, its fork server, the fork server's worker, and what the worker starts).

Three ways, chosen by the host:

* ``"namespaces"`` (bubblewrap): every worker slot has its own user, process, mount, network and IPC namespace, with a
  second process namespace inside. The monitor is process 1 of the outer one, the fork server of the inner one, so the
  worker can signal neither, and the kernel kills everything left when they end.
* ``"uids"`` (Docker): every worker slot has a user id of its own. The *effective* id of monitor and fork server is the
  worker's, their real and saved ids are not: they may signal the worker, never the other way round, nor each other.
* ``"unsafe"``: no isolation at all; limits and cleaning up still work against accidents.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import resource
import signal
import stat
import struct
from dataclasses import dataclass

from agentgym.tools.python.inside import landlock, seccomp

#: At most this many worker slots in one container. Ids of monitors start this far above those of workers, ids of fork
#: servers twice as far.
UID_SPAN = 1000

_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MNT_DETACH = 2

_ADDRESS_SPACE = 4 << 30  #: bytes of addresses beyond those of memory, for libraries and what threads set aside
SCORE, HOARD_SCORE = 500, 1000  #: how early the kernel ends a worker; one with more in buffers than in its own sum
_LOW = 15  # niceness of what must not keep a monitor from looking

#: Namespaces that a monitor and a fork server begin in mode ``"namespaces"``.
MONITOR_NAMESPACES = _NEWNS | _NEWIPC | _NEWUSER | _NEWPID | _NEWNET
FORK_SERVER_NAMESPACES = _NEWPID

_CAPABILITIES = struct.pack("=Ii", 0x20080522, 0)  # version 3, of this process

#: PyDLL keeps the interpreter lock during a call: a fork must not let go of it.
libc = ctypes.PyDLL(None, use_errno=True)


@dataclass(frozen=True)
class Isolation:
    """How one worker slot is confined.

    Attributes:
        mode: ``"namespaces"``, ``"uids"`` or ``"unsafe"``.
        uid: the worker's user id where ``mode`` is ``"uids"``.
        home: the working directory, empty at first; with what it may hold.
        rules: what :func:`landlock.prepare` made, where ``mode`` is ``"uids"`` and the kernel has it.
    """

    mode: str
    uid: int
    home: str
    limits: dict[str, float]
    rules: int | None = None


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def fork(mode: str, spaces: int) -> int:
    """Like ``os.fork``; in mode ``"namespaces"`` the child is process 1 of new ``spaces``.

    Raises:
        OSError: the kernel refuses namespaces inside namespaces.
    """
    if mode != "namespaces":
        return os.fork()
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    pid = int(libc.syscall(_SYS_CLONE[os.uname().machine], spaces | signal.SIGCHLD, 0, 0, 0, 0))
    if pid == 0:
        api.PyOS_AfterFork_Child()
    else:
        api.PyOS_AfterFork_Parent()
        if pid < 0:
            _check(pid, "clone")
    return pid


def enter_worker_slot(isolation: Isolation, ids: tuple[int, int]) -> int:
    """Make this process the first of a worker slot; returns a descriptor of a /proc that shows it.

    Args:
        ids: user and group id before the fork; a new namespace maps them to themselves.
    """
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if isolation.mode == "namespaces":
        _map_ids(*ids)
        _mount_home(isolation)
        hidden = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | _MS_RDONLY
        _check(libc.mount(b"tmpfs", b"/proc", b"tmpfs", hidden, b"size=4k,mode=0555"), "hide /proc")
    elif isolation.mode == "uids":
        os.setgroups([])
        os.setresgid(isolation.uid, isolation.uid, isolation.uid)
    else:
        os.makedirs(isolation.home, mode=0o700)
    return proc


def enter_monitor(isolation: Isolation) -> None:
    """Confine the monitor itself."""
    if isolation.mode == "namespaces":
        _drop_capabilities()
    _guard(isolation, isolation.uid + UID_SPAN)


def enter_fork_server(isolation: Isolation, proc: int) -> None:
    """Confine the fork server; in a namespace it keeps its capabilities there, to clear up for the next worker.

    Where memory ends, the kernel ends a worker or a fork server before what watches several worker slots.
    """
    fall_first(proc, "self", SCORE)
    _guard(isolation, isolation.uid + 2 * UID_SPAN)
    _check(libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "parent death signal")


def fall_first(proc: int, pid: int | str, score: int) -> None:
    """Where memory ends, let the kernel end this process before those of a lower score (0 to 1000)."""
    fd = os.open(f"{pid}/oom_score_adj", os.O_WRONLY, dir_fd=proc)
    try:
        os.write(fd, b"%d" % score)
    finally:
        os.close(fd)


def _guard(isolation: Isolation, own: int) -> None:
    """What monitor and fork server have in common: orphans come to them, and the worker cannot reach them."""
    _check(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")
    if isolation.mode == "uids":
        os.setresuid(own, isolation.uid, own)
    if isolation.mode != "unsafe":
        _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        _check(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")


def enter_worker(isolation: Isolation) -> None:
    """Confine the process that will run the code; nothing can be taken back afterwards."""
    os.setsid()
    os.chdir(isolation.home)
    os.umask(0o077)
    if isolation.mode == "namespaces":
        _drop_capabilities()
    elif isolation.mode == "uids":
        os.setresuid(isolation.uid, isolation.uid, isolation.uid)
        os.nice(_LOW)  # in one cgroup the monitor must get the processor before a crowd of workers
    _set_rlimits(isolation)
    if isolation.mode != "unsafe":
        _check(libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable")  # lets the monitor measure shared pages
        _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        if isolation.rules is not None:
            landlock.restrict(libc, isolation.rules)
        seccomp.install(libc, wake_others=wake_others(isolation.mode))


def wake_others(mode: str) -> bool:
    """Whether processes may share locks in memory: in ``"uids"`` there is no memory in which they could be."""
    return mode != "uids"


def give_way(pid: int) -> None:
    """Let everything else go before this process (never 0, which is the caller)."""
    with contextlib.suppress(ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, pid, _LOW)


def signal_all(isolation: Isolation, proc: int, number: int) -> None:
    """Signal every process below this one (monitor or fork server), in one step that a fork cannot slip through."""
    if isolation.mode == "unsafe":
        for pid in descendants(proc, own_pid(proc)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return
    # kill(-1) reaches all that this process may signal: only ever from process 1 or under the worker slot's own ids.
    if isolation.mode == "namespaces" and os.getpid() != 1:
        raise RuntimeError("not in a process namespace of its own")
    if isolation.mode == "uids" and (os.geteuid() != isolation.uid or os.getuid() <= isolation.uid):
        raise RuntimeError("not under the user id of the worker slot")
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)


def reap_all(isolation: Isolation, proc: int) -> None:
    """Kill every process below this one and wait until the last is gone."""
    signal_all(isolation, proc, signal.SIGKILL)
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG if isolation.mode == "unsafe" else 0)
        except ChildProcessError:
            return
        if pid == 0:  # only in mode "unsafe": somebody forked while the list was read
            signal_all(isolation, proc, signal.SIGKILL)
            os.waitpid(-1, 0)


def renew(isolation: Isolation, proc: int) -> None:
    """For the fork server, between two workers: what needs its capabilities in the worker slot's own namespace.

    The working directory is a new one, and the next process gets the number that the first one had, as it must not
    learn how many there were (a kernel without CHECKPOINT_RESTORE counts on).
    """
    if isolation.mode == "namespaces":
        _check(libc.umount2(isolation.home.encode(), _MNT_DETACH), "unmount tmpfs")
        _mount_home(isolation)
        with contextlib.suppress(OSError):
            fd = os.open("sys/kernel/ns_last_pid", os.O_WRONLY, dir_fd=proc)
            os.write(fd, b"1")
            os.close(fd)


def clear_home(isolation: Isolation) -> None:
    """For the monitor, once no worker is left: empty a working directory that is not of the worker's namespace."""
    if isolation.mode == "namespaces":
        return
    os.chmod(isolation.home, 0o700)
    top = os.open(isolation.home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _flatten(top)
    finally:
        os.close(top)


def leave_worker_slot(isolation: Isolation) -> None:
    """Leave nothing of the worker slot behind; its namespaces vanish by themselves."""
    clear_home(isolation)
    if isolation.mode == "unsafe":
        os.rmdir(isolation.home)


def _flatten(top: int) -> None:
    """Remove everything under ``top`` without recursion: a tree may be deeper than any stack or path allows.

    A folder in a folder moves to ``top``, under a name that no code could know; nothing needs a free inode.
    """
    secret, numbers = os.urandom(16).hex(), itertools.count()
    while names := os.listdir(top):
        for name in names:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=top).st_mode):
                os.unlink(name, dir_fd=top)
                continue
            os.chmod(name, 0o700, dir_fd=top)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
            try:
                for entry in os.listdir(inner):
                    if stat.S_ISDIR(os.lstat(entry, dir_fd=inner).st_mode):
                        os.chmod(entry, 0o700, dir_fd=inner)  # a directory moves only if it is writable itself
                        os.rename(entry, f".{secret}-{next(numbers)}", src_dir_fd=inner, dst_dir_fd=top)
                    else:
                        os.unlink(entry, dir_fd=inner)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)


def own_pid(proc: int) -> int:
    """The id of this process, as ``proc`` counts."""
    return int(os.readlink("self", dir_fd=proc))


def descendants(proc: int, root: int) -> list[int]:
    """Process ids, as ``proc`` counts them, of everything below ``root``."""
    pids: list[int] = []
    todo = [root]
    while todo:
        children = _children(proc, todo.pop())
        pids += children
        todo += children
    return pids


def _children(proc: int, pid: int) -> list[int]:
    """What the threads of ``pid`` have forked; nothing where it ended meanwhile."""
    try:
        threads = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=proc)
    except (FileNotFoundError, ProcessLookupError):
        return []
    try:
        lists = [read_at(threads, f"{thread}/children") for thread in os.listdir(threads)]
    except (FileNotFoundError, ProcessLookupError):
        return []
    finally:
        os.close(threads)
    return [int(word) for words in lists for word in words.split()]


def read_at(folder: int, name: str) -> bytes:
    """The contents of a small file under an open directory."""
    fd = os.open(name, os.O_RDONLY, dir_fd=folder)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)


def _map_ids(uid: int, gid: int) -> None:
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(fd, text.encode())
        os.close(fd)


def _mount_home(isolation: Isolation) -> None:
    size = f"size={int(isolation.limits['disk'])},nr_inodes=16384,mode=0700"
    _check(
        libc.mount(b"tmpfs", isolation.home.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, size.encode()), "mount tmpfs"
    )


def _drop_capabilities() -> None:
    """Give up every capability; no_new_privs then keeps it so."""
    _check(libc.syscall(_SYS_CAPSET[os.uname().machine], _CAPABILITIES, b"\0" * 24), "capset")


def _set_rlimits(isolation: Isolation) -> None:
    limits = isolation.limits
    # Where monitor and fork server share the worker's user id they count as its processes.
    processes = int(limits["processes"]) + 2 * (isolation.mode == "namespaces")
    rlimits = {
        resource.RLIMIT_DATA: int(limits["memory"]),
        resource.RLIMIT_FSIZE: int(limits["file_size"]),
        resource.RLIMIT_NOFILE: int(limits["open_files"]),
        resource.RLIMIT_AS: 4 * int(limits["memory"]) + _ADDRESS_SPACE,  # page tables grow with it
        resource.RLIMIT_CORE: 1,  # of 1 byte: with 0 the kernel would still start a crash handler that reads a pipe
        resource.RLIMIT_SIGPENDING: 1024,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if isolation.mode != "unsafe":  # there it would count all processes of the user
        rlimits[resource.RLIMIT_NPROC] = processes
    for which, value in rlimits.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
