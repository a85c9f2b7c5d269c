"""Attacks on the sandboxes for model-written Python, and the table in ``docs/security.md`` that says how each ended.

    python benchmarks/attacks.py            run all, rewrite the table
    python benchmarks/attacks.py docker     one sandbox, print only

``tests/tools/test_sandbox_attacks.py`` runs the same list. An attack is contained when its check passes, its limit was
met within 1.5 times its value, a bystander's session is unharmed, and no process or file of it is left.
"""

# ruff: noqa: E501, PT018, PTH208
from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from agentgym.errors import SandboxUnavailable
from agentgym.tools.python import Failure, Limit, Limits, Result, open_sandbox
from agentgym.tools.python.sandbox import ProcessSandbox

MIB = 1024 * 1024
LIMITS = Limits(
    wall=1.5, cpu=1.0, memory=96 * MIB, processes=12, file_size=4 * MIB, disk=8 * MIB, output=4096, open_files=64
)
SLACK = 1.5
WORKER_SLOTS = 4  #: few, so that an attack that spoils one is noticed
DOCUMENT = Path(__file__).parent.parent / "docs" / "security.md"
BEGIN, END = "<!-- attacks: made by benchmarks/attacks.py -->", "<!-- end of attacks -->"


@dataclass(frozen=True)
class Attack:
    """One hostile program.

    Attributes:
        name: what it tries.
        code: the program; ``{secret}`` is a file of the host with a secret in it, ``{project}`` this project's folder,
            ``{port}`` a listening port of the host.
        check: says in words how it was contained, or raises AssertionError.
        then: a second call in the same session, whose result is what ``check`` sees.
        accomplice: a program of another session, run before ``then``.
    """

    name: str
    code: str
    check: Callable[[Result], str]
    then: str = ""
    accomplice: str = ""


def stopped(*kinds: Failure, limits: tuple[Limit, ...] = ()) -> Callable[[Result], str]:
    """Killed (or refused) for one of these reasons, in time."""

    def check(result: Result) -> str:
        assert result.error is not None and result.error.kind in kinds, result
        assert set(limits) <= set(result.limits), result
        assert result.seconds <= SLACK * LIMITS.wall, result.seconds
        assert result.cpu_seconds <= SLACK * LIMITS.cpu, result.cpu_seconds
        assert result.memory <= SLACK * LIMITS.memory, result.memory
        assert len(result.stdout) <= LIMITS.output, len(result.stdout)
        used = {
            Failure.TIMEOUT: f"stopped after {result.seconds / LIMITS.wall:.2f} × the wall limit",
            Failure.CPU: f"stopped after {result.cpu_seconds / LIMITS.cpu:.2f} × the CPU limit",
            Failure.MEMORY: f"stopped at {result.memory / LIMITS.memory:.2f} × the memory limit"
            if result.memory
            else "MemoryError",
            Failure.OUTPUT: f"stopped; {len(result.stdout)} bytes kept",
            Failure.EXITED: result.error.message,
            Failure.EXCEPTION: str(result.error),
        }
        return used[result.error.kind]

    return check


def printed(expected: str, words: str) -> Callable[[Result], str]:
    """Ran to its end and printed exactly this."""

    def check(result: Result) -> str:
        assert result.error is None, result
        assert result.stdout == expected, result.stdout
        return words

    return check


def at_most(limit: float, unit: str, per: int = 1) -> Callable[[Result], str]:
    """The value is a number that met its limit and passed it by no more than the slack."""

    def check(result: Result) -> str:
        assert result.error is None and result.value is not None, result
        reached = float(result.value)
        assert 0 < reached <= SLACK * limit, f"{reached} of {limit}"
        return f"refused at {reached / limit:.2f} × the limit of {limit / per:g} {unit}"

    return check


def at_most_printed(limit: float, what: str) -> Callable[[Result], str]:
    """However it ended: the last number that it printed passed this limit by no more than the slack."""

    def check(result: Result) -> str:
        numbers = result.stdout.split()
        reached = float(numbers[-1]) if numbers else 0.0
        assert reached <= SLACK * limit, f"{reached} of {limit}: {result}"
        end = "stopped" if result.error is not None else "ended"
        return f"{end} at {reached / limit:.2f} × {what}"

    return check


def deceived_itself(result: Result) -> str:
    """Code may lie about itself (its output is its own anyway), or be stopped; nothing else."""
    forged = result.error is None and result.value == "forged"
    assert forged or (result.error and result.error.kind in (Failure.TIMEOUT, Failure.EXITED)), result
    assert not {Limit.WALL, Limit.CPU} & set(result.limits) or not forged, result
    return "code can lie about its own value only"


#: ``attempt`` calls a function and prints how the system refused it, or OPEN where it did not.
ATTEMPT = """
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(function, *arguments):
    try:
        result = function(*arguments)
    except OSError:
        return
    if result == -1:
        return
    print("OPEN", getattr(function, "__name__", function), arguments)
"""

#: A datagram socket with an abstract name; the pair that it came from is dissolved by connecting to nothing.
SHARED_SOCKET = """
import ctypes, socket
def shared(name=b'agentgym-attack-1'):
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(one.fileno(), bytes(16), 16):
        raise OSError
    one.bind(b'\\0' + name)
    one.setblocking(False)
    return one
"""

#: Everything that might send SIGCONT to a process that is stopped.
WAKER = """
import ctypes, fcntl, os, signal, struct, threading, time
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGCONT, lambda *_: None)
def awake():
    event = struct.pack('qii48x', 0, signal.SIGCONT, 0)
    timer = ctypes.c_int()
    make, arm = (222, 223) if os.uname().machine == 'x86_64' else (107, 110)
    if libc.syscall(make, 1, event, ctypes.byref(timer)) == 0:
        libc.syscall(arm, timer, 0, struct.pack('4q', 0, 2_000_000, 0, 2_000_000), None)
    try:
        reader, sender = os.pipe()
        fcntl.fcntl(reader, 10, signal.SIGCONT)
        fcntl.fcntl(reader, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    except OSError:
        pass
    libc.prctl(1, signal.SIGCONT, 0, 0, 0)
"""

#: Eleven processes that read pages far apart: each costs a page of its page table, and nothing else. Prints their sum.
PAGE_TABLES = """
import mmap, os, select
r, w = os.pipe()
child = any(os.fork() == 0 for _ in range(10))
span, held, total = 1 << 30, [], 0
while span >= 2 << 20:
    try:
        area = mmap.mmap(-1, span, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    except (OSError, MemoryError):
        span //= 2
        continue
    held.append(area)
    for at in range(0, span, 2 << 20):
        area[at]
    os.write(w, b'%20d' % (span >> 9))
    while not child and select.select([r], [], [], 0)[0]:
        total += int(os.read(r, 20))
        print(total, flush=True)
    if len(held) > 400:
        break
while not child:
    total += int(os.read(r, 20))
    print(total, flush=True)
import time; time.sleep(60)
"""

#: Fills the buffers of as many sockets and pipes as its processes may open; prints the bytes in them.
BUFFERS = """
import os, socket, time
r, w = os.pipe()
def fill():
    kept, total = [], 0
    try:
        while True:
            pair = socket.socketpair()
            kept.append(pair)
            for end in pair:
                end.setblocking(False)
                try:
                    while True:
                        total += end.send(bytes(1 << 15))
                except BlockingIOError:
                    pass
    except OSError:
        pass
    os.write(w, b'%d\\n' % total)
    return kept
made = 1
try:
    while made < 40:
        if os.fork() == 0:
            kept = fill()
            time.sleep(60)
        made += 1
except OSError:
    pass
total = 0
for line in os.fdopen(r):
    total += int(line)
    print(total, flush=True)
"""

ATTACKS = (
    Attack(
        "fork bomb",
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        stopped(Failure.CPU, Failure.TIMEOUT, limits=(Limit.PROCESSES,)),
    ),
    Attack(
        "processes without end",
        "import os, time\nmade = 1\ntry:\n    while made < 200:\n        if os.fork() == 0:\n            time.sleep(60)\n"
        "        made += 1\nexcept OSError:\n    pass\nmade",
        at_most(LIMITS.processes, "processes"),
    ),
    Attack(
        "threads without end",
        "import threading, time\nmade = 1\ntry:\n    while made < 200:\n"
        "        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n        made += 1\n"
        "except RuntimeError:\n    pass\nmade",
        at_most(LIMITS.processes, "threads"),
    ),
    Attack("memory bomb", "held = []\nwhile True:\n    held.append(bytearray(1 << 20))", stopped(Failure.MEMORY)),
    Attack(
        "memory bomb, counted",
        "held = []\ntry:\n    while len(held) < 4096:\n        held.append(bytearray(1 << 20))\nexcept MemoryError:\n    pass\n"
        "len(held) << 20",
        at_most(LIMITS.memory, "MiB", MIB),
    ),
    Attack(
        "memory bomb in eight processes",
        "import os, time\nfor _ in range(7):\n    if os.fork() == 0:\n        break\nheld = bytearray()\n"
        "while len(held) < 60 << 20:\n    held += b'x' * (1 << 20)\ntime.sleep(60)",
        stopped(Failure.MEMORY, limits=(Limit.MEMORY,)),
    ),
    Attack(
        "memory that no process's sum shows",
        ATTEMPT + "import mmap\nattempt(mmap.mmap, -1, 1 << 30)\n"
        "attempt(lambda: mmap.mmap(os.open('/dev/zero', os.O_RDWR), 1 << 30))\nattempt(os.memfd_create, 'x')\n"
        "attempt(libc.shmget, 0, 1 << 28, 0o1600)",
        printed("", "shared anonymous, memfd and System V memory are refused"),
    ),
    Attack("endless loop", "while True:\n    pass", stopped(Failure.CPU, Failure.TIMEOUT)),
    Attack("endless sleep", "import time\ntime.sleep(1e6)", stopped(Failure.TIMEOUT, limits=(Limit.WALL,))),
    Attack("stopping itself", "import os\nos.kill(os.getpid(), 19)", stopped(Failure.TIMEOUT, limits=(Limit.WALL,))),
    Attack(
        "endless output",
        "while True:\n    print('x' * 1000)",
        stopped(Failure.OUTPUT, Failure.CPU, Failure.TIMEOUT, limits=(Limit.OUTPUT,)),
    ),
    Attack(
        "1 GB file",
        "with open('big', 'wb') as f:\n    for _ in range(1024):\n        f.write(bytes(1 << 20))",
        stopped(Failure.EXCEPTION, limits=(Limit.FILE_SIZE,)),
    ),
    Attack(
        "1 GB in many files",
        "total = 0\ntry:\n    for i in range(1024):\n        with open(str(i), 'wb', 0) as f:\n            total += f.write(bytes(1 << 20))\n"
        "except OSError:\n    pass\ntotal",
        at_most(LIMITS.disk, "MiB", MIB),
    ),
    Attack(
        "reading /etc/passwd and /etc/shadow",
        ATTEMPT + "attempt(open, '/etc/shadow')\n"
        "if os.path.exists('/etc/passwd') and os.stat('/etc/passwd').st_dev != os.stat('/').st_dev: print('OPEN')",
        printed("", "the host's are not there (Docker: the image's own passwd)"),
    ),
    Attack(
        "/proc/1/environ",
        ATTEMPT + "for pid in ('1', str(os.getppid())):\n    attempt(open, f'/proc/{pid}/environ')\n"
        "    attempt(open, f'/proc/{pid}/mem', 'r+b')\n    attempt(os.listdir, f'/proc/{pid}/fd')",
        printed("", "refused (bubblewrap: an empty /proc)"),
    ),
    Attack(
        "the host's and the project's files",
        ATTEMPT + "attempt(open, {secret!r})\nattempt(os.listdir, {project!r})\n"
        "attempt(os.listdir, '/root')\nprint(*[n for n in sys.modules if 'agentgym' in n])\n"
        "try:\n    import agentgym\n    print('OPEN')\nexcept ImportError:\n    pass",
        printed("\n", "not there"),
    ),
    Attack("environment variables", "import os\nprint(dict(os.environ))", printed("{}\n", "empty")),
    Attack(
        "network: loopback, outside, names",
        ATTEMPT + "attempt(socket.create_connection, ('127.0.0.1', {port}), 1)\n"
        "attempt(socket.create_connection, ('1.1.1.1', 53), 1)\nattempt(socket.getaddrinfo, 'example.org', 80)\n"
        "attempt(socket.socket, socket.AF_UNIX)\nattempt(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW)\n"
        "attempt(socket.socket, socket.AF_INET6)",
        printed("", "no socket can be made"),
    ),
    Attack(
        "signals to the parent and to everybody",
        ATTEMPT + "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, signal.SIGTERM):\n"
        "    for pid in (os.getppid(), 1, -1):\n        try:\n            os.kill(pid, number)\n        except OSError:\n            pass\n"
        "print('unharmed')",
        printed("unharmed\n", "nobody else hears them"),
    ),
    Attack(
        "tracing, reading and re-limiting the parent",
        ATTEMPT + "import resource\nfor pid in (1, os.getppid()):\n    attempt(libc.ptrace, 16, pid, 0, 0)\n"
        "    attempt(libc.process_vm_readv, pid, None, 0, None, 0, 0)\n"
        "    attempt(resource.prlimit, pid, resource.RLIMIT_CPU, (0, 0))\n    attempt(os.sched_setaffinity, pid, [0])\n"
        "    attempt(os.setpriority, os.PRIO_PROCESS, pid, 19)",
        printed("", "refused"),
    ),
    Attack(
        "raising its own limits",
        ATTEMPT + "import resource\nfor name in ('DATA', 'FSIZE', 'NPROC', 'NOFILE'):\n"
        "    which = getattr(resource, 'RLIMIT_' + name)\n    hard = resource.getrlimit(which)[1]\n"
        "    try:\n        resource.setrlimit(which, (hard + 1, hard + 1))\n        print('OPEN', name)\n"
        "    except (ValueError, OSError):\n        pass\nattempt(os.setuid, 0)\nattempt(os.setgid, 0)",
        printed("", "refused"),
    ),
    Attack(
        "a daemon that outlives the call",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        while True:\n"
        "            time.sleep(.01)\n    os._exit(0)\nos.wait()\nprint('gone')",
        printed("gone\n", "killed with the call"),
    ),
    Attack(
        "a thread that works between two calls of a session",
        "import threading, time\nticks = 0\ndef work():\n    global ticks\n    while True:\n        ticks += 1\n        time.sleep(.001)\n"
        "threading.Thread(target=work, daemon=True).start()\ntime.sleep(.05)\nnow = time.monotonic()\nbefore = ticks",
        printed("True\n", "stopped until the next call"),
        then="print(ticks - before < 150 and time.monotonic() - now > .3)",
    ),
    Attack(
        "symbolic links out of the working directory",
        ATTEMPT + "os.symlink('/', 'root')\nos.symlink({secret!r}, 'secret')\nattempt(open, 'secret')\n"
        "attempt(open, 'root/etc/shadow')\nattempt(open, 'root/usr/x', 'w')\nattempt(os.link, '/dev/null', 'hard')",
        printed("", "lead nowhere"),
    ),
    Attack(
        "writing outside the working directory",
        ATTEMPT
        + "for folder in ('/', '/usr', '/usr/lib', '/etc', '/dev', '/proc', '/var/tmp', '/run', '/home', '/sys',\n"
        "        '/dev/mqueue', '/proc/sys/kernel', '/sys/fs/cgroup'):\n"
        "    attempt(open, folder + '/agentgym-attack', 'w')\n    attempt(os.mkdir, folder + '/agentgym-attack')",
        printed("", "refused everywhere"),
    ),
    Attack(
        "mounts and namespaces",
        ATTEMPT + "attempt(libc.mount, b'tmpfs', b'/tmp', b'tmpfs', 0, None)\nattempt(libc.umount2, b'/proc', 2)\n"
        "attempt(os.chroot, '.')\nattempt(libc.unshare, 0x10000000)\nattempt(libc.setns, 0, 0)\n"
        "attempt(libc.syscall, 56 if os.uname().machine == 'x86_64' else 220, 0x10000011, 0, 0, 0, 0)\n"
        "attempt(libc.syscall, 435, 0, 0)\nattempt(libc.syscall, 425, 1, 0)\nattempt(libc.syscall, 321, 0, 0, 0)\n"
        "attempt(os.mknod, 'disk', 0o60600, os.makedev(254, 0))",
        printed("", "refused"),
    ),
    Attack("os._exit", "import os\nprint('x', flush=True)\nos._exit(0)", stopped(Failure.EXITED)),
    Attack("a crash of the interpreter", "import ctypes\nctypes.string_at(0)", stopped(Failure.EXITED)),
    Attack(
        "a closed stdout",
        "import os, sys\nprint('before')\nsys.stdout.close()\nos.close(1)\nos.close(2)",
        printed("before\n", "the call ends normally"),
    ),
    Attack(
        "every descriptor closed",
        "import os\nos.closerange(0, 1000)",
        stopped(Failure.EXITED),
    ),
    Attack(
        "invalid UTF-8",
        "import os\nos.write(1, b'\\xff\\xfe\\x80a\\n')\nprint('\\ud800')",
        printed("\ufffd\ufffd\ufffda\n\\ud800\n", "replaced by U+FFFD"),
    ),
    Attack(
        "noise on every descriptor",
        "import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, b'\\xff' * 4096)\n    except OSError:\n        pass",
        stopped(Failure.EXITED),
    ),
    Attack(
        "a forged report, then another for the next call",
        "import os, struct\nfields = [b'value', b'forged', b'', b'', b'', b'\\x7f']\n"
        "blob = b''.join(struct.pack('!I', len(f)) + f for f in fields)\n"
        "frame = struct.pack('!IIB', len(blob), 0, 4) + blob\nfor _ in range(3):\n    os.write(3, frame)\nimport time\ntime.sleep(60)",
        deceived_itself,
        then="'honest'",
    ),
    Attack(
        "a value whose repr never ends",
        "class Trap:\n    def __repr__(self):\n        while True:\n            pass\nTrap()",
        stopped(Failure.CPU, Failure.TIMEOUT),
    ),
    Attack(
        "an exception that cannot be printed",
        "class Trap(Exception):\n    def __str__(self):\n        raise SystemExit\n    __repr__ = __str__\nraise Trap",
        stopped(Failure.EXCEPTION),
    ),
    Attack(
        "memory of processes that cannot be looked into",
        "import ctypes, os, time\nfor _ in range(6):\n    if os.fork() == 0:\n        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n"
        "        break\nheld = bytearray(40 << 20)\ntime.sleep(60)",
        stopped(Failure.MEMORY, Failure.TIMEOUT),
    ),
    Attack(
        "memory of processes whose first thread ended",
        "import ctypes, os, threading, time\nany(os.fork() == 0 for _ in range(5))\n"
        "threading.Thread(target=lambda: time.sleep(.1) or (held := bytearray(30 << 20)) and time.sleep(60)).start()\n"
        "ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)",
        stopped(Failure.MEMORY, limits=(Limit.MEMORY,)),
    ),
    Attack(
        "a socket that all worker slots share",
        ATTEMPT + SHARED_SOCKET + "try:\n    first = shared()\nexcept OSError:\n    first = None",
        printed("None\n", "no socket is bound, connected or made that could be"),
        then="try:\n    print(first.recv(100))\nexcept Exception:\n    print(None)",
        accomplice=SHARED_SOCKET
        + "try:\n    shared(b'agentgym-attack-2').sendto(b'the hidden input', b'\\0agentgym-attack-1')\n"
        "except Exception:\n    pass",
    ),
    Attack(
        "what the processes of other worker slots call themselves",
        "import os",
        printed("0\n", "not to be read (bubblewrap: an empty /proc)"),
        then="found = 0\nfor pid in os.listdir('/proc'):\n    try:\n        found += 'hidden-' + 'input' in open(f'/proc/{pid}/cmdline').read()\n"
        "    except OSError:\n        pass\nprint(found)",
        accomplice="import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', 'hidden-input'])",
    ),
    Attack(
        "locks and watches on files that all worker slots see",
        ATTEMPT + "import fcntl, random\nkept = open(random.__file__)\n"
        "attempt(libc.inotify_init1, 0)\nattempt(libc.fanotify_init, 0, 0)\nattempt(fcntl.flock, kept, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "attempt(fcntl.fcntl, kept, fcntl.F_NOTIFY, 1)\nattempt(fcntl.fcntl, kept, fcntl.F_SETLEASE, fcntl.F_RDLCK)\n"
        "try:\n    fcntl.lockf(kept, fcntl.LOCK_SH | fcntl.LOCK_NB)\nexcept OSError:\n    pass",
        printed("free\n", "refused, or granted without being set"),
        then="import struct\nasked = struct.pack('hhqqi', fcntl.F_WRLCK, 0, 0, 0, 0)\n"
        "if os.fork() == 0:\n    kind = struct.unpack('hhqqi', fcntl.fcntl(kept, fcntl.F_GETLK, asked))[0]\n"
        "    print('free' if kind == fcntl.F_UNLCK else 'held', flush=True)\n    os._exit(0)\nos.wait()",
    ),
    Attack(
        "timers and signals that wake a stopped worker slot",
        WAKER + "awake()\nticks = 0\nbefore = time.monotonic()\n"
        "def work():\n    global ticks\n    while True:\n        ticks += 1\n        time.sleep(.001)\n"
        "threading.Thread(target=work, daemon=True).start()\ntime.sleep(.05)\nbefore = ticks",
        printed("True\n", "nothing wakes it"),
        then="print(ticks - before < 150)",
    ),
    Attack(
        "an orphaned process group, which the kernel wakes",
        "import os, signal, time\nr, w = os.pipe()\nos.set_blocking(r, False)\nos.set_blocking(w, False)\nend = time.monotonic() + .1\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nfor n in range(5):\n    if os.fork() == 0:\n        os.setpgid(0, 0)\n"
        "        if os.fork() == 0:\n            end += .05\n            while True:\n                if time.monotonic() > end: os.write(w, b'x')\n"
        "                time.sleep(.001)\n        while time.monotonic() < end + .00012 * n:\n            pass\n        os._exit(0)\n"
        "while time.monotonic() < end:\n    pass",
        printed("True\n", "stopped again"),
        then="try:\n    print(len(os.read(r, 8192)) < 600)\nexcept BlockingIOError:\n    print(True)",
    ),
    Attack(
        "file names that cleaning up might use itself",
        "import os\nfor n in range(1, 9000):\n    open(f'.{n}-0', 'w').close()\nos.makedirs('a/b/c/d')\nprint('made')",
        printed("made\n", "removed with the call"),
    ),
    Attack(
        "memory in page tables",
        PAGE_TABLES,
        at_most_printed(LIMITS.memory, "the memory limit"),
    ),
    Attack(
        "memory in buffers of sockets and pipes",
        BUFFERS,
        at_most_printed(LIMITS.memory / SLACK, "two thirds of the memory limit"),
    ),
    Attack(
        "memory given to a pipe, kernel objects without limit",
        ATTEMPT + "import ctypes, fcntl\nr, w = os.pipe()\npage = ctypes.create_string_buffer(1 << 16)\n"
        "class Vector(ctypes.Structure):\n    _fields_ = [('base', ctypes.c_void_p), ('size', ctypes.c_size_t)]\n"
        "attempt(libc.vmsplice, w, ctypes.byref(Vector(ctypes.addressof(page), 4096)), 1, 0)\n"
        "attempt(libc.tee, r, w, 1, 2)\nattempt(fcntl.fcntl, w, 1031, 1 << 20)\n"
        "context = ctypes.c_void_p()\nnumber = 206 if os.uname().machine == 'x86_64' else 0\n"
        "attempt(libc.syscall, number, 1024, ctypes.byref(context))\nattempt(libc.mq_open, b'/agentgym-attack', 0o102, 0o600, None)\n"
        "attempt(libc.semget, 0, 1, 0o1600)\nattempt(libc.msgget, 0, 0o1600)\nattempt(libc.syscall, 250 if number else 219, 0, -3, 1)\n"
        "attempt(os.setxattr, '.', 'user.x', b'y')\nattempt(libc.syscall, 317 if number else 277, 0, 0, 0)",
        printed("", "refused"),
    ),
    Attack(
        "CPU time of children that nobody waits for",
        "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nr, w = os.pipe()\nos.set_blocking(r, False)\nused, alive = 0.0, 0\n"
        "end = time.monotonic() + 1.45\nwhile time.monotonic() < end:\n    while alive < 4:\n        if os.fork() == 0:\n"
        "            began = time.process_time()\n            while time.process_time() - began < .1:\n                pass\n"
        "            os.write(w, b'x')\n            os._exit(0)\n        alive += 1\n"
        "    try:\n        gone = len(os.read(r, 100))\n    except BlockingIOError:\n        time.sleep(.002)\n        continue\n"
        "    used, alive = used + gone * .1, alive - gone\n    print(used, flush=True)",
        at_most_printed(LIMITS.cpu, "the CPU limit"),
    ),
    Attack(
        "a crash that starts the host's crash handler",
        "import resource\nprint(resource.getrlimit(resource.RLIMIT_CORE))",
        printed("(1, 1)\n", "a limit of 1 keeps the kernel from starting one"),
    ),
    Attack(
        "a folder 3000 levels deep",
        "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\nos.chmod('.', 0)\nprint('dug')",
        printed("dug\n", "removed with the call"),
    ),
)


@dataclass
class Arena:
    """A sandbox under attack, with a secret, a listening port and a bystander on the host."""

    sandbox: ProcessSandbox
    places: dict[str, object] = field(default_factory=dict)

    def run(self, attack: Attack) -> str:
        """Run one attack; how it was contained.

        Raises:
            AssertionError: it was not.
        """
        code = attack.code
        for name, value in self.places.items():
            code = code.replace("{" + name + "!r}", repr(value)).replace("{" + name + "}", str(value))
        with self.sandbox.session() as bystander:
            assert bystander.run("state = 7").error is None
            before = self._calm()
            result = self._two_calls(code, attack) if attack.then else self.sandbox.run(code)
            words = attack.check(result)
            assert bystander.run("state").value == "7", "a bystander's session was harmed"
            self._settled(before)
            with ExitStack() as every:  # whichever worker slot it was in
                for _ in range(WORKER_SLOTS - 1):
                    clean = every.enter_context(self.sandbox.session()).run("import os\nos.listdir('.')")
                    assert clean.value == "[]", f"files were left: {clean}"
            self._settled(before)
        left = [str(path) for path in Path(tempfile.gettempdir()).glob("agentgym-attack*")]
        assert not left, left
        return words

    def _two_calls(self, code: str, attack: Attack) -> Result:
        with self.sandbox.session() as session, self.sandbox.session() as other:
            first = session.run(code)
            other.run(attack.accomplice)
            time.sleep(0.4)
            second = session.run(attack.then)
            return first if first.error is not None else second

    def _calm(self) -> int:
        """The number of processes once the worker slots kept ready are ready."""
        seen = [self.processes()]
        while len(seen) < 5 or len(set(seen[-5:])) > 1:
            time.sleep(0.02)
            seen.append(self.processes())
        return seen[-1]

    def _settled(self, before: int) -> None:
        """The number of processes comes back to what it was."""
        end = time.monotonic() + 5
        while (now := self.processes()) > before and time.monotonic() < end:
            time.sleep(0.02)
        assert now <= before, f"{now - before} processes are left"

    def processes(self) -> int:
        """Processes of the sandbox, as the host sees them."""
        transport = self.sandbox.process()._transport
        if hasattr(transport, "_container"):
            return len(transport._container.top()["Processes"])
        return len(_descendants(transport._process.pid))


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        with suppress(OSError):
            if entry.isdigit():
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


@contextmanager
def arena(kind: str) -> Iterator[Arena]:
    """An attacked sandbox of this kind.

    Raises:
        SandboxUnavailable: it cannot run here.
    """
    os.environ["AGENTGYM_ATTACK_SECRET"] = "s3cret"
    with tempfile.NamedTemporaryFile("w", suffix="-secret") as secret, socket.create_server(("127.0.0.1", 0)) as server:
        secret.write("s3cret")
        secret.flush()
        Path(secret.name).chmod(0o644)
        sandbox = open_sandbox(kind, limits=LIMITS, parallel=2, worker_slots=WORKER_SLOTS)
        assert isinstance(sandbox, ProcessSandbox)
        project = str(Path(__file__).resolve().parent.parent)
        with sandbox:
            yield Arena(sandbox, {"secret": secret.name, "project": project, "port": server.getsockname()[1]})


def table(columns: dict[str, dict[str, str]]) -> str:
    """The table: one row an attack, one column a sandbox."""
    kinds = list(columns)
    lines = ["| attack | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for attack in ATTACKS:
        lines.append(f"| {attack.name} | " + " | ".join(columns[kind].get(attack.name, "–") for kind in kinds) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run the attacks; 1 where one was not contained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sandboxes", nargs="*", metavar="SANDBOX", help="bubblewrap or docker; default: both, and rewrite the table"
    )
    given = parser.parse_args()
    wanted = given.sandboxes or ["bubblewrap", "docker"]
    columns: dict[str, dict[str, str]] = {}
    failed = 0
    for kind in wanted:
        try:
            with arena(kind) as place:
                columns[kind] = {}
                for attack in ATTACKS:
                    try:
                        columns[kind][attack.name] = place.run(attack)
                    except AssertionError as error:
                        failed += 1
                        columns[kind][attack.name] = f"**NOT CONTAINED** {error}"
                    print(f"{kind:12} {attack.name:50} {columns[kind][attack.name]}", flush=True)
        except SandboxUnavailable as error:
            print(f"{kind}: skipped, {error}")
    if not given.sandboxes and len(columns) == len(wanted):
        text = DOCUMENT.read_text()
        head, _, rest = text.partition(BEGIN)
        tail = rest.partition(END)[2]
        DOCUMENT.write_text(f"{head}{BEGIN}\n{table(columns)}\n{END}{tail}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
