"""What ordinary programs need of the system works in the sandboxes, whose list of system calls is short."""

# ruff: noqa: E501, ISC004
from __future__ import annotations

from collections.abc import Iterator

import pytest
from sandboxes import sandbox_or_skip

from agentgym.tools.python import Limits, Sandbox

PROGRAMS = {
    "asyncio with a subprocess and a thread": (
        "import asyncio, sys\nasync def main():\n"
        "    child = await asyncio.create_subprocess_exec(sys.executable, '-c', 'print(3)', stdout=-1)\n"
        "    out, _ = await child.communicate()\n    await asyncio.sleep(.001)\n"
        "    return out, await asyncio.to_thread(lambda: 5)\nasyncio.run(main())",
        r"(b'3\n', 5)",
    ),
    "a subprocess": (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'print(input())'], input='hi', capture_output=True, text=True).stdout",
        r"'hi\n'",
    ),
    "a pool of threads": (
        "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as pool: found = [*pool.map(abs, [-1])]\nfound",
        "[1]",
    ),
    "SQLite in a file": (
        "import sqlite3\none = sqlite3.connect('x.db')\none.execute('create table t(a)')\none.execute('insert into t values (1)')\n"
        "one.commit()\ntwo = sqlite3.connect('x.db')\ntwo.execute('pragma journal_mode=wal')\nlist(two.execute('select * from t'))",
        "[(1,)]",
    ),
    "files": (
        "import os, pathlib, shutil, tempfile\nhere = tempfile.mkdtemp()\npathlib.Path(here, 'a').write_text('x')\n"
        "shutil.copy2(here + '/a', here + '/b')\nshutil.make_archive('z', 'zip', here)\nshutil.copytree(here, 'c')\n"
        "shutil.rmtree(here)\nos.mkfifo('pipe')\nsorted(os.listdir('.'))",
        "['c', 'pipe', 'z.zip']",
    ),
    "alarms": (
        "import signal, time\nhits = []\nsignal.signal(signal.SIGALRM, lambda *_: hits.append(1))\n"
        "signal.setitimer(signal.ITIMER_REAL, .01)\nwhile not hits: time.sleep(.01)\nhits",
        "[1]",
    ),
    "a pair of sockets": (
        "import selectors, socket\none, two = socket.socketpair()\none.send(b'x')\nchoice = selectors.DefaultSelector()\n"
        "choice.register(two, 1)\nlen(choice.select(1)), two.recv(1), one.family.name, one.type.name",
        "(1, b'x', 'AF_UNIX', 'SOCK_STREAM')",
    ),
    "a lock on a file": ("import fcntl\nf = open('l', 'w')\nfcntl.lockf(f, fcntl.LOCK_EX)\nfcntl.lockf(f, fcntl.LOCK_UN)", None),
    "what the machine is": (
        "import os, platform, shutil, uuid\nos.cpu_count() > 0, platform.machine() != '', shutil.disk_usage('.').total > 0, "
        "len(uuid.uuid4().hex), len(os.sched_getaffinity(0)) > 0",
        "(True, True, True, 32, True)",
    ),
}  # fmt: skip
LOCKS = (
    "import multiprocessing\nkind = multiprocessing.get_context('fork')\nwith kind.Pool(2) as pool: found = pool.map(abs, [-1, -2])\n"
    "queue = kind.Queue()\nchild = kind.Process(target=queue.put, args=(7,))\nchild.start()\nlast = queue.get()\nchild.join()\nfound, last"
)


@pytest.fixture(scope="module", params=["bubblewrap", "docker"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    limits = Limits(wall=60, cpu=20, memory=256 << 20, processes=32, file_size=8 << 20, disk=32 << 20)
    made = sandbox_or_skip(request.param, limits=limits, parallel=1)
    yield made
    made.close()


@pytest.mark.parametrize("name", PROGRAMS)
def test_ordinary_programs_run(sandbox: Sandbox, name: str) -> None:
    code, value = PROGRAMS[name]
    result = sandbox.run(code)
    assert (result.value, result.error) == (value, None)


def test_processes_share_locks_in_bubblewrap(sandbox: Sandbox) -> None:
    if sandbox.kind == "docker":
        pytest.skip("there is no /dev/shm")
    result = sandbox.run(LOCKS)
    assert (result.value, result.error) == ("([1, 2], 7)", None)
