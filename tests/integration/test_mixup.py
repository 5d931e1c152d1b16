"""No reply reaches the wrong client: 200 tagged clients over a pool of ten, 200,000 queries.

`PGWEIR_MIXUP_QUERIES` and `PGWEIR_MIXUP_SEED` change how many and which.
"""

import os
from collections.abc import Callable

import pytest

from harness.config import tenant
from harness.databases import Database
from harness.mixup import run_mixup
from harness.pooler import Pooler
from integration.quiet import pools, until_quiet

QUERIES = int(os.environ.get("PGWEIR_MIXUP_QUERIES", "200000"))
SEED = int(os.environ.get("PGWEIR_MIXUP_SEED", "1"))
CLIENTS = 200
POOL_SIZE = 10


@pytest.mark.timeout(600)
async def test_no_reply_reaches_another_client_in_transaction_mode(
    pooler: Callable[..., Pooler], database18: Database, record_property: Callable[[str, object], None]
) -> None:
    entry = tenant(database18, size=POOL_SIZE)
    process = pooler(entry)
    result = await run_mixup(
        process.address(entry), database18.admin_address, clients=CLIENTS, queries=QUERIES, seed=SEED
    )
    record_property("mixup", str(result))
    print(result)
    result.check(QUERIES)
    await until_quiet(process, database18)
    assert len(database18.backends()) <= POOL_SIZE


@pytest.mark.timeout(300)
async def test_no_reply_reaches_another_client_in_session_mode(
    pooler: Callable[..., Pooler], database: Database
) -> None:
    """More clients than servers: in session mode each holds one until it leaves or is killed."""
    entry = tenant(database, size=POOL_SIZE, queue_timeout=300.0)
    process = pooler(entry)
    queries = min(QUERIES, 10_000)
    result = await run_mixup(
        process.address(entry, listener="session"),
        database.admin_address,
        clients=POOL_SIZE + 2,
        queries=queries,
        seed=SEED,
    )
    result.check(queries)
    await until_quiet(process, database)


@pytest.mark.timeout(300)
async def test_a_pool_of_one_serves_many_clients_on_each_postgresql(
    pooler: Callable[..., Pooler], database: Database
) -> None:
    """Every transaction follows another client's on the same server: the hardest case for what is left behind."""
    entry = tenant(database, size=1)
    process = pooler(entry)
    queries = min(QUERIES, 5_000)
    result = await run_mixup(process.address(entry), database.admin_address, clients=20, queries=queries, seed=SEED)
    result.check(queries)
    await until_quiet(process, database)
    assert pools(process)[0]["size"] == 1
