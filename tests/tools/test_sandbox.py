"""Sandboxes: results, sessions, forks, many callers; attacks are in test_sandbox_attacks.py."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sandboxes import sandbox_or_skip

from agentgym.errors import ForkError, MissingExtra, SandboxUnavailable, UnknownName, UsageError, WorldFault
from agentgym.tools.python import Failure, Limit, Limits, PythonError, Result, open_sandbox
from agentgym.tools.python.cache import CachedSandbox
from agentgym.tools.python.local import UnsafeLocalSandbox
from agentgym.tools.python.sandbox import ProcessSandbox

LIMITS = Limits(wall=5, cpu=5, memory=96 << 20, processes=12, file_size=1 << 20, disk=2 << 20, output=1000)
KINDS = ("bubblewrap", "docker", "unsafe-local")


@pytest.fixture(scope="module", params=KINDS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[ProcessSandbox]:
    try:
        if request.param == "unsafe-local":
            with pytest.warns(RuntimeWarning, match="without a sandbox"):
                made = open_sandbox(request.param, limits=LIMITS, unsafe_local=True, worker_slots=80)
        else:
            made = open_sandbox(request.param, limits=LIMITS, worker_slots=80)
    except (SandboxUnavailable, MissingExtra) as error:
        pytest.skip(str(error))
    assert isinstance(made, ProcessSandbox)
    with made:
        yield made


@pytest.fixture
def bubblewrap() -> Iterator[ProcessSandbox]:
    made = sandbox_or_skip("bubblewrap", limits=LIMITS, parallel=2)
    with made:
        yield made


def test_output_and_value(sandbox) -> None:
    result = sandbox.run("import sys\nprint('out')\nprint('err', file=sys.stderr)\nx = 6\nx * 7")
    assert result == Result(stdout="out\n", stderr="err\n", value="42", written=(4, 4))
    assert result.seconds > 0
    assert result.cpu_seconds > 0


@pytest.mark.parametrize(
    ("code", "value"),
    [("", None), ("None", None), ("x = 1", None), ("'é'", "'é'"), ("def f(): return 1\nf()", "1"), ("1; 2", "2")],
)
def test_value_is_that_of_a_last_bare_expression(sandbox, code: str, value: str | None) -> None:
    result = sandbox.run(code)
    assert (result.value, result.error) == (value, None)


def test_exception_shows_the_codes_own_frames(sandbox) -> None:
    result = sandbox.run("def f(x):\n    return 1 / x\nf(0)")
    assert result.error == PythonError(
        Failure.EXCEPTION,
        "ZeroDivisionError",
        "division by zero",
        'Traceback (most recent call last):\n  File "<call 1>", line 3, in <module>\n'
        '  File "<call 1>", line 2, in f\n    return 1 / x\n           ~~^~~\nZeroDivisionError: division by zero\n',
    ) or result.error.traceback.endswith("ZeroDivisionError: division by zero\n")
    assert "agentgym" not in result.error.traceback
    assert "worker" not in result.error.traceback


@pytest.mark.parametrize(
    ("code", "kind", "name"),
    [
        ("1 +", Failure.EXCEPTION, "SyntaxError"),
        ("raise KeyboardInterrupt", Failure.EXCEPTION, "KeyboardInterrupt"),
        ("raise SystemExit(3)", Failure.EXCEPTION, "SystemExit"),
        ("x = bytearray(1 << 30)", Failure.MEMORY, "MemoryError"),
        ("import os; os._exit(0)", Failure.EXITED, ""),
        ("import os; os.abort()", Failure.EXITED, ""),
        ("def f(): f()\nf()", Failure.EXCEPTION, "RecursionError"),
        ("'\\0'\n\0", Failure.EXCEPTION, ""),
    ],
)
def test_failures_are_typed(sandbox, code: str, kind: Failure, name: str) -> None:
    error = sandbox.run(code).error
    assert error is not None
    assert error.kind is kind
    assert not name or error.name == name


def test_leaving_with_zero_is_no_error(sandbox) -> None:
    assert sandbox.run("print(1)\nraise SystemExit").error is None


def test_a_timeout_is_no_exception_and_keeps_what_was_printed() -> None:
    made = sandbox_or_skip("bubblewrap", limits=Limits(wall=0.3), parallel=1)
    with made:
        result = made.run("import time\nprint('so far')\ntime.sleep(9)")
    assert result.error == PythonError(Failure.TIMEOUT, message="killed after 0.3 s")
    assert result.limits == (Limit.WALL,)
    assert result.stdout == "so far\n"
    assert not result.lost  # a stateless call has nothing to lose


def test_stdin_and_files(sandbox) -> None:
    files = {"data/a.csv": "1,2\n", "b.bin": b"\xff\x00"}
    code = (
        "first = input()\nrest = sys.stdin.read()\nfirst, rest, open('data/a.csv').read(), open('b.bin', 'rb').read()"
    )
    code = "import sys\n" + code
    assert sandbox.run(code, stdin="één\ntwee\ndrie", files=files).value == (
        "('één', 'twee\\ndrie', '1,2\\n', b'\\xff\\x00')"
    )
    assert sandbox.run("open(0).read()", stdin="a\nb").value == "'a\\nb'"
    assert sandbox.run("import sys; sys.stdin.read()").value == "''"


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", ".", "a\0b"])
def test_file_names_that_leave_are_refused(sandbox, name: str) -> None:
    with pytest.raises(UsageError, match="relative to the working directory"):
        sandbox.run("1", files={name: "x"})


def test_inputs_larger_than_the_limits_are_refused(sandbox) -> None:
    big = "x" * (LIMITS.file_size + 1)
    with pytest.raises(UsageError, match=r"stdin has 1048577 bytes; Limits.file_size allows 1048576"):
        sandbox.run("1", stdin=big)
    with pytest.raises(UsageError, match=r"Limits.disk allows"):
        sandbox.run("1", files={str(i): "x" * LIMITS.file_size for i in range(3)})


def test_cut_output_is_stated(sandbox) -> None:
    result = sandbox.run("print('x' * 5000)\n'y' * 5000")
    assert result.stdout == "x" * 1000
    assert result.value == "'" + "y" * 999
    assert result.written == (5001, 0)
    assert result.limits == (Limit.OUTPUT,)
    assert "[output cut off; 5001 bytes were written]" in result.text()
    assert result.error is None


def test_limits_that_the_code_meets_are_named(sandbox) -> None:
    assert sandbox.run("open('f', 'wb').write(bytes(1 << 21))").limits == (Limit.FILE_SIZE,)
    if sandbox.kind != "unsafe-local":
        code = "for i in range(9):\n    open(str(i), 'wb').write(bytes(1 << 19))"
        assert sandbox.run(code).limits == (Limit.DISK,)


def test_stateless_calls_share_nothing(sandbox) -> None:
    assert sandbox.run("x = 1; open('f', 'w').write('1')").error is None
    assert sandbox.run("import os; ('x' in globals(), os.listdir())").value == "(False, [])"


@pytest.fixture(scope="module", params=["bubblewrap", "docker"])
def one_worker_slot(request: pytest.FixtureRequest) -> Iterator[ProcessSandbox]:
    """A sandbox whose stateless calls all happen in one worker slot, one after the other."""
    made = sandbox_or_skip(request.param, limits=replace(LIMITS, wall=60, cpu=0.3), parallel=1, worker_slots=2)
    with made:
        yield made


#: Counts where MARK stands in the interpreter's memory. It is only ever compared in halves, so as not to find itself;
#: write(2) refuses an address where a look of one's own would crash.
SCAN = """
import ctypes, os
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p
first, second = "fa6c81".encode(), "d30b97".encode()
reader, writer = os.pipe()
found = 0
for end in (libc.sbrk(0), id(object()) + (8 << 20)):
    for page in range((end - (16 << 20)) & -4096, end, 4096):
        if libc.write(writer, ctypes.c_void_p(page), 4096) != 4096:
            continue
        seen = os.read(reader, 4096)
        at = seen.find(first)
        while at >= 0:
            found += seen.startswith(second, at + 6)
            at = seen.find(first, at + 1)
found
"""
MARK = "fa6c81" + "d30b97"


def test_a_stateless_call_finds_nothing_of_the_last_one_in_its_memory(one_worker_slot) -> None:
    told = {"code": f"print('{MARK}'); x = '{MARK}'; open('{MARK}', 'w'); x", "stdin": MARK, "files": {"f": MARK}}
    with one_worker_slot.session() as session:
        session.run(**told)
        assert int(session.run(SCAN).value) > 0  # the search finds it where it is
    for _ in range(2):
        assert one_worker_slot.run(**told).value == repr(MARK)
        assert one_worker_slot.run(SCAN).value == "0"


def test_a_stateless_call_finds_no_process_file_or_spent_limit_of_the_last_one(one_worker_slot) -> None:
    leave = (
        "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        os.setsid()\n        time.sleep(60)\n"
        "while time.process_time() < 0.2: pass\nos.mkdir('d'); os.chmod('d', 0); os.chmod('.', 0o500)"
    )
    fill = "n = 0\ntry:\n    while True: n += open(str(n), 'wb', 0).write(bytes(1 << 16))\nexcept OSError: n >> 16"
    look = (
        "import os\ndef mine(pid):\n    try:\n        return os.kill(pid, 0) is None\n"
        "    except OSError:\n        return False\n"
        "others = [pid for pid in range(2, 20000) if pid != os.getpid() and mine(pid)]\n"
        "others, os.listdir(), oct(os.stat('.').st_mode)"
    )
    whole = one_worker_slot.run(fill + "\nn").value
    for _ in range(2):
        assert one_worker_slot.run(leave).error is None
        assert one_worker_slot.run(look).value == "([], [], '0o40700')"
        assert one_worker_slot.run(fill + "\nn").value == whole
    assert one_worker_slot.run("while True: pass").error.kind is Failure.CPU
    assert one_worker_slot.run(look).value == "([], [], '0o40700')"


def test_process_numbers_do_not_tell_of_earlier_calls(one_worker_slot) -> None:
    if one_worker_slot.kind != "bubblewrap":
        pytest.skip("one process namespace for all worker slots")
    code = (
        "import os\npids = [os.fork() for _ in range(5) if os.getpid() == 2]\npids if os.getpid() == 2 else os._exit(0)"
    )
    assert {one_worker_slot.run(code).value for _ in range(3)} == {"[3, 4, 5, 6, 7]"}


def test_a_session_keeps_variables_files_and_imports(sandbox) -> None:
    with sandbox.session() as session:
        assert session.run("import math\nx = 2").error is None
        assert session.run("open('f', 'w').write('hello')").value == "5"
        assert sandbox.run("math.factorial(x + 3), open('f').read()", session=session).value == "(120, 'hello')"
        assert session.run("undefined").error.name == "NameError"
        assert session.run("x").value == "2"


def test_a_lost_session_says_so_and_starts_empty(sandbox) -> None:
    with sandbox.session() as session:
        session.run("x = 1")
        result = session.run("import os; os._exit(1)")
        assert result.lost
        assert "variables and files are gone" in result.text()
        assert session.run("x").error.name == "NameError"


def test_fork_continues_like_the_original_and_shares_nothing(sandbox) -> None:
    calls = ["import random\nxs = [1]", "xs.append(random.random()); xs", "open('f', 'w').write(str(xs))", "len(xs)"]
    with sandbox.session(seed=5) as session:
        forks = []
        for code in calls:
            session.run(code)
            forks.append(session.fork())
        for turn, twin in enumerate(forks):  # an episode forked at every turn
            for code in calls[turn + 1 :]:
                twin.run(code)
            assert [call.result for call in twin.calls] == [call.result for call in session.calls]
        forks[-1].run("xs.clear(); open('f', 'w')")
        after = "xs, open('f').read(), random.random()"
        expected = session.run(after)
        assert expected.value is not None
        assert forks[0].run(after) == expected
        for twin in forks:
            twin.close()


def test_fork_refuses_what_cannot_be_replayed(sandbox) -> None:
    with sandbox.session() as session:
        session.run("import time")
        session.run("time.monotonic_ns()")
        with pytest.raises(ForkError, match="call 2 of 2 gave another result when it was replayed"):
            session.fork()
    with pytest.raises(ForkError, match="closed session"):
        session.fork()
    with pytest.raises(UsageError, match="session is closed"):
        session.run("1")


def test_string_hashes_are_the_same_in_every_worker_slot(sandbox) -> None:
    assert sandbox.run("hash('a'), list({'b', 'c', 'd'})") == sandbox.run("hash('a'), list({'b', 'c', 'd'})")


def test_64_sessions_call_at_once_and_lose_nothing(sandbox) -> None:
    sessions = [sandbox.session() for _ in range(64)]

    def play(number: int) -> list[str | None]:
        session = sessions[number]
        session.run(f"x = {number}")
        return [session.run("x += 1; sum(range(1000)); x").value for _ in range(3)] + [sandbox.run(f"{number}").value]

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(play, range(64)))
    assert answers == [[str(n + 1), str(n + 2), str(n + 3), str(n)] for n in range(64)]
    for session in sessions:
        session.close()


def test_too_many_sessions_are_refused_with_the_next_step() -> None:
    made = sandbox_or_skip("bubblewrap", limits=LIMITS, parallel=1, worker_slots=2)
    with made:
        held = [made.session() for _ in range(5)]
        for session in held[:3]:
            session.run("1")
        with pytest.raises(WorldFault, match="every worker slot of the sandbox is in use; close sessions"):
            held[3].run("1")
        for session in held:
            session.close()
        for _ in range(100):  # the worker slots come back as soon as they are cleared
            try:
                assert made.run("1").value == "1"
                break
            except WorldFault:
                time.sleep(0.02)
        else:
            pytest.fail("the worker slots of closed sessions were not given back")


def test_a_dead_process_is_started_again(bubblewrap) -> None:
    session = bubblewrap.session()
    session.run("x = 1")
    bubblewrap.process()._transport._process.send_signal(signal.SIGKILL)
    assert session.run("x += 1; x").value == "2"  # its calls were played again
    assert bubblewrap.run("1").value == "1"
    assert session.run("x").value == "2"


@pytest.mark.parametrize("kind", ["bubblewrap", "docker"])
def test_nothing_remains_when_the_host_process_is_killed(kind: str) -> None:
    try:
        open_sandbox(kind, limits=LIMITS, parallel=1, worker_slots=4).close()
    except (SandboxUnavailable, MissingExtra) as error:
        pytest.skip(str(error))
    code = (
        "import os, time\nfrom agentgym.tools.python import open_sandbox\n"
        f"s = open_sandbox({kind!r}, parallel=1, worker_slots=4)\nt = s.process()._transport\n"
        "print(t._container.id if hasattr(t, '_container') else t._process.pid, flush=True)\n"
        "s.session().run('import time; time.sleep(60)')"
    )
    root = Path(__file__).parent.parent.parent
    host = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root, text=True)
    assert host.stdout is not None
    name = host.stdout.readline().strip()
    time.sleep(0.3)
    host.kill()
    host.wait()
    host.stdout.close()
    end = time.monotonic() + 15
    while _exists(kind, name) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _exists(kind, name)


def _exists(kind: str, name: str) -> bool:
    if kind == "bubblewrap":
        return Path(f"/proc/{name}").exists()
    listed = subprocess.run(["docker", "ps", "-aq", "--no-trunc"], capture_output=True, text=True, check=True)
    return name in listed.stdout


def test_without_bubblewrap_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SandboxUnavailable, match="bubblewrap is not installed; run: apt-get install bubblewrap"):
        open_sandbox("bubblewrap")


def test_without_an_engine_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("docker")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    with pytest.raises(SandboxUnavailable, match="no Docker engine answers; install one"):
        open_sandbox("docker")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        SandboxUnavailable, match=r"no sandbox for Python code here; bubblewrap: .*; docker: "
    ) as caught:
        open_sandbox()
    assert "\n" not in str(caught.value)


def test_without_the_image_it_says_how_to_build_it() -> None:
    try:
        open_sandbox("docker", limits=LIMITS, parallel=1, worker_slots=1).close()
    except (SandboxUnavailable, MissingExtra) as error:
        pytest.skip(str(error))
    with pytest.raises(SandboxUnavailable, match=r"image 'agentgym-none' is missing; build one"):
        open_sandbox("docker", image="agentgym-none")


def test_the_unsafe_runner_needs_its_switch_and_warns() -> None:
    with pytest.raises(SandboxUnavailable, match="--unsafe-local-python"):
        open_sandbox("unsafe-local")
    with pytest.raises(SandboxUnavailable):
        UnsafeLocalSandbox(unsafe_local=1)  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="did you mean 'bubblewrap'"):
        open_sandbox("bubblewarp")


@pytest.mark.parametrize(
    "bad", [{"wall": 0}, {"cpu": float("inf")}, {"memory": 1000}, {"processes": -1}, {"wall": float("nan")}]
)
def test_limits_are_finite_and_positive(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="a limit is a finite number"):
        Limits(**bad)  # type: ignore[arg-type]


def test_an_interpreter_that_does_not_run_is_named() -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    with pytest.raises(SandboxUnavailable, match=r"'/nonexistent' does not run: .*; name another by python="):
        open_sandbox("bubblewrap", python="/nonexistent")


def test_packages_can_be_imported() -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    with tempfile.TemporaryDirectory() as folder:  # not pytest's own: the sandbox's user may not enter that
        Path(folder).chmod(0o755)
        (Path(folder) / "gift.py").write_text("answer = 42")
        with open_sandbox("bubblewrap", limits=LIMITS, packages=[folder], parallel=1) as made:
            assert made.run("import gift; gift.answer").value == "42"
            assert made.run("open('/packages/0/x', 'w')").error.name == "OSError"


class Counting:
    """A sandbox that counts how often it was really asked."""

    kind, limits, fingerprint = "counting", Limits(), "0"

    def __init__(self) -> None:
        self.asked = 0

    def run(self, code: str, **_: object) -> Result:
        self.asked += 1
        error = PythonError(Failure.TIMEOUT) if "slow" in code else None
        return Result(stdout=str(self.asked), error=error, limits=(Limit.OUTPUT,) if "long" in code else ())


def test_cache_answers_equal_calls_and_never_keeps_a_failure() -> None:
    inner = Counting()
    cached = CachedSandbox(inner, 2)  # type: ignore[arg-type]
    assert [cached.run("a").stdout, cached.run("a").stdout] == ["1", "1"]
    assert cached.run("a", stdin="x").stdout == "2"
    assert cached.run("a", files={"f": "1"}).stdout == "3"  # drops the oldest, the plain "a"
    assert cached.run("a").stdout == "4"
    assert [cached.run("slow").stdout, cached.run("slow").stdout] == ["5", "6"]
    assert [cached.run("long").stdout, cached.run("long").stdout] == ["7", "8"]
    assert (cached.hits, inner.asked) == (1, 8)


def test_a_waiting_caller_is_freed_when_the_sandbox_closes(bubblewrap) -> None:
    outcome: list[BaseException | Result] = []

    def call() -> None:
        try:
            outcome.append(bubblewrap.run("import time; time.sleep(4)"))
        except WorldFault as error:
            outcome.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.2)
    bubblewrap.close()
    thread.join(10)
    assert not thread.is_alive()
    assert len(outcome) == 1
    assert isinstance(outcome[0], WorldFault)
    assert os.getpid() > 0
