"""One address cannot take what others need: clients, half-open logins, and the rate of logins."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from harness.config import cluster, tenant
from harness.databases import Database
from harness.pooler import Pooler
from harness.waiting import until
from pgweir_contract.models import ClusterLimits, LoginRate
from security.places import ELSEWHERE, HERE, THERE, connect_from, open_from, refusal_from

NewPooler = Callable[..., Pooler]


async def test_clients_of_an_address_are_limited_per_tenant_and_over_all(pooler: NewPooler, database: Database) -> None:
    a, b = tenant(database, "a", max_clients_per_address=2), tenant(database, "b")
    limits = ClusterLimits(max_clients_per_address=3, drain_timeout=2.0)
    process = pooler(a, b, cluster_file=cluster(limits=limits))
    of_a, of_b = process.address(a), process.address(b)
    clients = [await connect_from(HERE, of_a) for _ in range(2)]
    refused = await refusal_from(HERE, of_a)
    assert refused["C"] == "53300"
    assert "(TooManyClients) too many clients: the limit of your address at tenant 'a' is 2" in refused["M"]
    assert "maxClientsPerAddress" in refused["H"]
    clients.append(await connect_from(HERE, of_b))
    assert "the limit of your address is 3" in (await refusal_from(HERE, of_b))["M"]
    clients.append(await connect_from(THERE, of_a))
    for client in clients:
        assert await client.values("select 1") == [[b"1"]]
        client.close()
    await until(lambda: process.status()["clients"] == 0, "all clients gone")
    (await connect_from(HERE, of_a)).close()


async def test_a_silent_flood_from_one_address_keeps_no_other_out(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18)
    limits = ClusterLimits(max_half_open_logins=20, drain_timeout=2.0)
    process = pooler(entry, cluster_file=cluster(limits=limits))
    bystander = await open_from(THERE, process.port())
    await until(lambda: process.metrics()["pgweir_logins_in_progress"] == 1, "the bystander is there")
    flood = [await open_from(HERE, process.port()) for _ in range(60)]
    await until(lambda: sum(client.closed for client in flood) == 41, "the flood makes room for itself")
    client = await connect_from(ELSEWHERE, process.address(entry))
    client.close()
    assert not bystander.closed, "it came before all of them, and is not the one to go"
    await bystander.login(process.address(entry), {})
    for other in (bystander, *flood):
        other.abort()


async def test_half_open_logins_of_an_address_have_a_limit_of_their_own(
    pooler: NewPooler, database18: Database
) -> None:
    limits = ClusterLimits(max_half_open_logins_per_address=5, drain_timeout=2.0)
    process = pooler(tenant(database18), cluster_file=cluster(limits=limits))
    flood = [await open_from(HERE, process.port()) for _ in range(12)]
    await until(lambda: sum(client.closed for client in flood) == 7, "the oldest are gone")
    assert process.metrics()["pgweir_logins_in_progress"] == 5
    for other in flood:
        other.abort()


async def test_an_address_that_begins_logins_too_fast_is_told(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18)
    limits = ClusterLimits(login_rate_per_address=LoginRate(per_second=1, burst=3), drain_timeout=2.0)
    process = pooler(entry, cluster_file=cluster(limits=limits))
    right = process.address(entry)
    stranger = replace(right, user="nobody.nowhere")
    refusals = await asyncio.gather(*(refusal_from(HERE, stranger) for _ in range(15)))
    told = [refused["M"] for refused in refusals if refused["C"] == "53300"]
    assert 1 <= len(told) <= 12, "the first three may come in, and one more each second"
    assert set(told) == {"(TooManyLogins) too many logins from your address"}
    client = await connect_from(THERE, right)
    client.close()


async def test_a_users_and_a_tenants_limits_are_as_before(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, max_clients=1)
    process = pooler(entry)
    client = await connect_from(HERE, process.address(entry))
    assert "the limit of tenant 'acme' is 1" in (await refusal_from(THERE, process.address(entry)))["M"]
    client.close()
