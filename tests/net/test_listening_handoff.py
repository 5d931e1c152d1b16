"""A listening server that is replaced on purpose: each notification arrives once and in order, or the gap is told."""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable
from itertools import pairwise

import pytest_asyncio
from pydantic import SecretStr

from harness.config import tenant
from harness.databases import Database
from harness.waiting import until
from net.listeners import Client, Notifier, Place, listening_backends, until_here
from pgweir_contract.models import Listen, TenantEntry, User
from pgweir_operator.local_postgres import PostgresServer

RATE_PER_S = 1_000


class Stream:
    """Numbered notifications at RATE_PER_S, until it is ended."""

    def __init__(self, notifier: Notifier, channels: list[str]) -> None:
        self._notifier = notifier
        self._channels = channels
        self._is_wanted = True
        self.sent = 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        while self._is_wanted:
            while self.sent < (loop.time() - started) * RATE_PER_S:
                await self._notifier.notify(self._channels[self.sent % len(self._channels)], str(self.sent))
                self.sent += 1
            await asyncio.sleep(0.001)

    async def end(self) -> None:
        self._is_wanted = False
        await self._task


@pytest_asyncio.fixture
async def place() -> AsyncIterator[Place]:
    made = Place()
    yield made
    await made.end()


def with_password(entry: TenantEntry, password: str) -> TenantEntry:
    user = entry.users[0].model_copy(update={"passwords": (SecretStr(password),)})
    return entry.model_copy(update={"users": (user, *entry.users[1:])})


async def has_heard_all(client: Client, sent: int) -> None:
    await client.until(lambda: len(client.heard) >= sent)
    assert client.payloads() == [str(i) for i in range(sent)]
    assert client.lost == []


async def test_a_new_password_replaces_the_listener_without_loss_or_duplicate(place: Place, database: Database) -> None:
    entry = tenant(database, size=1)
    place.put(entry)
    clients = [place.client() for _ in range(3)]
    for client in clients:
        await client.listen("a", "b", "c")
    notifier = await Notifier.connect(database.address)
    stream = Stream(notifier, ["a", "b", "c"])
    seen = set(await asyncio.to_thread(listening_backends, database))
    for _ in range(8):
        password = secrets.token_urlsafe(12)
        await asyncio.to_thread(database.sql, f"alter role {database.user} password '{password}'")
        place.put(with_password(entry, password))

        def has_been_replaced() -> bool:
            now = listening_backends(database)
            return len(now) == 1 and now[0] not in seen

        await until(has_been_replaced, "another backend listens, alone")
        seen.update(await asyncio.to_thread(listening_backends, database))
    await stream.end()
    assert stream.sent > 50
    for client in clients:
        await has_heard_all(client, stream.sent)
    assert len(seen) == 9
    await notifier.close()


async def test_clients_that_come_and_go_during_a_replacement_miss_nothing(place: Place, database: Database) -> None:
    entry = tenant(database, size=1)
    place.put(entry)
    await place.client().listen("other")
    notifier = await Notifier.connect(database.address)
    for round_ in range(10):
        place.put(with_password(entry, "wrong"))  # twice: back to the right one, before anything was opened
        place.put(entry)
        for i in range(20):
            client = place.client()
            channel = f"c{round_}-{i}"
            await client.listen(channel, "other")
            await notifier.notify(channel, "1")
            await client.until_hears("1")
            assert client.payloads() == ["1"]
            if i % 2:
                client.leave()
    assert not any(client.lost for client in place.clients)
    await until(lambda: len(listening_backends(database)) == 1, "one backend listens")
    await notifier.close()


async def test_the_same_postgres_under_another_name_is_a_move_without_a_gap(place: Place, database: Database) -> None:
    entry = tenant(database, size=1)
    place.put(entry)
    client = place.client()
    await client.listen("a")
    notifier = await Notifier.connect(database.address)
    stream = Stream(notifier, ["a"])
    for host in ("localhost", "127.0.0.1"):
        place.put(entry.model_copy(update={"upstream": entry.upstream.model_copy(update={"host": host})}))
        there = place.directory.instances[f"{host}:{entry.upstream.port}"]
        await until_here(lambda there=there: there.ledger.listeners == place.listening() == 1)  # type: ignore[misc]
    await stream.end()
    await has_heard_all(client, stream.sent)
    await notifier.close()


async def test_a_move_to_another_database_is_told(
    place: Place,
    database: Database,
    new_postgres: Callable[..., PostgresServer],
    new_database: Callable[[PostgresServer], Database],
) -> None:
    there = await asyncio.to_thread(new_postgres)
    far = await asyncio.to_thread(new_database, there)
    entry = tenant(database, size=1).model_copy(update={"listen": Listen(on_gap="Notice")})
    elsewhere = tenant(far, size=1).upstream
    users = (User(name=far.user, alias=database.user, passwords=(SecretStr(far.password),)),)
    databases = (entry.databases[0].model_copy(update={"upstream_name": far.name}),)
    moved = entry.model_copy(update={"upstream": elsewhere, "users": users, "databases": databases})
    place.put(entry)
    client = place.client()
    await client.listen("a")
    place.put(moved)
    await client.until(lambda: client.lost)
    assert [error.severity for error in client.lost] == ["WARNING"]
    notifier = await Notifier.connect(far.address)
    await notifier.notify("a", "from there")
    await client.until_hears("from there")
    await notifier.close()
    place.put(moved.model_copy(update={"listen": Listen(on_gap="Disconnect")}))
    place.put(entry.model_copy(update={"listen": Listen(on_gap="Disconnect")}))
    await client.until(lambda: len(client.lost) == 2)
    assert client.lost[1].wire_sqlstate() == "57P01"


async def test_a_removed_user_leaves_the_listener_to_another_ones_pool(
    place: Place, database: Database, new_database: Callable[[PostgresServer], Database]
) -> None:
    second = await asyncio.to_thread(new_database, database.server)
    entry = tenant(database, size=1)
    both = (*entry.users, User(name=second.user, passwords=(SecretStr(second.password),)))
    place.put(entry.model_copy(update={"users": both}))
    first_client, second_client = place.client(place.held(user=0)), place.client(place.held(user=1))
    await first_client.listen("a")
    await second_client.listen("a")
    assert place.held(user=0).pool.listening == 1
    notifier = await Notifier.connect(database.address)
    stream = Stream(notifier, ["a"])
    place.put(entry.model_copy(update={"users": both[1:]}))
    first_client.leave()
    await until_here(lambda: place.held().pool.listening == place.listening() == 1)
    await stream.end()
    await has_heard_all(second_client, stream.sent)
    await notifier.close()


async def test_a_removed_tenant_ends_it(place: Place, database: Database) -> None:
    place.put(tenant(database, size=1))
    client = place.client()
    await client.listen("a")
    place.directory.remove("acme")
    await client.until(lambda: client.lost)
    assert len(place.hubs) == 0
    await until_here(lambda: not place.directory.departed)


async def test_a_budget_without_room_for_two_listeners_is_a_gap(place: Place, database: Database) -> None:
    entry = tenant(database, size=1, max_connections=2).model_copy(update={"listen": Listen(on_gap="Notice")})
    place.put(entry)
    client = place.client()
    await client.listen("a")
    password = secrets.token_urlsafe(12)
    await asyncio.to_thread(database.sql, f"alter role {database.user} password '{password}'")
    place.put(with_password(entry, password))
    await client.until(lambda: client.lost)
    assert [error.severity for error in client.lost] == ["WARNING"]
    notifier = await Notifier.connect(
        database.address.__class__(database.address.port, database.user, database.name, password)
    )
    await notifier.notify("a", "1")
    await client.until_hears("1")
    await notifier.close()


async def test_whatever_dies_at_whatever_moment_nothing_is_lost_silently_or_doubled(
    place: Place, database: Database
) -> None:
    entry = tenant(database, size=1).model_copy(update={"listen": Listen(on_gap="Notice")})
    place.put(entry)
    clients = [place.client() for _ in range(3)]
    for client in clients:
        await client.listen("a")
    notifier = await Notifier.connect(database.address)
    admin = await Notifier.connect(database.admin_address)
    stream = Stream(notifier, ["a"])
    chance = random.Random(4711)
    for _ in range(40):
        place.put(with_password(entry, "another"))
        place.put(entry)
        await asyncio.sleep(chance.uniform(0, 0.03))
        await admin.run(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            f" where application_name = 'pgweir listener' and datname = '{database.name}' and random() < 0.3"
        )
    await until_here(lambda: place.listening() == 1 and not place.directory.departed)
    await stream.end()
    await asyncio.gather(*(client.listen("a", "b") for client in clients))  # answered: whoever it is, it listens
    await notifier.notify("a", "end")
    for client in clients:
        await client.until_hears("end")
        numbers = [int(payload) for payload in client.payloads()[:-1]]
        assert numbers == sorted(set(numbers)), "in order, once"
        gaps = sum(after != before + 1 for before, after in pairwise([-1, *numbers, stream.sent]))
        assert gaps <= len(client.lost), "each gap is told"
        assert {error.severity for error in client.lost} <= {"WARNING"}
    await notifier.close()
    await admin.close()


async def test_a_wrong_password_keeps_the_old_listener_until_it_is_right(place: Place, database: Database) -> None:
    entry = tenant(database, size=1)
    place.put(entry)
    client = place.client()
    await client.listen("a")
    old = await asyncio.to_thread(listening_backends, database)
    notifier = await Notifier.connect(database.address)
    stream = Stream(notifier, ["a"])
    place.put(with_password(entry, "wrong"))
    await until_here(lambda: place.held().pool.ledger.backoff.error)
    assert await asyncio.to_thread(listening_backends, database) == old
    place.put(entry)
    await until(lambda: len(now := listening_backends(database)) == 1 and now != old, "another one listens")
    await stream.end()
    await has_heard_all(client, stream.sent)
    await notifier.close()
