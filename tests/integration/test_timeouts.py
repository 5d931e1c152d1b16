"""Timeouts as psycopg meets them: the exceptions of a direct connection, and no server that stays behind."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import psycopg
import pytest
from psycopg import errors
from pydantic import SecretStr

from harness.address import Address
from harness.config import files, tenant
from harness.databases import Database
from harness.pooler import Pooler
from harness.waiting import until
from integration.quiet import pools, until_quiet
from pgweir_contract.models import Database as DatabaseEntry
from pgweir_contract.models import PoolOverrides, TenantEntry, User
from pgweir_operator.local_postgres import PostgresServer

Connection: TypeAlias = "psycopg.AsyncConnection[psycopg.rows.TupleRow]"

SHORT_S = 0.3
LONG = "select pg_sleep(60)"
FINISHES_S = 30.0  # a bound for what takes SHORT_S and a look


async def connect(address: Address, **options: Any) -> Connection:
    return await psycopg.AsyncConnection.connect(address.dsn, prepare_threshold=None, **options)


def count(process: Pooler, code: str) -> int:
    """How many clients were told of this error."""
    return int(process.metrics().get(f'pgweir_errors_total{{code="{code}"}}', 0))


async def until_counted(process: Pooler, code: str, number: int = 1) -> None:
    await until(lambda: count(process, code) == number, f"{number} x {code}")


@dataclass
class Scene:
    """A pooler whose only pool has one server and the timeouts of the test."""

    start: Callable[..., Pooler]
    database: Database
    mode: str
    process: Pooler
    entry: TenantEntry

    @property
    def address(self) -> Address:
        return self.process.address(self.entry, listener=self.mode)

    async def rows(self, table: str = "t") -> str:
        return await asyncio.to_thread(self.database.sql, f"select count(*) from {table}")


NewScene: TypeAlias = Callable[..., Scene]


@pytest.fixture
def new_scene(pooler: Callable[..., Pooler], database: Database, mode: str) -> NewScene:
    def start(**pool: Any) -> Scene:
        entry = tenant(database, size=1, **pool)
        return Scene(pooler, database, mode, pooler(entry), entry)

    return start


async def test_a_query_that_runs_too_long_fails_and_the_session_goes_on(new_scene: NewScene) -> None:
    scene = new_scene(query_timeout=SHORT_S)
    notices: list[str | None] = []
    connection = await connect(scene.address, autocommit=True)
    connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    async with asyncio.timeout(FINISHES_S):
        with pytest.raises(errors.QueryCanceled) as caught:
            await connection.execute(LONG)
    assert caught.value.diag.severity == "ERROR"
    assert notices == ["(QueryTimeout) canceling the query after 0.3 s, the pool's queryTimeout"]
    assert await (await connection.execute("select 1")).fetchall() == [(1,)]
    assert count(scene.process, "QueryTimeout") == 1
    assert scene.process.log_text().count('"query cancelled"') == 1
    assert not connection.closed
    await connection.close()
    await until_quiet(scene.process, scene.database)


async def test_each_query_of_a_transaction_has_its_own_time(new_scene: NewScene) -> None:
    scene = new_scene(query_timeout=1.0)
    connection = await connect(scene.address)
    pid = (await (await connection.execute("select pg_backend_pid()")).fetchall())[0]
    for _ in range(4):
        await connection.execute("select pg_sleep(0.4)")
    with pytest.raises(errors.QueryCanceled):
        await connection.execute(LONG)
    with pytest.raises(errors.InFailedSqlTransaction):
        await connection.execute("select 1")
    await connection.rollback()
    assert (await (await connection.execute("select pg_backend_pid()")).fetchall())[0] == pid
    await connection.close()
    await until_quiet(scene.process, scene.database)


async def test_pipelined_queries_go_on_behind_a_cancelled_one(new_scene: NewScene) -> None:
    scene = new_scene(query_timeout=SHORT_S)
    connection = await connect(scene.address, autocommit=True)
    with pytest.raises(errors.QueryCanceled):
        await _in_pipeline(connection, LONG)
    async with connection.pipeline():
        cursor = await connection.execute("select 2")
    assert await cursor.fetchall() == [(2,)]
    await connection.close()
    await until_quiet(scene.process, scene.database)


async def _in_pipeline(connection: Connection, sql: str) -> None:
    async with connection.pipeline() as pipeline:
        await connection.execute(sql)
        await pipeline.sync()


async def test_a_transaction_that_lasts_too_long_ends_in_mid_query(new_scene: NewScene) -> None:
    scene = new_scene(transaction_timeout=SHORT_S)
    scene.database.sql("create table t (n int); grant all on t to public")
    connection = await connect(scene.address)
    await connection.execute("insert into t values (1)")
    async with asyncio.timeout(FINISHES_S):
        with pytest.raises(errors.TransactionTimeout, match="terminating connection due to transaction timeout"):
            await connection.execute(LONG)
    assert connection.closed
    await until_quiet(scene.process, scene.database)
    assert await scene.rows() == "0"
    assert count(scene.process, "TransactionTimeout") == 1
    assert scene.process.log_text().count('"client closed"') == 1


async def test_a_statement_alone_is_a_transaction_too(new_scene: NewScene) -> None:
    scene = new_scene(transaction_timeout=SHORT_S)
    connection = await connect(scene.address, autocommit=True)
    for _ in range(3):
        await connection.execute("select pg_sleep(0.15)")  # together too long, each short enough
    with pytest.raises(errors.TransactionTimeout):
        await connection.execute(LONG)
    await until_quiet(scene.process, scene.database)


async def test_a_transaction_that_is_idle_between_queries_lasts_no_longer(new_scene: NewScene) -> None:
    scene = new_scene(transaction_timeout=SHORT_S, idle_transaction_timeout=60.0)
    connection = await connect(scene.address)
    await connection.execute("select 1")
    await until_counted(scene.process, "TransactionTimeout")
    with pytest.raises(errors.TransactionTimeout):
        await connection.execute("select 1")
    await until_quiet(scene.process, scene.database)


async def test_an_idle_transaction_ends_and_leaves_nothing(new_scene: NewScene) -> None:
    scene = new_scene(idle_transaction_timeout=SHORT_S)
    scene.database.sql("create table t (n int); grant all on t to public")
    connection = await connect(scene.address)
    await connection.execute("insert into t values (1)")
    await connection.execute("select pg_sleep(1)")  # busy, not idle
    await until_counted(scene.process, "IdleTransactionTimeout")
    with pytest.raises(
        errors.IdleInTransactionSessionTimeout, match="terminating connection due to idle-in-transaction timeout"
    ) as caught:
        await connection.execute("select 1")
    assert caught.value.diag.severity == "FATAL"
    await until_quiet(scene.process, scene.database)
    assert await scene.rows() == "0"
    other = await connect(scene.address)
    assert await (await other.execute("select 1")).fetchall() == [(1,)]
    await other.close()


async def test_a_failed_transaction_is_idle_too(new_scene: NewScene) -> None:
    scene = new_scene(idle_transaction_timeout=SHORT_S)
    connection = await connect(scene.address)
    with pytest.raises(errors.DivisionByZero):
        await connection.execute("select 1/0")
    await until_counted(scene.process, "IdleTransactionTimeout")
    with pytest.raises(errors.IdleInTransactionSessionTimeout):
        await connection.execute("select 1")
    await until_quiet(scene.process, scene.database)


async def test_an_idle_client_is_let_go_outside_of_transactions_alone(new_scene: NewScene) -> None:
    scene = new_scene(client_idle_timeout=SHORT_S)
    connection = await connect(scene.address, autocommit=True)
    for _ in range(3):
        await connection.execute("select pg_sleep(0.5)")
    await connection.execute("begin")
    await asyncio.sleep(3 * SHORT_S)  # idle in a transaction: another timeout's matter
    await connection.execute("commit")
    await until_counted(scene.process, "ClientIdleTimeout")
    with pytest.raises(errors.IdleSessionTimeout, match="terminating connection due to idle-session timeout"):
        await connection.execute("select 1")
    await until_quiet(scene.process, scene.database)


async def test_a_client_that_never_asked_anything_is_idle(new_scene: NewScene) -> None:
    scene = new_scene(client_idle_timeout=SHORT_S)
    connection = await connect(scene.address, autocommit=True)
    await until_counted(scene.process, "ClientIdleTimeout")
    with pytest.raises(errors.IdleSessionTimeout):
        await connection.execute("select 1")
    await until_quiet(scene.process, scene.database)


async def test_a_client_that_waits_for_a_server_is_told_once(new_scene: NewScene) -> None:
    scene = new_scene(query_wait_notify=SHORT_S)
    # In session mode a server is kept from the first query on.
    holder = await connect(scene.address)
    waiter = await connect(scene.address, autocommit=True)
    notices: list[tuple[str | None, ...]] = []
    told = asyncio.Event()

    def take(notice: psycopg.errors.Diagnostic) -> None:
        notices.append((notice.severity, notice.sqlstate, notice.message_primary))
        told.set()

    waiter.add_notice_handler(take)
    for number in range(2):
        await holder.execute("select 1")
        waiting = asyncio.create_task(_value(waiter, "select 7"))
        async with asyncio.timeout(FINISHES_S):
            await told.wait()
        told.clear()
        await asyncio.sleep(3 * SHORT_S)  # no second notice in this time
        assert len(notices) == number + 1
        severity, sqlstate, text = notices[-1]
        assert (severity, sqlstate) == ("NOTICE", "00000")
        assert text is not None
        assert text.startswith("waiting for a server connection for 0.")
        assert not waiting.done()
        await holder.rollback()
        if scene.mode == "session":
            await holder.close()
            assert await waiting == 7
            break
        assert await waiting == 7
    await holder.close()
    await waiter.close()
    await until_quiet(scene.process, scene.database)


async def _value(connection: Connection, sql: str) -> object:
    row = await (await connection.execute(sql)).fetchone()
    assert row is not None
    return row[0]


async def test_nobody_is_told_when_the_notice_is_off(new_scene: NewScene) -> None:
    scene = new_scene(query_wait_notify=0.0)
    holder, waiter = await connect(scene.address), await connect(scene.address, autocommit=True)
    notices: list[object] = []
    waiter.add_notice_handler(notices.append)
    await holder.execute("select 1")
    waiting = asyncio.create_task(_value(waiter, "select 7"))
    await until(lambda: pools(scene.process)[0]["waiting"] == 1, "one waits")
    await holder.execute("select pg_sleep(1.5)")
    await holder.close()
    assert await waiting == 7
    assert notices == []
    await waiter.close()
    await until_quiet(scene.process, scene.database)


@pytest.mark.parametrize(
    ("setting", "sql", "expected"),
    [
        ("statement_timeout", LONG, errors.QueryCanceled),
        ("transaction_timeout", LONG, errors.TransactionTimeout),
        ("idle_in_transaction_session_timeout", "", errors.IdleInTransactionSessionTimeout),
        ("idle_session_timeout", "", errors.IdleSessionTimeout),
    ],
)
async def test_the_exceptions_are_those_of_a_direct_connection(
    database18: Database, setting: str, sql: str, expected: type[psycopg.Error]
) -> None:
    """What the tests above expect of the pooler, asked of PostgreSQL itself."""
    connection = await connect(database18.address, options=f"-c {setting}=300ms", autocommit="session" in setting)
    if setting.startswith("idle_in"):
        await connection.execute("begin")
    await until(lambda: sql or not database18.backends(), "PostgreSQL has ended the session")
    with pytest.raises(expected):
        await connection.execute(sql or "select 1")
    await connection.close()


# --- where they are set


async def test_a_user_counts_before_its_database_and_this_before_the_tenant(
    pooler: Callable[..., Pooler], postgres18: PostgresServer, new_database: Callable[[PostgresServer], Database]
) -> None:
    first, second = new_database(postgres18), new_database(postgres18)
    entry = tenant(first, size=2, query_timeout=SHORT_S)
    database = DatabaseEntry(name="patient", upstream_name=first.name, pool=PoolOverrides(query_timeout=60.0))
    hasty = User(
        name=second.user,
        passwords=(SecretStr(second.password),),
        pool=PoolOverrides(query_timeout=SHORT_S, idle_transaction_timeout=SHORT_S),
    )
    entry = entry.model_copy(update={"databases": (*entry.databases, database), "users": (*entry.users, hasty)})
    process = pooler(entry)

    async def is_cancelled(user: Database, database: str) -> bool:
        address = process.address(entry, user=user.user, password=user.password, database=database)
        connection = await connect(address, autocommit=True)
        try:
            await connection.execute("select pg_sleep(1.5)")
        except errors.QueryCanceled:
            return True
        finally:
            await connection.close()
        return False

    assert await is_cancelled(first, first.name)
    assert not await is_cancelled(first, "patient")
    assert await is_cancelled(second, "patient")
    of_hasty = process.address(entry, user=second.user, password=second.password, database="patient")
    calm, idle = await connect(process.address(entry)), await connect(of_hasty)
    await calm.execute("select 1")
    await idle.execute("select 1")
    await until_counted(process, "IdleTransactionTimeout")
    with pytest.raises(errors.IdleInTransactionSessionTimeout):
        await idle.execute("select 1")
    await calm.execute("select 1")
    await calm.close()
    await until_quiet(process)


async def test_a_reload_changes_them_for_clients_that_are_there(new_scene: NewScene) -> None:
    scene = new_scene()
    connection = await connect(scene.address)
    await connection.execute("select 1")

    async def apply(**changes: float) -> None:
        pool = scene.entry.pool.model_copy(update=changes)
        entry = scene.entry.model_copy(update={"pool": pool})
        content = files([entry])
        await asyncio.to_thread(scene.process.write, content)
        await until(lambda: scene.process.status()["revisions"] == _revisions(content), "the change applied", 20)

    await apply(query_timeout=SHORT_S)
    with pytest.raises(errors.QueryCanceled):
        await connection.execute(LONG)
    await connection.rollback()
    await apply()
    await connection.execute("select pg_sleep(1.5)")
    await apply(idle_transaction_timeout=SHORT_S)
    await until_counted(scene.process, "IdleTransactionTimeout")
    with pytest.raises(errors.IdleInTransactionSessionTimeout):
        await connection.execute("select 1")
    await until_quiet(scene.process, scene.database)


def _revisions(content: dict[str, bytes]) -> dict[str, str]:
    return {name: json.loads(data)["revision"] for name, data in content.items()}
