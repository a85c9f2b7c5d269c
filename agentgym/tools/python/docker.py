"""The same sandbox process in a container, through the Docker SDK and a real engine."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import threading
from typing import Any

from agentgym.errors import MissingExtra, SandboxUnavailable
from agentgym.tools.python.inside.confine import UID_SPAN
from agentgym.tools.python.protocol import MIB, Limits
from agentgym.tools.python.sandbox import ProcessSandbox
from agentgym.tools.python.sandbox_process import SandboxProcess, command, last_line

IMAGE = "agentgym-sandbox"
LABEL = "agentgym.sandbox"

_STREAM = struct.Struct("!BxxxI")  #: header of the engine's multiplexed streams: which, bytes
_OWN_MEMORY = 96 * MIB  #: supervisor and monitor fork server


class DockerSandbox(ProcessSandbox):
    """Python code in one container without network, capabilities or a writable root.

    Every worker slot has its own user id. The supervisor is root in the container with nothing but the capabilities to
    change user ids; the code never is. A worker slot's working directory is a tmpfs of its own,
    ``/tmp/NUMBER``; no other place can be written.

    Args:
        limits, parallel, worker_slots: see :class:`~agentgym.tools.python.sandbox.ProcessSandbox`.
        image: a local image with Python 3.11 or newer.
        python: the interpreter in the image.
        memory: bytes for the whole container; None: what ``parallel`` calls at their limit need.

    Raises:
        SandboxUnavailable: no engine answers, or the image is missing.
        MissingExtra: the Docker SDK is not installed.
    """

    kind = "docker"

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        parallel: int | None = None,
        worker_slots: int = 96,
        image: str = IMAGE,
        python: str = "/usr/bin/python3",
        memory: int | None = None,
    ) -> None:
        super().__init__(limits, parallel=parallel, worker_slots=min(worker_slots, UID_SPAN // 2))
        self.image, self.python = image, python
        self.memory = (
            memory
            or self.parallel * (self.limits.memory + self.limits.disk) + self.worker_slots * 6 * MIB + _OWN_MEMORY
        )
        self._client = connect()
        try:
            self._image_id = self._find_image()
            self.process()
        except BaseException:
            self._client.close()
            raise

    @property
    def interpreter(self) -> str:
        return f"{self._image_id} {self.python}"

    def _find_image(self) -> str:
        import docker.errors

        try:
            return str(self._client.images.get(self.image).id)
        except docker.errors.ImageNotFound:
            raise SandboxUnavailable(
                f"the Docker image {self.image!r} is missing; build one with python3 in it (.ci/docker-setup), "
                "or name yours by image=..."
            ) from None

    def _start(self, worker_slots: int, spares: int) -> SandboxProcess:
        import docker.errors

        uid_base = 20000 + secrets.randbelow(9000)  # process limits count per user id, on all containers together
        try:
            transport = ContainerTransport(self._client, self._options(uid_base, worker_slots))
        except docker.errors.DockerException as error:
            raise SandboxUnavailable(f"the container did not start: {last_line(str(error).encode())}") from None
        return SandboxProcess(
            transport,
            self.limits,
            mode="uids",
            home="/tmp/{worker_slot}",  # noqa: S108  # a tmpfs of the worker slot's own
            worker_slots=worker_slots,
            spares=spares,
            uid_base=uid_base,
        )

    def _options(self, uid_base: int, worker_slots: int) -> dict[str, Any]:
        limits = self.limits
        homes = {}
        for worker_slot in range(worker_slots):
            uid = uid_base + worker_slot
            options = f"size={limits.disk},nr_inodes=16384,mode=0700,uid={uid},gid={uid}"
            homes[f"/tmp/{worker_slot}"] = options  # noqa: S108
        return {
            "image": self.image,
            "command": command(self.python),
            "labels": {LABEL: "1"},
            "hostname": "sandbox",
            "environment": {"PYTHONHASHSEED": "0"},
            "network_mode": "none",
            "read_only": True,
            "user": "0:0",
            "cap_drop": ["ALL"],
            "cap_add": ["SETUID", "SETGID"],
            "security_opt": ["no-new-privileges"],
            "ipc_mode": "none",
            "pids_limit": worker_slots * 3 + self.parallel * limits.processes + 16,
            "mem_limit": self.memory,
            "memswap_limit": self.memory,
            "tmpfs": {"/tmp": "size=64k,mode=0711", **homes},  # noqa: S108
            "log_config": {"Type": "none"},
            "stdin_open": True,
            "auto_remove": True,
        }

    def close(self) -> None:
        super().close()
        self._client.close()


def connect() -> Any:
    """A client of the engine that the environment names.

    Raises:
        MissingExtra: the SDK is not installed.
        SandboxUnavailable: no engine answers.
    """
    try:
        import docker
    except ImportError:
        raise MissingExtra("docker", "docker") from None
    missing = "no Docker engine answers; install one and start it: apt-get install docker.io"
    address = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if address.startswith("unix://"):  # the SDK leaks a socket when nobody listens
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(address.removeprefix("unix://"))
            except OSError:
                raise SandboxUnavailable(missing) from None
    client = docker.from_env(timeout=60)
    try:
        client.ping()
    except (docker.errors.DockerException, OSError):
        client.close()
        raise SandboxUnavailable(missing) from None
    return client


class ContainerTransport:
    """The standard streams of a new container; the container is removed when they close."""

    def __init__(self, client: Any, options: dict[str, Any]) -> None:
        from docker.types import LogConfig

        options = {**options, "log_config": LogConfig(type=options["log_config"]["Type"])}
        self._errors = b""
        self._buffer = bytearray()
        self._closing = threading.Lock()
        self._container = client.containers.create(**options)
        streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        try:
            attached = self._container.attach_socket(params=streams)
            self._attached = attached
            self._socket: socket.socket = getattr(attached, "_sock", attached)
            self._socket.settimeout(None)
            self._container.start()
        except BaseException:
            self._container.remove(force=True)
            raise

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> bytes:
        while True:
            if len(self._buffer) >= _STREAM.size:
                which, size = _STREAM.unpack_from(self._buffer)
                if len(self._buffer) >= _STREAM.size + size:
                    data = bytes(self._buffer[_STREAM.size : _STREAM.size + size])
                    del self._buffer[: _STREAM.size + size]
                    if which == 1:
                        return data
                    self._errors = (self._errors + data)[-4096:]
                    continue
            more = self._socket.recv(1 << 18)
            if not more:
                return b""
            self._buffer += more

    def close(self) -> None:
        import docker.errors

        with self._closing:
            if self._container is None:
                return
            container, self._container = self._container, None
            with contextlib.suppress(OSError):  # the container ended first
                self._socket.shutdown(socket.SHUT_RDWR)
            try:
                container.remove(force=True)
            except docker.errors.APIError as error:
                if error.status_code not in (404, 409):  # gone, or going, by itself
                    raise
            self._attached.close()
            self._socket.close()

    def complaint(self) -> str:
        return last_line(self._errors)
