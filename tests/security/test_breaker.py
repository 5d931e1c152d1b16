"""Too many failed logins block an address at a tenant: through a real pooler, seen from several addresses."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace

from harness import messages
from harness.address import Address
from harness.config import cluster, tenant
from harness.databases import Database
from harness.messages import error_fields
from harness.pooler import Pooler
from harness.scram_client import ScramClient
from harness.waiting import until
from pgweir_contract.models import ClusterFile, ClusterLimits, FailedLogins
from security.places import HERE, THERE, connect_from, log_lines, open_from, refusal_from

NewPooler = Callable[..., Pooler]


def limited(max: int = 3, block: float = 600.0) -> ClusterFile:  # noqa: A002 - the field's name
    limits = FailedLogins(max=max, window=600.0, block=block, max_block=3600.0)
    return cluster(limits=ClusterLimits(drain_timeout=2.0, failed_logins=limits))


async def fail(host: str, address: Address, times: int) -> list[dict[str, str]]:
    wrong = replace(address, password="a wrong one")
    return await asyncio.gather(*(refusal_from(host, wrong) for _ in range(times)))


async def test_an_address_is_blocked_at_one_tenant_and_reads_what_it_read_before(
    pooler: NewPooler, database: Database
) -> None:
    entry, other = tenant(database), tenant(database, "other")
    process = pooler(entry, other, cluster_file=limited())
    address = process.address(entry)
    inside = await connect_from(HERE, address)
    before = await fail(HERE, address, 3)
    blocked = await refusal_from(HERE, address)  # with the right password
    assert blocked == before[0]
    assert blocked["C"] == "28P01"
    for client in (await connect_from(THERE, address), await connect_from(HERE, process.address(other)), inside):
        assert await client.values("select 1") == [[b"1"]]
        client.close()
    metrics = process.metrics()
    assert metrics['pgweir_login_failures_total{reason="wrong_credentials"}'] == 3
    assert metrics['pgweir_login_failures_total{reason="blocked"}'] == 1
    assert (metrics["pgweir_login_blocks_total"], metrics["pgweir_logins_blocked"]) == (1, 1)
    [line] = log_lines(process, "logins blocked after failures")
    for part in ('"tenant": "acme"', f'"client": "{HERE}"', '"failures": 3', '"seconds": 600.0'):
        assert part in line


async def test_tenants_and_users_who_do_not_exist_are_blocked_alike(pooler: NewPooler, database18: Database) -> None:
    """Else the block would tell who exists."""
    entry = tenant(database18)
    process = pooler(entry, cluster_file=limited())
    right = process.address(entry)
    for number, user in enumerate(("nobody.acme", f"{entry.users[0].name}.nowhere"), start=1):
        who = replace(right, user=user)
        host = f"127.0.1.{number}"
        before = await fail(host, who, 3)
        assert await refusal_from(host, who) == before[0]
        assert process.metrics()["pgweir_login_blocks_total"] == number


async def test_a_block_ends_by_itself(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18)
    process = pooler(entry, cluster_file=limited(block=0.5))
    await fail(HERE, process.address(entry), 3)
    assert process.metrics()["pgweir_login_blocks_total"] == 1
    await until(lambda: process.metrics()["pgweir_logins_blocked"] == 0, "the block is over")
    client = await connect_from(HERE, process.address(entry))
    client.close()


async def test_a_good_login_forgets_the_failures_before_it(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18)
    process = pooler(entry, cluster_file=limited())
    for _ in range(3):
        await fail(HERE, process.address(entry), 2)
        client = await connect_from(HERE, process.address(entry))
        client.close()
    assert process.metrics()["pgweir_login_blocks_total"] == 0


async def test_guesses_that_are_under_way_fail_when_the_breaker_opens(pooler: NewPooler, database18: Database) -> None:
    """Many at once would otherwise be many more than `max`, and the right one might be among them."""
    entry = tenant(database18)
    process = pooler(entry, cluster_file=limited())
    address = process.address(entry)
    waiting = _SlowClient()
    await waiting.begin(HERE, address)
    await fail(HERE, address, 3)
    assert await waiting.end() == "28P01"
    elsewhere = _SlowClient()
    await elsewhere.begin(THERE, address)
    assert await elsewhere.end() == ""


async def test_a_flood_of_refusals_is_counted_in_the_log(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18)
    process = pooler(entry, cluster_file=limited(max=5))
    for _ in range(4):
        await fail(HERE, process.address(entry), 10)
    await until(lambda: log_lines(process, "more logins refused"), "the count is told", timeout_s=20.0)
    [line] = log_lines(process, "more logins refused")
    assert len(log_lines(process, "login refused")) == 1
    found = re.search(r'"count": (\d+)', line)
    assert found is not None
    assert int(found[1]) == 39


class _SlowClient:
    """A login with the right password that stops before its proof."""

    async def begin(self, host: str, address: Address) -> None:
        self.client = await open_from(host, address.port)
        self._scram = ScramClient(address.password)
        self.client.send(messages.startup({"user": address.user, "database": address.database}))
        await self.client.receive()
        first = self._scram.first()
        self.client.send(messages.password(b"SCRAM-SHA-256\0" + len(first).to_bytes(4, "big") + first))
        challenge = (await self.client.receive()).body[4:]
        self._proof = messages.password(self._scram.final(challenge))

    async def end(self) -> str:
        """Sends the proof; the SQLSTATE, empty when the login was good."""
        self.client.send(self._proof)
        message = await self.client.receive()
        self.client.abort()
        return error_fields(message.body)["C"] if message.tag == b"E" else ""
