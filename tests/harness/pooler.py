"""A real pooler process under test: started with sockets that the test has bound: no race for ports.

`Pooler.stop()` is part of every test: SIGTERM must end the process with exit code 0, its log must hold no traceback,
nothing unawaited and no warning, and no secret of its configuration may show anywhere.
"""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pgweir_contract
import pgweir_pooler
from harness.address import Address
from harness.config import DRAIN_TIMEOUT_S, ConfigDirectory
from harness.secret_watch import WATCH, Secrets
from pgweir_contract.models import TenantEntry
from pgweir_operator.local_postgres import die_with_parent

START_TIMEOUT_S = 20.0
LISTENERS = ("transaction", "session")
# What the log of a healthy process never holds.
BAD_WORDS = ("Traceback", "Exception ignored", "never retrieved", "never awaited", "Warning:")


class PoolerBrokenError(AssertionError):
    """The process did not start, did not end, or ended badly; the text ends with its log."""


class Pooler:
    """One process `python -m pgweir_pooler`.

    Blocking: a coroutine calls what waits by `asyncio.to_thread`.
    """

    def __init__(
        self,
        content: Mapping[str, bytes],
        *,
        listeners: Sequence[str] = LISTENERS,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "pgweir_pooler"),
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pgweir-pooler-"))
        self.config = ConfigDirectory(self._folder / "config")
        self._secrets = Secrets()
        self.write(content)
        self.log_path = self._folder / "log"
        self._names = [*listeners, "http", "control"]
        self._ports = dict.fromkeys(self._names, 0)  # kept over a restart
        self._options = list(options)
        self._environment = dict(environment or {})
        self._program = program  # arguments of the interpreter: a profiler may stand before the module
        self._process: subprocess.Popen[bytes] | None = None
        self.expects_failure = False  # a test that kills the process or provokes a bad end sets this

    @property
    def pid(self) -> int:
        """The process id; an error when it is not started."""
        assert self._process is not None, "the pooler is not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait_ready: bool = True) -> None:
        """Starts the process and waits until `/readyz` says 200."""
        sockets = {name: _bound_socket(port) for name, port in self._ports.items()}
        self._ports = {name: sock.getsockname()[1] for name, sock in sockets.items()}
        command = [sys.executable, *self._program, "--config-dir", str(self.config.path)]
        command += ["--listen-address", "127.0.0.1"]
        for name, sock in sockets.items():
            if name in ("http", "control"):
                command += [f"--{name}-fd", str(sock.fileno())]
            else:
                command += ["--listen-fd", f"{name}={sock.fileno()}"]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._options],
                env=self._child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[sock.fileno() for sock in sockets.values()],
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )
        for sock in sockets.values():
            sock.close()
        if wait_ready:
            self.wait_for(self.is_ready, "ready", START_TIMEOUT_S)

    def stop(self) -> None:
        """SIGTERM, wait, check exit code and log. Always leaves no process and no folder behind."""
        try:
            shown = self._shown()
            code = self.terminate()
            self._secrets.check({**shown, "the log": self.log_text()})
            self.check_log()
            if code not in (0, None) and not self.expects_failure:
                raise PoolerBrokenError(f"the pooler ended with exit code {code}:\n{self.log_tail()}")
        finally:
            self.kill()
            shutil.rmtree(self._folder, ignore_errors=True)

    def terminate(self, timeout_s: float = DRAIN_TIMEOUT_S + 15) -> int | None:
        """SIGTERM and wait; the exit code, None when it was not started."""
        if self._process is None:
            return None
        self._process.terminate()
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise PoolerBrokenError(f"no end {timeout_s} s after SIGTERM:\n{self.log_tail()}") from None

    def kill(self) -> None:
        """SIGKILL and wait; does nothing when it has ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process."""
        assert self._process is not None
        self._process.send_signal(number)

    def write(self, content: Mapping[str, bytes]) -> None:
        """Swaps in a new configuration, as kubelet would; returns at once."""
        self._secrets.learn(content)
        WATCH.secrets.learn(content)
        self.config.write(content)

    def check_log(self) -> None:
        """PoolerBrokenError when the log holds a traceback, a warning or a lost exception."""
        text = self.log_text()
        found = [word for word in BAD_WORDS if word in text]
        if found and not self.expects_failure:
            place = text.index(found[0])
            raise PoolerBrokenError(f"{found} in the pooler's log:\n{text[max(0, place - 1500) : place + 3000]}")

    def _shown(self) -> dict[str, str]:
        """What everybody, or an admin, can read of the process while it runs; what it does not answer is left out."""
        if not self.is_running:
            return {}
        texts = {"argv": Path(f"/proc/{self.pid}/cmdline").read_text(errors="replace")}
        for path, where in (("/metrics", "http"), ("/status", "control")):
            try:
                texts[path] = self.get(path, where, timeout_s=2)[1].decode(errors="replace")
            except (OSError, http.client.HTTPException):
                pass
        return texts

    def port(self, listener: str = "transaction") -> int:
        """The port of a listener, or of "http" or "control"."""
        return self._ports[listener]

    def address(
        self,
        tenant: TenantEntry,
        *,
        listener: str = "transaction",
        user: str | None = None,
        database: str | None = None,
        password: str | None = None,
    ) -> Address:
        """How a client of the tenant logs in: as its first user to its first database by default."""
        first = tenant.users[0]
        return Address(
            port=self.port(listener),
            user=f"{user or first.login_name}.{tenant.tenant_id}",
            database=database or tenant.databases[0].name,
            password=first.passwords[0].get_secret_value() if password is None else password,
        )

    def dsn(self, tenant: TenantEntry, *, listener: str = "transaction", **who: str) -> str:
        """`address` as a libpq connection string."""
        return self.address(tenant, listener=listener, **who).dsn

    def get(self, path: str, where: str = "http", timeout_s: float = 10.0) -> tuple[int, bytes]:
        """GET on the HTTP port (or "control"): status code and body. OSError while nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port(where), timeout=timeout_s)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def is_ready(self) -> bool:
        """What `/readyz` says; False while nobody listens."""
        try:
            return self.get("/readyz", timeout_s=2)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def status(self) -> dict[str, Any]:
        """`/status` of the control port, as decoded JSON."""
        code, body = self.get("/status", "control")
        assert code == 200, (code, body)
        decoded: dict[str, Any] = json.loads(body)
        return decoded

    def metrics(self) -> dict[str, float]:
        """`/metrics`: each sample line's name with its labels, as printed, to its value."""
        code, body = self.get("/metrics")
        assert code == 200, (code, body)
        lines = (line for line in body.decode().splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def rss(self) -> int:
        """Resident memory in bytes."""
        return process_rss(self.pid)

    def log_text(self) -> str:
        """Everything the process has written."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the log."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def wait_for(self, fact: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
        """Polls until `fact` holds; PoolerBrokenError, with the log, when time or the process ends first."""
        deadline = time.monotonic() + timeout_s
        while not fact():
            if not self.is_running:
                raise PoolerBrokenError(f"the pooler ended while waiting for {what}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise PoolerBrokenError(f"not {what} after {timeout_s} s:\n{self.log_tail()}")
            time.sleep(0.02)

    def _child_environment(self) -> dict[str, str]:
        # The roots by which this process found the packages: it works installed or not.
        roots = {str(Path(package.__path__[0]).parent) for package in (pgweir_pooler, pgweir_contract)}
        path = os.pathsep.join([*sorted(roots), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "default", **self._environment}


def process_rss(pid: int) -> int:
    """Resident memory of a process in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def _bound_socket(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock
