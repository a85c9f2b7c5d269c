"""Judging a program by hidden tests: it gets an input inside the sandbox, its output is compared outside.

Expected outputs never enter the sandbox, so a program can neither read nor forge a verdict; what it can do is print the
right output. The tests of one program share an interpreter, each with variables of its own: starting one for every test
costs thirty times as much and would keep nothing away from it that helps.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentgym.tools.python.protocol import Limit, Sandbox
from agentgym.tools.python.tool import unfenced

MAX_PROGRAM = 50_000  #: characters


def passed(sandbox: Sandbox, program: str, tests: Sequence[Sequence[str]], *, stop: bool = False) -> int:
    """How many tests a program passes.

    Args:
        program: Python source, with or without a Markdown fence.
        tests: pairs of standard input and expected standard output.
        stop: at the first test that fails.

    Raises:
        WorldFault: the sandbox died and cannot be started again; nothing is known about the program. A program that
            ends what watches it has failed that test.
    """
    if len(program) > MAX_PROGRAM:
        return 0
    code, count = f"exec(compile({unfenced(program)!r}, 'program', 'exec'), {{'__name__': '__main__'}})", 0
    session = sandbox.session(seed=0)
    try:
        for given, expected in tests:
            result = session.run(code, stdin=given)
            if result.error is None and Limit.OUTPUT not in result.limits and same_output(result.stdout, expected):
                count += 1
            elif stop:
                break
    finally:
        session.close()
    return count


def same_output(output: str, expected: str) -> bool:
    """Equal line by line; spaces at the ends of lines and empty lines at the end do not matter."""
    return _lines(output) == _lines(expected)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
