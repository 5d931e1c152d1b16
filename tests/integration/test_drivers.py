"""Real work by real drivers through both modes: psycopg 3 (sync, async, pipeline), asyncpg, pg8000.

Each runs with its defaults in both.
"""

import asyncio
import contextlib
import datetime
import io
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import asyncpg
import pg8000.dbapi
import pg8000.native
import psycopg
import pytest
from psycopg import errors
from psycopg.types.json import Jsonb

from integration.conftest import POOL_SIZE, Route
from integration.quiet import until_quiet

UNICODE = "Grüße, 世界 🐘 \u200f\\'\"%"
LARGE_ROWS = 30_000  # of about 100 bytes: many times every buffer on the way
CLIENTS = 6 * POOL_SIZE


def psycopg_options(route: Route) -> dict[str, Any]:
    """`connect` keywords for this route."""
    address = route.address
    return {
        "host": address.host,
        "port": address.port,
        "dbname": address.database,
        "user": address.user,
        "password": address.password,
        "sslmode": "disable",
    }


def asyncpg_options(route: Route) -> dict[str, Any]:
    """`connect` keywords for this route."""
    address = route.address
    return {
        "host": address.host,
        "port": address.port,
        "database": address.database,
        "user": address.user,
        "password": address.password,
        "ssl": False,
    }


def pg8000_options(route: Route) -> dict[str, Any]:
    """`connect` keywords for this route."""
    address = route.address
    return {
        "host": address.host,
        "port": address.port,
        "database": address.database,
        "user": address.user,
        "password": address.password,
        "ssl_context": False,
    }


async def test_psycopg_does_transactions_types_and_copy(route: Route) -> None:
    await asyncio.to_thread(_psycopg_works, route)
    await until_quiet(route.process, route.database)


def _psycopg_works(route: Route) -> None:
    values = (UNICODE, [1, 2, None], Decimal("12345678901234567890.000000001"), bytes(range(256)), {"a": [1, None]})
    with psycopg.connect(**psycopg_options(route)) as connection:
        connection.execute("create table items (id int primary key, t text, a int[], n numeric, b bytea, j jsonb)")
        connection.commit()
        with connection.cursor() as cursor:
            row = (1, *values[:4], Jsonb(values[4]))
            cursor.execute("insert into items values (%s, %s, %s, %s, %s, %s)", row)
            cursor.executemany("insert into items (id, t) values (%s, %s)", [(i, str(i)) for i in range(2, 200)])
        connection.commit()
        connection.execute("delete from items")
        connection.rollback()
        found = connection.execute("select t, a, n, b, j from items where id = %s", (1,)).fetchone()
        assert found == values
        assert connection.execute("select count(*) from items").fetchone() == (199,)
        with connection.cursor() as cursor, cursor.copy("copy items (id, t) from stdin") as copy:
            for i in range(1000, 6000):
                copy.write_row((i, UNICODE))
        connection.commit()
        with (
            connection.cursor() as cursor,
            cursor.copy("copy (select id, t from items where id >= 1000) to stdout") as c,
        ):
            rows = list(c.rows())
        assert len(rows) == 5000 and {text for _, text in rows} == {UNICODE}
        with connection.cursor(binary=True) as cursor:
            cursor.execute(
                "select %s::timestamptz, %s::uuid",
                (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), uuid.UUID(int=7)),
            )
            assert cursor.fetchone() == (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), uuid.UUID(int=7))


async def test_psycopg_recovers_from_errors_of_the_right_class(route: Route) -> None:
    await asyncio.to_thread(_psycopg_recovers, route)
    await until_quiet(route.process, route.database)


def _psycopg_recovers(route: Route) -> None:
    with psycopg.connect(**psycopg_options(route)) as connection:
        connection.execute("create table keys (id int primary key)")
        connection.execute("insert into keys values (1)")
        connection.commit()
        with pytest.raises(errors.UniqueViolation) as caught:
            connection.execute("insert into keys values (%s)", (1,))
        assert caught.value.diag.constraint_name == "keys_pkey"
        with pytest.raises(errors.InFailedSqlTransaction):
            connection.execute("select 1")
        connection.rollback()
        with connection.transaction():
            connection.execute("insert into keys values (2)")
            with pytest.raises(errors.DivisionByZero), connection.transaction():  # noqa: PT012 - a savepoint
                connection.execute("insert into keys values (3)")
                connection.execute("select 1 / %s", (0,))
        assert connection.execute("select array_agg(id order by id) from keys").fetchone() == ([1, 2],)
        connection.rollback()
        connection.autocommit = True
        for _ in range(10):
            with pytest.raises(errors.UndefinedTable):
                connection.execute("select * from no_such_table where id = %s", (1,))
            assert connection.execute("select %s::text", (UNICODE,)).fetchone() == (UNICODE,)
        with pytest.raises(errors.QueryCanceled):
            connection.execute("begin; set local statement_timeout = 20; select pg_sleep(30)")
        connection.execute("rollback")
        with connection.cursor() as cursor:
            with pytest.raises(errors.BadCopyFileFormat), cursor.copy("copy keys from stdin") as copy:
                copy.write("1\t2\t3\n")
            cursor.execute("select count(*) from keys")
            assert cursor.fetchone() == (2,)


async def test_psycopg_reads_large_results_at_once_and_row_by_row(route: Route) -> None:
    await asyncio.to_thread(_psycopg_reads_much, route)
    await until_quiet(route.process, route.database)


def _psycopg_reads_much(route: Route) -> None:
    large = f"select i, repeat(chr(65 + i %% 26), 100) from generate_series(1, {LARGE_ROWS}) i where i > %s"
    expected = [(i, chr(65 + i % 26) * 100) for i in range(1, LARGE_ROWS + 1)]
    with psycopg.connect(**psycopg_options(route), autocommit=True) as connection:
        assert connection.execute(large, (0,)).fetchall() == expected
        with connection.cursor() as cursor:
            assert list(cursor.stream(large, (0,))) == expected
        with connection.transaction(), connection.cursor("portal") as cursor:
            cursor.itersize = 1000
            cursor.execute(large, (0,))
            assert cursor.fetchall() == expected
        blob = bytes(range(256)) * 40_000  # 10 MB both ways
        with connection.cursor(binary=True) as cursor:
            cursor.execute("select %b::bytea", (blob,))
            assert cursor.fetchone() == (blob,)


async def test_psycopg_pipelines(route: Route) -> None:
    await asyncio.to_thread(_psycopg_pipelines, route)
    await until_quiet(route.process, route.database)


def _psycopg_pipelines(route: Route) -> None:
    with psycopg.connect(**psycopg_options(route), autocommit=True) as connection:
        connection.execute("create table piped (id int primary key)")
        with connection.pipeline() as pipeline:
            cursors = [connection.execute("select %s::int", (i,)) for i in range(300)]
            pipeline.sync()
            with connection.transaction():
                connection.cursor().executemany("insert into piped values (%s)", [(i,) for i in range(300)])
        assert [cursor.fetchone() for cursor in cursors] == [(i,) for i in range(300)]
        with pytest.raises(errors.UniqueViolation), connection.pipeline():  # noqa: PT012 - an implicit transaction
            connection.execute("insert into piped values (1000)")
            connection.execute("insert into piped values (1)")
            connection.execute("insert into piped values (1001)")
        assert connection.execute("select count(*) from piped").fetchone() == (300,)


async def test_more_async_psycopg_clients_than_servers(route: Route) -> None:
    """Each does transactions; in session mode the clients queue for their turn."""

    async def work(index: int) -> int:
        async with await psycopg.AsyncConnection.connect(**psycopg_options(route)) as connection:
            total = 0
            for i in range(5):
                async with connection.transaction():
                    await connection.execute("insert into work values (%s, %s)", (index, i))
                    cursor = await connection.execute("select count(*) from work where client = %s", (index,))
                    row = await cursor.fetchone()
                    assert row == (i + 1,)
                    total += 1
            return total

    async with await psycopg.AsyncConnection.connect(**psycopg_options(route), autocommit=True) as connection:
        await connection.execute("create table work (client int, n int)")
    assert await asyncio.gather(*(work(i) for i in range(CLIENTS))) == [5] * CLIENTS
    assert await asyncio.to_thread(route.database.sql, "select count(*) from work") == str(5 * CLIENTS)
    await until_quiet(route.process, route.database)
    assert len(route.database.backends()) <= POOL_SIZE


@contextlib.asynccontextmanager
async def asyncpg_connection(route: Route) -> AsyncIterator[Any]:
    """A connection of asyncpg's, closed whatever happens."""
    connection = await asyncpg.connect(**asyncpg_options(route))
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


async def test_asyncpg_does_transactions_types_and_copy(route: Route) -> None:
    async with asyncpg_connection(route) as connection:
        await _asyncpg_works(connection)
    await until_quiet(route.process, route.database)


async def _asyncpg_works(connection: Any) -> None:
    assert connection.get_server_version().major in (15, 18)
    await connection.execute(
        "create type mood as enum ('sad', 'glad');"
        "create table items (id int primary key, t text, a int[], n numeric, b bytea, m mood)"
    )
    values = (UNICODE, [1, 2, None], Decimal("12345678901234567890.000000001"), bytes(range(256)), "glad")
    insert = "insert into items values ($1, $2, $3, $4, $5, $6)"
    async with connection.transaction():
        await connection.execute(insert, 1, *values)
        await connection.executemany(insert, [(i, *values) for i in range(2, 200)])
    with pytest.raises(asyncpg.DivisionByZeroError):  # noqa: PT012 - the whole transaction fails
        async with connection.transaction():
            await connection.execute("delete from items")
            await connection.fetch("select 1 / $1::int", 0)
    assert await connection.fetchval("select count(*) from items") == 199
    assert tuple(await connection.fetchrow("select t, a, n, b, m from items where id = $1", 77)) == values
    records = [(i, UNICODE) for i in range(1000, 6000)]
    assert await connection.copy_records_to_table("items", records=records, columns=["id", "t"]) == "COPY 5000"
    out = io.BytesIO()
    assert await connection.copy_from_query("select id, t from items where id >= $1", 1000, output=out) == "COPY 5000"
    assert out.getvalue().decode().count("Grüße") == 5000


async def test_asyncpg_recovers_and_reads_much(route: Route) -> None:
    async with asyncpg_connection(route) as connection:
        await _asyncpg_recovers(connection)
    await until_quiet(route.process, route.database)


async def _asyncpg_recovers(connection: Any) -> None:
    await connection.execute("create table keys (id int primary key); insert into keys values (1)")
    for _ in range(10):
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("insert into keys values ($1)", 1)
        with pytest.raises(asyncpg.UndefinedTableError):
            await connection.fetch("select * from no_such_table where id = $1", 1)
        assert await connection.fetchval("select $1::text", UNICODE) == UNICODE
    with pytest.raises(TimeoutError):  # asyncpg sends a CancelRequest and waits for its effect
        await connection.execute("select pg_sleep(60)", timeout=0.2)
    assert await connection.fetchval("select 1") == 1
    large = f"select i, repeat('x', 100) t from generate_series(1, {LARGE_ROWS}) i where i > $1"
    assert len(await connection.fetch(large, 0)) == LARGE_ROWS
    async with connection.transaction():
        assert [row["i"] async for row in connection.cursor(large, 0, prefetch=500)] == [*range(1, LARGE_ROWS + 1)]


async def test_more_asyncpg_clients_than_servers(route: Route) -> None:
    async with asyncpg.create_pool(**asyncpg_options(route), min_size=1, max_size=CLIENTS) as clients:
        await clients.execute("create table work (client int, n int)")

        async def work(index: int) -> int:
            # Session mode: a client of asyncpg's own pool keeps its server, so only so many fit at a time.
            async with turns, clients.acquire() as connection:
                for i in range(5):
                    async with connection.transaction():
                        await connection.execute("insert into work values ($1, $2)", index, i)
                        assert await connection.fetchval("select count(*) from work where client = $1", index) == i + 1
                return 5

        turns = asyncio.Semaphore(POOL_SIZE if route.is_session else CLIENTS)
        assert await asyncio.gather(*(work(i) for i in range(CLIENTS))) == [5] * CLIENTS
    assert await asyncio.to_thread(route.database.sql, "select count(*) from work") == str(5 * CLIENTS)
    await until_quiet(route.process, route.database)
    assert len(route.database.backends()) <= POOL_SIZE


async def test_pg8000_does_transactions_types_and_copy(route: Route) -> None:
    await asyncio.to_thread(_pg8000_works, route)
    await until_quiet(route.process, route.database)


def _pg8000_works(route: Route) -> None:
    """Its DB-API begins a transaction before each statement: it parses and executes with a Sync in between."""
    with contextlib.closing(pg8000.dbapi.connect(**pg8000_options(route))) as connection:
        _pg8000_transactions(connection)


def _pg8000_transactions(connection: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("create table items (id int primary key, t text, a int[], n numeric, b bytea)")
    connection.commit()
    values = [1, UNICODE, [1, 2, None], Decimal("12345678901234567890.000000001"), bytes(range(256))]
    cursor.execute("insert into items values (%s, %s, %s, %s, %s)", values)
    cursor.executemany("insert into items (id, t) values (%s, %s)", [(i, str(i)) for i in range(2, 100)])
    connection.commit()
    cursor.execute("delete from items")
    connection.rollback()
    cursor.execute("select * from items where id = %s", (1,))
    assert list(cursor.fetchone()) == values
    with pytest.raises(pg8000.dbapi.DatabaseError) as caught:
        cursor.execute("insert into items (id) values (%s)", (1,))
    assert caught.value.args[0]["C"] == "23505"
    connection.rollback()
    cursor.execute(
        "copy items (id, t) from stdin", stream=io.BytesIO(b"".join(b"%d\tx\n" % i for i in range(1000, 3000)))
    )
    connection.commit()
    out = io.BytesIO()
    cursor.execute("copy (select id from items where id >= 1000 order by id) to stdout", stream=out)
    assert out.getvalue().split() == [b"%d" % i for i in range(1000, 3000)]
    cursor.execute("select i, repeat('y', 100) from generate_series(1, 5000) i where i > %s", (0,))
    assert [row[0] for row in cursor.fetchall()] == list(range(1, 5001))
    connection.commit()


async def test_pg8000_native_in_autocommit(route: Route) -> None:
    """It parses, describes and executes with a Sync after each."""

    def work() -> None:
        with pg8000.native.Connection(**pg8000_options(route)) as connection:
            for i in range(20):
                assert connection.run(f"select {i}, '{i}'::text") == [[i, str(i)]]
                assert connection.run("select :v::int", v=i) == [[i]]
            with pytest.raises(pg8000.native.DatabaseError):
                connection.run("select 1 / 0")
            assert connection.run("select 1") == [[1]]

    await asyncio.to_thread(work)
    await until_quiet(route.process, route.database)
