"""A tenant that is closed ends its clients, tells the reason to those who know a password, and opens by itself."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from harness.config import files, tenant
from harness.databases import Database
from harness.messages import error_fields
from harness.pooler import Pooler
from harness.raw_client import RawClient
from harness.waiting import until
from pgweir_contract.models import Access
from security.places import HERE, connect_from, refusal_from

NewPooler = Callable[..., Pooler]


async def test_a_closed_tenant_ends_its_clients_and_refuses_new_ones(pooler: NewPooler, database: Database) -> None:
    entry, other = tenant(database), tenant(database, "other")
    process = pooler(entry, other)
    right = process.address(entry)
    idle, busy, bystander = [await RawClient.connect(a) for a in (right, right, process.address(other))]
    await busy.query("begin")
    unknown = await refusal_from(HERE, replace(right, password="wrong"))
    closed = entry.model_copy(update={"access": Access(mode="Reject", reason="unpaid since May")})
    process.write(files([closed, other]))
    fields = error_fields((await idle.receive_until(b"E"))[-1].body)
    assert (fields["C"], fields["D"]) == ("57P01", "this tenant takes no clients: unpaid since May")
    assert await busy.values("select 1") == [[b"1"]], "its transaction goes on"
    busy.send(b"Q" + (11).to_bytes(4, "big") + b"commit\0")
    fields = error_fields((await busy.receive_until(b"E"))[-1].body)
    assert fields["C"] == "57P01"
    refused = await refusal_from(HERE, right)
    assert (refused["C"], refused["M"]) == ("28000", "(TenantRejected) this tenant takes no clients: unpaid since May")
    assert await refusal_from(HERE, replace(right, password="wrong")) == unknown
    assert await bystander.values("select 1") == [[b"1"]]
    process.write(files([entry, other]))
    await until(lambda: process.metrics()["pgweir_config_reloads_total"] == 3, "it is open again")
    client = await connect_from(HERE, right)
    for each in (client, bystander, idle, busy):
        each.close()


@pytest.mark.parametrize("reason", ["", "maintenance"])
async def test_a_rejection_ends_at_its_time(pooler: NewPooler, database18: Database, reason: str) -> None:
    entry = tenant(database18)
    ends = datetime.now(UTC) + timedelta(seconds=4)
    process = pooler(entry.model_copy(update={"access": Access(mode="Reject", reason=reason, until=ends)}))
    if datetime.now(UTC) < ends - timedelta(seconds=1):
        assert (await refusal_from(HERE, process.address(entry)))["C"] == "28000"
    await until(lambda: datetime.now(UTC) > ends, "the time is over")
    (await connect_from(HERE, process.address(entry))).close()
