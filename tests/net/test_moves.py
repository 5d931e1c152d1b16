"""A tenant that moves to another PostgreSQL while a login is under way leaves nothing behind at the old one."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest_asyncio
from pydantic import SecretStr

from harness.config import files
from harness.pooler import Pooler
from harness.raw_client import RawClient
from harness.waiting import until
from net.fake_postgres import Backend, FakePostgres, sound
from net.poolers import NewPooler
from pgweir_contract.models import Database, PoolSettings, TenantEntry, Upstream, UpstreamTls, User


class SlowPostgres(FakePostgres):
    """Logs nobody in before `may_log_in`."""

    def __init__(self) -> None:
        super().__init__(self._late)
        self.may_log_in = asyncio.Event()

    async def _late(self, backend: Backend) -> None:
        await self.may_log_in.wait()
        await sound(backend)


@pytest_asyncio.fixture
async def places() -> AsyncIterator[tuple[SlowPostgres, FakePostgres]]:
    """Where the tenant is, and where it goes."""
    old, new = SlowPostgres(), FakePostgres(sound)
    for fake in (old, new):
        await fake.start()
    yield old, new
    for fake in (old, new):
        await fake.stop()


def _at(fake: FakePostgres) -> TenantEntry:
    return TenantEntry(
        tenant_id="acme",
        upstream=Upstream(host="127.0.0.1", port=fake.port, tls=UpstreamTls(mode="Disable")),
        databases=(Database(name="db"),),
        users=(User(name="user", passwords=(SecretStr("of-no-server-4711"),)),),
        pool=PoolSettings(size=2, queue_timeout=10.0),
    )


def _servers_at(process: Pooler, fake: FakePostgres) -> int:
    found = {each["instance"]: each["connections"] for each in process.status()["instances"]}
    return int(found.get(f"127.0.0.1:{fake.port}", 0))


async def _move(process: Pooler, entry: TenantEntry) -> None:
    content = files([entry])
    process.write(content)
    wanted = {name: json.loads(data)["revision"] for name, data in content.items()}
    await until(lambda: process.status()["revisions"] == wanted, "the tenant moved")


async def test_a_login_under_way_frees_its_place_and_the_client_is_served_at_the_new_place(
    pooler: NewPooler, places: tuple[SlowPostgres, FakePostgres]
) -> None:
    old, new = places
    entry = _at(old)
    process = pooler(entry)
    login = asyncio.create_task(RawClient.connect(process.address(entry)))
    await until(lambda: old.backends, "a login at the old place")
    assert _servers_at(process, old) == 1
    await _move(process, _at(new))
    client = await login
    assert await client.values("select 1") == [[b"x"]]
    old.may_log_in.set()
    await until(lambda: old.backends[0].has_ended, "the old server ended")
    await until(lambda: _servers_at(process, old) == 0, "its place free")
    assert _servers_at(process, new) == 1
    assert await client.values("select 1") == [[b"x"]]
    client.close()
