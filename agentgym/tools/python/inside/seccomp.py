"""A system-call deny-list as a classic BPF program, put together here so that nothing need be installed for it.

Denied calls fail with EPERM. Denied are: new namespaces and mounts, tracing and reading other processes, sockets
(``socketpair`` stays: event loops need it), shared memory that no limit would count, kernel interfaces with a
history of holes (``bpf``, ``io_uring``, ``userfaultfd``, ``keyctl``, ``perf_event_open``), and changing the limits or
priority of other processes. ``clone3`` fails with ENOSYS, as its flags are out of a filter's sight; libc then uses
``clone``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from functools import lru_cache

# name: number on (x86_64, aarch64); -1 where the architecture has no such call
_DENIED: dict[str, tuple[int, int]] = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268), "socket": (41, 198), "bpf": (321, 280),
    "perf_event_open": (298, 241), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),
    "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186), "msgsnd": (69, 189), "semget": (64, 190),
    "mq_open": (240, 180), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224),
    "swapoff": (168, 225), "acct": (163, 89), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "clock_adjtime": (305, 266), "syslog": (103, 116), "quotactl": (179, 60),
    "personality": (135, 92), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "vhangup": (153, 58), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274), "sched_setaffinity": (203, 122), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "move_pages": (279, 239), "migrate_pages": (256, 238), "iopl": (172, -1), "ioperm": (173, -1),
    "modify_ldt": (154, -1), "uselib": (134, -1), "ustat": (136, -1), "sysfs": (139, -1),
}  # fmt: skip
_CLONE3 = (435, 435)
_CLONE = (56, 220)
_MMAP = (9, 222)
_PRLIMIT = (302, 261)
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_NEW_NAMESPACES = 0x7E020080  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET,TIME}
_SHARED_ANONYMOUS = 0x21  # MAP_SHARED | MAP_ANONYMOUS: pages that outlive their mapping and are in nobody's sum

_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NR, _ARCH, _ARG = 0, 4, 16  # offsets in struct seccomp_data; arguments are 8 bytes each, little end first

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def program(machine: str) -> bytes:
    """The filter for ``machine``, as an array of ``struct sock_filter``.

    Raises:
        KeyError: an architecture whose call numbers are not in the table.
    """
    column = {"x86_64": 0, "aarch64": 1}[machine]
    deny = _op(_RETURN, _ERRNO | errno.EPERM)
    ops = [
        _op(_LOAD, _ARCH),
        _op(_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _op(_RETURN, _KILL),  # 32-bit calls on a 64-bit kernel have other numbers
        _op(_LOAD, _NR),
    ]
    if machine == "x86_64":
        ops += [_op(_AT_LEAST, 0x40000000, 0, 1), deny]  # the x32 table
    ops += [_op(_EQUAL, _CLONE3[column], 0, 1), _op(_RETURN, _ERRNO | errno.ENOSYS)]
    for numbers in _DENIED.values():
        number = numbers[column]
        if number >= 0:
            ops += [_op(_EQUAL, number, 0, 1), deny]
    ops += [  # clone with any namespace flag
        _op(_EQUAL, _CLONE[column], 0, 4),
        _op(_LOAD, _ARG),
        _op(_AND, _NEW_NAMESPACES),
        _op(_EQUAL, 0, 1, 0),
        deny,
        _op(_LOAD, _NR),
    ]
    ops += [  # mmap of shared anonymous memory
        _op(_EQUAL, _MMAP[column], 0, 4),
        _op(_LOAD, _ARG + 3 * 8),
        _op(_AND, _SHARED_ANONYMOUS),
        _op(_EQUAL, _SHARED_ANONYMOUS, 0, 1),
        deny,
        _op(_LOAD, _NR),
    ]
    ops += [  # prlimit of any process but oneself (0)
        _op(_EQUAL, _PRLIMIT[column], 0, 3),
        _op(_LOAD, _ARG),
        _op(_EQUAL, 0, 1, 0),
        deny,
        _op(_RETURN, _ALLOW),
    ]
    return b"".join(ops)


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


@lru_cache
def _ready() -> tuple[_Program, ctypes.Array[ctypes.c_char]]:
    code = program(os.uname().machine)
    ops = ctypes.create_string_buffer(code, len(code))
    return _Program(len(code) // 8, ctypes.cast(ops, ctypes.c_void_p)), ops


def prepare() -> None:
    """Build the program once, before forking."""
    _ready()


def install(libc: ctypes.CDLL) -> None:
    """Put the filter on this process for good. ``no_new_privs`` must be set already.

    Raises:
        OSError: the kernel refuses.
    """
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(_ready()[0]), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp: " + os.strerror(ctypes.get_errno()))
