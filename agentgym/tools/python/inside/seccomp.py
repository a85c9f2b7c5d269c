"""A list of allowed system calls as a classic BPF program, put together here so that nothing need be installed for it.

A call that is not on the list fails with ENOSYS, as on a kernel without it, so a new kernel adds nothing. Not on it:
namespaces and mounts, tracing and reading other processes, sockets and their names (``socketpair`` stays for streams:
event loops need it), memory and kernel objects that no limit counts, locks and watches on files that others see,
timers that send a signal of one's choice (they would wake a process that is stopped), and the limits and priority of
other processes. Some calls are allowed for some of their arguments only, see ``_rules``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache

# name: number on (x86_64, aarch64); -1 where the architecture has no such call
_ALLOWED: dict[str, tuple[int, int]] = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70), "preadv2": (327, 286),
    "pwritev2": (328, 287), "sendfile": (40, 71), "copy_file_range": (326, 285), "lseek": (8, 62),
    "open": (2, -1), "openat": (257, 56), "openat2": (437, 437), "creat": (85, -1), "close": (3, 57),
    "close_range": (436, 436), "dup": (32, 23), "dup2": (33, -1), "dup3": (292, 24), "pipe": (22, -1),
    "pipe2": (293, 59), "stat": (4, -1), "fstat": (5, 80), "lstat": (6, -1), "newfstatat": (262, 79),
    "statx": (332, 291), "statfs": (137, 43), "fstatfs": (138, 44), "access": (21, -1), "faccessat": (269, 48),
    "faccessat2": (439, 439), "readlink": (89, -1), "readlinkat": (267, 78), "getcwd": (79, 17),
    "chdir": (80, 49), "fchdir": (81, 50), "getdents": (78, -1), "getdents64": (217, 61), "getxattr": (191, 8),
    "lgetxattr": (192, 9), "fgetxattr": (193, 10), "listxattr": (194, 11), "llistxattr": (195, 12),
    "flistxattr": (196, 13), "mkdir": (83, -1), "mkdirat": (258, 34), "rmdir": (84, -1), "rename": (82, -1),
    "renameat": (264, 38), "renameat2": (316, 276), "link": (86, -1), "linkat": (265, 37), "unlink": (87, -1),
    "unlinkat": (263, 35), "symlink": (88, -1), "symlinkat": (266, 36), "mknod": (133, -1),
    "mknodat": (259, 33), "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, -1), "fchown": (93, 55), "lchown": (94, -1), "fchownat": (260, 54), "umask": (95, 166),
    "utime": (132, -1), "utimes": (235, -1), "utimensat": (280, 88), "futimesat": (261, -1),
    "truncate": (76, 45), "ftruncate": (77, 46), "fallocate": (285, 47), "fsync": (74, 82),
    "fdatasync": (75, 83), "poll": (7, -1), "ppoll": (271, 73), "select": (23, -1), "pselect6": (270, 72),
    "epoll_create": (213, -1), "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, -1),
    "epoll_pwait": (281, 22), "epoll_pwait2": (441, 441), "eventfd": (284, -1), "eventfd2": (290, 19),
    "timerfd_create": (283, 85), "timerfd_settime": (286, 86), "timerfd_gettime": (287, 87),
    "signalfd": (282, -1), "signalfd4": (289, 74), "sendto": (44, 206), "sendmsg": (46, 211),
    "sendmmsg": (307, 269), "recvfrom": (45, 207), "recvmsg": (47, 212), "recvmmsg": (299, 243),
    "shutdown": (48, 210), "getsockopt": (55, 209), "getsockname": (51, 204), "getpeername": (52, 205),
    "brk": (12, 214), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "msync": (26, 227),
    "fork": (57, -1), "vfork": (58, -1), "execve": (59, 221), "execveat": (322, 281), "exit": (60, 93),
    "exit_group": (231, 94), "wait4": (61, 260), "waitid": (247, 95), "set_tid_address": (218, 96),
    "set_robust_list": (273, 99), "get_robust_list": (274, 100), "rseq": (334, 293), "arch_prctl": (158, -1),
    "futex_waitv": (449, 449), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121), "sched_getscheduler": (145, 120), "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126), "sched_rr_get_interval": (148, 127), "sched_getattr": (315, 275),
    "getpriority": (140, 141), "getcpu": (309, 168), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pause": (34, -1), "alarm": (37, -1),
    "getitimer": (36, 102), "setitimer": (38, 103), "restart_syscall": (219, 128), "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, -1), "times": (100, 153), "getpid": (39, 172),
    "gettid": (186, 178), "getppid": (110, 173), "getpgid": (121, 155), "getpgrp": (111, -1),
    "setpgid": (109, 154), "getsid": (124, 156), "setsid": (112, 157), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148),
    "getresgid": (120, 150), "getgroups": (115, 158), "capget": (125, 90), "setuid": (105, 146),
    "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143), "setresuid": (117, 147),
    "setresgid": (119, 149), "setgroups": (116, 159), "getrlimit": (97, 163), "setrlimit": (160, 164),
    "getrusage": (98, 165), "uname": (63, 160), "sysinfo": (99, 179), "getrandom": (318, 278),
}  # fmt: skip

# Allowed with some arguments.
_CLONE, _CLONE3, _MMAP, _MADVISE, _PRLIMIT = (56, 220), (435, 435), (9, 222), (28, 233), (302, 261)
_FCNTL, _IOCTL, _PRCTL, _SOCKETPAIR = (72, 25), (16, 29), (157, 167), (53, 199)
_FUTEX = (202, 98)
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_NEW_NAMESPACES = 0x7E020080  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET,TIME}
_SIGCHLD = 17  # the signal at a child's end; any other could be one that wakes a stopped parent
_SHARED_ANONYMOUS = 0x21  # MAP_SHARED | MAP_ANONYMOUS: pages that outlive their mapping and are in nobody's sum
_MERGEABLE = 12  # pages merged with those of others tell what is in them

#: fcntl: F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_GETOWN, F_GETSIG, F_OFD_GETLK, F_DUPFD_CLOEXEC,
#: F_GETPIPE_SZ. Not: signals of one's choice (F_SETSIG), larger pipes, leases, watches.
_FCNTLS = (0, 1, 2, 3, 4, 5, 9, 11, 36, 1030, 1032)
#: F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW: a record lock is granted without being set. On a file that all worker
#: slots can read it would be seen by all of them, and the kernel's memory for locks has no limit; refusing it would
#: break SQLite's files.
_LOCKS = (6, 7, 37, 38)
#: TCGETS, TIOCOUTQ, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_IOCTLS = (0x5401, 0x5411, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
#: PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_GET_SECCOMP, PR_CAPBSET_READ, PR_SET_TIMERSLACK,
#: PR_GET_TIMERSLACK, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS. Not PR_SET_DUMPABLE: the monitor looks into processes.
_PRCTLS = (2, 3, 15, 16, 21, 23, 29, 30, 38, 39)
#: FUTEX_WAKE, REQUEUE, CMP_REQUEUE, WAKE_OP, UNLOCK_PI, WAKE_BITSET, WAIT_REQUEUE_PI, CMP_REQUEUE_PI, none of them
#: with FUTEX_PRIVATE_FLAG: they wake other processes, those too that only read the same file.
_WAKES = (1, 3, 4, 5, 7, 10, 11, 12)
_UNIX, _STREAM, _SOCKET_FLAGS = 1, 1, 0x80800  # SOCK_CLOEXEC | SOCK_NONBLOCK

_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NR, _ARCH, _ARG = 0, 4, 16  # offsets in struct seccomp_data; arguments are 8 bytes each, little end first

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2

_Ops = list[bytes]


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _refused(number: int) -> bytes:
    return _op(_RETURN, _ERRNO | number)


_YES, _NO, _UNKNOWN, _GRANTED = _op(_RETURN, _ALLOW), _refused(errno.EPERM), _refused(errno.ENOSYS), _refused(0)


def _argument(number: int, mask: int = 0xFFFFFFFF) -> _Ops:
    """Load the low half of an argument."""
    return [_op(_LOAD, _ARG + 8 * number), *([] if mask == 0xFFFFFFFF else [_op(_AND, mask)])]


def _one_of(values: Sequence[int], answer: bytes) -> _Ops:
    """``answer`` where what was loaded is one of these."""
    return [op for value in values for op in (_op(_EQUAL, value, 0, 1), answer)]


def _none_of(values: Sequence[int], answer: bytes) -> _Ops:
    """``answer`` where what was loaded is none of these."""
    left = len(values)
    return [*(_op(_EQUAL, value, left - at, 0) for at, value in enumerate(values)), answer]


def _rules(*, wake_others: bool = True) -> dict[tuple[int, int], _Ops]:
    """What is looked at in the calls that are allowed with some arguments."""
    return {
        _FUTEX: [_YES] if wake_others else [*_argument(1, 0xFF), *_one_of(_WAKES, _NO), _YES],
        # Its flags are out of a filter's sight; libc then uses clone.
        _CLONE3: [_UNKNOWN],
        _CLONE: [
            *_argument(0, _NEW_NAMESPACES), *_none_of((0,), _NO),
            *_argument(0, 0xFF), *_none_of((0, _SIGCHLD), _NO), _YES,
        ],
        _MMAP: [*_argument(3, _SHARED_ANONYMOUS), *_one_of((_SHARED_ANONYMOUS,), _NO), _YES],
        _MADVISE: [*_argument(2), *_one_of((_MERGEABLE,), _NO), _YES],
        _PRLIMIT: [*_argument(0), *_none_of((0,), _NO), _YES],  # of any process but oneself
        _FCNTL: [*_argument(1), *_one_of(_FCNTLS, _YES), *_one_of(_LOCKS, _GRANTED), _refused(errno.EINVAL)],
        _IOCTL: [*_argument(1), *_one_of(_IOCTLS, _YES), _refused(errno.ENOTTY)],
        _PRCTL: [*_argument(0), *_one_of(_PRCTLS, _YES), _NO],
        _SOCKETPAIR: [
            *_argument(0), *_none_of((_UNIX,), _NO),
            *_argument(1, 0xFFFFFFFF ^ _SOCKET_FLAGS), *_none_of((_STREAM,), _NO), _YES,
        ],
    }  # fmt: skip


def _search(starts: Sequence[int], answers: Mapping[int, _Ops]) -> _Ops:
    """A binary search among spans of call numbers; ``starts`` are where they begin."""
    if len(starts) == 1:
        return answers[starts[0]]
    middle = len(starts) // 2
    below, above = _search(starts[:middle], answers), _search(starts[middle:], answers)
    if len(below) > 255:  # the reach of a jump
        raise ValueError(f"{len(below)} operations in one branch; at most 255 can be jumped over")
    return [_op(_AT_LEAST, starts[middle], len(below), 0), *below, *above]


def program(machine: str, *, wake_others: bool = True) -> bytes:
    """The filter for ``machine``, as an array of ``struct sock_filter``.

    Args:
        machine: as ``os.uname`` calls it.
        wake_others: whether processes may share a lock in memory, as those of ``multiprocessing`` do.

    Raises:
        KeyError: an architecture whose call numbers are not in the table.
    """
    column = {"x86_64": 0, "aarch64": 1}[machine]
    by_number: dict[int, _Ops] = {both[column]: [_YES] for both in _ALLOWED.values() if both[column] >= 0}
    by_number |= {both[column]: ops for both, ops in _rules(wake_others=wake_others).items()}
    spans: dict[int, _Ops] = {}
    last: _Ops = []
    for number in range(max(by_number) + 2):  # from the last one on: unknown (the x32 table too)
        answer = by_number.get(number, [_UNKNOWN])
        if answer != last:
            spans[number], last = answer, answer
    ops = [
        _op(_LOAD, _ARCH),
        _op(_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _op(_RETURN, _KILL),  # 32-bit calls on a 64-bit kernel have other numbers
        _op(_LOAD, _NR),
        *_search(sorted(spans), spans),
    ]
    return b"".join(ops)


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


@lru_cache
def _ready(wake_others: bool) -> tuple[_Program, ctypes.Array[ctypes.c_char]]:
    code = program(os.uname().machine, wake_others=wake_others)
    ops = ctypes.create_string_buffer(code, len(code))
    return _Program(len(code) // 8, ctypes.cast(ops, ctypes.c_void_p)), ops


def prepare(*, wake_others: bool = True) -> None:
    """Build the program once, before forking."""
    _ready(wake_others)


def install(libc: ctypes.CDLL, *, wake_others: bool = True) -> None:
    """Put the filter on this process for good. ``no_new_privs`` must be set already.

    Raises:
        OSError: the kernel refuses.
    """
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(_ready(wake_others)[0]), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp: " + os.strerror(ctypes.get_errno()))
