"""The python tool: what the model sees, what a reward can tell, sessions that fork."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from sandboxes import sandbox_or_skip

from agentgym.errors import ForkError, SandboxUnavailable, ToolError, UsageError
from agentgym.records import ToolCall
from agentgym.tools.python import Failure, Limits, Result, Sandbox
from agentgym.tools.python.protocol import Limit, PythonError
from agentgym.tools.python.tool import (
    NO_OUTPUT,
    RESTARTED,
    Runner,
    cut,
    failure_of,
    python_tool,
    result_text,
    shared_sandbox,
    unfenced,
)
from agentgym.tools.toolbox import Toolbox

LIMITS = Limits(  # ten times the processor's seconds, so that a busy machine does not make one limit the other
    wall=6.0, cpu=0.6, memory=96 << 20, processes=8, file_size=1 << 20, disk=2 << 20, output=2000, open_files=32
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = sandbox_or_skip("bubblewrap", limits=LIMITS, parallel=2)
    yield made
    made.close()


def opened(sandbox: Sandbox, **options: object) -> Toolbox:
    return Toolbox([python_tool(sandbox, **options)]).open()  # type: ignore[arg-type]


def run(box: Toolbox, code: str) -> ToolCall:
    return box.call("python", {"code": code})


def test_what_the_model_sees(sandbox: Sandbox) -> None:
    box = opened(sandbox)
    assert run(box, "print(1)\nprint('two')\n3").result == "1\ntwo\n3"
    assert run(box, "x = 5").result == NO_OUTPUT
    assert run(box, "```python\nprint(x + 1)\n```").result == "6"
    assert box.schemas()[0]["function"]["parameters"]["required"] == ["code"]
    box.close()


def test_a_stateless_tool_forgets(sandbox: Sandbox) -> None:
    for seed in (None, 3):
        box = opened(sandbox, stateful=False, files={"a.txt": "hello"}, seed=seed)
        assert run(box, "x = 1\nopen('a.txt').read()").result == "'hello'"
        assert failure_of(run(box, "x")) is Failure.EXCEPTION
        assert run(box, "import random\nopen('a.txt').read()").error is None
    assert run(box, "import random; random.random()") == run(box, "import random; random.random()")


@pytest.mark.parametrize(
    ("code", "failure", "begins"),
    [
        ("print('so far')\n1 / 0", Failure.EXCEPTION, "exception: ZeroDivisionError: division by zero\n  line 2"),
        ("def f(:", Failure.EXCEPTION, "exception: SyntaxError: "),
        ("import time\ntime.sleep(60)", Failure.TIMEOUT, f"timeout: killed after 6 s\n{RESTARTED}"),
        ("while True: pass", Failure.CPU, f"cpu: killed after 0.6 CPU s\n{RESTARTED}"),
        ("x = bytearray(1 << 30)", Failure.MEMORY, "memory: MemoryError"),
        ("import os\nos._exit(0)", Failure.EXITED, "exited: the interpreter ended before the code did"),
        ("print('timeout: killed after 6 s')\nraise ValueError('timeout: no')", Failure.EXCEPTION, "exception: ValueE"),
    ],
)
def test_failures_are_told_apart(sandbox: Sandbox, code: str, failure: Failure, begins: str) -> None:
    box = opened(sandbox)
    call = run(box, code)
    assert call.error is not None
    assert call.error.startswith(begins)
    assert failure_of(call) is failure
    assert len(call.error) < 1000
    box.close()


def test_an_exception_says_where_and_what_was_printed(sandbox: Sandbox) -> None:
    box = opened(sandbox)
    error = run(box, "def f(x):\n    return 1 / x\nprint('so far')\nf(0)").error
    expected = (
        "exception: ZeroDivisionError: division by zero\n"
        "  line 4, in <module>\n    f(0)\n  line 2, in f\n    return 1 / x\nprinted before:\nso far"
    )
    assert error == expected
    assert run(box, "print(f.__name__)").result == "f"
    box.close()


def test_only_what_ran_has_a_failure(sandbox: Sandbox) -> None:
    box = opened(sandbox)
    assert failure_of(run(box, "1")) is None
    assert failure_of(box.call("python", {"program": "1"})) is None
    assert failure_of(box.call("python", {"code": "1"}, gate=lambda call: "no call is left")) is None
    box.close()


def test_files_are_there_and_come_back_after_a_restart(sandbox: Sandbox) -> None:
    box = opened(sandbox, files={"data/a.csv": "x\n1\n"})
    assert run(box, "open('data/a.csv').read()").result == "'x\\n1\\n'"
    assert run(box, "open('data/a.csv', 'w').write('mine')\nopen('data/a.csv').read()").result == "'mine'"
    assert run(box, "open('data/a.csv').read()").result == "'mine'"
    assert failure_of(run(box, "y = 1\nimport os\nos._exit(3)")) is Failure.EXITED
    assert run(box, "open('data/a.csv').read()").result == "'x\\n1\\n'"
    assert failure_of(run(box, "y")) is Failure.EXCEPTION
    box.close()


def test_a_fork_goes_on_alone(sandbox: Sandbox) -> None:
    box = opened(sandbox, files={"n": "7"}, seed=5)
    run(box, "import random\nx = [random.random()]\nopen('m', 'w').write('1')")
    twin = box.fork()
    assert run(twin, "x += [random.random(), open('n').read(), open('m').read()]\nprint(x)") == run(
        box, "x += [random.random(), open('n').read(), open('m').read()]\nprint(x)"
    )
    run(twin, "x.clear()\nopen('n', 'w').write('0')")
    assert run(box, "print(len(x), open('n').read())").result == "4 7"
    assert run(twin, "print(len(x), open('n').read())").result == "0 0"
    before = opened(sandbox, files={"n": "7"})
    early = before.fork()
    assert run(early, "open('n').read()").result == "'7'"
    for one in (box, twin, before, early):
        one.close()


def test_a_fork_after_a_restart_has_the_files(sandbox: Sandbox) -> None:
    box = opened(sandbox, files={"n": "7"})
    run(box, "open('n', 'w').write('8')\nimport os\nos._exit(0)")
    twin = box.fork()
    assert run(twin, "open('n').read()").result == run(box, "open('n').read()").result == "'7'"
    box.close()
    twin.close()


def test_what_reads_the_clock_is_not_forked(sandbox: Sandbox) -> None:
    box = opened(sandbox)
    run(box, "import time\nprint(time.time_ns())")
    with pytest.raises(ForkError, match="not deterministic"):
        box.fork()
    box.close()


def test_long_output_keeps_both_ends(sandbox: Sandbox) -> None:
    box = opened(sandbox, characters=200)
    result = run(box, "print('a' * 500 + 'end')").result
    assert result == f"{'a' * 150}\n[... 303 characters ...]\n{'a' * 47}end"
    assert "5001 bytes were written" in run(box, "print('b' * 5000)").result
    assert len(run(box, "print('b' * 5000)\n1/0").error or "") < 400
    box.close()
    assert cut("abc", 3) == "abc"


def test_text_of_killed_code_does_not_hang_on_time() -> None:
    error = PythonError(Failure.OUTPUT, message="killed: endless output")
    texts = set()
    for size in (1000, 1500):
        with pytest.raises(ToolError) as raised:
            result_text(Result("x" * size, error=error, limits=(Limit.OUTPUT,), lost=True, written=(size, 0)), 400)
        texts.add(str(raised.value))
    assert texts == {f"output: killed: endless output\n{RESTARTED}\nprinted before:\n{'x' * 100}"}


@pytest.mark.parametrize(
    ("code", "bare"),
    [
        ("x = 1", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("\n```py\nx = 1\ny = '```'\n```\n", "x = 1\ny = '```'"),
        ("```python", "```python"),
    ],
)
def test_fences_are_taken_off(code: str, bare: str) -> None:
    assert unfenced(code) == bare


def test_options_are_checked(sandbox: Sandbox) -> None:
    with pytest.raises(UsageError, match="characters must be at least 100, got 5"):
        python_tool(sandbox, characters=5)


def test_a_tool_can_be_attached_to_other_files(sandbox: Sandbox) -> None:
    for stateful in (True, False):
        known = python_tool(sandbox, stateful=stateful, name="calc", price=2.0)
        other = Runner(sandbox, {"f": "1"}, None, 500).attach(known)
        assert (other.name, other.price, other.schema) == ("calc", 2.0, known.schema)
        call = Toolbox([other]).open().call("calc", {"code": "open('f').read()"})
        assert (call.result, call.cost) == ("'1'", 2.0)


def test_one_sandbox_for_the_process() -> None:
    try:
        first = shared_sandbox("bubblewrap", limits=LIMITS)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    assert shared_sandbox("bubblewrap", limits=LIMITS) is first
    assert shared_sandbox("bubblewrap") is not first
    child = os.fork()
    if child == 0:  # pragma: no cover
        fresh = shared_sandbox("bubblewrap", limits=LIMITS)
        os._exit(0 if fresh is not first and fresh.run("6 * 7").value == "42" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_unsafe_runner_needs_both_words() -> None:
    with pytest.raises(SandboxUnavailable, match="unsafe_local=True"):
        shared_sandbox("unsafe-local", limits=LIMITS)
    with pytest.warns(RuntimeWarning, match="without a sandbox"):
        unsafe = shared_sandbox("unsafe-local", limits=LIMITS, unsafe_local=True)
    assert unsafe.run("6 * 7").value == "42"
    unsafe.close()
