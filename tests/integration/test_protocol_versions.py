"""Protocol 3.0 to 3.2 and what lies beyond: answered as PostgreSQL 18 answers, with cancel keys that work."""

import asyncio
import os
import subprocess
from functools import partial
from typing import Any

import psycopg
import pytest

from harness import messages
from harness.address import Address
from harness.config import tenant
from harness.databases import Database
from harness.raw_client import RawClient, cancel
from harness.waiting import until
from integration.conftest import Route
from net.poolers import NewPooler, is_at_rest, pool_status
from pgweir_operator.local_postgres import embedded_bin_dir

PROBE = 9999  # libpq asks for 3.9999, and for an option that nobody has, to learn who negotiates


async def _greeting(address: Address, minor: int, options: dict[str, str]) -> tuple[bytes, list[bytes], int]:
    """Types of the messages up to the end of authentication, NegotiateProtocolVersion bodies, the secret's length."""
    client = await RawClient.open(address.host, address.port)
    wanted = {"user": address.user, "database": address.database, **options}
    client.send(messages.startup(wanted, messages.PROTOCOL_3_0 | minor))
    first = [await client.receive()]
    while first[-1].tag != b"R":
        first.append(await client.receive())
    client.abort()
    client = await RawClient.connect(address, options, minor=minor)
    client.close()
    return messages.tags(first), [body for tag, body in first if tag == b"v"], len(client.secret)


OPTIONS: list[dict[str, str]] = [{}, {"_pq_.test_protocol_negotiation": ""}, {"_pq_.b": "1", "_pq_.a": "2"}]


async def test_every_version_is_answered_as_by_postgresql_18(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18)
    process = pooler(entry)
    for minor in (0, 1, 2, 3, PROBE):
        for options in OPTIONS:
            direct = await _greeting(database18.address, minor, options)
            for listener in ("transaction", "session"):
                pooled = await _greeting(process.address(entry, listener=listener), minor, options)
                assert pooled == direct, (minor, options, listener)


def _psql(environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [embedded_bin_dir() / "psql", "-X", "-c", r"\conninfo", "-c", "select 'it works'"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("version", ["3.0", "3.2"])
async def test_psql_18_speaks_the_version_that_it_insists_on(route: Route, version: str) -> None:
    environment = {"PGMINPROTOCOLVERSION": version, "PGMAXPROTOCOLVERSION": version}
    done = await asyncio.to_thread(_psql, {**os.environ, **route.address.environment, **environment})
    assert (done.returncode, done.stderr) == (0, "")
    said = [line.split("|")[1].strip() for line in done.stdout.splitlines() if "Protocol Version" in line]
    assert said == [version]
    assert "it works" in done.stdout


@pytest.mark.parametrize("version", ["3.0", "3.2", "latest"])
async def test_libpq_cancels_by_its_key_and_no_other(route: Route, version: str) -> None:
    connect = psycopg.AsyncConnection.connect
    options: dict[str, Any] = {"max_protocol_version": version, "autocommit": True, "prepare_threshold": None}
    first = await connect(route.address.dsn, **options)
    second = await connect(route.address.dsn, **options)
    sleeping = asyncio.create_task(first.execute("select pg_sleep(30)"))
    other = asyncio.create_task(second.execute("select pg_sleep(1), 7"))
    await until(lambda: [s for _, s in route.database.backends()].count("active") == 2, "both queries run")
    await first.cancel_safe()
    with pytest.raises(psycopg.errors.QueryCanceled):
        await sleeping
    assert (await (await other).fetchall())[0][1] == 7
    await first.close()
    await second.close()


async def test_a_long_key_must_match_in_every_byte(pooler: NewPooler, database: Database) -> None:
    entry = tenant(database, size=1)
    process = pooler(entry)
    client = await RawClient.connect(process.address(entry), minor=2)
    assert len(client.secret) == 32
    client.send(messages.query("select pg_sleep(30)"))
    await until(lambda: "active" in [state for _, state in database.backends()], "the query runs")
    wrong = [client.secret[:i] + bytes([client.secret[i] ^ 1]) + client.secret[i + 1 :] for i in range(32)]
    wrong += [client.secret[:-1], client.secret[:4], client.secret + b"\0", client.secret.ljust(256, b"\0")]
    for secret in wrong:
        await cancel("127.0.0.1", process.port(), client.pid, secret)
    assert [state for _, state in database.backends()] == ["active"]
    await cancel("127.0.0.1", process.port(), client.pid, client.secret)
    received = await client.receive_until(b"Z")
    assert messages.error_fields(received[-2].body)["C"] == "57014"
    client.close()


# --- session mode shows the server's process id


@pytest.mark.parametrize("version", ["3.0", "3.2"])
async def test_session_mode_shows_the_servers_process_id(pooler: NewPooler, database: Database, version: str) -> None:
    entry = tenant(database, size=3)
    process = pooler(entry)
    dsn = process.dsn(entry, listener="session")
    for options in ("", "-c work_mem=5MB", ""):
        connect = partial(psycopg.AsyncConnection.connect, dsn, max_protocol_version=version, options=options)
        connections = await asyncio.gather(*(connect(autocommit=True) for _ in range(3)))
        for connection in connections:
            row = await (await connection.execute("select pg_backend_pid(), current_setting('work_mem')")).fetchone()
            assert row == (connection.info.backend_pid, "5MB" if options else "4MB")
        assert len({connection.info.backend_pid for connection in connections}) == 3
        for connection in connections:
            await connection.close()
        await until(lambda: is_at_rest(process, entry), "all at rest")


async def test_a_session_that_finds_all_servers_lent_logs_in_all_the_same(
    pooler: NewPooler, database18: Database
) -> None:
    entry = tenant(database18, size=1)
    process = pooler(entry)
    address = process.address(entry, listener="session")
    first = await RawClient.connect(address)
    assert pool_status(process, entry)["serversActive"] == 1  # before its first query
    second = await RawClient.connect(address)
    second.send(messages.query("select pg_backend_pid()"))
    await until(lambda: pool_status(process, entry)["waiting"] == 1, "the second waits")
    assert await first.values("select pg_backend_pid()") == [[b"%d" % first.pid]]
    first.close()
    assert messages.rows(await second.receive_until(b"Z")) == [[b"%d" % first.pid]]
    assert second.pid != first.pid
    second.close()
    await until(lambda: is_at_rest(process, entry), "all at rest")


async def test_a_session_client_that_leaves_during_or_after_its_login_gives_its_server_back(
    pooler: NewPooler, database18: Database
) -> None:
    entry = tenant(database18, size=2)
    process = pooler(entry)
    address = process.address(entry, listener="session")
    for number in range(20):
        client = await RawClient.connect(address, {"options": f"-c my.number={number}", "application_name": "näme"})
        if number % 2:
            client.send(messages.query("select 1"))
            await client.receive()
        client.abort()
    await until(lambda: is_at_rest(process, entry), "all at rest")
    client = await RawClient.connect(address)
    assert await client.values("select pg_backend_pid(), current_setting('my.number', true)") in (
        [[b"%d" % client.pid, None]],
        [[b"%d" % client.pid, b""]],
    )
    client.close()
