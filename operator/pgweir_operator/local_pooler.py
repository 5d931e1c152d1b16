"""One real pooler process on loopback: started with bound sockets, watched until it is ready, ended in order.

The sockets are bound here and passed on, so that nobody can take a port in between, and a port that is in use is
replaced by a free one before the process starts.
"""

import asyncio
import contextlib
import errno
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pgweir_operator.local_postgres import die_with_parent

ADDRESS: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 30.0
STOP_SPARE_S: Final = 15.0  # on top of the drain timeout, until the process is killed
_HTTP_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.05
_LOG_LINES: Final = 15


class PoolerFailed(Exception):
    """The pooler did not start, or ended by itself; the text ends with the last lines of its log."""


class LocalPooler:
    """A process `python -m pgweir_pooler`.

    `wanted_ports` names the listeners; "http" and "control" are the process's own. `notes` says which ports
    were in use.
    """

    def __init__(
        self, config_dir: Path, log_path: Path, wanted_ports: Mapping[str, int], drain_timeout_s: float
    ) -> None:
        self._config_dir = config_dir
        self._log_path = log_path
        self._wanted_ports = wanted_ports
        self._drain_timeout_s = drain_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopping = False
        self.ports: dict[str, int] = {}  # by listener, where they really are
        self.notes: list[str] = []

    @property
    def pid(self) -> int:
        """The process id; AssertionError when it was not started."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Binds and starts; returns at once. The kernel kills the process when the calling thread ends."""
        with contextlib.ExitStack() as stack:
            sockets = {
                name: stack.enter_context(self._bound_socket(name, port)) for name, port in self._wanted_ports.items()
            }
            self.ports = {name: sock.getsockname()[1] for name, sock in sockets.items()}
            with self._log_path.open("ab") as log:
                self._log_path.chmod(0o600)
                self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                    self._command({name: sock.fileno() for name, sock in sockets.items()}),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[sock.fileno() for sock in sockets.values()],
                    start_new_session=True,  # Ctrl-C is for us: we then stop the pooler in order
                    preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509
                )

    async def wait_ready(self) -> None:
        """Returns when `/readyz` says 200; raises PoolerFailed when time or the process ends first."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not await asyncio.to_thread(self._is_ready):
            if self.exit_code is not None:
                raise PoolerFailed(self._obituary())
            if time.monotonic() > deadline:
                raise PoolerFailed(
                    f"the pooler is not ready after {START_TIMEOUT_S:.0f} s; its log:\n{self.log_tail()}"
                )
            await asyncio.sleep(_POLL_S)

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        assert self._process is not None
        return self._process.poll()

    async def watch(self) -> None:
        """Runs until the process ends; raises PoolerFailed when nobody has asked for that."""
        while self.exit_code is None:  # noqa: ASYNC110 - no event tells of another process
            await asyncio.sleep(0.2)
        if not self._is_stopping:
            raise PoolerFailed(self._obituary())

    def terminate(self) -> None:
        """Asks it to drain; asked twice, it cuts its clients off."""
        self._is_stopping = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    async def stop(self) -> int:
        """Drains and waits for the end, kills it when that takes too long; the exit code."""
        process = self._process
        if process is None:
            return 0
        if not self._is_stopping:
            self.terminate()
        deadline = time.monotonic() + self._drain_timeout_s + STOP_SPARE_S
        while process.poll() is None:
            if time.monotonic() > deadline:
                process.kill()
            await asyncio.sleep(_POLL_S)
        return process.wait()

    def get(self, path: str, where: str = "http") -> tuple[int, bytes]:
        """GET on the HTTP port (or "control"); blocks. OSError or HTTPException when there is no answer."""
        connection = http.client.HTTPConnection(ADDRESS, self.ports[where], timeout=_HTTP_TIMEOUT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        """`/status`, decoded; blocks. OSError, HTTPException or ValueError when there is no good answer."""
        status: dict[str, Any] = json.loads(self.get("/status", "control")[1])
        return status

    def log_tail(self) -> str:
        """The last lines of its log."""
        try:
            lines = self._log_path.read_text(errors="replace").splitlines()
        except OSError:
            return "(no log)"
        return "\n".join(lines[-_LOG_LINES:])

    def _obituary(self) -> str:
        return f"the pooler ended with exit code {self.exit_code}; its log:\n{self.log_tail()}"

    def _is_ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def _command(self, fds: Mapping[str, int]) -> list[str]:
        command = [sys.executable, "-P", "-m", "pgweir_pooler", "--config-dir", str(self._config_dir)]
        command += ["--listen-address", ADDRESS, "--member", "local-0"]
        for name, fd in fds.items():
            command += [f"--{name}-fd", str(fd)] if name in ("http", "control") else ["--listen-fd", f"{name}={fd}"]
        return command

    def _bound_socket(self, name: str, port: int) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            try:
                _claim(sock, port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                sock.close()
                sock = socket.socket()
                _claim(sock, 0)
                self.notes.append(f"port {port} ({name}) is in use here; {sock.getsockname()[1]} is taken instead")
        except BaseException:
            sock.close()
            raise
        return sock


def _claim(sock: socket.socket, port: int) -> None:
    sock.bind((ADDRESS, port))
    sock.listen(1)  # bound alone, another process could still listen on it; the pooler sets its own backlog
