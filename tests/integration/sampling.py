"""How many sessions PostgreSQL counts for some roles, sampled as fast as one query follows the other."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from harness.databases import Database
from harness.raw_client import RawClient


@dataclass
class Most:
    """The largest number that was seen, and how often somebody looked."""

    value: int = 0
    samples: int = 0


@contextlib.asynccontextmanager
async def most_backends(*databases: Database) -> AsyncIterator[Most]:
    """Samples while the block runs; all databases are on one server. Sessions that are ending count, too."""
    most = Most()
    roles = ", ".join(f"'{database.user}'" for database in databases)
    sql = f"select count(*) from pg_stat_activity where usename in ({roles}) and backend_type = 'client backend'"
    admin = await RawClient.connect(databases[0].admin_address)

    async def sample() -> None:
        while True:
            most.value = max(most.value, int((await admin.values(sql))[0][0] or 0))
            most.samples += 1
            await asyncio.sleep(0.005)

    task = asyncio.create_task(sample(), name="sample pg_stat_activity")
    try:
        yield most
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        admin.close()
