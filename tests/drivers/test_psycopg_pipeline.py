"""psycopg 3 in pipeline mode, with its defaults: many statements before the first answer is read."""

import asyncio
import contextlib
from typing import Any

import psycopg
import pytest
from psycopg import errors

from drivers.scenario import (
    ADD_COLUMN,
    BEFORE,
    INT_TO_FLOAT,
    LARGE_BYTES,
    LARGE_TEXT,
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
from drivers.test_psycopg import Connection, is_stale


async def test_psycopg_in_pipeline_mode(target: Target) -> None:
    await asyncio.to_thread(run, target)
    await target.check_rest()


def run(target: Target) -> None:
    with connect(target) as connection:
        many_statements(connection)
        transactions(connection)
        errors_and_what_follows(connection)
        large_values(connection)
    ddl(target)
    many_clients(target)


def connect(target: Target) -> Connection:
    return psycopg.connect(target.address.dsn, autocommit=True)


def many_statements(connection: Connection) -> None:
    with connection.pipeline() as pipeline:
        different = [connection.execute(f"select %s::int + {i}", (i,)) for i in range(STATEMENTS)]
        pipeline.sync()
        same = [connection.execute("select %s::int, %s::text", (i, str(i))) for i in range(STATEMENTS)]
        assert [cursor.fetchone() for cursor in different] == [(2 * i,) for i in range(STATEMENTS)]
    assert [cursor.fetchone() for cursor in same] == [(i, str(i)) for i in range(STATEMENTS)]


def transactions(connection: Connection) -> None:
    connection.execute("create table piped (id int primary key, t text)")
    with connection.pipeline(), connection.transaction():
        connection.cursor().executemany("insert into piped values (%s, %s)", [(i, str(i)) for i in range(300)])
    for i in range(REPEATS):
        with connection.pipeline(), connection.transaction():
            connection.execute("update piped set t = %s where id = %s", (f"new {i}", i))
            found = connection.execute("select t from piped where id = %s", (i,))
        assert found.fetchone() == (f"new {i}",)
    with connection.pipeline(), connection.transaction(force_rollback=True):
        connection.execute("delete from piped")
    assert connection.execute("select count(*) from piped").fetchone() == (300,)


def errors_and_what_follows(connection: Connection) -> None:
    """What stands between an error and the next sync is skipped; what follows the sync is carried out.

    Every statement is prepared first: psycopg believes that a statement is prepared whose Parse an error skipped,
    and PostgreSQL itself then answers 26000.
    """
    for i in range(REPEATS):
        connection.execute("insert into piped values (%s, %s)", (300 + i, "prepared"))
        connection.execute("select 1 / %s::int", (1,))
        connection.execute("select %s::int", (i,))
    for i in range(REPEATS):
        with pytest.raises(errors.UniqueViolation), connection.pipeline():  # one transaction
            connection.execute("insert into piped values (%s, %s)", (1000, "lost"))
            connection.execute("insert into piped values (%s, %s)", (1, "twice"))
            connection.execute("insert into piped values (%s, %s)", (1001, "skipped"))
        with connection.pipeline() as pipeline:
            with pytest.raises(errors.DivisionByZero):  # raised by whatever reads the answer first
                connection.execute("select 1 / %s::int", (0,))
                connection.execute("select %s::int", (i,))
                pipeline.sync()
            with contextlib.suppress(errors.PipelineAborted):  # of the skipped one
                pipeline.sync()
            served = connection.execute("select %s::int", (i,))
            assert served.fetchone() == (i,)
    with pytest.raises(errors.DivisionByZero), connection.pipeline(), connection.transaction():
        connection.execute("insert into piped values (%s, %s)", (1002, "lost"))
        connection.execute("select 1 / %s::int", (0,))
        connection.execute("insert into piped values (%s, %s)", (1003, "skipped"))
    found = connection.execute("select count(*), max(id) from piped").fetchone()
    assert found == (300 + REPEATS, 299 + REPEATS)


def large_values(connection: Connection) -> None:
    with connection.pipeline():
        found = [connection.execute("select %s::text, %b::bytea", (LARGE_TEXT, LARGE_BYTES)) for _ in range(4)]
    assert all(cursor.fetchone() == (LARGE_TEXT, LARGE_BYTES) for cursor in found)


def ddl(target: Target) -> None:
    """The cached statements stand in a transaction in a pipeline, twice in each."""
    with connect(target) as owner, connect(target) as reader:
        for statement in SHAPES:
            owner.execute(statement)

        def rows() -> list[tuple[Any, ...] | None]:
            with reader.pipeline(), reader.transaction():
                found = [reader.execute("select * from shapes where id = %s", (7,)) for _ in range(2)]
                found.append(reader.execute("select n from shapes where id = %s", (7,)))
            return [cursor.fetchone() for cursor in found]

        for _ in range(REPEATS):
            assert rows() == [BEFORE, BEFORE, BEFORE[1:2]]
        owner.execute(ADD_COLUMN)
        assert settled(rows, is_stale) == [WITH_COLUMN, WITH_COLUMN, BEFORE[1:2]]
        for _ in range(REPEATS):
            assert rows() == [WITH_COLUMN, WITH_COLUMN, BEFORE[1:2]]
        owner.execute(INT_TO_FLOAT)
        # Two statements are stale, and the first error skips the second.
        assert settled(rows, is_stale, retries=2) == [WITH_FLOAT, WITH_FLOAT, WITH_FLOAT[1:2]]
        for _ in range(REPEATS):
            assert rows() == [WITH_FLOAT, WITH_FLOAT, WITH_FLOAT[1:2]]


def many_clients(target: Target) -> None:
    def work(index: int) -> None:
        with connect(target) as connection:
            for i in range(ROUNDS):
                with connection.pipeline():
                    with connection.transaction():
                        connection.execute("insert into work values (%s, %s)", (index, i))
                        count = connection.execute("select count(*) from work where client = %s", (index,))
                    found = [connection.execute("select %s::int, %s::text", (n, f"{index}")) for n in range(20)]
                assert count.fetchone() == (i + 1,)
                assert [cursor.fetchone() for cursor in found] == [(n, f"{index}") for n in range(20)]

    with connect(target) as connection:
        connection.execute("create table work (client int, n int)")
    in_threads(work)
