"""The parts of a sandbox process that need no sandbox: frames, reports, the system-call filter, clearing folders."""

from __future__ import annotations

import errno
import os
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym.tools.python import Failure, Limit, Limits
from agentgym.tools.python.inside import confine, frames, seccomp
from agentgym.tools.python.sandbox_process import read_result

LIMITS = Limits(output=300)


@given(st.lists(st.binary(max_size=20)))
def test_unpack_is_the_inverse_of_pack(fields: list[bytes]) -> None:
    assert frames.unpack(frames.pack(*fields)) == fields


@given(st.binary(max_size=60))
def test_unpack_reads_anything_or_refuses(blob: bytes) -> None:
    try:
        fields = frames.unpack(blob)
    except frames.FrameError:
        return
    assert frames.pack(*fields) == blob


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.binary(max_size=9))), st.integers(1, 7))
def test_frames_survive_any_cutting(sent: list[tuple[int, int, bytes]], step: int) -> None:
    stream = b"".join(frames.frame(*one) for one in sent)
    reading = frames.Frames()
    assert [one for at in range(0, len(stream), step) for one in reading.feed(stream[at : at + step])] == sent


def test_a_frame_that_claims_too_much_is_refused_before_it_is_read() -> None:
    with pytest.raises(frames.FrameError, match="a frame of 11 bytes; at most 10 are allowed"):
        frames.Frames(10).feed(struct.pack("!IIB", 11, 0, 4))


def _answer(report: bytes, status: int = frames.REPORTED, bits: int = 0) -> bytes:
    return frames.pack(frames.VERDICT.pack(status, 0, 1.5, 0.5, 7, bits, 3, 0), b"out", b"", report)


@given(st.binary(max_size=80))
def test_any_report_gives_a_typed_result(report: bytes) -> None:
    result = read_result(_answer(report), LIMITS, stateless=True)
    assert result.stdout == "out"
    assert (result.seconds, result.cpu_seconds, result.memory) == (1.5, 0.5, 7)
    assert result.error is None or result.error.kind in (Failure.EXITED, Failure.EXCEPTION, Failure.MEMORY)


def test_a_report_cannot_claim_time_limits_nor_more_than_the_output_limit() -> None:
    report = frames.pack(b"error", b"", b"E" * 999, b"m" * 9999, b"t" * 9999, b"\xff")
    result = read_result(_answer(report), LIMITS, stateless=True)
    assert result.error is not None
    assert [len(result.error.name), len(result.error.message), len(result.error.traceback)] == [200, 2000, 316]
    assert result.limits == (Limit.MEMORY, Limit.PROCESSES, Limit.FILE_SIZE, Limit.DISK, Limit.OUTPUT)


@pytest.mark.parametrize(
    ("bits", "kind"),
    [
        (frames.WALL, "timeout"),
        (frames.CPU, "cpu"),
        (frames.MEMORY | frames.PROCESSES, "memory"),
        (frames.OUTPUT, "output"),
    ],
)
def test_the_monitors_word_decides_why_a_call_was_killed(bits: int, kind: str) -> None:
    result = read_result(_answer(b"ignored", frames.KILLED, bits), LIMITS, stateless=False)
    assert result.error is not None
    assert result.error.kind == kind
    assert result.lost


def _filter(program: bytes, number: int, arch: int, *arguments: int) -> int:
    """A slow interpreter of classic BPF: what the filter answers to one system call."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *(arguments + (0,) * 6)[:6])
    ops = list(struct.iter_unpack("=HBBI", program))
    at, value = 0, 0
    while True:
        code, if_true, if_false, constant = ops[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("<I", data, constant)
        elif code == 0x54:
            value &= constant
        elif code == 0x06:
            return constant
        else:
            hit = value == constant if code == 0x15 else value >= constant
            at += if_true if hit else if_false


ALLOW, DENY, GRANTED = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000
UNKNOWN, INVALID, NO_TERMINAL = 0x00050000 | errno.ENOSYS, 0x00050000 | errno.EINVAL, 0x00050000 | errno.ENOTTY


@pytest.mark.parametrize(
    ("machine", "number", "arguments", "answer"),
    [
        ("x86_64", 0, (), ALLOW),  # read
        ("x86_64", 1, (), ALLOW),  # write
        ("x86_64", 452, (), ALLOW),  # fchmodat2, the last on the list
        ("x86_64", 453, (), UNKNOWN),
        ("x86_64", 41, (2, 1, 0), UNKNOWN),  # socket
        ("x86_64", 49, (), UNKNOWN),  # bind
        ("x86_64", 42, (), UNKNOWN),  # connect
        ("x86_64", 54, (), UNKNOWN),  # setsockopt
        ("x86_64", 50, (), UNKNOWN),  # listen
        ("x86_64", 53, (1, 1, 0), ALLOW),  # socketpair of streams
        ("x86_64", 53, (1, 0x80801, 0), ALLOW),  # with SOCK_CLOEXEC and SOCK_NONBLOCK
        ("x86_64", 53, (1, 2, 0), DENY),  # of datagrams
        ("x86_64", 53, (1, 5, 0), DENY),  # of packets
        ("x86_64", 53, (16, 1, 0), DENY),  # of another family
        ("x86_64", 435, (), UNKNOWN),  # clone3
        ("x86_64", 56, (0x01200011,), ALLOW),  # clone as fork does
        ("x86_64", 56, (0x003D0F00,), ALLOW),  # as a thread does
        ("x86_64", 56, (0x10000011,), DENY),  # with CLONE_NEWUSER
        ("x86_64", 56, (0x01200012,), DENY),  # with SIGCONT at its end
        ("x86_64", 9, (0, 4096, 3, 0x22), ALLOW),  # private anonymous
        ("x86_64", 9, (0, 4096, 3, 0x21), DENY),  # shared anonymous
        ("x86_64", 9, (0, 4096, 3, 0x01, 5), ALLOW),  # a shared file
        ("x86_64", 28, (0, 4096, 4), ALLOW),  # madvise, MADV_DONTNEED
        ("x86_64", 28, (0, 4096, 12), DENY),  # MADV_MERGEABLE
        ("x86_64", 302, (0,), ALLOW),  # prlimit of oneself
        ("x86_64", 302, (1,), DENY),
        ("x86_64", 72, (3, 1030), ALLOW),  # fcntl, F_DUPFD_CLOEXEC
        ("x86_64", 72, (3, 6), GRANTED),  # F_SETLK
        ("x86_64", 72, (3, 38), GRANTED),  # F_OFD_SETLKW
        ("x86_64", 72, (3, 10), INVALID),  # F_SETSIG
        ("x86_64", 72, (3, 1031), INVALID),  # F_SETPIPE_SZ
        ("x86_64", 72, (3, 1026), INVALID),  # F_NOTIFY
        ("x86_64", 16, (1, 0x5401), ALLOW),  # ioctl, TCGETS
        ("x86_64", 16, (1, 0x5452), NO_TERMINAL),  # FIOASYNC
        ("x86_64", 157, (15,), ALLOW),  # prctl, PR_SET_NAME
        ("x86_64", 157, (4,), DENY),  # PR_SET_DUMPABLE
        ("x86_64", 157, (1,), DENY),  # PR_SET_PDEATHSIG
        ("x86_64", 222, (), UNKNOWN),  # timer_create
        ("x86_64", 278, (), UNKNOWN),  # vmsplice
        ("x86_64", 206, (), UNKNOWN),  # io_setup
        ("x86_64", 73, (), UNKNOWN),  # flock
        ("x86_64", 294, (), UNKNOWN),  # inotify_init1
        ("x86_64", 0x40000001, (), UNKNOWN),  # x32
        ("aarch64", 64, (), ALLOW),
        ("aarch64", 198, (), UNKNOWN),
        ("aarch64", 199, (1, 1), ALLOW),
        ("aarch64", 199, (1, 2), DENY),
        ("aarch64", 220, (0x20000011,), DENY),
        ("aarch64", 261, (7,), DENY),
        ("aarch64", 107, (), UNKNOWN),  # timer_create
    ],
)
def test_filter_answers(machine: str, number: int, arguments: tuple[int, ...], answer: int) -> None:
    assert _filter(seccomp.program(machine), number, seccomp._AUDIT_ARCH[machine], *arguments) == answer


@pytest.mark.parametrize(
    ("operation", "answer"),
    [
        (0, ALLOW),  # FUTEX_WAIT, which joins a thread
        (1, DENY),  # FUTEX_WAKE
        (1 | 128, ALLOW),  # of this process's own
        (10 | 256, DENY),  # FUTEX_WAKE_BITSET with FUTEX_CLOCK_REALTIME
        (5, DENY),  # FUTEX_WAKE_OP
        (4 | 128, ALLOW),
    ],
)
def test_filter_can_keep_processes_from_waking_each_other(operation: int, answer: int) -> None:
    arch = seccomp._AUDIT_ARCH["x86_64"]
    assert _filter(seccomp.program("x86_64", wake_others=False), 202, arch, 4096, operation) == answer
    assert _filter(seccomp.program("x86_64"), 202, arch, 4096, operation) == ALLOW


@pytest.mark.parametrize(("machine", "column"), [("x86_64", 0), ("aarch64", 1)])
def test_filter_allows_the_list_and_nothing_else(machine: str, column: int) -> None:
    program, rules = seccomp.program(machine), {both[column] for both in seccomp._rules()}
    for number in set(range(600)) - rules:
        listed = any(both[column] == number for both in seccomp._ALLOWED.values())
        assert _filter(program, number, seccomp._AUDIT_ARCH[machine]) == (ALLOW if listed else UNKNOWN), number


def test_filter_kills_calls_of_another_architecture() -> None:
    assert _filter(seccomp.program("x86_64"), 1, 0x40000003) == 0x80000000


@pytest.mark.parametrize(
    ("column", "header"),
    [(0, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), (1, "/usr/include/asm-generic/unistd.h")],
)
def test_call_numbers_are_the_kernels(column: int, header: str) -> None:
    if not Path(header).exists():
        pytest.skip(f"{header} is not installed")
    numbers = {
        name: int(text) for name, text in re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", Path(header).read_text())
    }
    names = ("clone", "clone3", "mmap", "madvise", "fcntl", "ioctl", "prctl", "socketpair", "futex")
    table = {**seccomp._ALLOWED, **{name: getattr(seccomp, f"_{name.upper()}") for name in names}}
    table |= {"prlimit64": seccomp._PRLIMIT}
    for name, both in table.items():
        number = both[column]
        if number >= 0 and name in numbers:
            assert numbers[name] == number, name
    assert len(set(numbers) & set(table)) > 120


def test_clearing_a_folder_stops_at_symbolic_links_and_at_no_depth(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("1")
    home = tmp_path / "home"
    home.mkdir()
    (home / "link").symlink_to(outside)
    (home / "locked").mkdir()
    (home / "locked" / "f").write_text("1")
    (home / "locked").chmod(0)
    here = os.getcwd()
    try:
        os.chdir(home)
        for _ in range(1100):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)
    isolation = confine.Isolation("uids", 1, str(home), {})
    confine.clear_home(isolation)
    assert list(home.iterdir()) == []
    assert (outside / "kept").read_text() == "1"


def test_signals_to_everybody_are_refused_outside_a_worker_slot() -> None:
    for mode in ("namespaces", "uids"):
        with pytest.raises(RuntimeError, match="not "):
            confine.signal_all(confine.Isolation(mode, 20000, "/", {}), 0, 0)
