"""Clients of a hub without sockets, and a directory that connects to real PostgreSQL, in this process."""

import asyncio
import json
from collections.abc import Callable

import asyncpg

from harness.address import Address
from harness.config import loopback
from harness.databases import Database
from pgweir_contract.models import TenantEntry
from pgweir_pooler.directory import Directory, TenantPool
from pgweir_pooler.errors import PoolerError, Terminated
from pgweir_pooler.net.cancel import CancelSender
from pgweir_pooler.net.connect import Connector
from pgweir_pooler.net.notifications import Hubs
from pgweir_pooler.net.server_channel import ServerChannels

TIMEOUT_S = 20.0
POLL_S = 0.01


async def until_here(fact: Callable[[], object]) -> None:
    """Returns when the fact holds; it is looked at in the loop, for it is about objects of this process."""
    async with asyncio.timeout(TIMEOUT_S):
        while not fact():  # noqa: ASYNC110 - a pool says nothing of its changes
            await asyncio.sleep(POLL_S)


class Client:
    """A Listener that remembers what it was told."""

    def __init__(self, place: "Place", held: TenantPool) -> None:
        self._place = place
        self._changed = asyncio.Event()
        self.held = held
        self.heard: list[tuple[str, str]] = []  # channel, payload
        self.pids: set[int] = set()
        self.lost: list[PoolerError] = []

    def notified(self, message: bytes) -> None:
        assert message[:1] == b"A"
        assert int.from_bytes(message[1:5], "big") == len(message) - 1
        self.pids.add(int.from_bytes(message[5:9], "big"))
        channel, payload, rest = message[9:].split(b"\0")
        assert not rest
        self.heard.append((channel.decode(), payload.decode()))
        self._changed.set()

    def listening_lost(self, error: PoolerError) -> None:
        self.lost.append(error)
        self._changed.set()

    async def listen(self, *channels: str) -> None:
        """Listens on these channels and no others; raises what the hub says."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def told(error: PoolerError | None) -> None:
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        self._place.hubs.set_channels(self, frozenset(x.encode() for x in channels), told)
        async with asyncio.timeout(TIMEOUT_S):
            await done

    def leave(self) -> None:
        self._place.hubs.leave(self)

    async def until(self, fact: Callable[[], object]) -> None:
        """Returns when the fact holds, looking each time when it was told something."""
        async with asyncio.timeout(TIMEOUT_S):
            while not fact():
                self._changed.clear()
                await self._changed.wait()

    async def until_hears(self, payload: str) -> None:
        await self.until(lambda: any(heard == payload for _, heard in self.heard[-50:]))

    def payloads(self) -> list[str]:
        return [payload for _, payload in self.heard]


class Place:
    """The hubs over real pools."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.guard = loopback()
        channels = ServerChannels(self.guard)
        self.directory = Directory(loop, Connector(CancelSender(channels), channels, self.guard).connect)
        self.hubs = Hubs(loop)
        self.clients: list[Client] = []

    def held(self, tenant_id: str = "acme", user: int = 0) -> TenantPool:
        tenant = self.directory.tenants[tenant_id]
        login = tenant.logins[tenant.entry.users[user].login_name]
        return self.directory.pool_for(tenant, tenant.databases[tenant.entry.databases[0].name], login)

    def put(self, entry: TenantEntry) -> None:
        self.directory.put(entry)

    def client(self, held: TenantPool | None = None) -> Client:
        client = Client(self, held or self.held())
        self.clients.append(client)
        return client

    def listening(self) -> int:
        """Listening servers over all pools, those that drain too."""
        pools = [*self.directory.pools(), *self.directory.departed]
        return sum(pool.listening for pool in pools)

    async def end(self) -> None:
        """Everybody leaves; then no hub, no server and no place in a budget is left."""
        for client in self.clients:
            client.leave()
        assert len(self.hubs) == 0
        pools = [*self.directory.pools(), *self.directory.departed]
        for pool in pools:
            pool.drain(Terminated())
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.gather(*(pool.closed for pool in pools))
        for instance in self.directory.instances.values():
            assert (instance.ledger.servers, instance.ledger.listeners, instance.ledger.opening) == (0, 0, 0)


class Notifier:
    """A session straight at PostgreSQL that notifies."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self.pid: int = connection.get_server_pid()

    @classmethod
    async def connect(cls, address: Address) -> "Notifier":
        return cls(
            await asyncpg.connect(
                host=address.host,
                port=address.port,
                user=address.user,
                password=address.password,
                database=address.database,
                ssl=False,
            )
        )

    async def notify(self, channel: str, payload: str = "") -> None:
        await self._connection.execute("select pg_notify($1, $2)", channel, payload)

    async def run(self, sql: str) -> None:
        await self._connection.execute(sql)

    async def close(self) -> None:
        await self._connection.close()


def listening_backends(database: Database) -> list[int]:
    """Process ids of the backends that listen for this database, as PostgreSQL sees them."""
    rows = database.sql(
        "select pid from pg_stat_activity where application_name = 'pgweir listener'"
        f" and datname = '{database.name}' order by pid"
    )
    return [int(pid) for pid in rows.split()]


def terminate_listeners(database: Database) -> None:
    """Ends every listening backend of the database, as an administrator would."""
    ended = database.sql(
        "select json_agg(pg_terminate_backend(pid)) from pg_stat_activity"
        f" where application_name = 'pgweir listener' and datname = '{database.name}'"
    )
    assert json.loads(ended), "nobody listens"
