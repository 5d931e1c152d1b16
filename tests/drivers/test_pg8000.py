"""pg8000 with its defaults: its DB-API sends Parse, Describe and Bind each with a Sync; native.prepare uses names."""

import asyncio
import contextlib
import io
import time
from collections.abc import Iterator
from typing import Any

import pg8000.dbapi
import pg8000.native
import pytest

from drivers.scenario import (
    ADD_COLUMN,
    BEFORE,
    CANCELLED,
    FAILED_TRANSACTION,
    INT_TO_FLOAT,
    LARGE_BYTES,
    LARGE_TEXT,
    REPEATS,
    ROUNDS,
    SHAPES,
    STALE_PLAN,
    STATEMENTS,
    UNIQUE_VIOLATION,
    WITH_COLUMN,
    WITH_FLOAT,
    in_threads,
)
from drivers.target import Target


async def test_pg8000(target: Target) -> None:
    await asyncio.to_thread(run, target)
    await target.check_rest()


def run(target: Target) -> None:
    with contextlib.closing(pg8000.dbapi.connect(**options(target))) as connection:
        transactions(connection)
        many_statements(connection)
        errors(connection)
        copy(connection)
        large_values(connection)
        timeouts(connection)
    named_statements(target)
    startup_timeout(target)
    notifications(target)
    many_clients(target)


def options(target: Target) -> dict[str, Any]:
    address = target.address
    return {
        "host": address.host,
        "port": address.port,
        "database": address.database,
        "user": address.user,
        "password": address.password,
        "ssl_context": False,
    }


@contextlib.contextmanager
def fails(sqlstate: str) -> Iterator[None]:
    """pg8000 has one class of error; the SQLSTATE is in its fields."""
    with pytest.raises((pg8000.dbapi.DatabaseError, pg8000.native.DatabaseError)) as caught:
        yield
    assert caught.value.args[0]["C"] == sqlstate


def transactions(connection: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("create table items (id int primary key, t text)")
    connection.commit()
    cursor.executemany("insert into items values (%s, %s)", [(i, f"item {i}") for i in range(100)])
    connection.commit()
    for i in range(REPEATS):
        cursor.execute("update items set t = %s where id = %s", (f"new {i}", i))
        cursor.execute("select t from items where id = %s", (i,))
        assert cursor.fetchone() == [f"new {i}"]
        connection.commit()
    cursor.execute("delete from items")
    connection.rollback()
    cursor.execute("select count(*) from items")
    assert cursor.fetchone() == [100]
    connection.commit()


def many_statements(connection: Any) -> None:
    cursor = connection.cursor()
    connection.autocommit = True
    for i in range(STATEMENTS):
        cursor.execute(f"select %s::int + {i}", (i,))
        assert cursor.fetchone() == [2 * i]
    for i in range(REPEATS):
        cursor.execute("select %s::int, %s::text", (i, str(i)))
        assert cursor.fetchone() == [i, str(i)]
    connection.autocommit = False


def errors(connection: Any) -> None:
    cursor = connection.cursor()
    for _ in range(REPEATS):
        with fails(UNIQUE_VIOLATION):
            cursor.execute("insert into items values (%s, %s)", (1, "twice"))
        with fails(FAILED_TRANSACTION):
            cursor.execute("select t from items where id = %s", (1,))
        connection.rollback()
        cursor.execute("select t from items where id = %s", (1,))
        assert cursor.fetchone() == ["new 1"]
        connection.commit()


def copy(connection: Any) -> None:
    cursor = connection.cursor()
    rows = "".join(f"{i}\tGrüße\n" for i in range(2000, 4000))
    cursor.execute("copy items from stdin", stream=io.BytesIO(rows.encode()))
    out = io.BytesIO()
    cursor.execute("copy (select * from items where id >= 2000 order by id) to stdout", stream=out)
    assert out.getvalue().decode() == rows
    connection.commit()
    with fails("22P04"):
        cursor.execute("copy items from stdin", stream=io.BytesIO(b"1\t2\t3\n"))
    connection.rollback()


def large_values(connection: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("select %s::text, %s::bytea", (LARGE_TEXT, LARGE_BYTES))
    assert cursor.fetchone() == [LARGE_TEXT, LARGE_BYTES]
    connection.commit()


def timeouts(connection: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("set statement_timeout = '80ms'")
    connection.commit()
    with fails(CANCELLED):
        cursor.execute("select pg_sleep(15)")
    connection.rollback()
    cursor.execute("reset statement_timeout")
    connection.commit()
    cursor.execute("show statement_timeout")
    assert cursor.fetchone() == ["0"]
    connection.commit()


def startup_timeout(target: Target) -> None:
    with pg8000.native.Connection(**options(target), startup_params={"statement_timeout": "80"}) as connection:
        with fails(CANCELLED):
            connection.run("select pg_sleep(15)")
        assert connection.run("show statement_timeout") == [["80ms"]]


def named_statements(target: Target) -> None:
    """`prepare` keeps the shape of its first day: a stale statement is prepared anew by the application."""
    with pg8000.native.Connection(**options(target)) as owner, pg8000.native.Connection(**options(target)) as reader:
        for statement in SHAPES:
            owner.run(statement)
        row = "select * from shapes where id = :id"
        value = "select n from shapes where id = :id"
        for expected, change in ((BEFORE, ADD_COLUMN), (WITH_COLUMN, INT_TO_FLOAT)):
            statements = [reader.prepare(row), reader.prepare(value)]
            for _ in range(REPEATS):
                assert statements[0].run(id=7) == [[*expected]]
                assert statements[1].run(id=7) == [[expected[1]]]
            owner.run(change)
            with fails(STALE_PLAN):
                statements[0].run(id=7)
            if change == INT_TO_FLOAT:
                with fails(STALE_PLAN):
                    statements[1].run(id=7)
            else:
                assert statements[1].run(id=7) == [[expected[1]]]
            for each in statements:
                each.close()
        assert reader.prepare(row).run(id=7) == [[*WITH_FLOAT]]
        reader.run("begin")
        statement = reader.prepare("select 1 / :divisor ::int")
        with fails("22012"):
            statement.run(divisor=0)
        with fails(FAILED_TRANSACTION):
            statement.run(divisor=1)
        reader.run("rollback")
        assert statement.run(divisor=1) == [[1]]


def notifications(target: Target) -> None:
    """pg8000 reads notifications along with the answer to a statement."""
    with pg8000.native.Connection(**options(target)) as listener, pg8000.native.Connection(**options(target)) as sender:
        listener.run("listen news")
        sender.run("select pg_notify('news', :payload)", payload="first")
        sender.run("notify elsewhere, 'unheard'")
        listener.run("notify news, 'own'")
        _heard(listener, 2)
        assert [(channel, payload) for _, channel, payload in listener.notifications] == [
            ("news", "first"),
            ("news", "own"),
        ]


def _heard(listener: Any, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(listener.notifications) < count:
        assert time.monotonic() < deadline, f"only {[*listener.notifications]} came"
        listener.run("select 1")


def many_clients(target: Target) -> None:
    def work(index: int) -> None:
        with contextlib.closing(pg8000.dbapi.connect(**options(target))) as connection:
            cursor = connection.cursor()
            for i in range(ROUNDS):
                cursor.execute("insert into work values (%s, %s)", (index, i))
                cursor.execute("select count(*) from work where client = %s", (index,))
                assert cursor.fetchone() == [i + 1]
                connection.commit()

    with pg8000.native.Connection(**options(target)) as connection:
        connection.run("create table work (client int, n int)")
    in_threads(work)
