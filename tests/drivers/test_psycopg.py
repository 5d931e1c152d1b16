"""psycopg 3, blocking: its defaults, and a prepare_threshold of 0, which prepares every statement at once."""

import asyncio
import contextlib
import threading
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import errors

from drivers.scenario import (
    ADD_COLUMN,
    BEFORE,
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
    in_threads,
    settled,
)
from drivers.target import Target

Connection = psycopg.Connection[tuple[Any, ...]]


async def test_psycopg(target: Target) -> None:
    await asyncio.to_thread(Scenario(target).run)
    await target.check_rest()


async def test_psycopg_that_prepares_at_once(target: Target) -> None:
    await asyncio.to_thread(Scenario(target, prepare_threshold=0).run)
    await target.check_rest()


def is_stale(error: Exception) -> bool:
    return isinstance(error, errors.FeatureNotSupported) and "cached plan" in str(error)


class Scenario:
    """The connections differ only in their options."""

    def __init__(self, target: Target, **options: Any) -> None:
        self.target = target
        self.options = options

    def connect(self, **options: Any) -> Connection:
        return psycopg.connect(self.target.address.dsn, **self.options, **options)

    def run(self) -> None:
        with self.connect() as connection:
            self.transactions(connection)
            self.many_statements(connection)
            self.errors(connection)
            self.copy(connection)
            self.cursors(connection)
            self.large_values(connection)
            self.cancel(connection)
            self.timeouts(connection)
        self.ddl()
        self.ddl_without_transactions()
        self.notifications()
        self.many_clients()

    def transactions(self, connection: Connection) -> None:
        connection.execute("create table items (id int primary key, t text)")
        connection.commit()
        with connection.cursor() as cursor:
            cursor.executemany("insert into items values (%s, %s)", [(i, f"item {i}") for i in range(200)])
        connection.commit()
        for i in range(REPEATS):
            with connection.transaction():
                connection.execute("update items set t = %s where id = %s", (f"new {i}", i))
                assert connection.execute("select t from items where id = %s", (i,)).fetchone() == (f"new {i}",)
        connection.execute("delete from items where id >= %s", (100,))
        connection.rollback()
        assert connection.execute("select count(*) from items").fetchone() == (200,)
        connection.commit()

    def many_statements(self, connection: Connection) -> None:
        for _ in range(2):
            for i in range(STATEMENTS):
                found = connection.execute(f"select %s::int + {i}, 'statement {i}'", (i,)).fetchone()
                assert found == (2 * i, f"statement {i}")
            connection.commit()
        for i in range(REPEATS):
            assert connection.execute("select %s::int, %s::text", (i, str(i))).fetchone() == (i, str(i))
            connection.commit()
        names = "select count(*) from pg_prepared_statements"
        if not self.target.is_pooled:  # what a server of a pool holds is the pooler's business
            assert connection.execute(names).fetchone() > (0,)  # type: ignore[operator]
            connection.commit()

    def errors(self, connection: Connection) -> None:
        for _ in range(REPEATS):
            with pytest.raises(errors.UniqueViolation):
                connection.execute("insert into items values (%s, %s)", (1, "twice"))
            with pytest.raises(errors.InFailedSqlTransaction):
                connection.execute("select t from items where id = %s", (1,))
            connection.rollback()
            assert connection.execute("select t from items where id = %s", (1,)).fetchone() == ("new 1",)
            connection.commit()
        with connection.transaction():
            connection.execute("insert into items values (%s, %s)", (1000, "kept"))
            with pytest.raises(errors.DivisionByZero), connection.transaction():  # a savepoint
                connection.execute("insert into items values (%s, %s)", (1001, "lost"))
                connection.execute("select 1 / %s", (0,))
        found = connection.execute("select id, t from items where id >= %s", (1000,)).fetchall()
        assert found == [(1000, "kept")]
        connection.commit()

    def copy(self, connection: Connection) -> None:
        with connection.cursor() as cursor, cursor.copy("copy items from stdin") as copy:
            for i in range(2000, 5000):
                copy.write_row((i, "Grüße"))
        with connection.cursor() as cursor, cursor.copy("copy (select t from items where id >= 2000) to stdout") as c:
            assert list(c.rows()) == [("Grüße",)] * 3000
        connection.commit()
        with pytest.raises(errors.BadCopyFileFormat), connection.cursor().copy("copy items from stdin") as copy:
            copy.write("1\t2\t3\n")
        connection.rollback()
        assert connection.execute("select count(*) from items where id >= %s", (2000,)).fetchone() == (3000,)
        connection.commit()

    def cursors(self, connection: Connection) -> None:
        with connection.cursor("named") as cursor:
            cursor.itersize = 100
            cursor.execute("select i from generate_series(1, %s) i", (1000,))
            assert [i for (i,) in cursor] == [*range(1, 1001)]
        connection.commit()
        found = connection.cursor().stream("select i from generate_series(1, %s) i", (1000,))
        assert [i for (i,) in found] == [*range(1, 1001)]
        connection.commit()

    def large_values(self, connection: Connection) -> None:
        for binary in (False, True):
            with connection.cursor(binary=binary) as cursor:
                for _ in range(2):
                    cursor.execute("select %s::text, %s::bytea", (LARGE_TEXT, LARGE_BYTES))
                    assert cursor.fetchone() == (LARGE_TEXT, LARGE_BYTES)
            connection.commit()

    def cancel(self, connection: Connection) -> None:
        caught: list[BaseException] = []

        def wait() -> None:
            try:
                connection.execute("select pg_sleep(15) /* psycopg waits */")
            except errors.QueryCanceled as error:
                caught.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        with self.connect(autocommit=True) as watch:
            while watch.execute(IS_RUNNING.format(mark="psycopg waits")).fetchone() != (True,):
                pass
        connection.cancel_safe(timeout=10)
        thread.join(30)
        assert len(caught) == 1
        connection.rollback()
        assert connection.execute("select %s::int", (1,)).fetchone() == (1,)
        connection.commit()

    def timeouts(self, connection: Connection) -> None:
        connection.execute("set statement_timeout = '80ms'")
        connection.commit()
        for _ in range(2):
            with pytest.raises(errors.QueryCanceled, match="statement timeout"):
                connection.execute("select pg_sleep(15)")
            connection.rollback()
        connection.execute("reset statement_timeout")
        connection.commit()
        assert connection.execute("show statement_timeout").fetchone() == ("0",)
        connection.commit()
        with self.connect(options="-c statement_timeout=80") as other:
            with pytest.raises(errors.QueryCanceled, match="statement timeout"):
                other.execute("select pg_sleep(15)")
            other.rollback()
            assert other.execute("show statement_timeout").fetchone() == ("80ms",)

    def ddl(self) -> None:
        """In transactions: psycopg forgets its statements at a rollback."""

        def row(connection: Connection) -> tuple[Any, ...] | None:
            with connection.transaction():
                return connection.execute("select * from shapes where id = %s", (7,)).fetchone()

        def value(connection: Connection) -> tuple[Any, ...] | None:
            with connection.transaction():
                return connection.execute("select n from shapes where id = %s", (7,)).fetchone()

        with contextlib.ExitStack() as stack:
            owner = stack.enter_context(self.connect(autocommit=True))
            self._shapes(owner)
            readers = [stack.enter_context(self.connect()) for _ in range(READERS)]
            for reader in readers * REPEATS:
                assert row(reader) == BEFORE
                assert value(reader) == BEFORE[1:]
            owner.execute(ADD_COLUMN)
            for reader in readers:
                assert settled(partial(row, reader), is_stale) == WITH_COLUMN
                assert value(reader) == BEFORE[1:]
            owner.execute(INT_TO_FLOAT)
            for reader in readers:
                assert settled(partial(row, reader), is_stale) == WITH_FLOAT
                assert settled(partial(value, reader), is_stale) == WITH_FLOAT[1:2]
            for reader in readers * REPEATS:
                assert row(reader) == WITH_FLOAT
                assert value(reader) == WITH_FLOAT[1:2]

    def ddl_without_transactions(self) -> None:
        """PostgreSQL itself goes on to fail until the client deallocates; a pool must not."""
        with self.connect(autocommit=True) as owner, self.connect(autocommit=True) as reader:
            self._shapes(owner)

            def row() -> tuple[Any, ...] | None:
                return reader.execute("select * from shapes where id = %s", (7,)).fetchone()

            for _ in range(REPEATS):
                assert row() == BEFORE
            for change, expected in ((ADD_COLUMN, WITH_COLUMN), (INT_TO_FLOAT, WITH_FLOAT)):
                owner.execute(change)
                try:
                    assert row() == expected
                except errors.FeatureNotSupported:
                    if not self.target.is_pooled:
                        reader.execute("rollback")  # psycopg forgets its statements
                for _ in range(REPEATS):
                    assert row() == expected

    def _shapes(self, owner: Connection) -> None:
        owner.execute("drop table if exists shapes")
        for statement in SHAPES:
            owner.execute(statement)

    def notifications(self) -> None:
        with self.connect(autocommit=True) as listener, self.connect(autocommit=True) as sender:
            listener.execute("listen news")
            sender.execute("select pg_notify('news', %s)", ("first",))
            with sender.transaction():
                sender.execute("notify news, 'second'")
                sender.execute("notify elsewhere, 'unheard'")
            sender.execute("notify news, 'third'")
            heard = [notify.payload for notify in listener.notifies(timeout=20, stop_after=3)]
            assert heard == ["first", "second", "third"]
            listener.execute("unlisten news")
            sender.execute("notify news, 'after'")
            assert listener.execute("select %s::int", (1,)).fetchone() == (1,)
            assert list(listener.notifies(timeout=0)) == []

    def many_clients(self) -> None:
        def work(index: int) -> None:
            with self.connect() as connection:
                for i in range(ROUNDS):
                    with connection.transaction():
                        connection.execute("insert into work values (%s, %s)", (index, i))
                        count = connection.execute("select count(*) from work where client = %s", (index,))
                        assert count.fetchone() == (i + 1,)
                    found = connection.execute(f"select %s::int, 'client {index}'", (i,)).fetchone()
                    assert found == (i, f"client {index}")
                    connection.commit()

        with self.connect(autocommit=True) as connection:
            connection.execute("create table work (client int, n int)")
        in_threads(work)
