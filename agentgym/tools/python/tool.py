"""The ``python`` tool: an interpreter per episode, in a sandbox that the whole process shares.

>>> from agentgym.tools.toolbox import Toolbox
>>> box = Toolbox([python_tool()]).open()                                    # doctest: +SKIP
>>> box.call("python", {"code": "x = 6\\nx * 7"}).result                      # doctest: +SKIP
'42'

A call that fails has an error that begins with its :class:`~agentgym.tools.python.protocol.Failure` and a colon
(``"timeout: killed after 5 s"``, ``"exception: ZeroDivisionError: ..."``), whatever the code printed; rewards that
must not import tools compare that word, others call :func:`failure_of`.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from agentgym.errors import ToolError, UsageError
from agentgym.records import ToolCall
from agentgym.tools.python import open_sandbox
from agentgym.tools.python.protocol import MIB, Failure, Limit, Limits, Result, Sandbox, Session
from agentgym.tools.tool import Tool, tool

#: What one call of a tool may use where nothing else is said.
TOOL_LIMITS = Limits(
    wall=5.0, cpu=5.0, memory=256 * MIB, processes=16, file_size=8 * MIB, disk=32 * MIB, output=16 * 1024
)
MAX_RESULT_CHARACTERS = 1000  #: characters of a result that the model sees
WORKER_SLOTS = 1024  #: interpreters alive at the same time
NO_OUTPUT = "[no output; print what you want to see]"
RESTARTED = "[the interpreter was stopped; its variables and the files it wrote are gone]"

FAILURES = frozenset(map(str, Failure))

Files = Mapping[str, "str | bytes"]

_FENCE = "```"
_LANGUAGE = re.compile(r"[A-Za-z0-9]*+[ \t]*+")
_MARKS = re.compile(r"[ \t]*+[\^~]++[\^~ \t]*+")
_FRAME = re.compile(r'File "<call \d+>", ')
_TRACE = 400  #: characters of a traceback that the model sees
_REASON = 200  #: of an exception's message

_lock = threading.Lock()
_shared: dict[tuple[int, str, Limits, bool], Sandbox] = {}


def shared_sandbox(kind: str = "auto", *, limits: Limits = TOOL_LIMITS, unsafe_local: bool = False) -> Sandbox:
    """The process's one sandbox of this kind with these limits; opened at first use, closed when the process ends.

    Args:
        kind, unsafe_local: see :func:`agentgym.tools.python.open_sandbox`.
        limits: what one call may use.

    Raises:
        SandboxUnavailable: nothing safe works here; one line that says what to install.
    """
    key = (os.getpid(), kind, limits, unsafe_local)  # a forked child needs one of its own
    with _lock:
        if key not in _shared:
            _shared[key] = open_sandbox(kind, limits=limits, unsafe_local=unsafe_local, worker_slots=WORKER_SLOTS)
        return _shared[key]


def python_tool(
    sandbox: Sandbox | None = None,
    *,
    stateful: bool = True,
    files: Files | None = None,
    seed: int | None = None,
    characters: int = MAX_RESULT_CHARACTERS,
    name: str = "python",
    price: float = 0.0,
) -> Tool:
    """A tool that runs Python code and shows what it prints and the value of a last bare expression.

    The tool waits for its sandbox inline and has no timeout beside the sandbox's own ``Limits.wall``.

    Args:
        sandbox: where the code runs; the process's shared one if left out.
        stateful: variables and files live on to the next call of an episode, and fork with it; otherwise every call
            starts afresh.
        files: relative path -> content, there at the first call and again after the interpreter was stopped.
        seed: seeds ``random``, so that a fork draws the same numbers; None: unseeded (and a fork may be refused).
        characters: length to which results are cut.
        name: what the model calls it.
        price: cost of one call.

    Raises:
        SandboxUnavailable: no sandbox was given and none works here.
    """
    box = sandbox if sandbox is not None else shared_sandbox()
    runner = Runner(box, dict(files or {}), seed, characters)
    if stateful:
        return tool(_python, name=name, price=price, session=runner.open)
    return tool(runner.python, name=name, price=price)


@dataclass(frozen=True)
class Runner:
    """How code runs: where, with which files and seed, and how much of a result is shown; see :func:`python_tool`."""

    sandbox: Sandbox
    files: Files
    seed: int | None
    characters: int

    def __post_init__(self) -> None:
        if self.characters < 100:
            raise UsageError(f"characters must be at least 100, got {self.characters!r}")

    def open(self) -> Interpreter:
        """An interpreter for an episode."""
        return Interpreter(self.sandbox, files=self.files, seed=self.seed, characters=self.characters)

    def python(self, code: str) -> str:
        """Run Python; you see what it prints. Every call starts anew, without variables.

        Args:
            code: a program for Python 3 with its standard library.
        """
        if self.seed is None:
            return result_text(self.sandbox.run(unfenced(code), files=self.files), self.characters)
        interpreter = self.open()
        try:
            return interpreter.run(code)
        finally:
            interpreter.close()

    def attach(self, known: Tool) -> Tool:
        """The same tool of :func:`python_tool`, run in this way; costs next to nothing."""
        if known.session is not None:
            return replace(known, session=self.open)
        return replace(known, function=self.python)


class Interpreter:
    """The tool's state in one episode: a session of the sandbox, which costs nothing until it runs code."""

    def __init__(self, sandbox: Sandbox, *, files: Files, seed: int | None, characters: int) -> None:
        self._files, self._characters = files, characters
        self._session: Session = sandbox.session(seed=seed)
        self._empty = True

    def run(self, code: str) -> str:
        """What the model sees of the result.

        Raises:
            ToolError: the code failed.
            WorldFault: the sandbox did.
        """
        files, self._empty = (self._files if self._empty else {}), True
        result = self._session.run(unfenced(code), files=files)
        self._empty = result.lost
        return result_text(result, self._characters)

    def fork(self) -> Self:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._session = self._session.fork()
        return twin

    def close(self) -> None:
        self._session.close()


def failure_of(call: ToolCall) -> Failure | None:
    """Why the code of a call failed; None where it ran to its end, or never ran (refused, wrong arguments)."""
    word = (call.error or "").partition(":")[0]
    return Failure(word) if word in FAILURES else None


def result_text(result: Result, characters: int = MAX_RESULT_CHARACTERS) -> str:
    """A result as the model sees it.

    Raises:
        ToolError: the code failed; the text begins with the kind of failure.
    """
    if result.error is not None:
        raise ToolError(_failure_text(result, characters))
    parts = [result.stdout, result.stderr, result.value or ""]
    text = "\n".join(part.rstrip("\n") for part in parts if part) or NO_OUTPUT
    if Limit.OUTPUT in result.limits:
        text = f"{text[:characters]}\n[cut off; {sum(result.written)} bytes were written]"
    return cut(text, characters)


def cut(text: str, characters: int) -> str:
    """The beginning and the end of a long text; says how many characters were left out."""
    if len(text) <= characters:
        return text
    tail = characters // 4
    return f"{text[: characters - tail]}\n[... {len(text) - characters} characters ...]\n{text[-tail:]}"


def unfenced(code: str) -> str:
    """Code without the Markdown fence that models like to put around it."""
    fenced = code.strip()
    head, newline, rest = fenced.partition("\n")
    if not (newline and head.startswith(_FENCE) and rest.endswith(_FENCE) and _LANGUAGE.fullmatch(head[len(_FENCE) :])):
        return code
    return rest.removesuffix(_FENCE).rstrip(" \t").removesuffix("\n")


def _failure_text(result: Result, characters: int) -> str:
    error = result.error
    assert error is not None
    parts = [f"{error.kind}: {cut(str(error), _REASON)}", _where(error.traceback)]
    printed = "\n".join(part.rstrip("\n") for part in (result.stdout, result.stderr) if part)
    if result.lost:
        # How far killed code came is a matter of time; only the beginning is the same when it is played again.
        parts.append(RESTARTED)
        printed = printed[: characters // 4]
    if printed:
        parts.append(f"printed before:\n{cut(printed, characters // 2)}")
    return "\n".join(part for part in parts if part)


def _where(traceback: str) -> str:
    """The frames of a traceback, without its first line, its last and the marks below the code."""
    lines = [line for line in traceback.rstrip("\n").split("\n")[:-1] if not _MARKS.fullmatch(line)]
    if lines and lines[0].startswith("Traceback"):
        del lines[0]
    text = _FRAME.sub("", "\n".join(lines))
    return text if len(text) <= _TRACE else "  ...\n" + text[-_TRACE:].partition("\n")[2]


def _python(interpreter: Interpreter, code: str) -> str:
    """Run Python; you see what it prints. Variables and files are kept for your next call.

    Args:
        code: a program for Python 3 with its standard library.
    """
    return interpreter.run(code)
