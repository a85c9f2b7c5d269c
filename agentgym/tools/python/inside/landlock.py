"""Keeps workers that share a process namespace from reading in /proc what another one calls itself."""

from __future__ import annotations

import ctypes
import os
import struct

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_BENEATH = 1
_FILES = 2 | 4  # to write and to read them


def prepare(libc: ctypes.CDLL) -> int | None:
    """A descriptor of a rule set: files anywhere but in /proc may be read and written, as far as they could be before;
    None where the kernel has no Landlock (before Linux 5.13, or switched off)."""
    handled = struct.pack("Q", _FILES)
    rules = int(libc.syscall(_CREATE, handled, ctypes.c_size_t(len(handled)), 0))
    if rules < 0:
        return None
    for entry in os.scandir("/"):
        if entry.name == "proc" or entry.is_symlink():
            continue
        place = os.open(entry.path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", _FILES, place)
        if libc.syscall(_ADD, rules, _BENEATH, rule, 0) != 0:
            raise OSError(ctypes.get_errno(), f"landlock: {entry.path}: {os.strerror(ctypes.get_errno())}")
        os.close(place)
    return rules


def restrict(libc: ctypes.CDLL, rules: int) -> None:
    """Put the rules on this process for good. ``no_new_privs`` must be set already.

    Raises:
        OSError: the kernel refuses.
    """
    if libc.syscall(_RESTRICT, rules, 0) != 0:
        raise OSError(ctypes.get_errno(), "landlock: " + os.strerror(ctypes.get_errno()))
