"""A tenant with `paused: true` waits: its clients stay, its servers go, others are served as before."""

import asyncio
from collections.abc import Callable
from typing import Any

from harness import messages
from harness.config import files, tenant
from harness.databases import Database
from harness.pooler import Pooler
from harness.raw_client import RawClient
from harness.waiting import until


def waiting(process: Pooler, tenant_id: str) -> int:
    tenants: dict[str, Any] = {found["tenantId"]: found for found in process.status()["tenants"]}
    return sum(pool["waiting"] for pool in tenants[tenant_id]["pools"])


async def test_clients_of_a_paused_tenant_wait_until_it_goes_on(
    pooler: Callable[..., Pooler], database: Database
) -> None:
    entry, other = tenant(database, queue_timeout=0.5), tenant(database, "other")
    process = pooler(entry, other)
    client, busy, bystander = [await RawClient.connect(process.address(e)) for e in (entry, entry, other)]
    await busy.query("begin")
    process.write(files([entry.model_copy(update={"paused": True}), other]))
    await until(lambda: process.metrics()["pgweir_config_reloads_total"] == 2, "the pause is applied")
    assert await busy.values("select 1") == [[b"1"]], "its transaction goes on"
    await busy.query("commit")
    client.send(messages.query("select 'at last'"))
    await until(lambda: waiting(process, "acme") == 1, "the query waits")
    late = await RawClient.connect(process.address(entry))  # logins go on
    assert await bystander.values("select 1") == [[b"1"]]
    process.write(files([entry, other]))
    assert messages.rows(await client.receive_until(b"Z")) == [[b"at last"]]
    for each in (client, busy, bystander, late):
        assert await each.values("select 1") == [[b"1"]]
        each.close()


async def test_a_tenant_may_be_paused_from_the_start(pooler: Callable[..., Pooler], database18: Database) -> None:
    entry = tenant(database18)
    process = pooler(entry.model_copy(update={"paused": True}))
    login = asyncio.create_task(RawClient.connect(process.address(entry)))
    await until(lambda: waiting(process, "acme") == 1, "the login waits for a server that says its parameters")
    assert database18.backends() == []
    process.write(files([entry]))
    client = await login
    assert await client.values("select 1") == [[b"1"]]
    client.close()
