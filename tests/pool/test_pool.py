"""The shell does what the books say, whatever the clients, the connects and the timers do to it."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, cast

import pytest

from pgweir_pooler.errors import PoolerError, QueueTimeout, ServerLoginFailed, ServerUnreachable, Terminated
from pgweir_pooler.pool.keys import CloseReason, PoolKey, PoolLimits
from pgweir_pooler.pool.pool import Instance, Pool
from pgweir_pooler.telemetry import PoolCounters
from pool.books import limits
from pool.virtual_time import VirtualLoop, in_virtual_time, pass_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgweir_pooler.pool.slot import Connection, Slot

REFUSED = ServerLoginFailed("28P01", "password authentication failed")


class FakeServer:
    """Closes a hundredth of a second after it was told to, as PostgreSQL would."""

    def __init__(self, pool: Pool, slot: Slot) -> None:
        self.pool = pool
        self.slot = slot
        self.reasons: list[CloseReason] = []
        self.error: Exception | None = None

    def close(self, reason: CloseReason) -> None:
        self.reasons.append(reason)
        if self.error:
            raise self.error
        asyncio.get_running_loop().call_later(0.01, self.pool.lost, self)


class Database:
    """What `connect` meets: made servers, and how the next logins end."""

    def __init__(self) -> None:
        self.servers: list[FakeServer] = []
        self.error: BaseException | None = None
        self.login_s = 0.0
        self.logins = 0

    async def connect(self, pool: Pool, slot: Slot) -> Connection:
        self.logins += 1
        if self.login_s:
            await asyncio.sleep(self.login_s)
        if self.error:
            raise self.error
        server = FakeServer(pool, slot)
        self.servers.append(server)
        return server


class FakeClient:
    """Remembers what it was told; `then` is what it does with its server on the spot."""

    def __init__(self, then: Callable[[Connection], None] | None = None) -> None:
        self.connection: Connection | None = None
        self.error: PoolerError | None = None
        self.told = 0
        self.then = then

    def granted(self, connection: Connection, now: float) -> None:
        self.told += 1
        self.connection = connection
        if self.then:
            self.then(connection)

    def refused(self, error: PoolerError) -> None:
        self.told += 1
        self.error = error


def new_instance(limit: int = 100) -> Instance:
    return Instance("db:5432", limit, asyncio.get_running_loop(), random.Random(1))


def new_pool(database: Database, bounds: PoolLimits, instance: Instance | None = None, name: str = "acme") -> Pool:
    return Pool(PoolKey(name, "db", "app"), bounds, instance or new_instance(), database.connect, PoolCounters())


async def lent(pool: Pool) -> Connection:
    client = FakeClient()
    pool.ask(client)
    await pass_time(0)
    assert client.connection is not None
    return client.connection


# --- lending


@in_virtual_time
async def test_a_server_is_opened_lent_given_back_and_taken_again_and_all_of_it_is_counted() -> None:
    database = Database()
    database.login_s = 0.5
    pool = new_pool(database, limits(size=1))
    client = FakeClient()
    assert pool.take() is None
    pool.ask(client)
    assert (pool.opening, pool.waiting) == (1, 1)
    await pass_time(0.4)
    assert pool.oldest_wait_s() == pytest.approx(0.4)
    await pass_time(0.2)
    server = database.servers[0]
    assert client.connection is server
    assert (pool.active, pool.waiting, pool.oldest_wait_s()) == (1, 0, 0.0)
    pool.give_back(server)
    assert (pool.active, pool.idle) == (0, 1)
    assert pool.take() is server
    counters = pool.counters
    assert (counters.checkouts, counters.waits, counters.server_opens) == (2, 1, 1)
    assert counters.wait_time.sum_s == pytest.approx(0.5)


@in_virtual_time
async def test_take_and_give_back_set_no_timer() -> None:
    pool = new_pool(Database(), limits(size=1, server_idle_timeout_s=60, server_lifetime_s=600, queue_timeout_s=5))
    pool.give_back(await lent(pool))
    loop = cast("VirtualLoop", asyncio.get_running_loop())
    before = loop.timers_set
    for _ in range(100):
        connection = pool.take()
        assert connection is not None
        pool.give_back(connection)
    assert loop.timers_set == before


@in_virtual_time
async def test_a_chain_of_hand_offs_needs_no_stack() -> None:
    pool = new_pool(Database(), limits(size=1))
    connection = await lent(pool)
    clients = [FakeClient(then=pool.give_back) for _ in range(5_000)]
    for client in clients:
        pool.ask(client)
    pool.give_back(connection)
    assert [client.told for client in clients] == [1] * 5_000
    assert pool.idle == 1


@in_virtual_time
async def test_a_client_may_ask_again_while_it_is_granted() -> None:
    pool = new_pool(Database(), limits(size=1))
    again = FakeClient()

    def give_back_and_ask(connection: Connection) -> None:
        pool.give_back(connection)
        pool.ask(again)

    connection = await lent(pool)
    pool.ask(FakeClient(then=give_back_and_ask))
    pool.give_back(connection)
    assert again.connection is connection
    assert pool.active == 1


def fail(connection: Connection) -> None:
    raise RuntimeError("a bug in a session")


@in_virtual_time
async def test_a_client_that_fails_when_granted_does_not_cost_the_pool_a_server() -> None:
    database = Database()
    pool = new_pool(database, limits(size=1))
    connection = await lent(pool)
    after = FakeClient()
    pool.ask(FakeClient(then=fail))
    pool.ask(after)
    pool.give_back(connection)
    await pass_time(1)
    assert database.servers[0].reasons == [CloseReason.BROKEN]
    assert after.connection is database.servers[1]
    assert pool.instance.ledger.servers == 1


@pytest.mark.parametrize("others", [0, 1])
@in_virtual_time
async def test_a_client_that_fails_after_it_gave_back_hurts_nobody(others: int) -> None:
    database = Database()
    pool = new_pool(database, limits(size=1))

    def give_back_and_fail(connection: Connection) -> None:
        pool.give_back(connection)
        raise RuntimeError("a bug in a session")

    connection = await lent(pool)
    pool.ask(FakeClient(then=give_back_and_fail))
    clients = [FakeClient() for _ in range(others)]
    for client in clients:
        pool.ask(client)
    pool.give_back(connection)
    assert database.servers[0].reasons == []
    assert [client.connection for client in clients] == [connection] * others
    assert (pool.active, pool.idle) == (others, 1 - others)


@in_virtual_time
async def test_a_client_that_fails_when_refused_does_not_silence_the_others() -> None:
    database = Database()
    pool = new_pool(database, limits(size=1))
    await lent(pool)

    class Failing(FakeClient):
        def refused(self, error: PoolerError) -> None:
            raise RuntimeError("a bug in a session")

    other = FakeClient()
    pool.ask(Failing())
    pool.ask(other)
    pool.drain(Terminated())
    assert isinstance(other.error, Terminated)


@in_virtual_time
async def test_abandoning_in_the_queue_and_after_the_grant_was_decided_both_free_the_server() -> None:
    pool = new_pool(Database(), limits(size=2))
    one, two = await lent(pool), await lent(pool)
    granted_too_late, third = FakeClient(), FakeClient()

    def have_the_other_one_granted_and_abandoned(connection: Connection) -> None:
        pool.give_back(two)
        assert pool.waiting == 1, "the books have granted it, nobody told it"
        pool.abandon(granted_too_late)

    pool.ask(FakeClient(then=have_the_other_one_granted_and_abandoned))
    pool.ask(granted_too_late)
    pool.ask(third)
    pool.give_back(one)
    assert granted_too_late.told == 0
    assert third.connection is two
    waiting = FakeClient()
    pool.ask(waiting)
    pool.abandon(waiting)
    pool.give_back(one)
    pool.give_back(two)
    assert waiting.told == 0
    assert pool.idle == 2


@in_virtual_time
async def test_who_was_promised_a_server_that_dies_before_it_is_told_asks_again() -> None:
    database = Database()
    pool = new_pool(database, limits(size=2))
    one, two = await lent(pool), await lent(pool)

    def promise_and_kill_the_other_one(connection: Connection) -> None:
        pool.give_back(two)
        pool.lost(two)

    promised = FakeClient()
    pool.ask(FakeClient(then=promise_and_kill_the_other_one))
    pool.ask(promised)
    pool.give_back(one)
    await pass_time(0)
    assert promised.connection is database.servers[2]
    assert promised.told == 1


# --- connects


@in_virtual_time
async def test_the_servers_own_error_reaches_the_waiter_and_the_next_one_fails_fast() -> None:
    database = Database()
    database.error = REFUSED
    pool = new_pool(database, limits())
    clients = [FakeClient(), FakeClient()]
    for client in clients:
        pool.ask(client)
        await pass_time(0)
    assert [client.error for client in clients] == [REFUSED, REFUSED]
    assert database.logins == 1
    database.error = None
    await pass_time(0.3)
    await lent(pool)


@in_virtual_time
async def test_a_login_that_takes_too_long_is_given_up() -> None:
    database = Database()
    database.login_s = 100
    pool = new_pool(database, limits(connect_timeout_s=3))
    client = FakeClient()
    pool.ask(client)
    await pass_time(2.9)
    assert client.told == 0
    await pass_time(0.2)
    assert isinstance(client.error, ServerUnreachable)
    assert "3 s" in client.error.text
    assert pool.instance.ledger.servers == 0


@in_virtual_time
async def test_an_unknown_failure_is_logged_and_tells_the_client_nothing_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = Database()
    database.error = ValueError("password=hunter2")
    pool = new_pool(database, limits())
    client = FakeClient()
    pool.ask(client)
    await pass_time(0)
    assert isinstance(client.error, ServerUnreachable)
    assert "hunter2" not in client.error.client_text()
    assert "failed in an unknown way" in caplog.text


@pytest.mark.parametrize("has_begun", [True, False])
@in_virtual_time
async def test_a_cancelled_connect_leaves_the_books_right(has_begun: bool) -> None:
    database = Database()
    database.login_s = 100
    pool = new_pool(database, limits(connect_timeout_s=0))
    client = FakeClient()
    pool.ask(client)
    if has_begun:
        await pass_time(0)
    (task,) = pool._connects.values()
    assert task.get_name() == "connect a server for acme/db/app"
    task.cancel()
    await pass_time(0)
    assert database.logins == has_begun
    assert pool.instance.ledger.servers == 0
    assert isinstance(client.error, ServerUnreachable)
    assert not pool._connects


@in_virtual_time
async def test_a_server_that_dies_right_after_its_login_is_never_lent() -> None:
    database = Database()

    async def connect(pool: Pool, slot: Slot) -> Connection:
        connection = await database.connect(pool, slot)
        if len(database.servers) == 1:
            pool.lost(connection)
        return connection

    pool = new_pool(database, limits(size=1))
    pool.connect = connect
    client = FakeClient()
    pool.ask(client)
    await pass_time(0)
    assert client.connection is database.servers[1]
    assert pool.instance.ledger.servers == 1


@in_virtual_time
async def test_while_the_database_starts_up_clients_wait_and_are_served_when_it_is_there() -> None:
    database = Database()
    database.error = ServerLoginFailed("57P03", "the database system is starting up")
    pool = new_pool(database, limits(queue_timeout_s=60))
    client = FakeClient()
    pool.ask(client)
    await pass_time(10)
    assert client.told == 0
    assert 8 <= database.logins <= 20
    database.error = None
    await pass_time(1)
    assert client.connection is database.servers[0]


# --- timers


@in_virtual_time
async def test_the_queue_timeout_comes_on_time_though_nothing_else_happens() -> None:
    pool = new_pool(Database(), limits(size=1, queue_timeout_s=2))
    await lent(pool)
    client = FakeClient()
    pool.ask(client)
    await pass_time(1.99)
    assert client.told == 0
    await pass_time(0.02)
    assert isinstance(client.error, QueueTimeout)


@in_virtual_time
async def test_an_earlier_deadline_moves_the_timer_forward() -> None:
    pool = new_pool(Database(), limits(size=1, queue_timeout_s=0, server_idle_timeout_s=100))
    pool.give_back(await lent(pool))
    pool.resize(limits(size=1, server_idle_timeout_s=1))
    await pass_time(1.1)
    assert pool.counters.server_closes == {"idle_timeout": 1}


@in_virtual_time
async def test_the_minimum_is_there_before_the_first_client_and_an_idle_server_leaves_in_time() -> None:
    database = Database()
    pool = new_pool(database, limits(size=3, min_idle=1, server_idle_timeout_s=5))
    await pass_time(0)
    assert pool.idle == 1
    first, second = await lent(pool), await lent(pool)
    pool.give_back(first)
    pool.give_back(second)
    await pass_time(5.1)
    assert (pool.idle, pool.counters.server_closes) == (1, {"idle_timeout": 1})
    assert pool.instance.ledger.servers == 1


@in_virtual_time
async def test_another_pools_idle_server_makes_way_after_a_second() -> None:
    instance = new_instance(limit=1)
    database = Database()
    one, two = (new_pool(database, limits(), instance, name) for name in ("one", "two"))
    one.give_back(await lent(one))
    client = FakeClient()
    two.ask(client)
    await pass_time(0.9)
    assert client.told == 0
    await pass_time(0.2)
    assert client.connection is database.servers[1]
    assert one.counters.server_closes == {"evicted": 1}


@in_virtual_time
async def test_a_minimum_that_made_way_for_another_pool_comes_back_by_itself() -> None:
    instance = new_instance(limit=1)
    warm = new_pool(Database(), limits(min_idle=1), instance, "warm")
    await pass_time(0)
    poor = new_pool(Database(), limits(), instance, "poor")
    client = FakeClient()
    poor.ask(client)
    await pass_time(2.5)
    assert client.connection is not None
    assert warm.counters.server_closes == {"evicted": 1}
    poor.discard(client.connection, CloseReason.CLIENT_GONE)
    await pass_time(1.1)
    assert warm.idle == 1


@in_virtual_time
async def test_a_timer_that_fires_a_moment_early_does_what_it_was_set_for() -> None:
    pool = new_pool(Database(), limits(size=1, queue_timeout_s=2))
    await lent(pool)
    client = FakeClient()
    pool.ask(client)
    await pass_time(1.9995)
    assert pool._timer is not None
    pool._timer.cancel()
    pool._tick()
    assert isinstance(client.error, QueueTimeout)


@in_virtual_time
async def test_a_lower_limit_of_the_instance_closes_idle_servers() -> None:
    instance = new_instance(limit=2)
    pool = new_pool(Database(), limits(), instance)
    one, two = await lent(pool), await lent(pool)
    pool.give_back(one)
    pool.give_back(two)
    instance.resize(1)
    await pass_time(0.1)
    assert (pool.idle, pool.counters.server_closes) == (1, {"resized": 1})


# --- the end


@in_virtual_time
async def test_a_server_that_postgresql_closed_is_counted_once_and_replaced() -> None:
    database = Database()
    pool = new_pool(database, limits(size=1))
    connection = await lent(pool)
    client = FakeClient()
    pool.ask(client)
    pool.lost(connection)
    pool.lost(connection)
    pool.discard(connection, CloseReason.CLIENT_GONE)
    await pass_time(0)
    assert client.connection is database.servers[1]
    assert pool.counters.server_closes == {"server_closed": 1}
    assert database.servers[0].reasons == []


@in_virtual_time
async def test_a_discarded_server_counts_until_it_is_gone() -> None:
    pool = new_pool(Database(), limits())
    pool.discard(await lent(pool), CloseReason.RESET_FAILED)
    assert (pool.closing, pool.instance.ledger.servers) == (1, 1)
    await pass_time(0.02)
    assert (pool.closing, pool.instance.ledger.servers) == (0, 0)
    assert pool.counters.server_closes == {"reset_failed": 1}


@in_virtual_time
async def test_a_close_that_fails_is_logged_and_its_server_counts_until_it_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = Database()
    pool = new_pool(database, limits())
    connection = await lent(pool)
    database.servers[0].error = RuntimeError("a bug in the transport")
    pool.discard(connection, CloseReason.BROKEN)
    assert "closing a server of acme/db/app failed" in caplog.text
    assert pool.instance.ledger.servers == 1
    pool.lost(connection)
    assert pool.instance.ledger.servers == 0


@in_virtual_time
async def test_after_retiring_the_new_connect_serves() -> None:
    old, new = Database(), Database()
    pool = new_pool(old, limits(size=1))
    connection = await lent(pool)
    client = FakeClient()
    pool.ask(client)
    pool.connect = new.connect
    pool.retire()
    pool.give_back(connection)
    await pass_time(0)
    assert old.servers[0].reasons == [CloseReason.RETIRED]
    assert client.connection is new.servers[0]


@in_virtual_time
async def test_a_drained_pool_is_closed_when_its_last_server_is_gone_and_leaves_its_instance() -> None:
    pool = new_pool(Database(), limits(server_idle_timeout_s=60))
    one, two = await lent(pool), await lent(pool)
    pool.give_back(one)
    pool.drain(Terminated())
    late = FakeClient()
    pool.ask(late)
    assert isinstance(late.error, Terminated)
    await pass_time(1)
    assert not pool.closed.done()
    pool.give_back(two)
    await pool.closed
    assert not pool.instance.pools
    assert not pool.instance.ledger.pools
    assert pool.counters.server_closes == {"drained": 2}


@in_virtual_time
async def test_an_unused_pool_is_closed_as_soon_as_it_is_drained() -> None:
    pool = new_pool(Database(), limits(min_idle=1))
    pool.drain(Terminated())
    assert pool.closed.done()
    await pass_time(5)
    assert pool.opening == 0


@in_virtual_time
async def test_a_pool_has_a_place_while_nobody_would_wait_for_another_client() -> None:
    database = Database()
    database.login_s = 0.1
    instance = new_instance(limit=3)
    pool, other = (new_pool(database, limits(size=2), instance, name) for name in ("acme", "other"))
    clients = [FakeClient() for _ in range(3)]
    assert pool.has_place()
    pool.ask(clients[0])
    assert pool.has_place()  # while the first one's server is being opened
    pool.ask(clients[1])
    assert not pool.has_place()  # size
    await pass_time(0.2)
    assert not pool.has_place()  # both are lent
    assert other.has_place()
    other.ask(clients[2])
    assert not other.has_place()  # the instance is full
    await pass_time(0.2)
    assert clients[2].connection is not None
    assert not other.has_place()
    other.give_back(clients[2].connection)
    assert other.has_place()  # it is idle
