"""Clients that keep a server by any means lose it in time, and a cancel of ours hits no query but its own."""

import asyncio

import pytest
from pydantic import SecretStr

from harness import messages
from harness.config import tenant
from harness.databases import Database
from harness.messages import error_fields
from harness.raw_client import RawClient, ServerClosedError
from harness.waiting import until
from net.fake_postgres import Backend, FakePostgres, sound
from net.poolers import NewPooler, is_at_rest
from pgweir_contract.models import Database as DatabaseEntry
from pgweir_contract.models import PoolSettings, TenantEntry, Upstream, UpstreamTls, User

SHORT_S = 0.3
LISTENERS = ["transaction", "session"]

# What a client sends that then falls silent, and the last answer that it gets.
SILENCES: dict[str, tuple[bytes, bytes]] = {
    "in a transaction": (messages.query("begin"), b"Z"),
    "with half a query": (messages.query("select 1")[:-4], b""),
    "with half a query in a transaction": (messages.query("begin") + messages.query("select 1")[:-4], b"Z"),
    "with half a header in a transaction": (messages.query("begin") + messages.query("select 1")[:3], b"Z"),
    "with a Parse": (messages.parse("select 1"), b""),
    "with a Parse that was flushed": (messages.parse("select 1") + messages.FLUSH, b"1"),
    "with a Parse and half a Bind": (messages.parse("select 1") + messages.bind()[:-2], b""),
    "behind an error without a Sync": (messages.parse("selekt") + messages.FLUSH, b"E"),
    "with an Execute that was answered": (messages.extended("select 1", end=messages.FLUSH), b"C"),
    "copying in": (messages.query("copy seen from stdin") + messages.copy_data(b"1\n"), b"G"),
    "copying in, in the middle of a row": (
        messages.query("copy seen from stdin") + messages.copy_data(b"1\n")[:-1],
        b"G",
    ),
}
IN_TRANSACTION_MODE = {
    "with half a Parse": (messages.parse("select 1")[:5], b""),
    "with half a Query": (messages.query("select 1")[:9], b""),
}


async def last_words(client: RawClient) -> dict[str, str]:
    """The fields of the error that the session ends with."""
    fields = error_fields((await client.receive_until(b"E"))[-1].body)
    with pytest.raises(ServerClosedError):
        await client.receive()
    client.abort()
    return fields


@pytest.mark.parametrize("listener", LISTENERS)
async def test_who_keeps_a_server_and_is_silent_loses_it(
    pooler: NewPooler, database18: Database, listener: str
) -> None:
    database18.sql(f"create table seen (n int); grant all on seen to {database18.user}")
    entry = tenant(database18, size=1, idle_transaction_timeout=SHORT_S)
    process = pooler(entry)
    address = process.address(entry, listener=listener)
    silences = SILENCES | (IN_TRANSACTION_MODE if listener == "transaction" else {})
    for how, (data, last) in silences.items():
        client = await RawClient.connect(address)
        await client.values("select 1")
        client.send(data)
        if last:
            await client.receive_until(last)
        fields = await last_words(client)
        assert (fields["S"], fields["C"]) == ("FATAL", "25P03"), how
        assert fields["M"] == "terminating connection due to idle-in-transaction timeout", how
        assert fields["H"] == "The pool's idleTransactionTimeout is 0.3 s.", how
        next_client = await RawClient.connect(address)
        assert await next_client.values("select count(*) from seen") == [[b"0"]], how
        next_client.close()
        await until(lambda: is_at_rest(process, entry), f"all at rest after a client that was silent {how}")
    assert process.log_text().count('"client closed"') == len(silences)


@pytest.mark.parametrize("listener", LISTENERS)
async def test_who_sends_a_message_in_small_pieces_is_not_silent(
    pooler: NewPooler, database18: Database, listener: str
) -> None:
    entry = tenant(database18, size=1, idle_transaction_timeout=1.0)
    process = pooler(entry)
    client = await RawClient.connect(process.address(entry, listener=listener))
    data = messages.query("select 1, 'piece by piece'")
    client.send(data[:10])
    for at in range(10, len(data), 4):
        await asyncio.sleep(0.4)
        client.send(data[at : at + 4])
    assert messages.rows(await client.receive_until(b"Z")) == [[b"1", b"piece by piece"]]
    # Rounds that end with a Flush have no ReadyForQuery that would tell that the client is there.
    for _ in range(6):
        client.send(messages.extended("select 1", end=messages.FLUSH))
        await client.receive_until(b"C")
        await asyncio.sleep(0.4)
    client.send(messages.SYNC)
    await client.receive_until(b"Z")
    client.close()
    await until(lambda: is_at_rest(process, entry), "all at rest")


@pytest.mark.parametrize("listener", LISTENERS)
async def test_a_server_that_works_is_not_idle(pooler: NewPooler, database18: Database, listener: str) -> None:
    """Also behind a Flush, and with half of the next query sent ahead."""
    entry = tenant(database18, size=1, idle_transaction_timeout=SHORT_S, client_idle_timeout=5 * SHORT_S)
    process = pooler(entry)
    client = await RawClient.connect(process.address(entry, listener=listener))
    for data in (
        messages.extended("select pg_sleep(1)", end=messages.FLUSH) + messages.SYNC,
        messages.query("select pg_sleep(1)"),
    ):
        client.send(data)
        await client.receive_until(b"Z")
    client.send(messages.query("select pg_sleep(1)") + messages.query("select 2")[:-4])
    await client.receive_until(b"Z")
    client.send(messages.query("select 2")[-4:])
    assert messages.rows(await client.receive_until(b"Z")) == [[b"2"]]
    client.close()
    await until(lambda: is_at_rest(process, entry), "all at rest")


async def test_a_copy_that_its_client_does_not_end_is_cancelled_as_a_query(
    pooler: NewPooler, database18: Database
) -> None:
    database18.sql(f"create table seen (n int); grant all on seen to {database18.user}")
    entry = tenant(database18, size=1, query_timeout=SHORT_S)
    process = pooler(entry)
    client = await RawClient.connect(process.address(entry))
    client.send(messages.query("copy seen from stdin") + messages.copy_data(b"1\n"))
    assert error_fields((await client.receive_until(b"N"))[-1].body)["C"] == "57014"
    # PostgreSQL looks for cancels when the client's next message is there.
    client.send(messages.copy_data(b"2\n") + messages.COPY_DONE)
    assert error_fields((await client.receive_until(b"E"))[-1].body)["C"] == "57014"
    await client.receive_until(b"Z")
    assert await client.values("select count(*) from seen") == [[b"0"]]
    client.close()


async def test_a_query_that_ignores_its_cancel_costs_the_session(pooler: NewPooler) -> None:
    async def deaf(backend: Backend) -> None:
        backend.log_in()
        while True:
            _, body = await backend.receive()
            if body.startswith(b"select deaf"):
                await backend.reader.read()  # until the pooler has had enough
                return
            backend.answer(body)

    fake = FakePostgres(deaf, sound)
    await fake.start()
    entry = TenantEntry(
        tenant_id="acme",
        upstream=Upstream(host="127.0.0.1", port=fake.port, tls=UpstreamTls(mode="Disable")),
        databases=(DatabaseEntry(name="db"),),
        users=(User(name="user", passwords=(SecretStr("of-no-server-4711"),)),),
        pool=PoolSettings(size=1, query_timeout=SHORT_S),
    )
    process = pooler(entry)
    client = await RawClient.connect(process.address(entry))
    client.send(messages.query("select deaf"))
    fields = await last_words(client)
    assert (fields["S"], fields["C"]) == ("FATAL", "57014")
    assert fields["M"].startswith("(QueryTimeout) ")
    assert fake.cancel_keys
    await until(lambda: fake.backends[0].has_ended, "the deaf server closed")
    other = await RawClient.connect(process.address(entry))
    assert messages.tags(await other.query("select 1")) == b"TDCZ"
    other.close()
    await until(lambda: is_at_rest(process, entry), "all at rest")
    await fake.stop()


async def test_an_answer_that_stops_in_the_middle_of_a_row_gets_no_error_into_it(pooler: NewPooler) -> None:
    """The client would take the error's bytes for the rest of the row."""
    row = messages.message(b"D", b"\0\1\0\0\0\x28" + b"x" * 40)

    async def breaks_off(backend: Backend) -> None:
        backend.log_in()
        while True:
            _, body = await backend.receive()
            if body.startswith(b"select half"):
                backend.send(row[:20])
                await backend.reader.read()
                return
            backend.answer(body)

    fake = FakePostgres(breaks_off, sound)
    await fake.start()
    entry = TenantEntry(
        tenant_id="acme",
        upstream=Upstream(host="127.0.0.1", port=fake.port, tls=UpstreamTls(mode="Disable")),
        databases=(DatabaseEntry(name="db"),),
        users=(User(name="user", passwords=(SecretStr("of-no-server-4711"),)),),
        pool=PoolSettings(size=1, transaction_timeout=SHORT_S),
    )
    process = pooler(entry)
    client = await RawClient.connect(process.address(entry))
    client.send(messages.query("select half"))
    with pytest.raises(ServerClosedError) as caught:
        await client.receive()
    assert caught.value.rest == row[:20]
    await until(lambda: is_at_rest(process, entry), "all at rest")
    assert process.metrics()['pgweir_errors_total{code="TransactionTimeout"}'] == 1
    await fake.stop()


@pytest.mark.parametrize("listener", LISTENERS)
async def test_who_reads_a_long_answer_reads_why_it_ends(
    pooler: NewPooler, database18: Database, listener: str
) -> None:
    entry = tenant(database18, size=1, transaction_timeout=SHORT_S)
    process = pooler(entry)
    for _ in range(5):
        client = await RawClient.connect(process.address(entry, listener=listener))
        client.send(messages.query("select repeat('x', 5003), generate_series(1, 100000000)"))
        received = await client.receive_until(b"E")
        assert error_fields(received[-1].body)["C"] == "25P04"
        rows = messages.rows(received)
        assert len(rows) == len(received) - 2
        assert all(len(value or b"") == 5003 for value, _ in rows)
        with pytest.raises(ServerClosedError) as caught:
            await client.receive()
        assert caught.value.rest == b""
        client.abort()
        await until(lambda: is_at_rest(process, entry), "all at rest", 20)
    assert process.metrics()['pgweir_errors_total{code="TransactionTimeout"}'] == 5


@pytest.mark.parametrize("listener", LISTENERS)
async def test_cancels_that_race_with_the_end_of_their_query_hit_nothing_else(
    pooler: NewPooler, database18: Database, listener: str
) -> None:
    """Queries that end just when they are cancelled, each followed at once by one that must never be cancelled."""
    timeout_s = 0.1
    entry = tenant(database18, size=2, query_timeout=timeout_s)
    process = pooler(entry)
    address = process.address(entry, listener=listener)
    cancelled = 0

    async def live(number: int) -> None:
        nonlocal cancelled
        client = await RawClient.connect(address)
        for turn in range(25):
            pause_s = timeout_s + 0.004 * ((turn + number) % 20)  # found after up to one period of 50 ms
            client.send(messages.query(f"select pg_sleep({pause_s})"))
            received = await client.receive_until(b"Z")
            errors = [error_fields(body)["C"] for tag, body in received if tag == b"E"]
            cancelled += len(errors)
            assert errors in ([], ["57014"])
            for _ in range(3):
                received = await client.query(f"select {number}, {turn}")
                assert b"E" not in messages.tags(received), "the next query was hit"
                assert messages.rows(received) == [[b"%d" % number, b"%d" % turn]]
        client.close()

    await asyncio.gather(*(live(number) for number in range(2 if listener == "session" else 6)))
    assert cancelled
    print(f"{cancelled} were cancelled")
    await until(lambda: is_at_rest(process, entry), "all at rest")
