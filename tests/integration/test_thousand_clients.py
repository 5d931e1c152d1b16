"""A thousand clients of two tenants over ten servers: all are served, and PostgreSQL never sees more than ten."""

import asyncio
from collections.abc import Callable

import pytest

from harness import messages
from harness.address import Address
from harness.config import tenant
from harness.databases import Database
from harness.pooler import Pooler
from harness.raw_client import RawClient
from integration.quiet import until_quiet
from integration.sampling import most_backends
from pgweir_operator.local_postgres import PostgresServer

CLIENTS = 1000
SERVERS = 10
QUERIES_EACH = 5
LOGINS_AT_ONCE = 50
# An idle client's share of RSS. The bench measures it properly (the aim is 4 KiB); here memory has just begun to grow.
IDLE_CLIENT_BYTES = 8 * 1024


@pytest.mark.timeout(240)
async def test_a_thousand_clients_share_ten_servers(
    pooler: Callable[..., Pooler],
    postgres18: PostgresServer,
    new_database: Callable[[PostgresServer], Database],
) -> None:
    databases = [new_database(postgres18) for _ in range(2)]
    entries = [tenant(d, f"t{i}", size=SERVERS // 2) for i, d in enumerate(databases)]
    process = pooler(*entries)
    warm = [await RawClient.connect(process.address(entry)) for entry in entries]
    before = process.rss()
    gate = asyncio.Semaphore(LOGINS_AT_ONCE)

    async def log_in(address: Address) -> RawClient:
        async with gate:
            return await RawClient.connect(address)

    addresses = [process.address(entries[i % 2]) for i in range(CLIENTS)]
    clients = await asyncio.gather(*(log_in(address) for address in addresses))
    idle_bytes = (process.rss() - before) / CLIENTS
    print(f"RSS per idle client: {idle_bytes:.0f} bytes")
    assert process.status()["clients"] == CLIENTS + len(warm)

    async def work(index: int, client: RawClient) -> int:
        for i in range(QUERIES_EACH):
            tag = f"{index}/{i}".encode()
            client.send(messages.extended("select $1::text, pg_sleep(0.001)", [tag]))
            assert messages.rows(await client.receive_until(b"Z")) == [[tag, b""]]
        return QUERIES_EACH

    async with most_backends(*databases) as most:
        done = await asyncio.gather(*(work(i, client) for i, client in enumerate(clients)))
    assert done == [QUERIES_EACH] * CLIENTS
    assert 0 < most.value <= SERVERS
    for client in [*clients, *warm]:
        client.close()
    await until_quiet(process, *databases)
    assert idle_bytes < IDLE_CLIENT_BYTES
