"""200 tagged clients over 10 servers: no reply reaches the wrong client, and nothing is left behind."""

from collections.abc import Callable

import pytest

from harness.config import tenant
from harness.databases import Database
from harness.mixup import run_mixup
from harness.pooler import Pooler
from harness.waiting import until

QUERIES = 200_000


@pytest.mark.timeout(600)
async def test_200_clients_share_10_servers_for_200_000_queries(
    database18: Database, pooler: Callable[..., Pooler]
) -> None:
    entry = tenant(database18, size=10)
    process = pooler(entry)
    result = await run_mixup(process.address(entry), database18.admin_address, clients=200, queries=QUERIES, seed=11)
    result.check(QUERIES)
    await _all_idle(process, database18)


@pytest.mark.timeout(300)
async def test_session_mode_keeps_clients_apart(database: Database, pooler: Callable[..., Pooler]) -> None:
    entry = tenant(database, size=20)
    process = pooler(entry)
    address = process.address(entry, listener="session")
    result = await run_mixup(address, database.admin_address, clients=30, queries=20_000, seed=12)
    result.check(20_000)


async def _all_idle(process: Pooler, database: Database) -> None:
    """Every server is idle, for PostgreSQL and for the pooler's own books, and there are at most ten."""
    await until(lambda: {state for _, state in database.backends()} == {"idle"}, "idle servers")
    pools = [pool for one in process.status()["tenants"] for pool in one["pools"]]
    assert sum(pool["serversActive"] + pool["waiting"] for pool in pools) == 0
    assert 0 < sum(pool["serversIdle"] for pool in pools) == len(database.backends()) <= 10
