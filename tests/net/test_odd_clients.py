"""Clients that speak something else, too much, or nothing at all."""

import asyncio
import json
import signal
from dataclasses import replace

import pytest

from harness import messages
from harness.config import cluster, tenant
from harness.databases import Database
from harness.messages import error_fields
from harness.pooler import Pooler
from harness.raw_client import RawClient, ServerClosedError, ServerRefusedError
from harness.waiting import until
from net.poolers import NewPooler, is_at_rest, pool_status
from pgweir_contract.models import ClusterLimits, Listener, TenantEntry


async def _answer(port: int, data: bytes) -> bytes:
    """What the pooler says before it closes; at most five seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_what_is_not_postgres_is_answered_and_closed(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=1)
    process = pooler(entry)
    port = process.port()
    assert (await _answer(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.")
    for garbage in (
        bytes.fromhex("1603010200010001fc0303") + bytes(500),  # a TLS ClientHello
        b"\xff" * 64,
        b"\0" * 64,
        b"\0\0\0\3" + b"x" * 60,
        (50_000).to_bytes(4, "big") + bytes(49_996),  # larger than PostgreSQL takes
        messages.startup({"user": "a"})[:-1] + b"x",
        messages.startup({"user": "x" * 9_000, "database": "y" * 5_000}),
        messages.query("select 1"),
        messages.startup({"database": "a"}),
    ):
        said = await _answer(port, garbage)
        assert said == b"" or said[:1] in (b"E", b"\x15"), (garbage[:20], said)
    client = await RawClient.connect(process.address(entry))
    assert await client.values("select 1") == [[b"1"]]
    client.close()
    await until(lambda: is_at_rest(process, entry), "all at rest")


async def test_who_does_not_finish_the_login_is_closed(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=1)
    limits = ClusterLimits(login_timeout=1.0, drain_timeout=2.0)
    process = pooler(entry, cluster_file=cluster(limits=limits))
    user = process.address(entry).user
    for data in (b"", b"\0", messages.ssl_request(), messages.startup({"user": user, "database": database18.name})):
        started = asyncio.get_running_loop().time()
        await _answer(process.port(), data)
        assert 0.5 < asyncio.get_running_loop().time() - started < 4


@pytest.mark.parametrize("bad", [b"?\0\0\0\4", b"Q\0\0\0\3", b"Q\x7f\xff\xff\xff", messages.password(b"again\0")])
async def test_a_broken_message_ends_its_session_and_no_other(
    pooler: NewPooler, database18: Database, bad: bytes
) -> None:
    entry = tenant(database18, size=1)
    process = pooler(entry)
    for before in (b"", messages.query("begin"), messages.query("select 1")):
        client = await RawClient.connect(process.address(entry))
        client.send(before, bad)
        tags = b""
        while True:
            try:
                tag, body = await client.receive()
            except ServerClosedError:
                break
            tags += tag
            if tag == b"E":
                assert error_fields(body)["C"] == "08P01"
        assert tags.endswith(b"E")
    client = await RawClient.connect(process.address(entry))
    assert (await client.query("select 1"))[-1].body == b"I"
    client.close()
    await until(lambda: is_at_rest(process, entry), "all at rest")


async def test_statement_mode_refuses_transaction_blocks(pooler: NewPooler, database18: Database) -> None:
    database18.sql(f"create table seen (n int); grant all on seen to {database18.user}")
    entry = tenant(database18, size=1)
    listeners = (Listener(name="statement", port=0, mode="Statement"),)
    process = pooler(entry, cluster_file=cluster(listeners=listeners), listeners=("statement",))
    address = process.address(entry, listener="statement")
    for sql in ("begin", "begin; insert into seen values (1)", "start transaction"):
        client = await RawClient.connect(address)
        client.send(messages.query(sql))
        received = [await client.receive()]
        while received[-1].tag != b"E":
            received.append(await client.receive())
        assert error_fields(received[-1].body)["C"] == "0A000"
        with pytest.raises(ServerClosedError):
            await client.receive()
    client = await RawClient.connect(address)
    assert await client.values("insert into seen values (2); select n from seen") == [[b"2"]]
    assert messages.tags(await client.query("begin; select 1; commit")) == b"CTDCCZ"
    client.close()
    await until(lambda: is_at_rest(process, entry), "all at rest")


async def test_unknown_names_are_refused_by_the_thousand_and_the_session_goes_on(
    pooler: NewPooler, database18: Database
) -> None:
    entry = tenant(database18, size=1)
    process = pooler(entry)
    client = await RawClient.connect(process.address(entry))
    client.send(messages.bind(statement="s"), messages.FLUSH)
    assert error_fields((await client.receive()).body)["C"] == "26000"
    client.send(messages.SYNC)
    assert messages.tags([await client.receive()]) == b"Z"
    client.send(messages.parse("select 1"), messages.bind(), messages.bind(statement="s"), messages.FLUSH)
    # The refusal comes behind the answers before it, and without a Sync.
    assert messages.tags([await client.receive() for _ in range(3)]) == b"12E"
    client.send(messages.SYNC, messages.extended("select 2"))
    assert messages.tags(await client.receive_until(b"Z")) == b"Z"
    assert messages.rows(await client.receive_until(b"Z")) == [[b"2"]]
    client.send((messages.describe_statement("s") + messages.SYNC) * 3_000)
    for _ in range(3_000):
        assert messages.tags(await client.receive_until(b"Z")) == b"EZ"
    client.close()
    await until(lambda: is_at_rest(process, entry), "all at rest")


async def test_the_oldest_of_too_many_half_open_logins_makes_room(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=1)
    process = pooler(entry, cluster_file=cluster(limits=ClusterLimits(max_half_open_logins=3, drain_timeout=2.0)))
    silent = []
    for number in range(3):
        silent.append(await RawClient.open("127.0.0.1", process.port()))
        await until(
            lambda wanted=number + 1: process.metrics()["pgweir_logins_in_progress"] == wanted,  # type: ignore[misc]
            "the connection accepted",
        )
    client = await RawClient.connect(process.address(entry))
    assert await client.values("select 1") == [[b"1"]]
    assert await silent[0].wait_closed() == b""
    assert [other.closed for other in silent] == [True, False, False]
    client.close()
    for other in silent[1:]:
        other.abort()


async def _waiting_logins(process: Pooler, entry: TenantEntry, count: int) -> list[asyncio.Task[RawClient]]:
    """Logins, one after the other, that have to ask a server for their parameters while there is none."""
    logins: list[asyncio.Task[RawClient]] = []
    for number in range(count):
        settings = {"options": f"-c work_mem={100 + number}kB"}
        logins.append(asyncio.create_task(RawClient.connect(process.address(entry), settings)))
        await until(lambda: pool_status(process, entry)["waiting"] == len(logins), "it waits")
    return logins


async def test_logins_that_wait_for_a_server_lock_nobody_out(pooler: NewPooler, database18: Database) -> None:
    full, other = tenant(database18, "full", size=1), tenant(database18, "other", size=1)
    limits = ClusterLimits(max_half_open_logins=3, drain_timeout=2.0)
    process = pooler(full, other, cluster_file=cluster(limits=limits))
    holder = await RawClient.connect(process.address(full))
    await holder.query("begin")
    logins = await _waiting_logins(process, full, 3)
    client = await RawClient.connect(process.address(other))
    assert await client.values("select 1") == [[b"1"]]
    client.close()
    assert process.metrics()["pgweir_logins_in_progress"] == 3
    await holder.query("commit")
    for waiting in await asyncio.gather(*logins):
        waiting.close()
    holder.close()
    await until(lambda: process.metrics()["pgweir_logins_in_progress"] == 0, "all logged in")


async def test_a_drain_refuses_logins_that_wait_for_a_server(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=1)
    process = pooler(entry)
    holder = await RawClient.connect(process.address(entry))
    await holder.query("begin")
    [login] = await _waiting_logins(process, entry, 1)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(ServerRefusedError) as caught:
        await login
    assert caught.value.sqlstate == "57P01"
    holder.abort()


async def test_a_client_without_a_database_learns_how_to_name_one(pooler: NewPooler, database18: Database) -> None:
    plain = tenant(database18)
    shop = plain.databases[0].model_copy(update={"name": "shop", "upstream_name": database18.name})
    entry = plain.model_copy(update={"databases": (shop,)})
    process = pooler(entry)
    address = process.address(entry)
    for database in ("", address.user):  # what drivers send without one, and what psql does
        with pytest.raises(ServerRefusedError) as caught:
            await RawClient.connect(replace(address, database=database))
        assert caught.value.sqlstate == "3D000"
        assert f'database "{database18.user}" does not exist' in caught.value.fields["M"]
        assert "dbname=" in caught.value.fields["H"]


async def test_a_refused_login_is_logged_with_who_asked_from_where(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18)
    process = pooler(entry)
    with pytest.raises(ServerRefusedError) as caught:
        await RawClient.connect(process.address(entry, user="mallory", password="guess"))
    assert not any("127.0.0.1" in field for field in caught.value.fields.values())
    [line] = [json.loads(x) for x in process.log_text().splitlines() if "login refused" in x]
    assert (line["tenant"], line["user"], line["client"]) == ("acme", "mallory", "127.0.0.1")
    assert "guess" not in process.log_text()
