"""The two proxies under test, set up alike: transaction pooling, a pool of 20, SCRAM towards clients and server."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measurement import cpu_ticks
from harness.address import Address
from harness.config import cluster, files, tenant
from harness.databases import Database
from harness.pooler import Pooler
from pgweir_contract.models import ClusterLimits
from pgweir_operator.local_postgres import die_with_parent, free_port, unprivileged_user

POOL_SIZE = 20
MAX_CLIENTS = 5_000
_START_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Proxy:
    """A running proxy: its process, and where clients go."""

    name: str
    pid: int
    address: Address

    def cpu_s(self) -> float:
        """CPU time that the process has used so far, user and system."""
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return cpu_ticks(stat) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def pgweir(database: Database, program: Sequence[str] = ("-m", "pgweir_pooler")) -> Iterator[Proxy]:
    """One pgweir process; `program` are the arguments of its interpreter."""
    entry = tenant(database, "bench", size=POOL_SIZE, max_clients=MAX_CLIENTS, max_connections=POOL_SIZE)
    limits = ClusterLimits(max_clients=MAX_CLIENTS, drain_timeout=1.0)
    pooler = Pooler(files([entry], cluster(limits=limits)), program=program)
    with contextlib.ExitStack() as stack:
        stack.callback(pooler.stop)
        pooler.start()
        yield Proxy("pgweir", pooler.pid, pooler.address(entry))


@contextlib.contextmanager
def pgbouncer(program: Path, database: Database) -> Iterator[Proxy]:
    """One PgBouncer process, as an unprivileged user (it refuses root)."""
    folder = Path(tempfile.mkdtemp(prefix="pgweir-bench-"))
    process: subprocess.Popen[bytes] | None = None
    try:
        port = free_port()
        process = _start_pgbouncer(program, folder, port, database)
        yield Proxy("PgBouncer", process.pid, Address(port, database.user, database.name, database.password))
    finally:
        if process is not None:
            process.send_signal(signal.SIGTERM)  # at once, in 1.18; SIGINT would wait for the clients
            process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _start_pgbouncer(program: Path, folder: Path, port: int, database: Database) -> subprocess.Popen[bytes]:
    account = unprivileged_user()
    folder.chmod(0o700)
    (folder / "users").write_text(f'"{database.user}" "{database.password}"\n')
    (folder / "ini").write_text(
        "[databases]\n"
        f"{database.name} = host={database.server.host} port={database.server.port}\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {folder / 'users'}\n"
        f"pool_mode = transaction\ndefault_pool_size = {POOL_SIZE}\nmax_client_conn = {MAX_CLIENTS}\n"
        "log_connections = 0\nlog_disconnections = 0\nserver_tls_sslmode = disable\n"
        "ignore_startup_parameters = extra_float_digits\n"
    )
    if account is not None:
        for path in (folder, folder / "users", folder / "ini"):
            os.chown(path, account.pw_uid, account.pw_gid)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-q", folder / "ini"],
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509
        )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not _listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait(10)
            raise RuntimeError(f"PgBouncer did not start:\n{(folder / 'log').read_text()}")
        time.sleep(0.02)
    return process


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
