# Runs in every forked worker slot: descriptors instead of paths, and little to import.
# ruff: noqa: PTH103, PTH109, PTH120
"""Runs calls one after the other in one interpreter. Everything in it may be hostile, this file's memory included."""

from __future__ import annotations

import ast
import builtins
import errno
import fcntl
import io
import linecache
import mmap
import os
import random
import signal
import sys
import traceback
import types
from typing import Any

from agentgym.tools.python.inside import frames

_OUT_OF_MEMORY = frames.pack(b"error", b"", b"MemoryError", b"out of memory", b"", bytes([frames.MEMORY]))


def serve(channel: int, output: int) -> None:
    """Answer calls until the monitor hangs up. Descriptors 0, 1 and 2 are the call's own."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    keep = {fd: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in (0, 1, 2)}
    reading = frames.Frames()
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    sys.argv = [""]
    # A path entry, not "": the working directory comes first as it does for a script.
    sys.path.insert(0, os.getcwd())
    number = 0
    while True:
        for _, _, payload in reading.feed(_receive(channel)):
            number += 1
            report = _call(payload, main.__dict__, keep, f"<call {number}>", output)
            frames.write_all(channel, frames.frame(0, frames.RESULT, report))


def _receive(channel: int) -> bytes:
    data = os.read(channel, 1 << 20)
    if not data:
        os._exit(0)
    return data


def _call(payload: bytes, scope: dict[str, Any], keep: dict[int, int], filename: str, output: int) -> bytes:
    # Given back when memory runs out, so that the report still fits; untouched, it costs nothing.
    reserve = mmap.mmap(-1, 1 << 21, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        seed, code, stdin, *files = frames.unpack(payload)
        _open_streams(keep, stdin)
        if seed:
            random.seed(int(seed))
        for name, content in zip(files[::2], files[1::2], strict=True):
            _write_file(os.fsdecode(name), content)
        value = _execute(code.decode(), scope, filename)
        text = None if value is None else repr(value)
        value_text = b"" if text is None else text[: output + 1].encode(errors="backslashreplace")
        report = frames.pack(b"ok" if text is None else b"value", value_text[: output + 1], b"", b"", b"", b"\0")
    except BaseException as error:
        reserve.close()
        report = _failure(error, output)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # noqa: S112  # closed or replaced by the code; what it wrote is lost to it alone
            continue
    return report


def _execute(code: str, scope: dict[str, Any], filename: str) -> object:
    """Run ``code``; the value of a last bare expression."""
    linecache.cache[filename] = (len(code), None, code.splitlines(keepends=True), filename)
    tree = ast.parse(code, filename)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, filename, "exec"), scope)  # noqa: S102
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), filename, "eval"), scope)  # noqa: S307


def _open_streams(keep: dict[int, int], stdin: bytes) -> None:
    """Fresh standard streams, whatever the last call did to them."""
    for fd, kept in keep.items():
        os.dup2(kept, fd)
    if stdin:
        held = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
        frames.write_all(held, stdin)
        os.lseek(held, 0, os.SEEK_SET)
        os.dup2(held, 0)
        os.close(held)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8", errors="replace")
    for name, fd in (("stdout", 1), ("stderr", 2)):
        raw = io.BufferedWriter(io.FileIO(fd, "wb", closefd=False))
        stream = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _write_file(name: str, content: bytes) -> None:
    if folder := os.path.dirname(name):
        os.makedirs(folder, exist_ok=True)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        frames.write_all(fd, content)
    finally:
        os.close(fd)


def _failure(error: BaseException, output: int) -> bytes:
    """The report of an exception. Its methods are the code's own and may raise again."""
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return frames.pack(b"ok", b"", b"", b"", b"", b"\0")
    try:
        if isinstance(error, MemoryError):
            error.__traceback__ = None  # lets go of the frames that hold the memory
            return _OUT_OF_MEMORY
        return _described(error, output)
    except MemoryError:
        return _OUT_OF_MEMORY
    except BaseException as again:
        name = type(error).__name__.encode(errors="backslashreplace")[:200]
        text = f"the exception could not be printed ({type(again).__name__})"
        return frames.pack(b"error", b"", name, text.encode(errors="backslashreplace"), b"", b"\0")


def _described(error: BaseException, output: int) -> bytes:
    here = error.__traceback__
    while here is not None and not here.tb_frame.f_code.co_filename.startswith("<call "):
        here = here.tb_next
    lines = traceback.TracebackException(type(error), error, here, compact=True).format()
    printed = "".join(lines).encode(errors="backslashreplace")
    if len(printed) > output:  # the end says what was raised
        printed = printed[: output // 4] + b"\n...\n" + printed[-output // 2 :]
    message = str(error).encode(errors="backslashreplace")[: min(output, 2000)]
    name = type(error).__name__.encode(errors="backslashreplace")[:200]
    return frames.pack(b"error", b"", name, message, printed, bytes([_limits_of(error)]))


def _limits_of(error: BaseException) -> int:
    if isinstance(error, OSError):
        known = {errno.EFBIG: frames.FILE_SIZE, errno.ENOSPC: frames.DISK, errno.ENOMEM: frames.MEMORY}
        if error.errno == errno.EAGAIN and isinstance(error, BlockingIOError):
            return frames.PROCESSES
        return known.get(error.errno or 0, 0)
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return frames.PROCESSES
    return 0


def run(channel: int, output: int) -> None:
    """Entry point of the forked worker: drop every other descriptor, then serve."""
    fd = os.dup2(channel, 3)
    os.closerange(4, 65536)
    try:
        serve(fd, output)
    finally:
        os._exit(1)
