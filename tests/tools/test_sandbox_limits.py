"""Limits that hold in more than one process or call: children nobody waits for, what wakes between calls, clearing."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sandboxes import sandbox_or_skip

from agentgym.envs.code.judge import passed
from agentgym.tools.python import Failure, Limit, Limits, PythonError, Result, bubblewrap, cgroups, open_sandbox
from agentgym.tools.python.inside import confine, usage
from agentgym.tools.python.sandbox import ProcessSandbox

MIB = 1 << 20
LIMITS = Limits(
    wall=60, cpu=0.6, memory=96 * MIB, processes=12, file_size=16 * MIB, disk=32 * MIB, output=4096, open_files=64
)


@pytest.fixture(scope="module", params=["bubblewrap", "bubblewrap without control groups", "docker"])
def one_worker_slot(request: pytest.FixtureRequest) -> Iterator[ProcessSandbox]:
    """A sandbox whose stateless calls all happen in one worker slot, one after the other."""
    kind, _, without = request.param.partition(" ")
    options = {"cgroups": False} if without else {}
    made = sandbox_or_skip(kind, limits=LIMITS, parallel=1, worker_slots=2, **options)
    with made:
        yield made


@pytest.fixture
def unprotected() -> Iterator[ProcessSandbox]:
    with pytest.warns(RuntimeWarning, match="without a sandbox"):
        made = open_sandbox("unsafe-local", limits=LIMITS, unsafe_local=True, parallel=1, worker_slots=2)
    assert isinstance(made, ProcessSandbox)
    with made:
        yield made


#: Children that use EACH CPU seconds, until they used MOST together.
CHILDREN = """
import os, signal, time
if HIDDEN: signal.signal(signal.SIGCHLD, signal.SIG_IGN)
reader, writer = os.pipe()
total = 0
while total < MOST:
    crowd = [os.fork() for _ in range(3)]
    if 0 in crowd:
        while time.process_time() < EACH: pass
        os.write(writer, b'%10d' % (time.process_time() * 1e6))
        os._exit(0)
    total += sum(int(os.read(reader, 10)) for _ in crowd) / 1e6
    if not HIDDEN: [os.waitpid(pid, 0) for pid in crowd]
"""
# A child inherits a list with zeros for those forked after it.
CHILDREN = CHILDREN.replace(
    "crowd = [os.fork() for _ in range(3)]",
    "crowd = []\n    while len(crowd) < 3 and 0 not in crowd: crowd.append(os.fork())",
)


def children(*, hidden: bool, each: float, most: float) -> str:
    return f"HIDDEN, EACH, MOST = {hidden}, {each}, {most}\n{CHILDREN}"


@pytest.mark.parametrize("each", [0.1, 0.005])
def test_children_that_nobody_waits_for_use_the_calls_cpu_time(one_worker_slot: ProcessSandbox, each: float) -> None:
    result = one_worker_slot.run(children(hidden=True, each=each, most=6))
    assert result.error == PythonError(Failure.CPU, message="killed after 0.6 CPU s")


def test_children_that_were_waited_for_count_once(one_worker_slot: ProcessSandbox) -> None:
    look = "\ntime.sleep(0.3)"  # the monitor counts once more
    result = one_worker_slot.run(children(hidden=False, each=0.1, most=0.29) + look)
    assert result.error is None
    assert 0.29 <= result.cpu_seconds < 0.6


#: The worker makes itself unreadable to the monitor: its program may be run, not read.
UNREADABLE = """
import os, shutil, sys
shutil.copy(os.path.realpath('/proc/self/exe') if os.path.exists('/proc/self/exe') else sys.executable, 'python')
os.chmod('python', 0o111)
code = "import time; held = bytearray(40 << 20); time.sleep(60)"
pids = [os.spawnve(os.P_NOWAIT, './python', ['python', '-SEc', code], {'PYTHONHOME': sys.prefix}) for _ in range(6)]
os.wait()
"""


def test_memory_of_unreadable_processes_counts(one_worker_slot: ProcessSandbox) -> None:
    if one_worker_slot.kind == "docker":
        pytest.skip("no file of its own can be run there")
    result = one_worker_slot.run(UNREADABLE)
    assert result.error is not None
    assert (result.error.kind, result.limits) == (Failure.MEMORY, (Limit.MEMORY,))
    assert passed(one_worker_slot, UNREADABLE, [["", ""]]) == 0


def test_the_memory_of_a_process_that_cannot_be_looked_into_is_all_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    read_at = confine.read_at

    def refused(folder: int, name: str) -> bytes:
        if name.endswith("smaps_rollup"):
            raise PermissionError
        return read_at(folder, name)

    monkeypatch.setattr(confine, "read_at", refused)
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        processes = usage.Processes(confine.Isolation("unsafe", 0, "/", {}), proc, os.getpid())
        assert processes._proportional(os.getpid()) > 10 * MIB
    finally:
        os.close(proc)


PAGE_TABLES = """
import mmap, os, time
any(os.fork() == 0 for _ in range(10))
span, held = 1 << 30, []
while span >= 2 << 20:
    try:
        area = mmap.mmap(-1, span, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    except (OSError, MemoryError):
        span //= 2
        continue
    held.append(area)
    for at in range(0, span, 2 << 20):
        area[at]
time.sleep(60)
"""


def test_page_tables_count_as_memory(one_worker_slot: ProcessSandbox) -> None:
    result = one_worker_slot.run(PAGE_TABLES)
    assert result.error is not None
    assert (result.error.kind, result.limits) == (Failure.MEMORY, (Limit.MEMORY,))


def test_addresses_signals_and_crashes_are_limited(one_worker_slot: ProcessSandbox) -> None:
    code = "import resource as r\n[r.getrlimit(w) for w in (r.RLIMIT_AS, r.RLIMIT_SIGPENDING, r.RLIMIT_CORE)]"
    space = 4 * 96 * MIB + (4 << 30)
    assert one_worker_slot.run(code).value == f"[({space}, {space}), (1024, 1024), (1, 1)]"


#: Children that fill memory once they are awake after this call.
CROWD = """
import os, time
begun, pids = time.monotonic(), []
while len(pids) < 4 and 0 not in pids:
    pids.append(os.fork())
if 0 in pids:
    time.sleep(max(0, begun + 1 - time.monotonic()))
    held = bytearray(60 << 20)
    while True:
        time.sleep(.01)
print(*pids)
"""


def test_limits_hold_between_calls(unprotected: ProcessSandbox) -> None:
    with unprotected.session() as session:
        pids = [int(word) for word in session.run(CROWD).stdout.split()]
        assert len(pids) == 4
        end = time.monotonic() + 20
        while time.monotonic() < end and Path(f"/proc/{pids[0]}").exists():  # nothing in a sandbox can do this
            with contextlib.suppress(ProcessLookupError):
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
            time.sleep(0.001)
        result = session.run("1")
        error = PythonError(Failure.MEMORY, message=f"killed: more than {LIMITS.memory} bytes of memory")
        assert result == Result(error=error, limits=(Limit.MEMORY,), lost=True)
        assert result.seconds == 0.0  # it was killed before this call
        assert session.run("2").value == "2"


def test_what_wakes_between_calls_is_stopped_again(unprotected: ProcessSandbox) -> None:
    with unprotected.session() as session:
        pid = int(session.run("import os\nos.getpid()").value or 0)
        for _ in range(3):
            os.kill(pid, signal.SIGCONT)
            end = time.monotonic() + 20
            while (state := _state(pid)) != "T" and time.monotonic() < end:
                time.sleep(0.01)
            assert state == "T"
        assert session.run("1").value == "1"


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


SPOIL = "import os\nos.makedirs('a/b')\nhere = os.getcwd()\nos.chdir('/')\nos.rename(here, here + '-elsewhere')"


def test_a_worker_slot_that_cannot_be_cleared_is_not_used_again(unprotected: ProcessSandbox) -> None:
    process = unprotected.process()
    for number in range(2):  # of three
        assert unprotected.run(SPOIL).error is None
        assert unprotected.run("import os\nos.listdir('.')").value == "[]", number
    assert unprotected.process() is process
    for _ in range(20):  # a call that met a spoiled worker slot was repeated elsewhere, and spoiled none here
        if unprotected.process() is not process:
            return  # all were spoiled: another sandbox process
        assert unprotected.run(SPOIL).error is None
        assert unprotected.run("import os\nos.listdir('.')").value == "[]"
    pytest.fail("spoiled worker slots are used again")


def test_a_call_waits_for_the_last_worker_slot_that_is_left() -> None:
    with pytest.warns(RuntimeWarning, match="without a sandbox"):
        made = open_sandbox("unsafe-local", limits=LIMITS, unsafe_local=True, parallel=2, worker_slots=1)
    assert isinstance(made, ProcessSandbox)
    with made, ThreadPoolExecutor(1) as pool:
        process = made.process()
        for _ in range(2):  # of three
            assert made.run(SPOIL).error is None
            assert made.run("1").value == "1"
        long = pool.submit(made.run, "import time\ntime.sleep(1)\n1")
        time.sleep(0.3)
        assert made.run("2").value == "2"
        assert long.result().value == "1"
        assert made.process() is process


NAMES = """
import os
for n in range(1, 12000):
    open(f'.{n}-0', 'w').close()
os.makedirs('a/b/c/d')
"""


def test_file_names_do_not_keep_a_worker_slot_from_being_cleared(one_worker_slot: ProcessSandbox) -> None:
    process = one_worker_slot.process()
    for _ in range(4):  # more often than there are worker slots
        assert one_worker_slot.run(NAMES).error is None
        assert one_worker_slot.run("import os\nos.listdir('.')").value == "[]"
    assert one_worker_slot.process() is process


FULL = """
import os
try:
    while True:
        os.mkdir('d')
        os.chdir('d')
except OSError as error:
    print(error.strerror)
"""


def test_a_folder_without_a_free_inode_is_cleared(one_worker_slot: ProcessSandbox) -> None:
    assert one_worker_slot.run(FULL).stdout == "No space left on device\n"
    assert one_worker_slot.run("import os\nos.listdir('.')").value == "[]"


#: Fills the buffers of as many sockets and pipes as its processes may open, and keeps them.
BUFFERS = """
import os, socket
if any(os.fork() == 0 for _ in range(CHILDREN)):
    import time
    held = []
    try:
        while True:
            pair = socket.socketpair()
            held.append(pair)
            for end in pair:
                end.setblocking(False)
                try:
                    while end.send(bytes(1 << 15)):
                        pass
                except BlockingIOError:
                    pass
    except OSError:
        time.sleep(600)
import time; time.sleep(3)
"""


def test_full_buffers_of_sockets_count_as_memory(one_worker_slot: ProcessSandbox) -> None:
    result = one_worker_slot.run(BUFFERS.replace("CHILDREN", "10"))
    assert result.error is not None
    assert (result.error.kind, result.limits) == (Failure.MEMORY, (Limit.MEMORY,))


def test_sessions_that_hoard_buffers_fall_before_a_bystander_and_before_the_supervisor() -> None:
    made = sandbox_or_skip("docker", limits=LIMITS, parallel=1, worker_slots=12)
    with made, made.session() as bystander:
        process = made.process()
        assert bystander.run("state = 7").error is None
        for session in [made.session() for _ in range(10)]:  # together more than the container may have
            session.run(BUFFERS.replace("CHILDREN", "4"))
            time.sleep(0.1)
        assert made.process() is process
        assert bystander.run("state").value == "7"


def test_a_session_at_rest_falls_before_the_supervisor_whatever_it_did_to_its_score() -> None:
    made = sandbox_or_skip("docker", limits=LIMITS, parallel=1, worker_slots=1)
    if os.geteuid() != 0:
        pytest.skip("only root can lower a score")
    with made, made.session() as session:
        session.run("import os, time\nif os.fork() == 0: time.sleep(60)")
        top = made.process()._transport._container.top()  # type: ignore[attr-defined]
        pid = top["Titles"].index("PID")
        scores = [Path(f"/proc/{row[pid]}/oom_score_adj") for row in top["Processes"]]
        assert {int(score.read_text()) for score in scores} == {0, 500}
        workers = [score for score in scores if int(score.read_text()) == 500]
        for score in workers:
            score.write_text("0")
        session.run("1")
        end = time.monotonic() + 20
        while sum(int(score.read_text()) == 500 for score in workers) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert sum(int(score.read_text()) == 500 for score in workers) == 2


def test_code_cannot_reach_its_score() -> None:
    made = sandbox_or_skip("docker", limits=LIMITS, parallel=1, worker_slots=1)
    with made:
        error = made.run("open('/proc/self/oom_score_adj', 'w')").error
        assert error is not None
        assert error.name == "PermissionError"


def test_every_worker_slot_has_namespaces_of_its_own() -> None:
    made = sandbox_or_skip("bubblewrap", limits=LIMITS, parallel=1, worker_slots=4)
    sessions = [made.session() for _ in range(3)]
    with made:
        for session in sessions:
            assert session.run("1").value == "1"
        seen = [_namespaces(pid) for pid in _below(made.process()._transport._process.pid)]  # type: ignore[attr-defined]
    for kind in ("net", "ipc", "mnt"):
        pairs = {(spaces["user"], spaces[kind]) for spaces in seen if spaces}
        users = {user for user, _ in pairs}
        assert len(users) >= 4
        assert len(pairs) == len(users) == len({space for _, space in pairs})


def _namespaces(pid: int) -> dict[str, str]:
    try:
        return {kind: str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("user", "net", "ipc", "mnt")}
    except PermissionError:  # only root may look into all of them
        return {}


def _below(pid: int) -> list[int]:
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid, *(inner for child in children for inner in _below(child))]


#: The first thread of each process ends; /proc then tells nothing of the others under its number.
HEADLESS = """
import ctypes, os, threading, time
any(os.fork() == 0 for _ in range(5))
threading.Thread(target=lambda: time.sleep(1) or (held := bytearray(40 << 20)) and time.sleep(60)).start()
ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)
"""


def test_memory_of_processes_whose_first_thread_ended_counts(one_worker_slot: ProcessSandbox) -> None:
    result = one_worker_slot.run(HEADLESS)
    assert result.error is not None
    assert (result.error.kind, Limit.MEMORY in result.limits) == (Failure.MEMORY, True)


@pytest.fixture(params=[1, 2])
def grouped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessSandbox]:
    """A sandbox with control groups of either version of the kernel's interface."""

    def make(owner: int | None) -> cgroups.Groups | None:
        return cgroups.make_groups(owner, version=request.param)

    monkeypatch.setattr(bubblewrap, "make_groups", make)
    made = sandbox_or_skip("bubblewrap", limits=LIMITS, parallel=1, worker_slots=1)
    with made:
        if _groups(made) is None:
            pytest.skip(f"no control group of version {request.param} can be made here")
        yield made


def _groups(sandbox: ProcessSandbox) -> cgroups.Groups | None:
    groups: cgroups.Groups | None = sandbox.process()._transport._groups  # type: ignore[attr-defined]
    return groups


def test_a_control_group_holds_the_worker_and_not_its_monitor_and_counts_its_cpu_time(grouped: ProcessSandbox) -> None:
    groups = _groups(grouped)
    assert groups is not None
    with grouped.session() as session:
        assert session.run("1").value == "1"
        held = [
            file.read_text().split()
            for file in groups.folders["cpu"].glob("*/cgroup.procs")
            if file.parent.name != "start"
        ]
        assert sorted(map(len, held))[-1] == 2  # fork server and worker
        result = session.run(children(hidden=True, each=0.05, most=0.14))
        assert result.error is None
        assert result.cpu_seconds >= 0.14
    folders = groups.folders.values()
    grouped.close()
    assert not any(folder.exists() for folder in folders)


def test_the_kernels_own_limit_on_memory_is_told_as_that(grouped: ProcessSandbox) -> None:
    groups = _groups(grouped)
    assert groups is not None
    if "memory" not in groups.folders:
        pytest.skip("control groups count no memory here")
    name = {1: "memory.limit_in_bytes", 2: "memory.max"}[groups.version]
    with grouped.session() as session:
        session.run("1")
        files = list(groups.folders["memory"].glob(f"*/{name}"))
        assert {int(file.read_text()) for file in files} == {LIMITS.memory + LIMITS.disk + 16 * MIB}
        for file in files:
            file.write_text(str(40 * MIB))
        result = session.run("held = bytearray(80 << 20)")
        assert result == Result(
            error=PythonError(Failure.MEMORY, message=f"killed: more than {LIMITS.memory} bytes of memory"),
            limits=(Limit.MEMORY,),
            lost=True,
        )


def test_groups_that_a_killed_process_left_are_removed(tmp_path: Path) -> None:
    old = tmp_path / "agentgym-999999999-abcd"
    (old / "0").mkdir(parents=True)
    mine = tmp_path / f"agentgym-{os.getpid()}-abcd"
    mine.mkdir()
    other = tmp_path / "agentgym-benchmark-abcd"
    other.mkdir()
    assert cgroups._made(tmp_path, "agentgym-1-new").is_dir()
    assert not old.exists()
    assert mine.exists()
    assert other.exists()


def test_without_a_place_for_control_groups_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> Path:
        raise PermissionError

    monkeypatch.setattr(cgroups, "_made", refused)
    assert cgroups.make_groups(None) is None
    made = sandbox_or_skip("bubblewrap", limits=LIMITS, parallel=1, worker_slots=1)
    with made:
        assert _groups(made) is None
        assert made.run("1").value == "1"


def test_code_cannot_wake_others_through_a_library_that_all_read() -> None:
    made = sandbox_or_skip("docker", limits=LIMITS, parallel=1, worker_slots=1)
    code = (
        "import ctypes, errno, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "number = 202 if os.uname().machine == 'x86_64' else 98\n"
        "page = ctypes.c_void_p(ctypes.cast(libc.qsort, ctypes.c_void_p).value & ~3)\n"
        "[libc.syscall(number, page, how, 1, None, None, 0) for how in (1, 129)], ctypes.get_errno() == errno.EPERM"
    )
    with made:
        assert made.run(code).value == "([-1, 0], True)"
