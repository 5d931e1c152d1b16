"""Whatever a client was doing when it left, the next one gets a clean server, and no slot is lost."""

import asyncio
import signal

import pytest

from harness import messages
from harness.config import cluster, tenant
from harness.databases import Database
from harness.raw_client import RawClient
from harness.waiting import until
from net.poolers import NewPooler, is_at_rest, pool_status
from pgweir_contract.models import ClusterLimits

INSERT = "insert into seen values (1)"
SLOW = "select pg_sleep(20)"

# What the client had sent when it left without a word; {} of the answers it waits for first.
LEAVES: dict[str, tuple[bytes, bytes]] = {
    "idle": (messages.query("select 1"), b"Z"),
    "in a transaction": (messages.query(f"begin; {INSERT}"), b"Z"),
    "in a failed transaction": (messages.query(f"begin; {INSERT}; select 1/0"), b"Z"),
    "with settings of its own": (
        messages.query("set work_mem = '5MB'; set my.secret = 'x'; prepare p as select 1"),
        b"Z",
    ),
    "pinned": (messages.query("create temp table t (n int); select pg_advisory_lock(1); set my.secret = 'x'"), b"Z"),
    "in a transaction with settings": (messages.query("begin; set local work_mem = '5MB'; set role none"), b"Z"),
    "without a Sync": (messages.parse(INSERT) + messages.bind() + messages.execute() + messages.FLUSH, b"C"),
    "behind an error without a Sync": (messages.parse("selekt") + messages.FLUSH, b"E"),
    "in a query": (messages.query(SLOW), b""),
    "in the middle of a message": (messages.query(f"{INSERT}; select 1")[:-4], b""),
    "in the middle of a header": (messages.query(INSERT) + messages.query(INSERT)[:3], b""),
    "in the middle of a message in a transaction": (
        messages.query(f"begin; {INSERT}") + messages.SYNC[:5] + b"Q\0\0",
        b"Z",
    ),
    "copying in": (messages.query("copy seen from stdin") + messages.copy_data(b"1\n"), b"G"),
    "copying in, in the middle of a row": (
        messages.query("copy seen from stdin") + messages.copy_data(b"1\n")[:-1],
        b"G",
    ),
    "copying out": (messages.query("copy (select generate_series(1, 3000000)) to stdout"), b"d"),
    "with a result unread": (messages.query("select repeat('x', 1000) from generate_series(1, 300000)"), b"T"),
}
# An insert of a client that left without a word while it was under way may count or not; nothing else may.
MAY_COUNT = ("in the middle of a header",)


@pytest.mark.parametrize("listener", ["transaction", "session"])
@pytest.mark.parametrize("say_goodbye", [False, True])
async def test_the_next_client_finds_nothing_of_the_one_that_left(
    pooler: NewPooler, database18: Database, listener: str, say_goodbye: bool
) -> None:
    database18.sql(f"create table seen (n int); grant all on seen to {database18.user}")
    entry = tenant(database18, size=1)
    process = pooler(entry)
    address = process.address(entry, listener=listener)
    for how, (data, last) in LEAVES.items():
        if say_goodbye and last == b"" and "query" in how:
            continue  # what came before a Terminate is carried out, for the twenty seconds that it takes
        leaver = await RawClient.connect(address)
        leaver.send(data)
        if last:
            await leaver.receive_until(last)
        elif "query" in how:
            await until(lambda: "active" in [state for _, state in database18.backends()], how)
        if say_goodbye:
            leaver.close()
        else:
            leaver.abort()
        await _finds_a_clean_server(await RawClient.connect(address), how)
        if how not in MAY_COUNT:
            assert database18.sql("select count(*) from seen").strip() == "0", how
        database18.sql("truncate seen")
        await until(lambda: is_at_rest(process, entry), f"all at rest after a client left {how}")
        assert pool_status(process, entry)["serversIdle"] <= 1
        assert len(database18.backends()) <= 1


async def _finds_a_clean_server(client: RawClient, how: str) -> None:
    received = await client.query("select current_setting('my.secret', true), current_setting('work_mem')")
    [[secret, work_mem]] = messages.rows(received)
    assert not secret, how
    assert work_mem == b"4MB", how
    assert received[-1].body == b"I", how
    assert await client.values("select count(*) from pg_prepared_statements") == [[b"0"]], how
    client.close()


async def test_clients_that_leave_while_they_wait_are_forgotten(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=1)
    process = pooler(entry)
    holder = await RawClient.connect(process.address(entry))
    await holder.query("begin")
    waiters = [await RawClient.connect(process.address(entry)) for _ in range(5)]
    for waiter in waiters:
        waiter.send(messages.query("select 1"))
    await until(lambda: pool_status(process, entry)["waiting"] == 5, "five wait")
    for waiter in waiters[:4]:
        waiter.abort()
    await until(lambda: pool_status(process, entry)["waiting"] == 1, "four have left")
    await holder.query("commit")
    assert messages.tags(await waiters[4].receive_until(b"Z")) == b"TDCZ"
    holder.close()
    waiters[4].close()
    await until(lambda: is_at_rest(process, entry), "all at rest")


async def test_a_query_of_a_client_that_said_goodbye_while_it_waited_is_carried_out(
    pooler: NewPooler, database18: Database
) -> None:
    database18.sql(f"create table seen (n int); grant all on seen to {database18.user}")
    entry = tenant(database18, size=1)
    process = pooler(entry)
    # The last ones have settings of their own, which the server must take first.
    options = [{"options": f"-c my.number={number}"} if number > 2 else {} for number in range(6)]
    leavers = [await RawClient.connect(process.address(entry), settings) for settings in options]
    holder = await RawClient.connect(process.address(entry))
    await holder.query("begin")
    for number, leaver in enumerate(leavers):
        sql = f"insert into seen values ({number})"
        leaver.send(messages.extended(sql) if number % 2 else messages.query(sql))
        leaver.close()
    await until(lambda: pool_status(process, entry)["waiting"] == 6, "six wait")
    await holder.query("commit")
    await until(lambda: is_at_rest(process, entry), "all at rest")
    assert database18.sql("select array_agg(n order by n) from seen").strip() == "{0,1,2,3,4,5}"
    assert await holder.values("select 7") == [[b"7"]]
    holder.close()


async def test_a_client_that_said_goodbye_is_forgotten_when_no_server_becomes_free(
    pooler: NewPooler, database18: Database
) -> None:
    entry = tenant(database18, size=1, queue_timeout=0.5)
    process = pooler(entry)
    holder = await RawClient.connect(process.address(entry))
    await holder.query("begin")
    leaver = await RawClient.connect(process.address(entry))
    leaver.send(messages.query("select 1"))
    leaver.close()
    await until(lambda: pool_status(process, entry)["waiting"] == 1, "it waits")
    await until(lambda: pool_status(process, entry)["waiting"] == 0, "it has been given up")
    await holder.query("commit")
    holder.close()
    await until(lambda: is_at_rest(process, entry), "all at rest")


@pytest.mark.parametrize(
    "data",
    [
        messages.query("select 1 --" + "X\0\0\0\x04" + " and more")[: -len(" and more\0")],
        messages.query("select 1") + messages.message(b"Q", messages.TERMINATE + b"rest")[: -len("rest")],
        messages.parse("select 1") + messages.bind([messages.TERMINATE])[:-2],
    ],
)
async def test_a_half_message_that_ends_like_a_goodbye_holds_no_server(
    pooler: NewPooler, database18: Database, data: bytes
) -> None:
    assert data.endswith(messages.TERMINATE)
    entry = tenant(database18, size=1)
    process = pooler(entry)
    holder = await RawClient.connect(process.address(entry))
    await holder.query("begin")
    leaver = await RawClient.connect(process.address(entry))
    leaver.send(data)
    await until(lambda: pool_status(process, entry)["waiting"] == 1, "it waits")
    leaver.transport.close()
    await until(lambda: pool_status(process, entry)["waiting"] == 0, "it has left")
    await holder.query("commit")
    await until(lambda: is_at_rest(process, entry), "all at rest")
    assert await holder.values("select 7") == [[b"7"]]
    holder.close()


async def test_a_goodbye_behind_copy_from_stdin_frees_the_server_at_once(
    pooler: NewPooler, database18: Database
) -> None:
    database18.sql(f"create table seen (n int); grant all on seen to {database18.user}")
    entry = tenant(database18, size=2)
    process = pooler(entry)
    leavers = [await RawClient.connect(process.address(entry)) for _ in range(2)]
    for leaver in leavers:
        leaver.send(messages.query("copy seen from stdin"))
        leaver.close()
    async with asyncio.timeout(5):
        client = await RawClient.connect(process.address(entry))
        assert await client.values("select count(*) from seen") == [[b"0"]]
    client.close()
    await until(lambda: is_at_rest(process, entry), "all at rest", 5)


async def test_a_client_that_is_pinned_is_idle_when_the_pooler_ends(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=2)
    process = pooler(entry, cluster_file=cluster(limits=ClusterLimits(drain_timeout=60.0)))
    pinned = await RawClient.connect(process.address(entry), timeout_s=5)
    pinned.send(messages.parse("select 1"), messages.SYNC)
    assert messages.tags(await pinned.receive_until(b"Z")) == b"1Z"
    assert pool_status(process, entry)["serversActive"] == 0  # a statement that was parsed moves
    await pinned.query("select pg_advisory_lock(1)")
    assert pool_status(process, entry)["serversActive"] == 1
    process.send_signal(signal.SIGTERM)
    tag, body = await pinned.receive()
    assert (tag, messages.error_fields(body)["C"]) == (b"E", "57P01")
    assert await pinned.wait_closed() == b""
    await until(lambda: not process.is_running, "the pooler ended", 5)


async def test_clients_that_leave_while_their_settings_are_applied(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=2)
    process = pooler(entry)
    for number in range(40):  # each one's settings are new to the server, so they are applied first
        client = await RawClient.connect(process.address(entry), {"options": f"-c my.number={number}"})
        client.send(messages.query("select 1"))
        if number % 2:
            await client.receive()
        client.abort()
    await until(lambda: is_at_rest(process, entry), "all at rest")
    plain = await RawClient.connect(process.address(entry))
    assert await plain.values("select current_setting('my.number', true)") in ([[None]], [[b""]])
    plain.close()


async def test_settings_follow_their_client_from_server_to_server(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=1)
    process = pooler(entry)
    sets = [
        {"application_name": "one", "client_encoding": "LATIN1", "options": "-c work_mem=5MB"},
        {"application_name": "two", "options": "-c work_mem=6MB -c my.value=a\\ b"},
        {},
    ]
    clients = [await RawClient.connect(process.address(entry), settings) for settings in sets]
    sql = (
        "select current_setting('application_name'), current_setting('client_encoding'),"
        " current_setting('work_mem'), coalesce(current_setting('my.value', true), '')"
    )
    expected = [[b"one", b"LATIN1", b"5MB", b""], [b"two", b"UTF8", b"6MB", b"a b"], [b"pgweir", b"UTF8", b"4MB", b""]]
    # A client without a name of its own works under that of the pooler's server, so that pg_stat_activity has one.
    for turn in range(3):
        for client, row in zip(clients, expected, strict=True):
            assert await client.values(sql) == [row]
            row[2] = b"%dMB" % (turn + 10)
            await client.query(f"set work_mem = '{turn + 10}MB'")
    assert [client.parameters["client_encoding"] for client in clients] == ["LATIN1", "UTF8", "UTF8"]
    assert [client.parameters["application_name"] for client in clients] == ["one", "two", "pgweir"]
    for client in clients:
        client.close()


async def test_session_mode_resets_between_clients(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=1)
    process = pooler(entry)
    address = process.address(entry, listener="session")
    first = await RawClient.connect(address)
    [[pid]] = await first.values("select pg_backend_pid()")
    await first.query("create temp table mine (n int); select pg_advisory_lock(5); listen here; set work_mem = '5MB'")
    first.send(messages.parse("select 1", "named") + messages.SYNC)
    assert messages.tags(await first.receive_until(b"Z")) == b"1Z"
    await first.query("notify here")
    assert (await first.query("select 1"))[-1].body == b"I"
    first.close()
    second = await RawClient.connect(address)
    assert await second.values("select pg_backend_pid()") == [[pid]]
    assert await second.values("select count(*) from pg_locks where locktype = 'advisory'") == [[b"0"]]
    assert await second.values("select count(*) from pg_prepared_statements") == [[b"0"]]
    assert await second.values("select count(*) from pg_listening_channels()") == [[b"0"]]
    assert await second.values("select to_regclass('pg_temp.mine')") == [[None]]
    assert await second.values("show work_mem") == [[b"4MB"]]
    second.close()
