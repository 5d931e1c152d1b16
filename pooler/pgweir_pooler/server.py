"""The whole process put together: configuration, tenants, listeners, HTTP, signals, drain.

Life: read the configuration, bind, serve; SIGTERM drains (not ready, no new clients, every client is told 57P01 at its
next transaction boundary, those still busy at the deadline are cut off), a second SIGTERM ends the drain; SIGHUP reads
the configuration again at once. Exit code 0 after a drain, 1 when it could not start.
"""

import asyncio
import datetime
import resource
import secrets
import signal
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import structlog

from pgweir_contract.models import ClusterFile, ClusterLimits, Listener
from pgweir_contract.names import CONTROL_PORT, HTTP_PORT
from pgweir_pooler.admin_http import start_admin
from pgweir_pooler.config_file import ConfigFiles, Problem
from pgweir_pooler.console.door import Console
from pgweir_pooler.console.view import ShutdownMode
from pgweir_pooler.directory import Directory
from pgweir_pooler.errors import Terminated
from pgweir_pooler.net.cancel import CancelSender
from pgweir_pooler.net.client_login import ClientLogin
from pgweir_pooler.net.client_session import SESSION, STATEMENT, TRANSACTION, ClientSession
from pgweir_pooler.net.clients import Clients
from pgweir_pooler.net.connect import Connector
from pgweir_pooler.net.listening_server import ListeningServer
from pgweir_pooler.net.proxied_client import make_protocol
from pgweir_pooler.net.served_tls import ServedTls
from pgweir_pooler.net.server_channel import ServerChannels
from pgweir_pooler.net.server_connection import ServerConnection
from pgweir_pooler.net.timeouts import TimeoutSweep
from pgweir_pooler.net.upstream_guard import UpstreamGuard
from pgweir_pooler.pool.pool import Pool
from pgweir_pooler.telemetry import ProcessCounters

log = structlog.get_logger()

_MODES = {"Transaction": TRANSACTION, "Session": SESSION, "Statement": STATEMENT}
BACKLOG = 4096  # clients that come back together after an outage; the kernel caps it at net.core.somaxconn
SERVERS_CLOSE_S = 5.0  # after a drain, how long PostgreSQL may take to close its side
SLICE = 200  # clients told to leave before the loop gets its turn (about 20 us each)
SPARE_FILES = 256  # descriptors for everything that is neither a client nor a server


class StartError(Exception):
    """The process cannot start; the text is the one line that says why."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    config_dir: Path
    listen_address: str = "0.0.0.0"
    member: str = ""
    listen_fds: dict[str, int] = field(default_factory=dict)  # listener name -> bound socket, instead of its port
    http_fd: int | None = None
    control_fd: int | None = None
    http_port: int = HTTP_PORT
    control_port: int = CONTROL_PORT


State = Literal["Starting", "Serving", "Draining"]


class PoolerProcess:
    """One pooler process. Also what `/status`, `/readyz` and `/metrics` look at."""

    def __init__(self, options: Options, loop: asyncio.AbstractEventLoop) -> None:
        self._options = options
        self.version = version("pgweir")
        self.boot_id = secrets.token_hex(8)
        self.member = options.member or socket.gethostname()
        self.started_at = datetime.datetime.now(datetime.UTC)
        self.state: State = "Starting"
        self.counters = ProcessCounters()
        self._guard = guard = UpstreamGuard()
        channels = ServerChannels(guard)
        self.directory = Directory(loop, Connector(CancelSender(channels), channels, guard).connect)
        self._clients = Clients(loop, self.directory, ClusterLimits(), self.counters)
        self._clients.new_nonce = guard.new_nonce
        guard.is_own_session = self._clients.is_session
        self.directory.on_removed = self._clients.pool_removed
        self._sweep = TimeoutSweep(self._clients.sessions)
        self._clients.on_joined = self._sweep.joined
        self._console = self._clients.console = Console(self)
        self._config = ConfigFiles(
            options.config_dir, self.directory, self.counters, self._take_cluster, self._clients.tls
        )
        self._cluster: ClusterFile | None = None
        self._listening: tuple[Listener, ...] | None = None
        self._servers: list[asyncio.Server] = []
        self._stop_requests = 0
        self._stop_wanted = asyncio.Event()
        self._lets_clients_stay = False  # SHUTDOWN WAIT_FOR_CLIENTS: until the last one has left, or a signal comes
        self._signalled = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reloads: set[asyncio.Task[None]] = set()

    # --- what admin_http looks at

    @property
    def revisions(self) -> dict[str, str]:
        """Applied revision by file."""
        return self._config.revisions

    @property
    def problems(self) -> list[Problem]:
        """What is wrong with the configuration now."""
        return self._config.problems

    @property
    def logins_in_progress(self) -> int:
        """Connections that have not logged in yet."""
        return len(self._clients.unannounced) + len(self._clients.logins) + len(self._clients.admitted)

    @property
    def client_tls(self) -> ServedTls:
        """The certificate that clients see."""
        return self._clients.tls

    # --- what the console looks at and does

    @property
    def cluster(self) -> ClusterFile:
        """cluster.json, as it is applied."""
        assert self._cluster is not None, "there is no console without its users"
        return self._cluster

    @property
    def mock_key(self) -> bytes:
        """Makes the salts of users that do not exist."""
        return self._clients.mock_key

    def client_sessions(self) -> Iterable[ClientSession]:
        """Clients that are logged in."""
        return self._clients.sessions.values()

    async def reload(self) -> list[Problem]:
        """Reads the configuration at once; what is wrong with it."""
        await self._config.load()
        return self.problems

    def shut_down(self, mode: ShutdownMode) -> None:
        """Begins the end; without a mode no client and no server is waited for."""
        log.info("shutdown ordered by an admin", mode=mode or "immediate")
        if mode == "wait_for_clients":
            self._lets_clients_stay = True
        else:
            self._signalled.set()
            if not mode:
                self._hurry.set()
        self._stop_wanted.set()

    # --- life

    async def run(self) -> None:
        """From start to the end of the drain. Raises StartError."""
        loop = asyncio.get_running_loop()
        await self._config.load()
        if self._cluster is None:
            raise StartError("; ".join(f"{where}: {what}" for where, what in self.problems))
        self._check_file_limit(self._cluster)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_asked)
        loop.add_signal_handler(signal.SIGHUP, self._reload_asked)
        options = self._options
        http_socket = _socket(options.http_fd, options.listen_address, options.http_port)
        control_socket = _socket(options.control_fd, "127.0.0.1", options.control_port)
        self._guard.listen([http_socket, control_socket])
        admin = await start_admin(self, http_socket=http_socket, control_socket=control_socket)
        watching = loop.create_task(self._config.watch(), name="watch the configuration")
        sweeping = loop.create_task(self._sweep.run(), name="look after the clients' timeouts")
        averaging = loop.create_task(self._console.keep_averages(), name="keep the console's averages")
        try:
            await self._listen(self._cluster.listeners)
            self.state = "Serving"
            log.info("serving", member=self.member, listeners=[x.name for x in self._cluster.listeners])
            stopping = loop.create_task(self._stop_wanted.wait(), name="wait for a signal")
            await asyncio.wait((watching, sweeping, stopping), return_when=asyncio.FIRST_COMPLETED)
            for lasting in (watching, sweeping):
                if lasting.done():  # only a fault ends it: the process must not go on deaf
                    stopping.cancel()
                    lasting.result()
            await self._drain()
        finally:
            for lasting in (watching, sweeping, averaging):
                lasting.cancel()
            await asyncio.gather(watching, sweeping, averaging, return_exceptions=True)
            self._console.close()
            await admin.close()
            for number in (signal.SIGTERM, signal.SIGINT):
                # Until the interpreter is gone: a late second signal must not turn a good end into exit code -15.
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)
        log.info("stopped")

    def _take_cluster(self, cluster: ClusterFile) -> None:
        """Raises ContractError, and then nothing has changed."""
        self._clients.tls.learn(cluster.tls.client, cluster.default_tenant, self._options.config_dir)
        self._cluster = cluster
        clients = self._clients
        clients.limits = cluster.limits
        clients.default_tenant = cluster.default_tenant
        self._guard.learn(cluster)
        self._console.learn(cluster.admin.users)
        if self._listening is not None and self._listening != cluster.listeners:
            log.warning("listeners changed: they take effect at the next start")

    async def _listen(self, listeners: tuple[Listener, ...]) -> None:
        self._listening = listeners
        loop = asyncio.get_running_loop()
        for listener in listeners:
            mode = _MODES[listener.mode]
            sock = _socket(self._options.listen_fds.get(listener.name), self._options.listen_address, listener.port)
            make = make_protocol(self._clients, listener.proxy_protocol, partial(ClientLogin, self._clients, mode))
            server = await loop.create_server(make, sock=sock, backlog=BACKLOG)
            self._servers.append(server)
            self._guard.listen([sock])

    def _stop_asked(self) -> None:
        self._stop_requests += 1
        self._signalled.set()
        self._stop_wanted.set()
        if self._stop_requests > 1:
            self._hurry.set()

    def _reload_asked(self) -> None:
        task = asyncio.get_running_loop().create_task(self._config.load(), name="reload on SIGHUP")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _drain(self) -> None:
        """No new clients; the ones that are here leave at their next transaction boundary, or at the deadline."""
        self.state = "Draining"
        clients = self._clients
        clients.is_draining = True
        timeout_s = clients.limits.drain_timeout
        log.info("draining", clients=len(clients.sessions), timeout_s=timeout_s)
        for server in self._servers:
            server.close()
        for unannounced in list(clients.unannounced):
            unannounced.end()
        for login in [*clients.logins, *clients.admitted]:
            login.refuse_for_drain()
        if self._lets_clients_stay:
            await self._within(None, clients.all_left(), self._signalled)
        for i, session in enumerate(list(clients.sessions.values())):
            session.close_at_boundary(Terminated())
            if i % SLICE == SLICE - 1:
                await asyncio.sleep(0)
        await self._within(timeout_s, clients.all_left())
        for session in list(clients.sessions.values()):
            session.close(Terminated("the transaction did not end before the pooler's drain timeout"))
        pools = [*self.directory.pools(), *self.directory.departed]
        for pool in pools:
            pool.drain(Terminated("the pooler is shutting down"))
        await self._within(SERVERS_CLOSE_S, _all_done([pool.closed for pool in pools]))
        _abort_servers(pools)
        await asyncio.sleep(0)

    async def _within(
        self,
        timeout_s: float | None,
        work: "asyncio._CoroutineLike[None]",
        ended: asyncio.Event | None = None,
    ) -> None:
        """Waits for the work, the timeout, or a second signal (or another event), whatever is first."""
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(work), loop.create_task((ended or self._hurry).wait())]
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @staticmethod
    def _check_file_limit(cluster: ClusterFile) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if hard != resource.RLIM_INFINITY and cluster.limits.max_clients + SPARE_FILES > hard:
            log.warning(
                "too few file descriptors for limits.maxClients",
                available=hard,
                max_clients=cluster.limits.max_clients,
            )


def _abort_servers(pools: list[Pool]) -> None:
    """Closes what PostgreSQL did not close in time, or what a second signal left no time for."""
    for pool in pools:
        books = pool.ledger
        for slot in [*books.active, *books.idle, *books.closing, *books.listening.servers]:
            if isinstance(slot.connection, ServerConnection | ListeningServer):
                slot.connection.transport.abort()


async def _all_done(futures: list[asyncio.Future[None]]) -> None:
    if futures:
        await asyncio.wait(futures)


def _socket(fd: int | None, address: str, port: int) -> socket.socket:
    """The socket that was passed in, or a new one bound to the address."""
    if fd is not None:
        return socket.socket(fileno=fd)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        raise StartError(f"cannot listen on {address} port {port}: {error.strerror}") from None
    return sock
