"""Nothing of one client reaches another one on the same server: statements, roles, settings, objects, errors."""

import asyncio
import struct
from typing import Any

import pg8000.native
import pytest

from harness import messages
from harness.config import tenant
from harness.databases import Database
from harness.messages import Message, error_fields, tags
from harness.raw_client import RawClient
from harness.waiting import until
from net.poolers import NewPooler, is_at_rest

ROUNDS = 60
NASTY = "it's \\ a \"value\" $$;-- \\' é 世 \u0081'"


def sqlstate(received: list[Message]) -> str:
    """Of the only error among the messages."""
    [body] = [body for tag, body in received if tag == b"E"]
    return error_fields(body)["C"]


# --- the unnamed statement


async def test_drivers_that_sync_between_parse_and_execute_get_their_own_answers(
    pooler: NewPooler, database: Database
) -> None:
    entry = tenant(database, size=2)
    process = pooler(entry)

    async def work(number: int) -> None:
        client = await RawClient.connect(process.address(entry))
        for i in range(ROUNDS):
            client.send(messages.parse(f"select {number} as c{number}, $1::text"), messages.SYNC)
            assert tags(await client.receive_until(b"Z")) == b"1Z"
            client.send(messages.describe_statement(), messages.SYNC)
            described = await client.receive_until(b"Z")
            assert tags(described) == b"tTZ"
            assert f"c{number}\0".encode() in described[1].body
            client.send(messages.bind([b"%d" % i]), messages.execute(), messages.SYNC)
            received = await client.receive_until(b"Z")
            assert tags(received) == b"2DCZ"
            assert messages.rows(received) == [[b"%d" % number, b"%d" % i]]
        client.close()

    await asyncio.gather(*(work(number) for number in range(6)))
    await until(lambda: is_at_rest(process, entry), "all at rest")
    assert len(database.backends()) <= 2


async def test_pg8000_in_autocommit_with_parameters_writes_into_its_own_table(
    pooler: NewPooler, database18: Database
) -> None:
    database18.sql("create table only_a (who text); create table only_b (who text)")
    database18.sql(f"grant all on only_a, only_b to {database18.user}")
    entry = tenant(database18, size=2)
    process = pooler(entry)
    address = process.address(entry)
    options: dict[str, Any] = {"user": address.user, "password": address.password, "host": address.host}
    options |= {"port": address.port, "database": address.database, "ssl_context": False}

    def work(name: str) -> None:
        with pg8000.native.Connection(**options) as connection:
            for i in range(ROUNDS):
                connection.run(f"insert into only_{name} values (:who)", who=name)
                assert connection.run(f"select '{name}', :n::int", n=i) == [[name, i]]

    await asyncio.gather(*(asyncio.to_thread(work, name) for name in "ababab"))
    for name in "ab":
        found = database18.sql(f"select who, count(*) from only_{name} group by 1")
        assert found.strip() == f"{name}|{3 * ROUNDS}"


async def test_an_unnamed_statement_is_not_found_by_the_next_client(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=1)
    process = pooler(entry)
    first, second = [await RawClient.connect(process.address(entry)) for _ in range(2)]
    for data in (
        messages.bind() + messages.execute() + messages.SYNC,
        messages.describe_statement() + messages.SYNC,
        # PostgreSQL skips this Parse behind an error; the Bind behind the Sync is not skipped.
        messages.execute("nowhere")
        + messages.parse("select 'mine'")
        + messages.SYNC
        + messages.bind()
        + messages.execute()
        + messages.SYNC,
        messages.bind(statement="named")
        + messages.parse("select 'mine'")
        + messages.SYNC
        + messages.bind()
        + messages.execute()
        + messages.SYNC,
        messages.execute("nowhere")
        + messages.query("select 1")
        + messages.parse("select 'mine'")
        + messages.SYNC
        + messages.bind()
        + messages.execute()
        + messages.SYNC,
    ):
        first.send(messages.extended("select 'a secret'"))
        assert messages.rows(await first.receive_until(b"Z")) == [[b"a secret"]]
        second.send(data)
        received = [m for _ in range(data.count(messages.SYNC)) for m in await second.receive_until(b"Z")]
        assert messages.rows(received) == []
        assert error_fields([body for tag, body in received if tag == b"E"][-1])["C"] == "26000"
        assert received[-1].body == b"I"
        assert await second.values("select 7") == [[b"7"]]
    first.close()
    second.close()


async def test_a_skipped_parse_does_not_vouch_for_what_comes_after_its_error(
    pooler: NewPooler, database18: Database
) -> None:
    """As above, with a client that reads the error before it goes on."""
    entry = tenant(database18, size=1)
    process = pooler(entry)
    first, second = [await RawClient.connect(process.address(entry)) for _ in range(2)]
    first.send(messages.extended("select 'a secret'"))
    await first.receive_until(b"Z")
    second.send(messages.execute("nowhere"), messages.FLUSH)
    assert sqlstate([await second.receive()]) == "34000"
    second.send(messages.parse("select 'mine'"), messages.SYNC, messages.bind(), messages.execute(), messages.SYNC)
    received = [*await second.receive_until(b"Z"), *await second.receive_until(b"Z")]
    assert messages.rows(received) == []
    assert sqlstate(received) == "26000"
    first.close()
    second.close()


# --- refusals and transactions


REFUSED = [
    (messages.parse("select 1", "taken"), "42P05"),
    (messages.bind(statement="named"), "26000"),
    (messages.describe_statement("named"), "26000"),
]
INSERT = messages.parse("insert into seen values (1)") + messages.bind() + messages.execute()


@pytest.mark.parametrize(("refused", "code"), REFUSED)
async def test_a_refusal_rolls_back_like_any_error(
    pooler: NewPooler, database: Database, refused: bytes, code: str
) -> None:
    database.sql(f"create table seen (n int); grant all on seen to {database.user}")
    entry = tenant(database, size=1)
    process = pooler(entry)
    client = await RawClient.connect(process.address(entry))
    client.send(messages.parse("select 1", "taken"), messages.SYNC)
    await client.receive_until(b"Z")

    client.send(INSERT, refused, messages.SYNC)
    received = await client.receive_until(b"Z")
    assert (tags(received), sqlstate(received), received[-1].body) == (b"12CEZ", code, b"I")
    assert await client.values("select count(*) from seen") == [[b"0"]]

    await client.query("begin")
    client.send(refused, INSERT, messages.SYNC)
    received = await client.receive_until(b"Z")
    assert (tags(received), sqlstate(received), received[-1].body) == (b"EZ", code, b"E")
    received = await client.query("insert into seen values (2)")
    assert (sqlstate(received), received[-1].body) == ("25P02", b"E")
    received = await client.query("commit")
    assert received[0].body == b"ROLLBACK\0"
    assert await client.values("select count(*) from seen") == [[b"0"]]

    # Without a Sync the error comes at once, and a Sync goes on.
    client.send(INSERT, refused, messages.FLUSH)
    received = await client.receive_until(b"E")
    assert error_fields(received[-1].body)["C"] == code
    client.send(messages.query("select 'skipped'"), messages.SYNC)
    assert tags(await client.receive_until(b"Z")) == b"Z"
    assert await client.values("select count(*) from seen") == [[b"0"]]
    client.close()
    await until(lambda: is_at_rest(process, entry), "all at rest")


async def test_what_a_client_listened_to_ends_with_it(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=1)
    process = pooler(entry)
    for data in (
        messages.query("listen here"),
        messages.query("begin; listen here"),
        messages.query("select 1; listen here; select 2"),
        messages.extended("listen here"),
    ):
        for waits in (True, False):
            client = await RawClient.connect(process.address(entry))
            client.send(data)
            if waits:
                assert b"E" not in tags(await client.receive_until(b"Z"))
            client.close()
            await _is_unharmed(await RawClient.connect(process.address(entry)))


async def _is_unharmed(client: RawClient) -> None:
    assert await client.values("select count(*) from pg_listening_channels()") == [[b"0"]]
    assert sqlstate(await client.query("select 1/0")) == "22012"
    assert await client.values("select 7") == [[b"7"]]
    client.close()


# --- settings


async def test_a_role_that_a_client_starts_with_is_its_own(pooler: NewPooler, database: Database) -> None:
    other = f"{database.user}_other"
    database.sql(f"create role {other}; grant {other} to {database.user}")
    entry = tenant(database, size=1)
    process = pooler(entry)
    address = process.address(entry)
    for options in ("", "-c work_mem=7MB", ""):
        client = await RawClient.connect(address, {"options": f"-c role={other}"})
        assert await client.values("select current_user") == [[other.encode()]]
        client.close()
        client = await RawClient.connect(address, {"options": options} if options else {})
        assert await client.values("select current_user") == [[database.user.encode()]]
        client.close()


@pytest.mark.parametrize(
    "hostile",
    ["client_encoding=SJIS", "client_encoding=BIG5", "client_encoding=GB18030", "backslash_quote=off", "search_path="],
)
async def test_startup_settings_arrive_exactly_whoever_came_before(
    pooler: NewPooler, database: Database, hostile: str
) -> None:
    entry = tenant(database, size=1)
    process = pooler(entry)
    address = process.address(entry)
    client = await RawClient.connect(address, {"options": f"-c {hostile} -c standard_conforming_strings=off"})
    [[pid]] = await client.values("select pg_backend_pid()")
    client.close()
    client = await RawClient.connect(address, {"my.value": NASTY, "application_name": "Müller's"})
    # PostgreSQL keeps application names in ASCII; before version 16 it wrote others as question marks.
    sql = "select pg_backend_pid(), current_setting('my.value'), current_setting('application_name')"
    [[same, value, name]] = await client.values(sql)
    assert same == pid
    assert value == NASTY.encode()
    assert name in (b"M\\xc3\\xbcller's", b"M??ller's")
    client.close()


@pytest.mark.parametrize("encoding", ["SJIS", "BIG5", "GBK", "GB18030", "UHC", "JOHAB", "SHIFT_JIS_2004"])
async def test_a_setting_cannot_break_out_of_its_quotes(pooler: NewPooler, database: Database, encoding: str) -> None:
    other = f"{database.user}_other"
    database.sql(f"create role {other}; grant {other} to {database.user}")
    entry = tenant(database, size=1)
    process = pooler(entry)
    address = process.address(entry)
    client = await RawClient.connect(address, {"options": f"-c client_encoding={encoding}"})
    await client.query("select 1")
    client.close()
    injected = (
        "\u0081',false),pg_catalog.set_config($$my.value$$,$$pwned$$,false),"
        f"pg_catalog.set_config($$role$$,$${other}$$,false)--"
    )
    client = await RawClient.connect(address, {"my.value": injected})
    row = [database.user.encode(), injected.encode()]
    assert await client.values("select current_user, current_setting('my.value')") == [row]
    client.close()
    client = await RawClient.connect(address)
    assert await client.values("select current_user") == [[database.user.encode()]]
    client.close()


# --- what statements leave behind


def _function_call(name: str, value: str, oid: int) -> bytes:
    """set_config(name, value, false) by its number."""
    arguments = (name.encode(), value.encode(), b"f")
    body = struct.pack(">IHH", oid, 0, len(arguments))
    body += b"".join(struct.pack(">I", len(each)) + each for each in arguments)
    return messages.message(b"F", body + b"\0\0")


LEFTOVERS = [
    "create temp table mine (n int)",
    "create temp view mine as select 1",
    "create temp sequence mine",
    "do $$ begin perform set_config('my.secret', 'x', false); end $$",
    "do $$ begin create temp table mine (n int); end $$",
    "create function pg_temp.mine() returns int language sql as 'select 666'",
    "call set_secret()",
]
SECRET_PROCEDURE = (
    "create procedure set_secret() language plpgsql as $$ begin perform set_config('my.secret', 'x', false); end $$"
)
FINDINGS = (
    "select pg_backend_pid(), to_regclass('pg_temp.mine'), to_regprocedure('pg_temp.mine()'),"
    " coalesce(current_setting('my.secret', true), '')"
)


@pytest.mark.parametrize("extended", [False, True])
async def test_what_a_statement_leaves_behind_is_gone(pooler: NewPooler, database: Database, extended: bool) -> None:
    database.sql(SECRET_PROCEDURE)
    entry = tenant(database, size=1)
    process = pooler(entry)
    second = await RawClient.connect(process.address(entry))
    [[pid]] = await second.values("select pg_backend_pid()")
    oid = int(database.sql("select 'pg_catalog.set_config'::regproc::oid::int"))
    call = _function_call("my.secret", "x", oid)
    for data in [*(messages.extended(sql) if extended else messages.query(sql) for sql in LEFTOVERS), call]:
        first = await RawClient.connect(process.address(entry))
        first.send(data)
        received = await first.receive_until(b"Z")
        assert b"E" not in tags(received), received
        if b"temp" in data:
            first.close()  # it is pinned
        assert await second.values(FINDINGS) == [[pid, None, None, b""]], data
        first.close()
    second.close()
