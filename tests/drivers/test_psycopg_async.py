"""psycopg 3 on asyncio, with its defaults."""

import asyncio
import contextlib
import functools
from typing import Any

import psycopg
import pytest
from psycopg import errors

from drivers.scenario import (
    ADD_COLUMN,
    BEFORE,
    CLIENTS,
    INT_TO_FLOAT,
    IS_RUNNING,
    LARGE_BYTES,
    LARGE_TEXT,
    READERS,
    REPEATS,
    ROUNDS,
    SHAPES,
    STATEMENTS,
    WITH_COLUMN,
    WITH_FLOAT,
    settled_async,
)
from drivers.target import Target
from drivers.test_psycopg import is_stale

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


async def test_psycopg_async(target: Target) -> None:
    async with await connect(target) as connection:
        await transactions(connection)
        await many_statements(connection)
        await copy(connection)
        await large_values(connection)
        await cancel(connection, target)
        await timeouts(connection, target)
    await ddl(target)
    await notifications(target)
    await many_clients(target)
    await target.check_rest()


async def connect(target: Target, **options: Any) -> Connection:
    return await psycopg.AsyncConnection.connect(target.address.dsn, **options)


async def one(connection: Connection, sql: str, *values: object) -> tuple[Any, ...] | None:
    return await (await connection.execute(sql, values)).fetchone()


async def transactions(connection: Connection) -> None:
    await connection.execute("create table items (id int primary key, t text)")
    async with connection.cursor() as cursor:
        await cursor.executemany("insert into items values (%s, %s)", [(i, f"item {i}") for i in range(200)])
    await connection.commit()
    for i in range(REPEATS):
        async with connection.transaction():
            await connection.execute("update items set t = %s where id = %s", (f"new {i}", i))
            assert await one(connection, "select t from items where id = %s", i) == (f"new {i}",)
        with pytest.raises(errors.UniqueViolation):
            await connection.execute("insert into items values (%s, %s)", (1, "twice"))
        with pytest.raises(errors.InFailedSqlTransaction):
            await connection.execute("select t from items where id = %s", (1,))
        await connection.rollback()
    assert await one(connection, "select count(*), min(t) from items") == (200, "item 100")
    await connection.commit()


async def many_statements(connection: Connection) -> None:
    for _ in range(2):
        for i in range(STATEMENTS):
            assert await one(connection, f"select %s::int + {i}", i) == (2 * i,)
        await connection.commit()
    for i in range(REPEATS):
        assert await one(connection, "select %s::int, %s::text", i, str(i)) == (i, str(i))
        await connection.commit()


async def copy(connection: Connection) -> None:
    async with connection.cursor() as cursor, cursor.copy("copy items from stdin") as into:
        for i in range(2000, 5000):
            await into.write_row((i, "Grüße"))
    async with connection.cursor() as cursor, cursor.copy("copy (select t from items where id >= 2000) to stdout") as c:
        assert [row async for row in c.rows()] == [("Grüße",)] * 3000
    with pytest.raises(errors.BadCopyFileFormat):
        async with connection.cursor().copy("copy items from stdin") as into:
            await into.write("1\t2\t3\n")
    await connection.rollback()


async def large_values(connection: Connection) -> None:
    for binary in (False, True):
        async with connection.cursor(binary=binary) as cursor:
            await cursor.execute("select %s::text, %s::bytea", (LARGE_TEXT, LARGE_BYTES))
            assert await cursor.fetchone() == (LARGE_TEXT, LARGE_BYTES)
        await connection.commit()
    async with connection.cursor("named") as named:
        await named.execute("select i from generate_series(1, %s) i", (1000,))
        assert [i async for (i,) in named] == [*range(1, 1001)]
    await connection.commit()


async def cancel(connection: Connection, target: Target) -> None:
    """A cancelled task cancels its query."""
    task = asyncio.create_task(connection.execute("select pg_sleep(15) /* psycopg task */"))
    async with await connect(target, autocommit=True) as watch:
        while await one(watch, IS_RUNNING.format(mark="psycopg task")) != (True,):
            pass
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await connection.rollback()
    assert await one(connection, "select %s::int", 1) == (1,)
    await connection.commit()


async def timeouts(connection: Connection, target: Target) -> None:
    await connection.execute("set statement_timeout = '80ms'")
    await connection.commit()
    with pytest.raises(errors.QueryCanceled, match="statement timeout"):
        await connection.execute("select pg_sleep(15)")
    await connection.rollback()
    async with await connect(target, options="-c statement_timeout=80") as other:
        with pytest.raises(errors.QueryCanceled, match="statement timeout"):
            await other.execute("select pg_sleep(15)")
        await other.rollback()


async def ddl(target: Target) -> None:
    """All readers at once, so that each has another server."""

    async def row(reader: Connection) -> tuple[Any, ...] | None:
        async with reader.transaction():
            return await one(reader, "select * from shapes where id = %s", 7)

    async def value(reader: Connection) -> tuple[Any, ...] | None:
        async with reader.transaction():
            return await one(reader, "select n from shapes where id = %s", 7)

    async with contextlib.AsyncExitStack() as stack:
        owner = await stack.enter_async_context(await connect(target, autocommit=True))
        for statement in SHAPES:
            await owner.execute(statement)
        readers = [await stack.enter_async_context(await connect(target)) for _ in range(READERS)]

        async def all_read(row_expected: object, value_expected: object, times: int) -> None:
            for _ in range(times):
                found = await asyncio.gather(
                    *(settled_async(functools.partial(row, reader), is_stale) for reader in readers)
                )
                assert found == [row_expected] * READERS
                found = await asyncio.gather(
                    *(settled_async(functools.partial(value, reader), is_stale) for reader in readers)
                )
                assert found == [value_expected] * READERS

        await all_read(BEFORE, BEFORE[1:2], REPEATS)
        await owner.execute(ADD_COLUMN)
        await all_read(WITH_COLUMN, BEFORE[1:2], REPEATS)
        await owner.execute(INT_TO_FLOAT)
        await all_read(WITH_FLOAT, WITH_FLOAT[1:2], REPEATS)


async def notifications(target: Target) -> None:
    async with await connect(target, autocommit=True) as listener, await connect(target, autocommit=True) as sender:
        await listener.execute("listen news")
        await sender.execute("select pg_notify('news', %s)", ("first",))
        await sender.execute("notify elsewhere, 'unheard'")
        await sender.execute("notify news, 'second'")
        heard = [notify.payload async for notify in listener.notifies(timeout=20, stop_after=2)]
        assert heard == ["first", "second"]


async def many_clients(target: Target) -> None:
    async def work(index: int) -> None:
        async with await connect(target) as connection:
            for i in range(ROUNDS):
                async with connection.transaction():
                    await connection.execute("insert into work values (%s, %s)", (index, i))
                    assert await one(connection, "select count(*) from work where client = %s", index) == (i + 1,)
                assert await one(connection, f"select %s::int, 'client {index}'", i) == (i, f"client {index}")
                await connection.commit()

    async with await connect(target, autocommit=True) as connection:
        await connection.execute("create table work (client int, n int)")
    await asyncio.gather(*(work(index) for index in range(CLIENTS)))
