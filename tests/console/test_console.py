"""The console of a real process, with real drivers and programs, beside clients of a tenant."""

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg import errors
from psycopg.rows import dict_row

from console.admins import ADMINS, JANE, admin_user, console, with_admins
from harness.config import files, tenant
from harness.databases import Database
from harness.pooler import Pooler
from pgweir_contract.models import AdminConsole, TenantEntry
from pgweir_pooler.console.commands import SHOWN

Started = Callable[..., Pooler]
Connection = psycopg.Connection[dict[str, Any]]


@pytest.fixture
def entry(database18: Database) -> TenantEntry:
    return tenant(database18, size=2, queue_timeout=20.0)


@pytest.fixture
def process(pooler: Started, entry: TenantEntry) -> Pooler:
    return pooler(entry, cluster_file=with_admins())


def admin(process: Pooler, user: str = "jane", **where: str) -> Connection:
    return psycopg.connect(console(process, user, **where).dsn, autocommit=True, row_factory=dict_row)


@pytest.fixture
def jane(process: Pooler) -> Iterator[Connection]:
    with admin(process) as connection:
        yield connection


@pytest.fixture
def client(process: Pooler, entry: TenantEntry) -> Iterator[psycopg.Connection[Any]]:
    with connected(process, entry) as connection:
        yield connection


def connected(process: Pooler, entry: TenantEntry, **parameters: str) -> psycopg.Connection[Any]:
    return psycopg.connect(process.dsn(entry), autocommit=True, prepare_threshold=None, **parameters)  # type: ignore[arg-type]


def name_of(entry: TenantEntry) -> str:
    return f"{entry.databases[0].name}.{entry.tenant_id}"


def shown(connection: Connection, what: str, **where: object) -> list[dict[str, Any]]:
    rows = connection.execute(f"SHOW {what}").fetchall()
    return [row for row in rows if all(row[key] == value for key, value in where.items())]


class InBackground:
    """A statement that takes its time, in a thread of its own."""

    def __init__(self, connection: psycopg.Connection[Any], text: str) -> None:
        self.error: Exception | None = None
        self._connection, self._text = connection, text
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._connection.execute(self._text)
        except Exception as error:
            self.error = error

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        self._thread.join(30)
        assert self.is_done, "it did not end"


# --- login


@pytest.mark.parametrize("listener", ["transaction", "session"])
@pytest.mark.parametrize("database", ["pgweir", "pgbouncer"])
def test_admins_log_in_on_every_listener(process: Pooler, listener: str, database: str) -> None:
    with admin(process, listener=listener, database=database) as connection:
        assert connection.execute("SHOW VERSION").fetchall()[0]["version"].startswith("pgweir ")
        assert connection.info.server_version == 180000
        assert connection.info.encoding == "utf-8"


@pytest.mark.parametrize("change", [{"password": "wrong"}, {"user": "nobody"}, {"user": "app"}])
def test_a_wrong_password_and_an_unknown_admin_are_told_the_same(process: Pooler, change: dict[str, str]) -> None:
    address = replace(console(process), **change)  # type: ignore[arg-type]
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(address.dsn)
    assert f'password authentication failed for user "{address.user}"' in str(caught.value)
    assert JANE not in process.log_text()


def test_without_admins_the_database_is_like_any_other(pooler: Started, entry: TenantEntry) -> None:
    process = pooler(entry)
    with pytest.raises(psycopg.OperationalError, match="NoTenant"):
        psycopg.connect(console(process).dsn)


def test_a_tenants_own_database_of_that_name_stays_reachable(pooler: Started, entry: TenantEntry) -> None:
    own = entry.databases[0].model_copy(update={"name": "pgweir", "upstream_name": entry.databases[0].name})
    entry = entry.model_copy(update={"databases": (own,)})
    process = pooler(entry, cluster_file=with_admins())
    with connected(process, entry) as connection:
        assert connection.execute("select current_database()").fetchall() == [(own.upstream_name,)]


def test_a_default_tenants_clients_reach_their_databases(pooler: Started, entry: TenantEntry) -> None:
    process = pooler(entry, cluster_file=with_admins(default_tenant="acme"))
    address = replace(process.address(entry), user=entry.users[0].name)
    with psycopg.connect(address.dsn, prepare_threshold=None) as connection:
        assert connection.execute("select 1").fetchall() == [(1,)]


def test_an_admin_whom_the_configuration_drops_is_disconnected(process: Pooler, entry: TenantEntry) -> None:
    with admin(process) as jane, admin(process, "eye") as eye:
        promoted = AdminConsole(users=(admin_user("jane", "Stats", JANE), ADMINS.users[1]))
        process.write(files([entry], with_admins(promoted)))
        process.wait_for(lambda: is_gone(jane), "jane disconnected")
        assert shown(eye, "USERS", name="jane")[0]["console_role"] == "Stats"


def is_gone(connection: Connection) -> bool:
    try:
        connection.execute("SHOW STATE")
    except psycopg.OperationalError:
        return True
    return False


# --- looking


def test_who_has_the_role_stats_may_only_look(process: Pooler) -> None:
    with admin(process, "eye") as eye:
        for what in sorted(SHOWN):
            eye.execute(f"SHOW {what}")
        for command in ("PAUSE", "RESUME", "RELOAD", "KILL", "SHUTDOWN", "KILL_CLIENT 1", "RECONNECT", "WAIT_CLOSE"):
            with pytest.raises(errors.InsufficientPrivilege):
                eye.execute(command)


def test_the_tables_show_a_client_at_work(process: Pooler, entry: TenantEntry, jane: Connection) -> None:
    name, user = name_of(entry), f"{entry.users[0].name}.acme"
    with connected(process, entry, application_name="orders") as client:
        client.execute("begin; select 1")
        (row,) = shown(jane, "CLIENTS", database=name)
        (server,) = shown(jane, "SERVERS", database=name)
        assert (row["type"], row["user"], row["state"], row["application_name"]) == ("C", user, "active", "orders")
        assert (row["link"], row["ptr"]) == (server["ptr"], server["link"])
        assert server["remote_pid"] == client.execute("select pg_backend_pid()").fetchall()[0][0]
        assert (server["state"], row["pool_mode"], row["tenant"]) == ("active", "transaction", "acme")
        (pool,) = shown(jane, "POOLS", database=name)
        assert (pool["user"], pool["cl_active"], pool["sv_active"], pool["sv_idle"]) == (user, 1, 1, 0)
        client.execute("commit")
        (pool,) = shown(jane, "POOLS", database=name)
        assert (pool["cl_active"], pool["sv_active"], pool["sv_idle"]) == (1, 0, 1)
        (database,) = shown(jane, "DATABASES", name=name)
        assert (database["database"], database["pool_size"], database["max_connections"]) == (name[:-5], 2, 60)
        assert (database["current_connections"], database["current_client_connections"]) == (1, 1)
        (stats,) = shown(jane, "STATS", database=name)
        assert stats["total_query_count"] == stats["total_requests"] == 3
        assert stats["total_xact_count"] == 1
        assert stats["total_query_time"] > 0
        assert stats["total_client_login_count"] == 1
        (found,) = shown(jane, "USERS", name=user)
        assert (found["current_connections"], found["current_client_connections"]) == (1, 1)
        lists = {row["list"]: row["items"] for row in shown(jane, "LISTS")}
        assert (lists["databases"], lists["used_clients"], lists["used_servers"]) == (2, 2, 1)


def test_errors_leave_the_session_as_it_was(jane: Connection) -> None:
    for text, error in (
        ("NONSENSE", errors.SyntaxError),
        ("PAUSE nothing.acme", errors.InvalidCatalogName),
        ("PAUSE pgweir", errors.ObjectNotInPrerequisiteState),
        ("RESUME", errors.ObjectNotInPrerequisiteState),
        ("KILL_CLIENT 4711", errors.UndefinedObject),
        ("SET pool_mode = session", errors.FeatureNotSupported),
    ):
        with pytest.raises(error):
            jane.execute(text)
    assert jane.execute("SHOW VERSION").fetchall()


def test_psql_prints_tables(process: Pooler) -> None:
    for command in ("SHOW POOLS;", "show help", ";"):
        ended = subprocess.run(
            ["psql", "-X", "-c", command],
            env={**os.environ, **console(process).environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert "ERROR" not in ended.stderr
        if "POOLS" in command:
            assert "cl_active" in ended.stdout


async def test_asyncpg_reads_rows_in_binary_and_with_limits(process: Pooler, client: psycopg.Connection[Any]) -> None:
    client.execute("select 1")
    address = console(process)
    connection = await asyncpg.connect(
        host=address.host, port=address.port, user=address.user, password=address.password, database="pgbouncer"
    )
    try:
        assert await connection.execute("SHOW POOLS") == "SHOW"
        stats = await connection.fetch("SHOW STATS")
        assert [row["total_query_count"] for row in stats] == [1, 0]
        first = await connection.fetchrow("SHOW POOLS")
        assert first["cl_active"] == 1
        assert await connection.fetchval("SHOW VERSION")
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await connection.fetch("PAUSE nothing.acme")
        with pytest.raises(asyncpg.PostgresSyntaxError):
            await connection.fetch("NONSENSE")
        async with asyncio_timeout():
            assert await connection.fetch("PAUSE") == []
            assert await connection.fetch("RESUME") == []
        assert await connection.fetchval("SHOW MEM", column=0) == "virtual"
    finally:
        await connection.close()


def asyncio_timeout() -> Any:
    import asyncio

    return asyncio.timeout(20)


def test_psycopg_prepares_commands(jane: Connection) -> None:
    for _ in range(8):
        assert jane.execute("SHOW STATE", prepare=True).fetchall()[0]["value"] == "yes"
    assert jane.execute("SHOW POOLS", binary=True).fetchall()


# --- pause


@pytest.mark.parametrize("by_name", [True, False])
def test_pause_waits_for_transactions_and_holds_new_ones(
    process: Pooler, entry: TenantEntry, jane: Connection, client: psycopg.Connection[Any], by_name: bool
) -> None:
    name = name_of(entry) if by_name else ""
    client.execute("begin")
    with connected(process, entry) as other, admin(process) as second:
        pause = InBackground(jane, f"PAUSE {name}")
        process.wait_for(lambda: shown(second, "DATABASES", name=name_of(entry))[0]["paused"] == 1, "paused")
        held = InBackground(other, "select 1")
        process.wait_for(lambda: shown(second, "POOLS", tenant="acme")[0]["cl_waiting"] == 1, "a client held")
        client.execute("select 1")
        assert not pause.is_done
        client.execute("commit")
        pause.wait()
        assert pause.error is None
        assert shown(second, "SERVERS") == []
        assert not held.is_done
        second.execute(f"RESUME {name}")
        held.wait()
        assert held.error is None


def test_a_client_that_comes_during_the_pause_is_held_at_its_login(
    process: Pooler, entry: TenantEntry, jane: Connection
) -> None:
    jane.execute(f"PAUSE {name_of(entry)}")
    done: list[object] = []

    def come() -> None:
        with connected(process, entry) as late:
            done.append(late.execute("select 1").fetchall())

    thread = threading.Thread(target=come, daemon=True)
    thread.start()
    process.wait_for(lambda: bool(shown(jane, "POOLS", tenant="acme", cl_waiting=1)), "a login held")
    assert shown(jane, "SERVERS") == []
    jane.execute(f"RESUME {name_of(entry)}")
    thread.join(30)
    assert done == [[(1,)]]


def test_a_pause_can_be_cancelled_and_stays_in_force(
    process: Pooler, entry: TenantEntry, jane: Connection, client: psycopg.Connection[Any]
) -> None:
    client.execute("begin")
    with admin(process) as second:
        pause = InBackground(jane, "PAUSE")
        process.wait_for(lambda: shown(second, "STATE", key="paused", value="yes") != [], "paused")
        jane.cancel()
        pause.wait()
        assert isinstance(pause.error, errors.QueryCanceled)
        assert shown(second, "STATE", key="paused")[0]["value"] == "yes"
        again = pytest.raises(errors.ObjectNotInPrerequisiteState)
        with again:
            jane.execute("PAUSE")
        jane.execute("RESUME")
    client.execute("commit")


def test_resume_ends_a_pause_that_still_waits(
    process: Pooler, jane: Connection, client: psycopg.Connection[Any]
) -> None:
    client.execute("begin")
    with admin(process) as second:
        pause = InBackground(jane, "PAUSE")
        process.wait_for(lambda: shown(second, "STATE", key="paused", value="yes") != [], "paused")
        second.execute("RESUME")
        pause.wait()
        assert isinstance(pause.error, errors.ObjectNotInPrerequisiteState)
    client.execute("commit")
    client.execute("select 1")


# --- the other commands


def test_disable_refuses_new_logins_alone(
    process: Pooler, entry: TenantEntry, jane: Connection, client: psycopg.Connection[Any]
) -> None:
    jane.execute(f"DISABLE {name_of(entry)}")
    client.execute("select 1")
    with pytest.raises(psycopg.OperationalError, match="DatabaseDisabled"):
        connected(process, entry)
    assert shown(jane, "DATABASES", name=name_of(entry))[0]["disabled"] == 1
    jane.execute(f"ENABLE {name_of(entry)}")
    connected(process, entry).close()


def test_reconnect_and_wait_close_renew_the_servers(
    process: Pooler, entry: TenantEntry, jane: Connection, client: psycopg.Connection[Any]
) -> None:
    client.execute("begin")
    before = client.execute("select pg_backend_pid()").fetchall()
    jane.execute(f"RECONNECT {name_of(entry)}")
    assert shown(jane, "SERVERS")[0]["close_needed"] == 1
    wait = InBackground(jane, "WAIT_CLOSE")
    client.execute("commit")
    wait.wait()
    assert wait.error is None
    assert client.execute("select pg_backend_pid()").fetchall() != before


def test_kill_ends_clients_and_servers_and_pauses(
    process: Pooler, entry: TenantEntry, jane: Connection, client: psycopg.Connection[Any]
) -> None:
    client.execute("begin")
    jane.execute(f"KILL {name_of(entry)}")
    with pytest.raises(psycopg.OperationalError, match="terminating connection"):
        client.execute("select 1")
    process.wait_for(lambda: shown(jane, "SERVERS") == [], "no server left")
    jane.execute(f"RESUME {name_of(entry)}")
    with connected(process, entry) as other:
        other.execute("select 1")


def test_kill_client_ends_that_client(
    process: Pooler, entry: TenantEntry, jane: Connection, client: psycopg.Connection[Any]
) -> None:
    with connected(process, entry, application_name="victim") as victim:
        (row,) = shown(jane, "CLIENTS", application_name="victim")
        jane.execute(f"KILL_CLIENT {row['id']}")
        with pytest.raises(psycopg.OperationalError, match="terminating connection"):
            victim.execute("select 1")
    client.execute("select 1")


def test_reload_reads_the_files_and_says_what_is_wrong(process: Pooler, entry: TenantEntry, jane: Connection) -> None:
    jane.execute("RELOAD")
    good = files([entry], with_admins())
    process.write({**good, "tenants-03.json": b"{"})
    with pytest.raises(psycopg.Error) as caught:
        jane.execute("RELOAD")
    assert caught.value.sqlstate == "F0000"
    assert "tenants-03.json" in str(caught.value)
    process.write(good)
    jane.execute("RELOAD")


@pytest.mark.parametrize("mode", ["", "WAIT_FOR_SERVERS"])
def test_shutdown_ends_the_process(
    process: Pooler, jane: Connection, client: psycopg.Connection[Any], mode: str
) -> None:
    client.execute("select 1")
    jane.execute(f"SHUTDOWN {mode}")
    assert process._process is not None
    assert process._process.wait(20) == 0
    with pytest.raises(psycopg.OperationalError):  # with what text depends on whether it was read in time
        jane.execute("SHOW STATE")


def test_shutdown_waits_for_clients_to_leave_by_themselves(
    process: Pooler, entry: TenantEntry, jane: Connection, client: psycopg.Connection[Any]
) -> None:
    jane.execute("SHUTDOWN WAIT_FOR_CLIENTS")
    assert shown(jane, "STATE", key="process")[0]["value"] == "Draining"
    with pytest.raises(psycopg.OperationalError):
        connected(process, entry)
    client.execute("select 1")
    client.close()
    assert process._process is not None
    assert process._process.wait(20) == 0
