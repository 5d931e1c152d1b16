"""Work over TLS: cancels, big results to asynchronous clients, drivers, records that libpq can wait for."""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable

import asyncpg
import pg8000.native
import psycopg
import pytest

from harness.certificates import ca_pem
from harness.tls import HOST
from tls.conftest import Door

BIG = 8_000_000
LISTENERS = ("transaction", "session")


def context_of(door: Door) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=ca_pem())


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
@pytest.mark.parametrize("listener", LISTENERS)
def test_a_cancel_over_tls_ends_the_query(door: Callable[..., Door], listener: str, negotiation: str) -> None:
    with door("Require").connect(listener, sslnegotiation=negotiation) as connection:
        timer = threading.Timer(0.3, lambda: connection.cancel_safe(timeout=20))
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("select pg_sleep(60)")
        timer.join()
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_plain_cancel_ends_a_query_of_a_tls_client(door: Callable[..., Door]) -> None:
    """libpq before 17 sends no other."""
    with door("Require").connect() as connection:
        cancel = connection.pgconn.get_cancel()
        timer = threading.Timer(0.3, cancel.cancel)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("select pg_sleep(60)")
        timer.join()


async def test_big_results_reach_an_asynchronous_libpq(door: Callable[..., Door]) -> None:
    target = door()
    root = target.files.write("root.crt", ca_pem())
    conninfo = psycopg.conninfo.make_conninfo(**target.parameters(sslmode="verify-full", sslrootcert=root))
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        for size in (1, 8_191, 8_192, 8_193, 16_384, 65_536, BIG):
            row = await (await connection.execute("select repeat('x', %s)", [size])).fetchone()
            assert row is not None
            assert row[0] == "x" * size
        cursor = await connection.execute("select i, repeat('y', 1000) from generate_series(1, 20000) i")
        assert len(await cursor.fetchall()) == 20_000
        row = await (await connection.execute("select length(%s::text)", ["z" * BIG])).fetchone()
        assert row == (BIG,)


def test_records_to_clients_are_small(door: Callable[..., Door]) -> None:
    """Read from the socket itself: the length in each record's header."""
    from tls.test_attacks import SSL_REQUEST, blind, dial

    target = door()
    context = blind()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing)
    address = target.process.address(target.entry)
    from harness import messages
    from harness.scram_client import ScramClient

    sizes: list[int] = []
    with dial(target) as sock:
        sock.sendall(SSL_REQUEST)
        assert sock.recv(1) == b"S"
        wire = bytearray()

        def receive() -> None:
            nonlocal wire
            sock.sendall(outgoing.read())
            data = sock.recv(65536)
            assert data
            wire += data
            incoming.write(data)
            while len(wire) >= 5 and len(wire) >= 5 + int.from_bytes(wire[3:5], "big"):
                size = int.from_bytes(wire[3:5], "big")
                sizes.append(size)
                del wire[: 5 + size]

        while True:
            try:
                connection.do_handshake()
                break
            except ssl.SSLWantReadError:
                receive()
        plain = bytearray()

        def until(tag: bytes) -> bytes:
            while True:
                while len(plain) >= 5 and len(plain) > int.from_bytes(plain[1:5], "big"):
                    end = 1 + int.from_bytes(plain[1:5], "big")
                    found, body = bytes(plain[:1]), bytes(plain[5:end])
                    del plain[:end]
                    if found == tag:
                        return body
                try:
                    plain.extend(connection.read(65536))
                except ssl.SSLWantReadError:
                    receive()

        scram = ScramClient(address.password)
        connection.write(messages.startup({"user": address.user, "database": address.database}))
        until(b"R")
        first = scram.first()
        connection.write(messages.password(messages.text("SCRAM-SHA-256") + len(first).to_bytes(4, "big") + first))
        connection.write(messages.password(scram.final(until(b"R")[4:])))
        until(b"Z")
        sizes.clear()
        connection.write(messages.query("select repeat('x', 3000000)"))
        until(b"Z")
    assert sum(sizes) > 3_000_000
    assert max(sizes) <= 8192 + 256  # the tag of the cipher comes on top


@pytest.mark.parametrize("listener", LISTENERS)
async def test_asyncpg_works_over_tls(door: Callable[..., Door], listener: str) -> None:
    target = door("Require")
    address = target.process.address(target.entry, listener=listener)
    where = {"user": address.user, "password": address.password, "database": address.database, "port": address.port}
    connection = await asyncpg.connect(host="127.0.0.1", ssl=context_of(target), timeout=20, **where)
    try:
        assert await connection.fetchval("select length(repeat('x', $1))", BIG) == BIG
        assert len(await connection.fetchval("select repeat('x', $1)", BIG)) == BIG
        with pytest.raises(asyncio.TimeoutError):
            await connection.fetchval("select pg_sleep(60)", timeout=0.3)
        assert await connection.fetchval("select 1") == 1
    finally:
        await connection.close()


@pytest.mark.parametrize("listener", LISTENERS)
def test_pg8000_works_over_tls(door: Callable[..., Door], listener: str) -> None:
    target = door("Require")
    address = target.process.address(target.entry, listener=listener)
    connection = pg8000.native.Connection(
        address.user,
        host="127.0.0.1",
        port=address.port,
        database=address.database,
        password=address.password,
        ssl_context=context_of(target),
        timeout=20,
    )
    try:
        assert connection.run("select repeat('x', 100000)") == [["x" * 100_000]]
        assert connection.run("select length(:t)", t="y" * 300_000) == [[300_000]]
    finally:
        connection.close()


def test_copy_flows_both_ways(door: Callable[..., Door]) -> None:
    with door().connect("session") as connection:
        connection.execute("create temp table t (i int, s text)")
        with connection.cursor().copy("copy t from stdin") as copy:
            for i in range(20_000):
                copy.write_row((i, "x" * 100))
        with connection.cursor().copy("copy t to stdout") as copy:
            assert sum(len(bytes(data)) for data in copy) > 2_000_000


def test_a_client_that_does_not_read_holds_its_server_back(door: Callable[..., Door]) -> None:
    """Back-pressure goes through TLS: the pooler's memory does not take what the client leaves unread."""
    target = door()
    with target.connect() as connection:
        before = target.process.rss()
        connection.pgconn.send_query(b"select repeat('x', 1000) from generate_series(1, 200000)")
        connection.pgconn.flush()
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            assert target.process.rss() < before + 30_000_000
            threading.Event().wait(0.1)
        rows = 0
        while result := connection.pgconn.get_result():
            rows += result.ntuples
        assert rows == 200_000


def test_a_drain_tells_tls_clients(door: Callable[..., Door]) -> None:
    target = door()
    with target.connect() as connection:
        assert target.process.terminate() == 0
        with pytest.raises(psycopg.errors.AdminShutdown):
            connection.execute("select 1")


def test_the_console_is_reached_by_tls(door: Callable[..., Door]) -> None:
    code, said = door("Require").psql(dbname="pgweir", user="jane", password="x")
    assert code
    assert HOST not in said
