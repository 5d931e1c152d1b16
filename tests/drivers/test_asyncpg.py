"""asyncpg with its defaults: it prepares every statement under a name, and decodes rows by the shape it was told.

Outside a transaction it prepares a stale statement anew by itself, so the application must see no error.
"""

import asyncio
import contextlib
import functools
import io
from typing import Any

import asyncpg
import pytest

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

ROW = "select * from shapes where id = $1"
VALUE = "select n from shapes where id = $1"


async def test_asyncpg(target: Target) -> None:
    async with connected(target) as connection:
        await transactions(connection)
        await many_statements(connection)
        await errors(connection)
        await copy(connection)
        await cursors(connection)
        await large_values(connection)
        await cancel(connection, target)
        await timeouts(connection, target)
    await ddl(target)
    await ddl_in_transactions(target)
    await notifications(target)
    await many_clients(target)
    await target.check_rest()


def options(target: Target) -> dict[str, Any]:
    address = target.address
    return {
        "host": address.host,
        "port": address.port,
        "database": address.database,
        "user": address.user,
        "password": address.password,
        "ssl": False,
    }


@contextlib.asynccontextmanager
async def connected(target: Target, **more: Any) -> Any:
    connection = await asyncpg.connect(**options(target), **more)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


async def transactions(connection: Any) -> None:
    await connection.execute("create table items (id int primary key, t text)")
    async with connection.transaction():
        await connection.executemany("insert into items values ($1, $2)", [(i, f"item {i}") for i in range(200)])
    for i in range(REPEATS):
        async with connection.transaction():
            await connection.execute("update items set t = $1 where id = $2", f"new {i}", i)
            assert await connection.fetchval("select t from items where id = $1", i) == f"new {i}"
    with pytest.raises(ZeroDivisionError):
        async with connection.transaction():
            await connection.execute("delete from items where id >= $1", 100)
            raise ZeroDivisionError
    assert await connection.fetchval("select count(*) from items") == 200


async def many_statements(connection: Any) -> None:
    for _ in range(2):
        for i in range(STATEMENTS):
            assert tuple(await connection.fetchrow(f"select $1::int + {i}, 'text {i}'", i)) == (2 * i, f"text {i}")
    for i in range(REPEATS):
        assert await connection.fetchval("select $1::int + $2::float8", i, 0.5) == i + 0.5
    statement = await connection.prepare("select $1::int[] || $2::int[]")
    for i in range(REPEATS):
        assert await statement.fetchval([i], [1, 2]) == [i, 1, 2]
        async with connection.transaction():
            assert await statement.fetchval([i], None) == [i]


async def errors(connection: Any) -> None:
    for _ in range(REPEATS):
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("insert into items values ($1, $2)", 1, "twice")
        with pytest.raises(asyncpg.UndefinedTableError):
            await connection.fetch("select * from no_such_table where id = $1", 1)
        async with connection.transaction():
            await connection.execute("insert into items values ($1, $2) on conflict do nothing", 1000, "kept")
            with pytest.raises(asyncpg.DivisionByZeroError):
                async with connection.transaction():  # a savepoint
                    await connection.execute("insert into items values ($1, $2)", 1001, "lost")
                    await connection.fetch("select 1 / $1::int", 0)
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            async with connection.transaction():
                with pytest.raises(asyncpg.UniqueViolationError):
                    await connection.execute("insert into items values ($1, $2)", 1, "twice")
                await connection.fetchval("select t from items where id = $1", 1)
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.executemany("insert into items values ($1, $2)", [(3000, "lost"), (1, "twice")])
    found = [tuple(row) for row in await connection.fetch("select id, t from items where id >= $1", 1000)]
    assert found == [(1000, "kept")]


async def copy(connection: Any) -> None:
    records = [(i, "Grüße") for i in range(2000, 5000)]
    assert await connection.copy_records_to_table("items", records=records) == "COPY 3000"
    out = io.BytesIO()
    assert await connection.copy_from_query("select t from items where id >= $1", 2000, output=out) == "COPY 3000"
    assert out.getvalue().decode() == "Grüße\n" * 3000
    with pytest.raises(asyncpg.BadCopyFileFormatError):
        await connection.copy_to_table("items", source=io.BytesIO(b"1\t2\t3\n"))
    assert await connection.fetchval("select count(*) from items where id >= $1", 2000) == 3000


async def cursors(connection: Any) -> None:
    numbers = "select i from generate_series(1, $1::int) i"
    for _ in range(2):
        async with connection.transaction():
            assert [row["i"] async for row in connection.cursor(numbers, 1000, prefetch=100)] == [*range(1, 1001)]
            cursor = await connection.cursor(numbers, 100)
            await cursor.forward(90)
            assert [row["i"] for row in await cursor.fetch(20)] == [*range(91, 101)]


async def large_values(connection: Any) -> None:
    for _ in range(2):
        found = await connection.fetchrow("select $1::text, $2::bytea", LARGE_TEXT, LARGE_BYTES)
        assert tuple(found) == (LARGE_TEXT, LARGE_BYTES)


async def cancel(connection: Any, target: Target) -> None:
    """A cancelled task and a timeout send a CancelRequest, and asyncpg waits for its effect."""
    task = asyncio.create_task(connection.fetch("select pg_sleep(15) /* asyncpg waits */"))
    async with connected(target) as watch:
        while not await watch.fetchval(IS_RUNNING.format(mark="asyncpg waits")):
            pass
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await connection.fetchval("select $1::int", 1) == 1
    with pytest.raises(TimeoutError):
        await connection.fetch("select pg_sleep(15)", timeout=0.1)
    assert await connection.fetchval("select $1::int", 2) == 2


async def timeouts(connection: Any, target: Target) -> None:
    await connection.execute("set statement_timeout = '80ms'")
    for _ in range(2):
        with pytest.raises(asyncpg.QueryCanceledError, match="statement timeout"):
            await connection.fetch("select pg_sleep($1)", 15.0)
    await connection.execute("reset statement_timeout")
    assert await connection.fetchval("show statement_timeout") == "0"
    async with connected(target, server_settings={"statement_timeout": "80"}) as other:
        with pytest.raises(asyncpg.QueryCanceledError, match="statement timeout"):
            await other.fetch("select pg_sleep($1)", 15.0)
        assert await other.fetchval("show statement_timeout") == "80ms"


async def ddl(target: Target) -> None:
    """All readers at once, outside transactions: no error, never a wrong value."""
    async with contextlib.AsyncExitStack() as stack:
        owner = await stack.enter_async_context(connected(target))
        await _shapes(owner)
        readers = [await stack.enter_async_context(connected(target)) for _ in range(READERS)]

        async def all_read(row: object, value: object) -> None:
            for _ in range(REPEATS):
                found = await asyncio.gather(*(reader.fetchrow(ROW, 7) for reader in readers))
                assert [tuple(each) for each in found] == [row] * READERS
                assert await asyncio.gather(*(reader.fetchval(VALUE, 7) for reader in readers)) == [value] * READERS

        await all_read(BEFORE, 70)
        await owner.execute(ADD_COLUMN)
        await all_read(WITH_COLUMN, 70)
        await owner.execute(INT_TO_FLOAT)
        await all_read(WITH_FLOAT, 70.5)


def is_stale(error: Exception) -> bool:
    """asyncpg's own word for what PostgreSQL says with 0A000."""
    return isinstance(error, asyncpg.InvalidCachedStatementError)


async def ddl_in_transactions(target: Target) -> None:
    """Inside a transaction the error reaches the application, once for each statement."""

    async def read(reader: Any, sql: str) -> tuple[Any, ...]:
        async with reader.transaction():
            return tuple(await reader.fetchrow(sql, 7))

    async with contextlib.AsyncExitStack() as stack:
        owner = await stack.enter_async_context(connected(target))
        await _shapes(owner)
        readers = [await stack.enter_async_context(connected(target)) for _ in range(READERS)]
        for reader in readers * REPEATS:
            assert await read(reader, ROW) == BEFORE
            assert await read(reader, VALUE) == BEFORE[1:2]
        await owner.execute(ADD_COLUMN)
        for reader in readers:
            assert await settled_async(functools.partial(read, reader, ROW), is_stale) == WITH_COLUMN
            assert await read(reader, VALUE) == BEFORE[1:2]
        await owner.execute(INT_TO_FLOAT)
        for reader in readers:
            # asyncpg forgets all statements at the first error, so the second may see none.
            assert await settled_async(functools.partial(read, reader, VALUE), is_stale) == WITH_FLOAT[1:2]
            assert await settled_async(functools.partial(read, reader, ROW), is_stale) == WITH_FLOAT
        for reader in readers * REPEATS:
            assert await read(reader, ROW) == WITH_FLOAT


async def _shapes(owner: Any) -> None:
    await owner.execute("drop table if exists shapes")
    for statement in SHAPES:
        await owner.execute(statement)


async def notifications(target: Target) -> None:
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def hear(_connection: Any, _pid: int, channel: str, payload: str) -> None:
        heard.put_nowait((channel, payload))

    async with connected(target) as listener, connected(target) as sender:
        await listener.add_listener("news", hear)
        await listener.add_listener("more", hear)
        await sender.execute("select pg_notify('news', $1)", "first")
        async with sender.transaction():
            await sender.execute("notify more, 'second'")
            await sender.execute("notify elsewhere, 'unheard'")
        await listener.execute("notify news, 'own'")
        async with asyncio.timeout(20):
            found = [await heard.get() for _ in range(3)]
        assert found == [("news", "first"), ("more", "second"), ("news", "own")]
        await listener.remove_listener("news", hear)
        await sender.execute("notify news, 'after'")
        await sender.execute("notify more, 'last'")
        async with asyncio.timeout(20):
            assert await heard.get() == ("more", "last")
        await listener.remove_listener("more", hear)


async def many_clients(target: Target) -> None:
    async def work(index: int) -> None:
        async with connected(target) as connection:
            for i in range(ROUNDS):
                async with connection.transaction():
                    await connection.execute("insert into work values ($1, $2)", index, i)
                    assert await connection.fetchval("select count(*) from work where client = $1", index) == i + 1
                found = await connection.fetchrow(f"select $1::int, 'client {index}'", i)
                assert tuple(found) == (i, f"client {index}")

    async with connected(target) as connection:
        await connection.execute("create table work (client int, n int)")
    await asyncio.gather(*(work(index) for index in range(CLIENTS)))
    async with asyncpg.create_pool(**options(target), min_size=2, max_size=3) as pool:
        # Its release sends a batch of resets, UNLISTEN among them.
        counts = await asyncio.gather(*(pool.fetchval("select count(*) from work") for _ in range(CLIENTS)))
        assert counts == [CLIENTS * ROUNDS] * CLIENTS
