"""The mix-up check itself: silent on a direct PostgreSQL, loud when replies are swapped or locks are left."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from harness.address import Address
from harness.databases import Database
from harness.mixup import run_mixup
from harness.raw_client import RawClient


async def test_a_direct_postgresql_passes(database: Database) -> None:
    result = await run_mixup(database.address, database.admin_address, clients=20, queries=2_000, seed=3)
    result.check(2_000)
    assert result.killed > 0


async def test_an_open_transaction_and_its_lock_are_seen(database18: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.mixup.QUIET_TIMEOUT_S", 0.1)
    forgotten = await RawClient.connect(database18.address)
    await forgotten.values("begin; create table t ()")
    result = await run_mixup(database18.address, database18.admin_address, clients=2, queries=20)
    forgotten.close()
    assert any("idle in transaction" in left for left in result.leftovers)
    assert any("AccessExclusiveLock" in left for left in result.leftovers)
    with pytest.raises(AssertionError, match="seed 1"):
        result.check(20)


async def test_a_proxy_that_crosses_replies_is_caught(database18: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.mixup.REPLY_TIMEOUT_S", 1.0)  # who lost a reply waits for nothing
    async with _crossing_proxy(database18.address, every=200) as port:
        address = Address(port, database18.user, database18.name, database18.password)
        result = await run_mixup(address, database18.admin_address, clients=10, queries=3_000)
    assert result.mismatches


@contextlib.asynccontextmanager
async def _crossing_proxy(target: Address, every: int) -> AsyncIterator[int]:
    """Relays bytes, but each `every`-th chunk from a server goes to a client that connected earlier."""
    clients: list[asyncio.StreamWriter] = []
    chunks = 0

    async def to_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal chunks
        clients.append(writer)
        server_reader, server_writer = await asyncio.open_connection(target.host, target.port)
        up = asyncio.create_task(to_server(reader, server_writer))
        with contextlib.suppress(ConnectionError):
            while data := await server_reader.read(65536):
                chunks += 1
                (writer if chunks % every else clients[chunks % len(clients)]).write(data)
        writer.close()
        await up

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
