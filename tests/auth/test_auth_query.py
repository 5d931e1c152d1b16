"""Users that are looked up in the tenant's database, with a real pooler before PostgreSQL 18 and 15."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from auth.scene import WRONG, pool_error, query, secrets, set_password, through
from harness.address import Address
from harness.config import cluster, files, tenant
from harness.databases import Database, create_database
from harness.pooler import Pooler
from pgweir_contract.models import Auth, TenantEntry
from pgweir_operator.local_postgres import PostgresServer
from pgweir_pooler.wire.messages import startup_message
from pgweir_pooler.wire.scram import Verifier

Start = Callable[..., Pooler]
UNREACHABLE = "(UserLookupFailed) the tenant's users cannot be looked up now"


def looked_up(database: Database, *, upstream: dict[str, Any] | None = None, **auth: Any) -> TenantEntry:
    """A tenant without users; the superuser looks them up."""
    entry = tenant(database, size=3)
    role = {"user": database.server.user, "passwords": secrets(database.server.password), "database": database.name}
    settings = Auth(**({"mode": "AuthQuery"} | role | auth))
    target = entry.upstream.model_copy(update=upstream or {})
    return entry.model_copy(update={"users": (), "auth": settings, "upstream": target})


def lookups(database: Database) -> list[int]:
    """Process ids of the connections that users are looked up on."""
    rows = database.sql(
        f"select pid from pg_stat_activity where application_name = 'pgweir auth_query' and datname = '{database.name}'"
    )
    return [int(pid) for pid in rows.split()]


def test_a_role_of_the_database_logs_in_with_its_own_password(pooler: Start, database: Database) -> None:
    process = pooler(looked_up(database))
    assert query(through(process, database, database.password)) == database.user
    assert WRONG in query(through(process, database, "wrong"))
    unknown = query(through(process, database, database.password, user="nobody"))
    wrong = query(through(process, database, "wrong"))
    assert unknown.replace("nobody", database.user) == wrong
    assert len(lookups(database)) == 1
    budget = {x["instance"]: x for x in process.status()["instances"]}[f"127.0.0.1:{database.server.port}"]
    assert budget["connections"] == len(lookups(database)) + len(database.backends())


def test_psql_and_asyncpg_log_in_too(pooler: Start, database: Database) -> None:
    process = pooler(looked_up(database))
    way = through(process, database, database.password)
    done = subprocess.run(
        ["psql", "-XAtc", "select 1"], env=os.environ | way.environment, capture_output=True, text=True, timeout=30
    )
    assert (done.stdout.strip(), done.stderr) == ("1", "")

    async def run() -> None:
        client = await asyncpg.connect(
            host=way.host, port=way.port, user=way.user, password=way.password, database=way.database, ssl=False
        )
        assert await client.fetchval("select current_user::text") == database.user
        await client.close()

    asyncio.run(run())


def test_many_logins_of_one_user_are_one_query(pooler: Start, database: Database) -> None:
    database.sql("create schema counted; create table counted.asked (name text)")
    database.sql(
        "create function counted.get_auth(wanted text) returns table (name text, secret text) language sql"
        " security definer as $$insert into counted.asked values (wanted);"
        " select rolname::text, rolpassword::text from pg_authid where rolname = wanted$$"
    )
    process = pooler(looked_up(database, query="select name, secret from counted.get_auth($1)"))
    way = through(process, database, database.password)
    with ThreadPoolExecutor(40) as threads:
        answers = list(threads.map(lambda _: query(way), range(200)))
    assert set(answers) == {database.user}
    assert database.sql("select count(*) from counted.asked").strip() == "1"


def test_after_a_rotation_the_old_password_holds_until_the_new_one_was_tried(pooler: Start, database: Database) -> None:
    process = pooler(looked_up(database))
    assert query(through(process, database, database.password)) == database.user
    set_password(database, "the-new-one")
    assert query(through(process, database, database.password)) == database.user, "what is cached counts"
    process.wait_for(lambda: query(through(process, database, "the-new-one")) == database.user, "the new one is known")
    assert WRONG in query(through(process, database, database.password))
    database.sql(f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{database.user}'")
    process.wait_for(lambda: query(through(process, database, "the-new-one")) == database.user, "new servers open")


def test_a_dropped_role_is_refused_after_the_time_to_live_and_its_clients_leave(
    pooler: Start, database: Database
) -> None:
    role = f"{database.user}_2"
    database.server.sql(
        f"create role {role} login password 'secret'; grant connect on database {database.name} to {role}"
    )
    process = pooler(looked_up(database, cache_ttl=0.5))

    async def run() -> None:
        way = through(process, database, "secret", user=role)
        client = await asyncpg.connect(
            host=way.host, port=way.port, user=way.user, password=way.password, database=way.database, ssl=False
        )
        assert await client.fetchval("select current_user::text") == role
        await asyncio.to_thread(
            database.server.sql, f"revoke connect on database {database.name} from {role}; drop role {role}"
        )
        await asyncio.to_thread(process.wait_for, lambda: WRONG in query(way), "refused")
        await asyncio.to_thread(process.wait_for, lambda: pool_error(process, role) == "no pool", "without a pool")
        with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError, asyncpg.InterfaceError)):
            await client.fetchval("select 1")

    asyncio.run(run())


def test_valid_until_holds_and_so_does_nologin(pooler: Start, database: Database) -> None:
    database.server.sql(f"alter role {database.user} valid until '2020-01-01'")
    process = pooler(looked_up(database, cache_ttl=0.2))
    assert WRONG in query(through(process, database, database.password))
    database.server.sql(f"alter role {database.user} valid until 'infinity'")
    way = through(process, database, database.password)
    process.wait_for(lambda: query(way) == database.user, "valid again")
    database.server.sql(f"alter role {database.user} nologin")
    process.wait_for(lambda: WRONG in query(way), "not allowed any more")


@pytest.mark.parametrize("place", ["role", "database"])
def test_a_hostile_search_path_and_hostile_operators_are_not_used(
    pooler: Start, database: Database, place: str
) -> None:
    known = database.server.sql(f"select rolpassword from pg_authid where rolname = '{database.user}'").strip()
    database.sql(
        f"""
        create table public.evil (what text); grant insert on public.evil to public;
        create table public.pg_authid as select rolname, '{known}' as rolpassword, rolvaliduntil, true as rolcanlogin
          from pg_catalog.pg_authid;
        create function public.same(a name, b unknown) returns bool language sql as $$select true$$;
        """.replace("unknown", "text")
    )
    database.sql(
        "create function public.same(a name, b name) returns bool language sql as $$"
        " insert into public.evil values (a::text) returning true$$;"
        " create operator public.= (leftarg = name, rightarg = name, function = public.same)"
    )
    lookup_role = f"{database.user}_auth"
    database.server.sql(f"create role {lookup_role} login superuser password 'the-auth-role'")
    target = f"role {lookup_role}" if place == "role" else f"database {database.name}"
    database.server.sql(f"alter {target} set search_path = public, pg_catalog")
    process = pooler(looked_up(database, user=lookup_role, passwords=secrets("the-auth-role")))
    try:
        assert query(through(process, database, database.password)) == database.user
        assert WRONG in query(through(process, database, database.password, user="postgres_nobody"))
        assert database.sql("select count(*) from public.evil").strip() == "0"
    finally:
        database.server.sql(f"alter database {database.name} reset search_path")


def test_forms_of_other_poolers_work(pooler: Start, database: Database) -> None:
    database.sql(
        "create schema pgbouncer; create function pgbouncer.get_auth(p_usename text) returns table (usename text,"
        " passwd text) language sql security definer as"
        " $$select usename::text, passwd::text from pg_catalog.pg_shadow where usename = p_usename$$"
    )
    for text in (
        "SELECT usename, passwd FROM pg_shadow WHERE usename=$1",
        "SELECT usename, passwd FROM pgbouncer.get_auth($1)",
        "select rolname, rolpassword, rolvaliduntil from pg_authid where rolname=$1 and rolcanlogin",
    ):
        process = pooler(looked_up(database, query=text))
        assert query(through(process, database, database.password)) == database.user
        assert WRONG in query(through(process, database, database.password, user="nobody"))


def test_queries_that_cannot_be_used_are_no_wrong_passwords(pooler: Start, database18: Database) -> None:
    for text, reason in (
        ("select 1 where $1 = ''  from", "PostgresSyntaxError (42601)"),
        ("select $1::text", "neither two nor three columns"),
        ("select 'postgres'::text, 'x'::text where $1::text > ''", "another user"),
        ("select $1::text, 'plain'::text", "neither a SCRAM-SHA-256 verifier nor an md5 hash"),
        ("select $1::text, 'x'::text from generate_series(1, 2)", "more than one row"),
        ("select $1::text, 'x'::text, 'soon'::text", "no timestamptz"),
        ("select $1::text, repeat('x', 1000000)", "ConnectionDoesNotExistError"),
    ):
        process = pooler(looked_up(database18, query=text))
        assert UNREACHABLE in query(through(process, database18, database18.password)), text
        assert reason in process.log_text(), text


def test_names_that_no_role_can_have_are_wrong_passwords(pooler: Start, database18: Database) -> None:
    latin = f"{database18.name}_latin"
    database18.server.sql(f"create database {latin} encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0")
    entry = looked_up(database18)
    process = pooler(entry.model_copy(update={"auth": entry.auth.model_copy(update={"database": latin})}))
    long = "x" * 63
    database18.server.sql(f"create role {long} login password 'secret'")
    assert query(through(process, database18, "secret", user=long)) == long
    for name in (f"{long}x", "x" * 2000, "漢字"):
        assert WRONG in query(through(process, database18, "secret", user=name))
    assert "users cannot be looked up" not in process.log_text()


def test_clients_that_leave_before_they_are_looked_up_keep_nobody_waiting(pooler: Start, database18: Database) -> None:
    database18.sql("create sequence lookups")
    slow = (
        "select rolname::text, rolpassword::text from"
        " (select pg_sleep(0.1), nextval('public.lookups')) as counted left join pg_authid on rolname = $1"
    )
    process = pooler(looked_up(database18, query=slow))
    for number in range(300):
        with socket.create_connection(("127.0.0.1", process.port())) as gone:
            gone.sendall(startup_message({"user": f"nobody{number}.acme", "database": database18.name}))
    assert query(through(process, database18, database18.password)) == database18.user
    assert int(database18.sql("select last_value from lookups")) < 250, "who has left is not looked up"


def test_while_the_database_is_away_who_is_known_gets_in(
    pooler: Start, new_postgres: Callable[..., Any], short_dir: Path, postgres: PostgresServer
) -> None:
    server = new_postgres(postgres.bin_dir, data_dir=short_dir / "data")
    database = create_database(server)
    other = f"{database.user}_2"
    server.sql(f"create role {other} login password 'secret'")
    process = pooler(looked_up(database, cache_ttl=0.2, upstream={"connect_timeout": 2.0}))
    assert query(through(process, database, database.password)) == database.user
    server.stop()
    process.wait_for(lambda: UNREACHABLE in query(through(process, database, "secret", user=other)), "08006")
    answer = query(through(process, database, database.password))
    assert "(ServerUnreachable)" in answer, "it knows the user, who waits for a server in vain"
    assert WRONG in query(through(process, database, "wrong"))
    server.start()
    process.wait_for(lambda: query(through(process, database, database.password)) == database.user, "back", 20)
    process.wait_for(lambda: query(through(process, database, "secret", user=other)) == other, "back, too", 20)


def test_after_a_restart_a_login_brings_the_key(pooler: Start, database: Database) -> None:
    process = pooler(looked_up(database))
    assert query(through(process, database, database.password)) == database.user
    process.kill()
    process.start()
    assert pool_error(process, database.user) == "no pool"
    assert query(through(process, database, database.password)) == database.user


def test_counts_of_iterations_are_those_of_the_role(pooler: Start, database: Database) -> None:
    set_password(database, Verifier.from_password(database.password, b"0123456789abcdef", iterations=10_001).render())
    process = pooler(looked_up(database))
    assert query(through(process, database, database.password)) == database.user
    assert WRONG in query(through(process, database, "wrong"))


def test_md5_roles_log_in_where_clients_may_be_asked_for_md5(pooler: Start, database: Database) -> None:
    set_password(database, database.password, method="md5")
    process = pooler(looked_up(database, client_method="MD5"), cluster_file=cluster(default_tenant="acme"))
    for password, expected in ((database.password, database.user), ("wrong", WRONG)):
        assert expected in query(Address(process.port(), database.user, database.name, password))


def test_at_most_so_many_users_have_pools(pooler: Start, database: Database) -> None:
    other = f"{database.user}_2"
    database.server.sql(f"create role {other} login password 'secret'")
    process = pooler(looked_up(database, max_users=1))
    assert query(through(process, database, database.password)) == database.user
    assert "(TooManyUsers)" in query(through(process, database, "secret", user=other))
    database.sql(f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{database.user}'")
    process.wait_for(lambda: query(through(process, database, "secret", user=other)) == other, "a place is free")


def test_the_configuration_may_change(pooler: Start, database: Database) -> None:
    process = pooler(looked_up(database))
    way = through(process, database, database.password)
    assert query(way) == database.user
    process.write(files([looked_up(database, query="select 'x'::text, 'y'::text where $1 = ''")]))
    process.wait_for(lambda: WRONG in query(way), "the new query counts")
    process.write(files([looked_up(database)]))
    process.wait_for(lambda: query(way) == database.user, "the old one again")
    process.write(files([tenant(database)]))
    process.wait_for(lambda: len(lookups(database)) == 0, "no lookups any more")
    assert query(way) == database.user


def test_no_secret_is_shown(pooler: Start, database: Database) -> None:
    process = pooler(looked_up(database))
    query(through(process, database, database.password))
    query(through(process, database, "a-wrong-password"))
    stored = database.server.sql(f"select rolpassword from pg_authid where rolname = '{database.user}'").strip()
    seen = process.log_text() + str(process.status()) + process.get("/metrics")[1].decode()
    keys = stored.split("$")[2].split(":")
    for secret in (database.password, database.server.password, "a-wrong-password", stored, *keys):
        assert secret not in seen
