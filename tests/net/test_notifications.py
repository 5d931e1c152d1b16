"""Listening for many clients by one server, on real PostgreSQL: what arrives, in which order, and what it takes."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from harness.config import tenant
from harness.databases import Database
from harness.waiting import until
from net.listeners import Client, Notifier, Place, listening_backends
from pgweir_pooler.errors import ListenFailed, NoRoomToListen, TooManyChannels
from pgweir_pooler.net.notifications import CHANNELS_PER_CLIENT
from pgweir_pooler.pool.keys import CloseReason
from pgweir_pooler.pool.slot import Connection

ODD_NAMES = [
    '"',
    'a"b""c',
    "Mixed Case",
    "grüße",
    "日本語",
    "x" * 63,
    "é" * 31,
    ";drop table x;--",
    "'",
    "\\",
    "\n",
    "🚰",
]


class Borrower:
    """A client of the pool that wants a server to itself."""

    def __init__(self) -> None:
        self.told: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    def granted(self, connection: Connection, now: float) -> None:
        self.told.set_result(connection)

    def refused(self, error: Exception) -> None:
        self.told.set_exception(error)


@pytest_asyncio.fixture
async def place(database: Database) -> AsyncIterator[Place]:
    made = Place()
    made.put(tenant(database, size=1))
    yield made
    await made.end()


@pytest_asyncio.fixture
async def notifier(database: Database) -> AsyncIterator[Notifier]:
    made = await Notifier.connect(database.address)
    yield made
    await made.close()


async def test_a_client_hears_its_channels_in_commit_order_and_no_others(place: Place, notifier: Notifier) -> None:
    one, other = place.client(), place.client()
    await one.listen("a", "b")
    await other.listen("b")
    for i in range(100):
        await notifier.notify("ab"[i % 2], str(i))
    await notifier.notify("c", "nobody")
    await notifier.notify("b", "end")
    await one.until_hears("end")
    await other.until_hears("end")
    assert one.heard == [("ab"[i % 2], str(i)) for i in range(100)] + [("b", "end")]
    assert other.heard == [("b", str(i)) for i in range(1, 100, 2)] + [("b", "end")]
    assert one.pids == {notifier.pid}
    assert place.listening() == 1


async def test_what_one_transaction_notifies_arrives_in_its_order(place: Place, notifier: Notifier) -> None:
    client = place.client()
    await client.listen("a", "b")
    await notifier.run("begin; notify b, '1'; notify a, '2'; notify b, '3'; notify b, '1'; commit; notify a, '4'")
    await client.until_hears("4")
    assert client.heard == [("b", "1"), ("a", "2"), ("b", "3"), ("a", "4")]


async def test_odd_channel_names_are_kept_as_they_are(place: Place, notifier: Notifier) -> None:
    client = place.client()
    await client.listen(*ODD_NAMES)
    for name in ODD_NAMES:
        await notifier.notify(name, "to " + name)
    await client.until(lambda: len(client.heard) == len(ODD_NAMES))
    assert client.heard == [(name, "to " + name) for name in ODD_NAMES]


async def test_channels_that_were_given_up_are_heard_no_more(place: Place, notifier: Notifier) -> None:
    client = place.client()
    await client.listen("a", "b")
    await client.listen("b", "c")
    for name in "abc":
        await notifier.notify(name, name)
    await client.until_hears("c")
    assert client.payloads() == ["b", "c"]
    await client.listen("a", "c")
    await client.listen()
    assert len(place.hubs) == 0
    await notifier.notify("a", "late")
    await client.listen("a")
    await notifier.notify("a", "end")
    await client.until_hears("end")
    assert client.payloads() == ["b", "c", "end"]


async def test_a_channel_stays_while_anybody_wants_it(place: Place, notifier: Notifier) -> None:
    clients = [place.client() for _ in range(3)]
    await asyncio.gather(*(client.listen("a") for client in clients))
    clients[0].leave()
    await clients[1].listen("b")
    await notifier.notify("a", "1")
    await notifier.notify("b", "2")
    await clients[2].until_hears("1")
    await clients[1].until_hears("2")
    assert [client.payloads() for client in clients] == [[], ["2"], ["1"]]


async def test_a_channel_that_is_dropped_and_wanted_in_the_same_moment_is_heard(
    place: Place, notifier: Notifier
) -> None:
    one, other = place.client(), place.client()
    await one.listen("a")
    for i in range(50):
        leaving, coming = (one, other) if i % 2 == 0 else (other, one)
        wanting = asyncio.create_task(coming.listen("a", f"b{i}"))
        await asyncio.sleep(0)
        leaving.leave()
        await wanting
        await notifier.notify("a", str(i))
        await coming.until_hears(str(i))
    assert one.payloads() == [str(i) for i in range(1, 50, 2)]
    assert other.payloads() == [str(i) for i in range(0, 50, 2)]


async def test_the_last_client_takes_the_server_with_it(place: Place, database: Database) -> None:
    for _ in range(3):
        client = place.client()
        await client.listen("a")
        assert len(await asyncio.to_thread(listening_backends, database)) == 1
        client.leave()
        assert place.listening() == 0
        await until(lambda: listening_backends(database) == [], "the listening backend is gone")


async def test_a_client_that_leaves_before_the_answer_leaves_nothing(place: Place, database: Database) -> None:
    told: list[object] = []
    client = place.client()
    place.hubs.set_channels(client, frozenset([b"a"]), told.append)
    client.leave()
    other = place.client()
    await other.listen("b")
    assert told == []
    assert len(await asyncio.to_thread(listening_backends, database)) == 1


async def test_many_clients_on_many_channels(place: Place, notifier: Notifier) -> None:
    clients = [place.client() for _ in range(200)]
    await asyncio.gather(*(c.listen("all", *(f"c{i * 5 + j}" for j in range(5))) for i, c in enumerate(clients)))
    for i in range(0, 1000, 7):
        await notifier.notify(f"c{i}", str(i))
    await notifier.notify("all", "end")
    for i, client in enumerate(clients):
        await client.until_hears("end")
        assert client.payloads() == [str(n) for n in range(i * 5, i * 5 + 5) if n % 7 == 0] + ["end"]
    assert place.listening() == 1


async def test_a_client_has_at_most_a_thousand_channels(place: Place, notifier: Notifier) -> None:
    client = place.client()
    most = [f"c{i}" for i in range(CHANNELS_PER_CLIENT)]
    await client.listen(*most)
    with pytest.raises(TooManyChannels) as refused:
        await client.listen(*most, "one more")
    assert refused.value.wire_sqlstate() == "54000"
    await notifier.notify(most[-1], "still there")
    await client.until_hears("still there")


async def test_the_listening_server_takes_no_place_of_a_pool_of_one(place: Place, notifier: Notifier) -> None:
    pool = place.held().pool
    borrower = Borrower()
    pool.ask(borrower)
    server = await borrower.told
    client = place.client()
    await client.listen("a")
    assert (pool.active, pool.listening, pool.instance.ledger.servers) == (1, 1, 2)
    pool.resize(pool.ledger.limits)
    pool.discard(server, CloseReason.BROKEN)
    await notifier.notify("a", "1")
    await client.until_hears("1")


async def test_a_budget_of_one_refuses_to_listen(place: Place, database: Database) -> None:
    place.put(tenant(database, max_connections=1, size=1))
    client = place.client()
    with pytest.raises(NoRoomToListen) as refused:
        await client.listen("a")
    assert refused.value.wire_sqlstate() == "53300"
    assert refused.value.severity == "ERROR"
    assert len(place.hubs) == 0
    place.put(tenant(database, max_connections=2, size=1))
    await client.listen("a")


async def test_a_used_up_budget_gives_the_listener_the_next_server_that_comes_back(
    place: Place, database: Database
) -> None:
    place.put(tenant(database, max_connections=2, size=2))
    pool = place.held().pool
    borrowers = [Borrower(), Borrower(), Borrower()]
    for borrower in borrowers:
        pool.ask(borrower)
    server = await borrowers[0].told
    await borrowers[1].told
    client = place.client()
    listening = asyncio.create_task(client.listen("a"))
    await asyncio.sleep(0)
    pool.give_back(server)
    await listening
    assert (pool.listening, pool.active, pool.waiting) == (1, 1, 1)
    pool.abandon(borrowers[2])
    pool.discard(await borrowers[1].told, CloseReason.BROKEN)


async def test_a_lower_budget_ends_listening_where_it_would_starve_the_pool(place: Place, database: Database) -> None:
    client = place.client()
    await client.listen("a")
    place.put(tenant(database, max_connections=1, size=1))
    await client.until(lambda: client.lost)
    assert [error.wire_sqlstate() for error in client.lost] == ["57P01"]
    borrower = Borrower()
    place.held().pool.ask(borrower)
    place.held().pool.give_back(await borrower.told)


async def test_a_login_that_fails_is_an_error_of_the_statement(
    place: Place, database: Database, new_database: Callable[..., Database]
) -> None:
    await asyncio.to_thread(database.sql, f"alter role {database.user} nologin")
    client = place.client()
    with pytest.raises(ListenFailed) as refused:
        await client.listen("a")
    assert (refused.value.severity, refused.value.wire_sqlstate()) == ("ERROR", "28000")
    assert database.password not in str(refused.value)
    assert len(place.hubs) == 0


async def test_clients_of_two_tenants_do_not_share(place: Place, database: Database, notifier: Notifier) -> None:
    place.put(tenant(database, "globex", size=1))
    one, other = place.client(), place.client(place.held("globex"))
    await one.listen("a")
    await other.listen("a")
    assert place.listening() == len(place.hubs) == 2
    await notifier.notify("a", "1")
    await one.until_hears("1")
    await other.until_hears("1")


async def test_a_client_that_leaves_while_others_are_told_disturbs_nobody(place: Place, notifier: Notifier) -> None:
    class Leaver(Client):
        def notified(self, message: bytes) -> None:
            super().notified(message)
            for client in clients[:2]:
                client.leave()

    clients = [Leaver(place, place.held()) for _ in range(3)]
    place.clients += clients
    for client in clients:
        await client.listen("a")
    await notifier.notify("a", "1")
    await notifier.notify("a", "2")
    await clients[2].until_hears("2")
    assert clients[2].payloads() == ["1", "2"]
    assert clients[0].payloads() == ["1"]
