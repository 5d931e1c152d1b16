"""Named statements on shared servers: as on a connection of one's own, and never answered in a shape not told."""

import asyncio
import itertools

import pytest

from harness import messages
from harness.config import tenant
from harness.databases import Database
from harness.messages import Message, error_fields, tags
from harness.raw_client import RawClient
from harness.waiting import until
from net.poolers import NewPooler, is_at_rest
from net.two_servers import TwoServers, batch, run, sqlstate

EXECUTE = messages.execute()


def bound(name: str, *values: bytes, describe: bool = False) -> bytes:
    """Bind and Execute of a named statement, perhaps with a Describe of the portal between them."""
    return messages.bind(values, statement=name) + (messages.describe_portal() if describe else b"") + EXECUTE


@pytest.mark.parametrize("size", [1, 5])
async def test_clients_have_their_own_names(pooler: NewPooler, database: Database, size: int) -> None:
    entry = tenant(database, size=size)
    process = pooler(entry)

    async def work(number: int) -> None:
        client = await RawClient.connect(process.address(entry))
        own, shared = f"select {number}, $1::int", "select $1::int + 1"
        received = await batch(client, messages.parse(own, "same"), messages.parse(shared, f"of {number}"))
        assert tags(received) == b"11Z"
        for i in range(60):
            received = await batch(client, bound("same", b"%d" % i))
            assert messages.rows(received) == [[b"%d" % number, b"%d" % i]]
            assert messages.rows(await batch(client, bound(f"of {number}", b"%d" % i))) == [[b"%d" % (i + 1)]]
            if i % 20 == 19:
                received = await batch(client, messages.close_statement("same"), messages.parse(own, "same"))
                assert tags(received) == b"31Z"
        client.close()

    await asyncio.gather(*(work(number) for number in range(8)))
    await until(lambda: is_at_rest(process, entry), "all at rest")
    assert len(database.backends()) <= size


async def test_equal_texts_are_prepared_once_on_each_server(pooler: NewPooler, database: Database) -> None:
    entry = tenant(database, size=1)
    process = pooler(entry)
    clients = [await RawClient.connect(process.address(entry)) for _ in range(3)]
    for number, client in enumerate(clients):
        parse = messages.parse("select 'shared'", f"name {number}")
        assert tags(await batch(client, parse, bound(f"name {number}"))) == b"12DCZ"
    statements = "select name from pg_prepared_statements where not from_sql"
    assert await clients[0].values(statements) == [[b"pgweir_1"]]
    # Other types are another statement.
    await batch(clients[0], messages.parse("select 'shared'", "typed"), messages.parse("select $1", "t", [25]))
    await batch(clients[1], messages.parse("select $1", "t", [23]))
    assert len(await clients[0].values(statements)) == 3
    for client, value in ((clients[0], b"abc"), (clients[1], b"42")):
        assert messages.rows(await batch(client, bound("t", value))) == [[value]]
    for client in clients:
        client.close()


async def test_what_a_client_may_do_wrong(pooler: NewPooler, database: Database) -> None:
    async with TwoServers(pooler, database) as servers:
        client, direct = await servers.connect(), await RawClient.connect(database.address)
        for each in (client, direct):
            await batch(each, messages.parse("select 1", "s"))
        for data in (
            bound("nowhere"),
            messages.describe_statement("nowhere"),
            messages.parse("select 2", "s"),
            messages.parse("selekt", "wrong"),
            bound("wrong"),
            messages.describe_statement("wrong"),
            messages.parse("select * from no_such_table", "wrong"),
            messages.parse("selekt", "wrong") + bound("wrong"),
            messages.parse("select $1::int", "n") + bound("n", b"no number"),
            bound("n", b"5"),  # the Parse of the failed batch counts
            messages.parse("select 7", "skipped later") + messages.execute("no portal"),
            bound("skipped later"),
            messages.execute("no portal") + messages.parse("select 7", "skipped"),
            bound("skipped"),
            messages.close_statement("nowhere"),
            messages.close_statement("s") + messages.close_statement("s"),
            bound("s"),
            messages.parse("select 3", "s") + bound("s"),
            messages.close_statement("s") + messages.parse("select 4", "s") + bound("s"),
            messages.execute("no portal") + messages.close_statement("s"),
            bound("s"),
        ):
            expected, found = _plain(await batch(direct, data)), _plain(await batch(client, data))
            assert found == expected, data
            await servers.switch()
        direct.close()


def _plain(received: list[Message]) -> list[tuple[bytes, object]]:
    """Messages with what does not depend on where PostgreSQL found an error."""
    shown: list[tuple[bytes, object]] = []
    for tag, body in received:
        fields = error_fields(body) if tag == b"E" else {}
        shown.append((tag, (fields["S"], fields["C"], fields["M"]) if fields else body))
    return shown


async def test_a_parse_in_a_failed_transaction_is_refused_and_leaves_no_name(
    pooler: NewPooler, database: Database
) -> None:
    async with TwoServers(pooler, database) as servers:
        client, other = await servers.connect(), await servers.connect()
        await batch(other, messages.parse("select 'known'", "s"))
        for text in ("select 'new'", "select 'known'"):
            for failing in ("select 1/0", None):
                await client.query("begin")
                if failing:
                    await client.query(failing)
                    received = await batch(client, messages.parse(text, "s"))
                else:  # in the pipeline that fails
                    received = await batch(client, messages.execute("no portal"), messages.parse(text, "s"))
                assert sqlstate(received) == ("25P02" if failing else "34000")
                assert received[-1].body == b"E"
                await client.query("rollback")
                assert sqlstate(await batch(client, bound("s"))) == "26000"
                assert tags(await batch(client, messages.parse(text, "s"), bound("s"))) == b"12DCZ"
                await batch(client, messages.close_statement("s"))
            await servers.switch()
        assert messages.rows(await batch(other, bound("s"))) == [[b"known"]]


async def test_a_bind_in_a_failed_transaction_is_refused_on_any_server(pooler: NewPooler, database: Database) -> None:
    async with TwoServers(pooler, database) as servers:
        client = await servers.connect()
        await batch(client, messages.parse("select 1", "s"), messages.describe_statement("s"))
        for _ in range(2):
            await servers.switch()
            await client.query("begin; select 1/0")
            assert sqlstate(await batch(client, bound("s"))) == "25P02"
            await client.query("rollback")
            assert messages.rows(await batch(client, bound("s"))) == [[b"1"]]


async def test_pipelines(pooler: NewPooler, database: Database) -> None:
    async with TwoServers(pooler, database) as servers:
        client, other = await servers.connect(), await servers.connect()
        for turn in range(4):
            names = [f"{turn} {n}" for n in range(20)]
            client.send(*(messages.parse(f"select {n}, {turn}", name) for n, name in enumerate(names)))
            client.send(*(bound(name, describe=True) for name in names), messages.SYNC)
            client.send(*(bound(name) + messages.SYNC for name in names))
            client.send(bound(names[3]), messages.execute("no portal"), bound(names[4]), messages.SYNC)
            client.send(messages.query("select 'simple'"), bound(names[5]), messages.SYNC)
            received = await client.receive_until(b"Z")
            assert tags(received) == b"1" * 20 + b"2TDC" * 20 + b"Z"
            rows = [[b"%d" % n, b"%d" % turn] for n in range(20)]
            assert messages.rows(received) == rows
            assert messages.rows([m for _ in names for m in await client.receive_until(b"Z")]) == rows
            assert tags(await client.receive_until(b"Z")) == b"2DCEZ"
            assert messages.rows(await client.receive_until(b"Z")) == [[b"simple"]]
            assert messages.rows(await client.receive_until(b"Z")) == [rows[5]]
            assert (await other.query("select 1"))[-1].body == b"I"
            await servers.switch()


async def test_a_flush_answers_and_keeps_the_server(pooler: NewPooler, database: Database) -> None:
    """As asyncpg does it."""
    async with TwoServers(pooler, database) as servers:
        client = await servers.connect()
        for turn in range(4):
            name = f"s{turn}"
            client.send(messages.parse("select $1::int as n", name), messages.describe_statement(name), messages.FLUSH)
            assert tags([await client.receive() for _ in range(3)]) == b"1tT"
            assert servers.active == 2
            client.send(bound(name, b"7"), messages.SYNC)
            assert messages.rows(await client.receive_until(b"Z")) == [[b"7"]]
            await servers.switch()
            client.send(bound(name, b"8"), messages.FLUSH)
            assert tags([await client.receive() for _ in range(3)]) == b"2DC"
            client.send(messages.SYNC)
            assert tags(await client.receive_until(b"Z")) == b"Z"


async def test_the_unnamed_statement_moves_with_its_client(pooler: NewPooler, database: Database) -> None:
    async with TwoServers(pooler, database) as servers:
        client, other = await servers.connect(), await servers.connect()
        received = await batch(client, messages.parse("select $1::int, 'mine'"), messages.describe_statement())
        assert tags(received) == b"1tTZ"
        for n in range(4):
            other.send(messages.extended("select 'of another'"))
            assert messages.rows(await other.receive_until(b"Z")) == [[b"of another"]]
            received = await batch(client, messages.bind([b"%d" % n]), EXECUTE)
            assert messages.rows(received) == [[b"%d" % n, b"mine"]]
            await servers.switch()
        await client.query("select 1")  # drops it
        for _ in range(2):
            assert sqlstate(await batch(client, messages.bind([b"1"]), EXECUTE)) == "26000"
            await servers.switch()


async def test_large_parameters_and_texts_in_many_reads(pooler: NewPooler, database18: Database) -> None:
    async with TwoServers(pooler, database18) as servers:
        client = await servers.connect()
        text = f"select length($1), '{'x' * 300_000}' = '' /* {'y' * 1_500_000} */"
        await batch(client, messages.parse(text, "s"))
        for size in (10, 100_000, 3_000_000):
            received = await batch(client, bound("s", b"z" * size, describe=True))
            assert messages.rows(received) == [[b"%d" % size, b"f"]]
            await servers.switch()


async def test_messages_in_single_bytes(pooler: NewPooler, database18: Database) -> None:
    async with TwoServers(pooler, database18) as servers:
        client = await servers.connect()
        data = messages.parse("select $1", "s") + messages.describe_statement("s") + bound("s", b"a", describe=True)
        data += messages.SYNC + bound("s", b"b") + messages.close_statement("s") + messages.SYNC
        for _ in range(3):
            for i in range(len(data)):
                client.send(data[i : i + 1])
                await asyncio.sleep(0)
            assert tags(await client.receive_until(b"Z")) == b"1tT2TDCZ"
            assert tags(await client.receive_until(b"Z")) == b"2DC3Z"
            await servers.switch()


# --- a change of the table


class Table:
    """`t` with one row, in one of two shapes whose values have the same size."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.sql(f"create table t (v int4); grant all on t to {database.user}; insert into t values (1)")

    def alter(self) -> None:
        """The same four bytes would be another value."""
        self._database.sql("alter table t alter v type float4 using 1")


T = "select * from t"
INT4, FLOAT4 = (23).to_bytes(4, "big"), (700).to_bytes(4, "big")
ROWS = {INT4: b"\0\0\0\1", FLOAT4: b"\x3f\x80\0\0"}
BINARY = [1]


class Reader:
    """A client that decodes by the shape it was told last, as drivers do; wrong values fail the test."""

    def __init__(self, client: RawClient, name: str = "s") -> None:
        self.client = client
        self.name = name
        self.told = b""  # the column's type
        self.errors: list[str] = []

    async def send(self, *parts: bytes) -> list[Message]:
        """A batch, read in order."""
        received = await batch(self.client, *parts)
        for tag, body in received:
            if tag == b"T":
                self.told = body[2 + 2 + 6 :][:4]
            elif tag == b"D":
                [value] = messages.row_values(body)
                assert value == ROWS[self.told], f"{value!r} was read as type {self.told.hex()}"
            elif tag == b"E":
                self.errors.append(error_fields(body)["C"])
        return received

    async def prepare(self) -> None:
        await self.send(messages.parse(T, self.name), messages.describe_statement(self.name))

    async def describe(self) -> None:
        await self.send(messages.describe_statement(self.name))

    async def fetch(self) -> None:
        """Without a word of the shape, which it must know."""
        await self.send(messages.bind(statement=self.name, result_formats=BINARY), EXECUTE)

    async def ask_and_fetch(self) -> None:
        bind = messages.bind(statement=self.name, result_formats=BINARY)
        await self.send(bind, messages.describe_portal(), EXECUTE)

    async def ask_in_vain(self) -> None:
        """It asks for the shape in a batch that fails before: it is told nothing."""
        bind = messages.bind(statement=self.name, result_formats=BINARY)
        await self.send(messages.execute("no portal"), bind, messages.describe_portal(), EXECUTE)
        assert self.errors.pop() == "34000"


ORDERS = [
    order
    for length in (1, 2)
    for order in itertools.product(("fetch", "ask_and_fetch", "ask_in_vain", "describe"), repeat=length)
]


@pytest.mark.parametrize("name", ["s", ""])
@pytest.mark.parametrize("first", ["prepare", "prepare_and_describe_later"])
async def test_a_statement_told_one_shape_is_never_answered_in_another(
    pooler: NewPooler, database: Database, first: str, name: str
) -> None:
    table = Table(database)
    async with TwoServers(pooler, database) as servers:
        for order, (moves, known) in itertools.product(ORDERS, ((0, 0), (1, 0), (1, 1), (2, 0), (0, 1))):
            database.sql("alter table t alter v type int4 using 1")
            text = f"{T} /* {order} {moves} {known} */"  # statements of former turns are other ones
            reader = Reader(await servers.connect(), name)
            other = Reader(await servers.connect(), "other")
            await _prepare(reader, text, is_described=first == "prepare")
            if first != "prepare":
                await reader.ask_and_fetch()
            if known:  # the other server has a copy, of the old shape
                await servers.switch()
                await _prepare(other, text, is_described=True)
                await servers.switch()
            table.alter()
            for turn, step in enumerate((*order, "fetch", "fetch")):
                if turn < moves or turn % 2 == moves % 2:
                    await servers.switch()
                await getattr(reader, step)()
            assert set(reader.errors) <= {"0A000"}, (order, moves, known)
            # Prepared again, at the second attempt where a server has a copy of the old shape, it works everywhere.
            for each in (reader, other):
                each.errors.clear()
                if each.name:
                    await each.send(messages.close_statement(each.name))
                await _prepare(each, text, is_described=True)
                assert each.told == FLOAT4, (order, moves, known)
                each.errors.clear()
                for _ in range(3):
                    await each.fetch()
                    await servers.switch()
                assert each.errors == [], (order, moves, known)
            for each in (reader, other):
                each.client.close()


async def _prepare(reader: Reader, text: str, *, is_described: bool) -> None:
    parts = [messages.parse(text, reader.name)]
    if is_described:
        parts.append(messages.describe_statement(reader.name))
    await reader.send(*parts)
    if reader.errors:
        closed = [messages.close_statement(reader.name)] if reader.name else []
        await reader.send(*closed, *parts)


async def test_a_describe_of_another_portal_tells_nothing(pooler: NewPooler, database: Database) -> None:
    table = Table(database)
    async with TwoServers(pooler, database) as servers:
        reader = Reader(await servers.connect())
        await reader.prepare()
        table.alter()
        await servers.switch()
        bind = messages.bind(portal="mine", statement="s", result_formats=BINARY)
        other = messages.parse("select 1 as v") + messages.bind(portal="other", result_formats=BINARY)
        await reader.send(other, bind, messages.describe_portal("other"), messages.execute("mine"))
        assert reader.errors == ["0A000"]


async def test_a_change_costs_each_client_one_error_and_no_later_one(pooler: NewPooler, database: Database) -> None:
    table = Table(database)
    async with TwoServers(pooler, database) as servers:
        readers = [Reader(await servers.connect(), f"name {n}") for n in range(4)]
        for reader in readers:
            await reader.prepare()
            await reader.fetch()
            await servers.switch()
            await reader.fetch()
        table.alter()
        for reader in readers:
            for _ in range(3):
                await reader.fetch()
                await servers.switch()
            assert set(reader.errors) == {"0A000"}
            await reader.send(messages.close_statement(reader.name))
            await reader.prepare()
            reader.errors.clear()
            for _ in range(4):
                await reader.fetch()
                await servers.switch()
            assert reader.errors == []
        late = Reader(await servers.connect())
        await late.prepare()
        await late.fetch()
        assert late.errors == []


async def test_the_error_of_a_changed_shape_is_postgres_own(pooler: NewPooler, database: Database) -> None:
    table = Table(database)
    async with TwoServers(pooler, database) as servers:
        client, direct = await servers.connect(), await RawClient.connect(database.address)
        for each in (client, direct):
            await batch(each, messages.parse(T, "s"), messages.describe_statement("s"))
        table.alter()
        expected = _plain(await batch(direct, bound("s")))
        for _ in range(2):
            await servers.switch()
            received = await batch(client, bound("s"))
            assert _plain(received) == expected
            assert error_fields(received[0].body)["R"] == "RevalidateCachedQuery"  # by which pgjdbc knows it
        await run(client, "begin; insert into t values (2)")
        received = await batch(client, bound("s"))
        assert (sqlstate(received), received[-1].body) == ("0A000", b"E")
        await client.query("rollback")
        direct.close()


async def test_a_change_that_keeps_the_shape_costs_nothing(pooler: NewPooler, database: Database) -> None:
    Table(database)
    async with TwoServers(pooler, database) as servers:
        reader = Reader(await servers.connect())
        await reader.send(messages.parse("select v from t", "s"), messages.describe_statement("s"))
        for ddl in ("alter table t add w text", "create index on t (v)", "alter table t drop w", "analyze t"):
            database.sql(ddl)
            for _ in range(3):
                await reader.fetch()
                await servers.switch()
        assert reader.errors == []


# --- in the middle of a COPY


@pytest.mark.parametrize("behind", [b"", messages.copy_data(b"1\n")])
async def test_a_bind_that_postgresql_reads_while_it_copies_ends_the_session(
    pooler: NewPooler, database: Database, behind: bytes
) -> None:
    async with TwoServers(pooler, database) as servers:
        client = await servers.connect()
        await run(client, "create table copied (a int)")
        await batch(client, messages.parse("select 1", "s"))
        client.send(messages.query("copy copied from stdin") + behind + bound("s") + messages.SYNC)
        received = [await client.receive() for _ in range(3)]
        assert tags(received) == b"GEE"
        assert [error_fields(body)["C"] for tag, body in received if tag == b"E"] == ["08P01", "08P01"]
        assert await client.wait_closed() == b""


async def test_a_bind_behind_the_end_of_a_copy_waits_for_it(pooler: NewPooler, database: Database) -> None:
    async with TwoServers(pooler, database) as servers:
        client = await servers.connect()
        await run(client, "create table copied (a int)")
        await batch(client, messages.parse("select 1", "s"))
        copied = messages.query("copy copied from stdin") + messages.copy_data(b"1\n") + messages.COPY_DONE
        client.send(copied + bound("s") + messages.SYNC)
        received = [*await client.receive_until(b"Z"), *await client.receive_until(b"Z")]
        assert tags(received) == b"GCZ2DCZ"
