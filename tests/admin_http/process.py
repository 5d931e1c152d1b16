"""A process as the HTTP side sees it: a real directory with real pools, whose servers connect to nobody."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import aiohttp
from pydantic import SecretStr

from pgweir_contract.models import Database, PoolSettings, TenantEntry, Upstream, User
from pgweir_pooler.admin_http import start_admin
from pgweir_pooler.directory import Directory
from pgweir_pooler.telemetry import ProcessCounters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pgweir_pooler.admin_http.view import State
    from pgweir_pooler.directory import TenantPool
    from pgweir_pooler.errors import PoolerError
    from pgweir_pooler.pool.keys import CloseReason
    from pgweir_pooler.pool.pool import Pool
    from pgweir_pooler.pool.slot import Connection, Slot


class Server:
    """A server connection that PostgreSQL closes when the test says so."""

    def __init__(self, pool: Pool, slot: Slot) -> None:
        self.pool = pool
        self.slot = slot

    def close(self, reason: CloseReason) -> None:
        """Terminate is sent; the test calls `pool.lost`."""


class Waiter:
    """A client that asks a pool for a server."""

    def __init__(self) -> None:
        self.told: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    def granted(self, connection: Connection, now: float) -> None:
        self.told.set_result(connection)

    def refused(self, error: PoolerError) -> None:
        self.told.set_exception(error)


def entry(tenant_id: str, host: str = "db.internal.example", size: int = 5) -> TenantEntry:
    """A tenant with one database and one user."""
    return TenantEntry(
        tenant_id=tenant_id,
        upstream=Upstream(host=host, max_connections=60),
        databases=(Database(name="app"),),
        users=(User(name="alice", passwords=(SecretStr("hunter2"),)),),
        pool=PoolSettings(size=size),
    )


class ClientTls:
    """Implements ClientTlsView."""

    def __init__(self) -> None:
        self.reloads = 2
        self.reload_failures = 1
        self.not_after: datetime | None = datetime(2026, 6, 1, tzinfo=UTC)


class Process:
    """Implements ProcessView."""

    def __init__(self) -> None:
        self.state: State = "Serving"
        self.version = "1.2.3"
        self.boot_id = "b00t"
        self.member = "pooler-0"
        self.started_at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        self.revisions = {"cluster.json": "17"}
        self.problems = [("tenants-03.json: globex", "pool.size: too large")]
        self.logins_in_progress = 3
        self.logins_blocked = 2
        self.warnings = [("cluster.json", "is open to others")]
        self.client_tls = ClientTls()
        self.counters = ProcessCounters()
        self.directory = Directory(asyncio.get_running_loop(), self._connect)

    async def _connect(self, _held: TenantPool, pool: Pool, slot: Slot) -> Connection:
        return Server(pool, slot)

    def pool(self, tenant_id: str, *, clients: int = 0, queries: int = 0) -> Pool:
        """The tenant's pool, made when there is none, with so many clients and so many more queries."""
        directory = self.directory
        if tenant_id not in directory.tenants:
            directory.put(entry(tenant_id))
        tenant = directory.tenants[tenant_id]
        pool = directory.pool_for(tenant, tenant.databases["app"], tenant.logins["alice"]).pool
        pool.counters.clients = clients
        pool.counters.queries += queries
        return pool

    async def remove(self, tenant_id: str) -> None:
        """Removes a tenant whose pools have no server."""
        pools = [held.pool for held in self.directory.tenants[tenant_id].pools.values()]
        self.directory.remove(tenant_id)
        await asyncio.gather(*(pool.closed for pool in pools))
        await asyncio.sleep(0)  # the directory is told by a callback


class Ports:
    """Both ports of a started process, and a client."""

    def __init__(self, http: str, control: str, client: aiohttp.ClientSession) -> None:
        self.http = http
        self.control = control
        self.client = client

    async def metrics(self) -> str:
        """The plain text format."""
        async with self.client.get(f"{self.http}/metrics") as answer:
            assert answer.status == 200
            return await answer.text()


def listening_socket() -> tuple[socket.socket, str]:
    """A bound socket on a free port, and its URL."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.asynccontextmanager
async def started(process: Process) -> AsyncIterator[Ports]:
    """The process with its ports open."""
    (http_socket, http), (control_socket, control) = listening_socket(), listening_socket()
    admin = await start_admin(process, http_socket=http_socket, control_socket=control_socket)
    try:
        async with aiohttp.ClientSession() as client:
            yield Ports(http, control, client)
    finally:
        await admin.close()
