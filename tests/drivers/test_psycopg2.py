"""psycopg2 with its defaults: simple queries, parameters put into the text by the client."""

import asyncio
import contextlib
import io
import select
import threading
from typing import Any

import psycopg2
import psycopg2.extras
import pytest
from psycopg2 import errors

from drivers.scenario import (
    ADD_COLUMN,
    BEFORE,
    INT_TO_FLOAT,
    IS_RUNNING,
    LARGE_BYTES,
    LARGE_TEXT,
    REPEATS,
    ROUNDS,
    SHAPES,
    STATEMENTS,
    WITH_COLUMN,
    WITH_FLOAT,
    in_threads,
)
from drivers.target import Target


async def test_psycopg2(target: Target) -> None:
    await asyncio.to_thread(run, target)
    await target.check_rest()


def run(target: Target) -> None:
    with contextlib.closing(connect(target)) as connection:
        transactions(connection)
        many_statements(connection)
        failures(connection)
        copy(connection)
        cursors(connection)
        large_values(connection)
        cancel(connection, target)
        timeouts(connection, target)
        ddl(connection)
    notifications(target)
    many_clients(target)


def connect(target: Target, **options: Any) -> Any:
    return psycopg2.connect(target.address.dsn, **options)


def one(connection: Any, sql: str, *values: object) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, values or None)
        return cursor.fetchone()


def transactions(connection: Any) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute("create table items (id int primary key, t text)")
        psycopg2.extras.execute_values(
            cursor, "insert into items values %s", [(i, f"item {i}") for i in range(200)], page_size=50
        )
    for i in range(REPEATS):
        with connection, connection.cursor() as cursor:
            cursor.execute("update items set t = %s where id = %s returning t", (f"new {i}", i))
            assert cursor.fetchone() == (f"new {i}",)
    with connection.cursor() as cursor:
        cursor.execute("delete from items")
    connection.rollback()
    assert one(connection, "select count(*) from items") == (200,)
    connection.commit()


def many_statements(connection: Any) -> None:
    """Some of them prepared by SQL, which is how psycopg2's users prepare."""
    for i in range(STATEMENTS):
        assert one(connection, f"select %s::int + {i}", i) == (2 * i,)
    connection.commit()
    with connection, connection.cursor() as cursor:
        cursor.execute("prepare by_id (int) as select t from items where id = $1")
    for i in range(REPEATS):
        with connection:
            assert one(connection, "execute by_id (%s)", i) == (f"new {i}",)
    with connection, connection.cursor() as cursor:
        cursor.execute("deallocate by_id")
    with pytest.raises(errors.InvalidSqlStatementName):
        one(connection, "execute by_id (%s)", 1)
    connection.rollback()


def failures(connection: Any) -> None:
    for _ in range(REPEATS):
        with pytest.raises(errors.UniqueViolation), connection, connection.cursor() as cursor:
            cursor.execute("insert into items values (%s, %s)", (1, "twice"))
        with pytest.raises(errors.DivisionByZero):
            one(connection, "select 1 / %s", 0)
        with pytest.raises(errors.InFailedSqlTransaction):
            one(connection, "select 1")
        connection.rollback()
        assert one(connection, "select t from items where id = %s", 1) == ("new 1",)
        connection.commit()


def copy(connection: Any) -> None:
    rows = "".join(f"{i}\tGrüße\n" for i in range(2000, 5000))
    with connection, connection.cursor() as cursor:
        cursor.copy_expert("copy items from stdin", io.StringIO(rows))
        out = io.StringIO()
        cursor.copy_expert("copy (select * from items where id >= 2000 order by id) to stdout", out)
    assert out.getvalue() == rows
    with pytest.raises(errors.BadCopyFileFormat), connection, connection.cursor() as cursor:
        cursor.copy_expert("copy items from stdin", io.StringIO("1\t2\t3\n"))
    assert one(connection, "select count(*) from items where id >= %s", 2000) == (3000,)
    connection.commit()


def cursors(connection: Any) -> None:
    with connection, connection.cursor("named") as cursor:
        cursor.itersize = 100
        cursor.execute("select i from generate_series(1, %s) i", (1000,))
        assert [i for (i,) in cursor] == [*range(1, 1001)]
    with connection, connection.cursor("held", withhold=True) as cursor:
        cursor.execute("select i from generate_series(1, %s) i", (1000,))
        assert cursor.fetchmany(100) == [(i,) for i in range(1, 101)]
        connection.commit()
        assert cursor.fetchmany(100) == [(i,) for i in range(101, 201)]


def large_values(connection: Any) -> None:
    text, data = one(connection, "select %s::text, %s::bytea", LARGE_TEXT, psycopg2.Binary(LARGE_BYTES))
    assert (text, bytes(data)) == (LARGE_TEXT, LARGE_BYTES)
    connection.commit()


def cancel(connection: Any, target: Target) -> None:
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            one(connection, "select pg_sleep(15) /* psycopg2 waits */")
        except errors.QueryCanceled as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    with contextlib.closing(connect(target)) as watch:
        watch.autocommit = True
        while one(watch, IS_RUNNING.format(mark="psycopg2 waits")) != (True,):
            pass
    connection.cancel()
    thread.join(30)
    assert len(caught) == 1
    connection.rollback()


def timeouts(connection: Any, target: Target) -> None:
    one_setting = "show statement_timeout"
    with connection, connection.cursor() as cursor:
        cursor.execute("set statement_timeout = '80ms'")
    for _ in range(2):
        with pytest.raises(errors.QueryCanceled, match="statement timeout"):
            one(connection, "select pg_sleep(15)")
        connection.rollback()
    with connection, connection.cursor() as cursor:
        cursor.execute("reset statement_timeout")
    assert one(connection, one_setting) == ("0",)
    connection.commit()
    with contextlib.closing(connect(target, options="-c statement_timeout=80")) as other:
        with pytest.raises(errors.QueryCanceled, match="statement timeout"):
            one(other, "select pg_sleep(15)")
        other.rollback()
        assert one(other, one_setting) == ("80ms",)


def ddl(connection: Any) -> None:
    for statement in SHAPES:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
    for change, expected in (("select 1", BEFORE), (ADD_COLUMN, WITH_COLUMN), (INT_TO_FLOAT, WITH_FLOAT)):
        with connection, connection.cursor() as cursor:
            cursor.execute(change)
        for _ in range(REPEATS):
            assert one(connection, "select * from shapes where id = %s", 7) == expected
            connection.commit()


def notifications(target: Target) -> None:
    with contextlib.closing(connect(target)) as listener, contextlib.closing(connect(target)) as sender:
        listener.autocommit = sender.autocommit = True
        with listener.cursor() as cursor:
            cursor.execute("listen news")
        with sender.cursor() as cursor:
            cursor.execute("notify news, 'first'")
            cursor.execute("notify elsewhere, 'unheard'")
            cursor.execute("select pg_notify('news', %s)", ("second",))
        while len(listener.notifies) < 2:
            assert select.select([listener], [], [], 20)[0], "no notification came"
            listener.poll()
        assert [notify.payload for notify in listener.notifies] == ["first", "second"]


def many_clients(target: Target) -> None:
    def work(index: int) -> None:
        with contextlib.closing(connect(target)) as connection:
            for i in range(ROUNDS):
                with connection, connection.cursor() as cursor:
                    cursor.execute("insert into work values (%s, %s)", (index, i))
                    cursor.execute("select count(*) from work where client = %s", (index,))
                    assert cursor.fetchone() == (i + 1,)

    with contextlib.closing(connect(target)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("create table work (client int, n int)")
    in_threads(work)
