"""Changes of the mounted files under load: each is applied in a second, and no client of another tenant notices.

Every test keeps load on the tenants `a` and `b`; at its end neither has seen an error or had to log in again.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from pydantic import SecretStr

from harness import messages
from harness.config import files, tenant
from harness.databases import Database
from harness.load import Load, running_load
from harness.pooler import Pooler
from harness.raw_client import RawClient, ServerClosedError, ServerRefusedError
from harness.waiting import until
from integration.quiet import pools, until_quiet
from pgweir_contract import names
from pgweir_contract.models import TenantEntry
from pgweir_operator.local_postgres import PostgresServer

CLIENTS = 10
RATE = 200.0
# The issue asks for one second; a busy machine with two cores and other tests on it gets five.
APPLIED_WITHIN_S = 5.0


@dataclass
class Scene:
    """A pooler with the tenants `a` and `b` under load, and the database of each."""

    process: Pooler
    entries: dict[str, TenantEntry]
    databases: dict[str, Database]
    loads: dict[str, Load] = field(default_factory=dict)
    swapped_at: float = 0.0  # time.monotonic()

    async def apply(self, *entries: TenantEntry) -> None:
        """Swaps in these tenants alone and waits until all files' revisions are applied."""
        content = files(entries)
        await self.swap(content)
        wanted = {name: json.loads(data)["revision"] for name, data in content.items()}
        await self.until_applied(lambda: self.process.status()["revisions"] == wanted)

    async def swap(self, content: Mapping[str, bytes]) -> None:
        """Swaps in these files; the load has been going on before."""
        await asyncio.gather(*(load.until(50) for load in self.loads.values()))
        await asyncio.to_thread(self.process.write, content)
        self.swapped_at = time.monotonic()

    async def until_applied(self, fact: Callable[[], object]) -> None:
        """Waits until the change shows in `/status`, and a little load after it."""
        await until(fact, "the change applied", APPLIED_WITHIN_S)
        print(f"applied {time.monotonic() - self.swapped_at:.3f} s after the swap")
        await asyncio.gather(*(load.until(50) for load in self.loads.values()))

    @property
    def problems(self) -> list[tuple[str, str]]:
        return [(x["where"], x["problem"]) for x in self.process.status()["problems"]]

    def check(self) -> None:
        """No client of `a` and `b` has noticed anything."""
        for name, load in self.loads.items():
            assert not load.result.errors, (name, load.result.texts)
            assert load.result.logins == CLIENTS, f"{name}: clients had to log in again"


@pytest.fixture
async def scene(
    pooler: Callable[..., Pooler], postgres18: PostgresServer, new_database: Callable[[PostgresServer], Database]
) -> AsyncIterator[Scene]:
    """Checked and stopped at the test's end."""
    databases = {name: new_database(postgres18) for name in "abc"}
    entries = {name: tenant(databases[name], name, size=4) for name in "abc"}
    process = pooler(entries["a"], entries["b"])
    scene = Scene(process, entries, databases)
    async with contextlib.AsyncExitStack() as stack:
        for name in "ab":
            load = running_load(process.address(entries[name]), clients=CLIENTS, rate=RATE)
            scene.loads[name] = await stack.enter_async_context(load)
        yield scene
    scene.check()
    await until_quiet(process)


def with_pool(entry: TenantEntry, **changes: Any) -> TenantEntry:
    """The tenant with other pool settings."""
    return entry.model_copy(update={"pool": entry.pool.model_copy(update=changes)})


async def test_a_new_tenant_is_served(scene: Scene) -> None:
    with pytest.raises(ServerRefusedError) as caught:
        await RawClient.connect(scene.process.address(scene.entries["c"]))
    assert caught.value.sqlstate == "28P01"
    await scene.apply(*scene.entries.values())
    client = await RawClient.connect(scene.process.address(scene.entries["c"]))
    assert await client.values("select current_database()") == [[scene.databases["c"].name.encode()]]
    client.close()


async def test_a_pool_grows_and_shrinks_in_place(scene: Scene) -> None:
    address = scene.process.address(scene.entries["a"])
    most = 0

    def servers() -> int:
        nonlocal most
        count = len(scene.databases["a"].backends())
        most = max(most, count)
        return count

    async with running_load(address, clients=16) as more:
        await until(lambda: servers() == 4, "4 servers")
        for size in (8, 2, 4):
            await scene.apply(with_pool(scene.entries["a"], size=size), scene.entries["b"])
            await until(lambda size=size: servers() == size, f"{size} servers")  # type: ignore[misc]
            assert pools(scene.process, "a")[0]["size"] == size
            most = 0
            await more.until(200)
            servers()
            assert most <= size
    assert not more.result.errors
    assert more.result.logins == 16


async def test_a_tenant_that_became_bad_keeps_its_last_good_state(scene: Scene) -> None:
    a, b = scene.entries["a"], scene.entries["b"]
    content = files([a, b])
    name = names.tenants_file(names.shard_of("b"))
    bad = json.loads(content[name])
    bad["revision"] = "broken"
    next(entry for entry in bad["tenants"] if entry["tenantId"] == "b")["pool"]["size"] = "many"
    await scene.swap({**content, name: json.dumps(bad).encode()})
    await scene.until_applied(lambda: scene.process.status()["revisions"][name] == "broken")
    assert any(where == "tenant b" and "size" in problem for where, problem in scene.problems)
    assert '"configuration problem"' in scene.process.log_text()
    client = await RawClient.connect(scene.process.address(b))  # still let in
    assert await client.values("select 1") == [[b"1"]]
    client.close()
    await scene.apply(a, with_pool(b, size=3))
    assert scene.problems == []
    assert pools(scene.process, "b")[0]["size"] == 3


@pytest.mark.parametrize("bad_id", ["B", None])
async def test_a_tenant_whose_id_became_bad_is_not_taken_for_removed(scene: Scene, bad_id: object) -> None:
    a, b = scene.entries["a"], scene.entries["b"]
    content = files([a, b])
    name = names.tenants_file(names.shard_of("b"))
    for revision in ("broken", "broken-again"):
        bad = json.loads(content[name])
        bad["revision"] = revision
        next(entry for entry in bad["tenants"] if entry["tenantId"] == "b")["tenantId"] = bad_id
        await scene.swap({**content, name: json.dumps(bad).encode()})
        await scene.until_applied(
            lambda revision=revision: scene.process.status()["revisions"][name] == revision  # type: ignore[misc]
        )
        assert {"tenant b", f"tenant {name}: tenants[{len(bad['tenants']) - 1}]"} == {x for x, _ in scene.problems}
        client = await RawClient.connect(scene.process.address(b))  # still let in
        client.close()
    await scene.apply(a, with_pool(b, size=3))
    assert scene.problems == []
    assert pools(scene.process, "b")[0]["size"] == 3


async def test_clients_of_a_removed_tenant_leave_at_a_boundary(scene: Scene) -> None:
    a, b, c = scene.entries.values()
    await scene.apply(a, b, c)
    idle = await RawClient.connect(scene.process.address(c))
    busy = await RawClient.connect(scene.process.address(c))
    in_session = await RawClient.connect(scene.process.address(c, listener="session"))
    await idle.values("select 1")
    await in_session.values("select 1")
    await busy.values("create table t (n int)")
    await busy.values("begin; insert into t values (1)")
    await scene.apply(a, b)
    for client in (idle, in_session):
        fields = messages.error_fields((await client.receive()).body)
        assert (fields["S"], fields["C"]) == ("FATAL", "57P01")
        with pytest.raises(ServerClosedError):
            await client.receive()
        client.abort()
    await busy.values("insert into t values (2)")
    busy.send(messages.query("commit"))
    assert messages.tags(await busy.receive_until(b"E")) == b"CZE"
    with pytest.raises(ServerClosedError):
        await busy.receive()
    busy.abort()
    database = scene.databases["c"]
    assert await asyncio.to_thread(database.sql, "select count(*) from t") == "2"
    await until(lambda: database.backends() == [], "no server of the removed tenant")
    with pytest.raises(ServerRefusedError):
        await RawClient.connect(scene.process.address(c))
    await until(lambda: "c" not in [t["tenantId"] for t in scene.process.status()["tenants"]], "c forgotten")


async def test_a_new_password_retires_servers_and_drops_nobody(scene: Scene) -> None:
    a, b, database = scene.entries["a"], scene.entries["b"], scene.databases["a"]
    before = {pid for pid, _ in await asyncio.to_thread(database.backends)}
    await asyncio.to_thread(database.sql, f"alter role {database.user} password 'another one'")
    new_user = a.users[0].model_copy(update={"passwords": (SecretStr("another one"),)})
    changed = a.model_copy(update={"users": (new_user,)})
    await scene.apply(changed, b)
    await until(lambda: not before & {pid for pid, _ in database.backends()}, "other servers than before")
    client = await RawClient.connect(scene.process.address(changed))
    assert await client.values("select 1") == [[b"1"]]
    client.close()
    with pytest.raises(ServerRefusedError) as caught:
        await RawClient.connect(scene.process.address(a))
    assert caught.value.sqlstate == "28P01"
    assert "another one" not in scene.process.log_text()


async def test_a_tenant_moves_to_another_postgresql(scene: Scene, new_postgres: Callable[..., PostgresServer]) -> None:
    a, b, old = scene.entries["a"], scene.entries["b"], scene.databases["a"]
    server = new_postgres()
    new = replace(old, server=server)
    create = f"create role {old.user} login password '{old.password}'; create database {old.name} owner {old.user}"
    for command in create.split(";"):
        await asyncio.to_thread(server.sql, command)
    client = await RawClient.connect(scene.process.address(a))
    port = "select current_setting('port')"
    assert await client.values(port) == [[str(old.server.port).encode()]]
    await client.values("begin")
    await scene.apply(tenant(new, "a", size=4), b)
    assert await client.values(port) == [[str(old.server.port).encode()]], "the transaction stays where it began"
    await client.values("commit")
    assert await client.values(port) == [[str(server.port).encode()]]
    client.close()
    await until(lambda: old.backends() == [], "no server left at the old place")
    # Back again, for the new server ends with this test and the load goes on a moment longer.
    await scene.apply(a, b)
    await until(lambda: new.backends() == [], "no server left at the other place")


def _truncated(content: dict[str, bytes]) -> Iterable[tuple[str, bytes]]:
    return [(name, data[: len(data) // 2]) for name, data in content.items() if name != names.CLUSTER_FILE]


def _of_unknown_version(content: dict[str, bytes]) -> Iterable[tuple[str, bytes]]:
    return [(name, data.replace(b'"version":"1.0"', b'"version":"2.0"')) for name, data in content.items()]


def _with_unknown_field(content: dict[str, bytes]) -> Iterable[tuple[str, bytes]]:
    return [(name, data.replace(b'"size":4', b'"size":4,"sise":9')) for name, data in content.items()]


def _cluster_of_wrong_type(content: dict[str, bytes]) -> Iterable[tuple[str, bytes]]:
    return [(names.CLUSTER_FILE, b'{"version":"1.0","cluster":7}')]


def _without_cluster_file(content: dict[str, bytes]) -> Iterable[tuple[str, bytes]]:
    return [(name, data) for name, data in content.items() if name != names.CLUSTER_FILE]


def _empty(content: dict[str, bytes]) -> Iterable[tuple[str, bytes]]:
    return [(name, b"") for name in content]


@pytest.mark.parametrize(
    "spoil",
    [
        _truncated,
        _of_unknown_version,
        _with_unknown_field,
        _cluster_of_wrong_type,
        _without_cluster_file,
        _empty,
    ],
)
async def test_bad_files_change_nothing(
    scene: Scene, spoil: Callable[[dict[str, bytes]], Iterable[tuple[str, bytes]]]
) -> None:
    a, b = scene.entries["a"], scene.entries["b"]
    content = files([a, b])
    spoiled = dict(spoil(content))
    assert spoiled != content
    await scene.swap(spoiled if spoil is _without_cluster_file else {**content, **spoiled})
    await scene.until_applied(lambda: scene.problems)
    for entry in (a, b):
        client = await RawClient.connect(scene.process.address(entry))
        assert await client.values("select 1") == [[b"1"]]
        client.close()
        assert pools(scene.process, entry.tenant_id)[0]["size"] == 4
    for database in scene.databases.values():
        assert database.password not in scene.process.log_text()
    await scene.apply(a, b)
    await until(lambda: not scene.problems, "no problem left")


async def test_a_change_that_came_without_its_cluster_file_is_not_lost(scene: Scene) -> None:
    changed = with_pool(scene.entries["a"], size=3)
    content = files([changed, scene.entries["b"]])
    await scene.swap(dict(_without_cluster_file(content)))
    await scene.until_applied(lambda: scene.problems)
    assert '"configuration problem"' in scene.process.log_text()
    await scene.apply(changed, scene.entries["b"])
    assert pools(scene.process, "a")[0]["size"] == 3
    assert scene.problems == []
