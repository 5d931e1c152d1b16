"""What the clients of the mix-up check do with their sessions: prepared statements, settings, locks, cancels, DDL.

All that a client leaves in its session (`TaggedClient.session`) carries its tag, and later operations look for it.
Names of statements are the same for all clients and texts differ; some texts are the same and names differ.
"""

import asyncio

from harness import messages
from harness.messages import FLUSH, SYNC, error_fields
from harness.mixup_client import MixupError, TaggedClient
from harness.raw_client import cancel

NAMES = ("s1", "s2", "s3", "s4")
_SHARED_TEXT = "select $1::text, $2::int"
_PATHS = ("public", "public, pg_temp", '"$user", public')
_LOCKS = 1_000_000  # keys from here on; each client uses one of its own
_OID_TEXT, _OID_INT4, _OID_FLOAT4 = 25, 23, 700


# --- prepared statements


def _text(c: TaggedClient) -> tuple[str, tuple[bytes, ...]]:
    """A text for one of the shared names, and what it answers before the parameter."""
    kind = c.rng.randrange(4)
    if kind == 0:
        return "select $1::text", ()
    if kind == 1:  # nobody else's
        return f"select '{c.tag}', $1::text", (c.value,)
    number = c.rng.randrange(40)  # some other client's, too
    if kind == 2:
        return f"select {number}, $1::text", (b"%d" % number,)
    return f"select 'a', {number}::float8, $1::text", (b"a", b"%d" % number)


async def _answer(c: TaggedClient, columns: tuple[bytes, ...]) -> None:
    await c.row(*columns, c.value)
    await c.complete("SELECT 1")


async def prepare_and_run(c: TaggedClient) -> None:
    """As asyncpg does: Parse and Describe, read, then Bind. The name may be taken: then it is closed first."""
    name = c.rng.choice(NAMES)
    text, columns = _text(c)
    if name in c.session.statements:
        c.send(messages.close_statement(name))
    end = c.rng.choice([FLUSH, FLUSH, SYNC])
    c.send(messages.parse(text, name), messages.describe_statement(name), end)
    if c.session.statements.pop(name, None) is not None:
        await c.each(b"3")
    await c.each(b"1t")
    described = await c.expect(b"T")
    if int.from_bytes(described[:2], "big") != len(columns) + 1:
        raise MixupError(f"{text!r} is described with {int.from_bytes(described[:2], 'big')} columns")
    c.session.statements[name] = columns
    if end == SYNC:
        await c.ready()
    c.send(messages.bind([c.value], statement=name), messages.execute(), SYNC)
    await c.each(b"2")
    await _answer(c, columns)
    await c.ready()


async def run_prepared(c: TaggedClient) -> None:
    """A statement of an earlier transaction; with a name that was never prepared, PostgreSQL's error."""
    name = c.rng.choice(NAMES)
    columns = c.session.statements.get(name)
    is_described = c.rng.random() < 0.3
    describe = messages.describe_portal() if is_described else b""
    c.send(messages.bind([c.value], statement=name), describe, messages.execute(), SYNC)
    if columns is None:
        await c.error("26000")
    else:
        await c.each(b"2T" if is_described else b"2")
        await _answer(c, columns)
    await c.ready()


async def pipeline_prepared(c: TaggedClient) -> None:
    """Several runs with a Sync each in one write; a name that is not there fails alone."""
    names = [c.rng.choice(NAMES) for _ in range(c.rng.randint(2, 6))]
    c.send(*(messages.bind([c.value], statement=name) + messages.execute() + SYNC for name in names))
    for name in names:
        columns = c.session.statements.get(name)
        if columns is None:
            await c.error("26000")
        else:
            await c.each(b"2")
            await _answer(c, columns)
        await c.ready()


async def same_text_under_two_names(c: TaggedClient) -> None:
    """One text that all clients prepare, under names of this client's own, closed again."""
    names = [f"{c.tag}/{i}" for i in range(2)]
    for name in names:
        c.send(messages.parse(_SHARED_TEXT, name))
    for i, name in enumerate(names):
        c.send(messages.bind([c.value, b"%d" % i], statement=name), messages.execute())
    c.send(*(messages.close_statement(name) for name in names), SYNC)
    await c.each(b"11")
    for i in range(2):
        await c.each(b"2")
        await c.row(c.value, b"%d" % i)
        await c.complete("SELECT 1")
    await c.each(b"33")
    await c.ready()


async def close_and_prepare_again(c: TaggedClient) -> None:
    """A name gets another text in one batch."""
    name = c.rng.choice(NAMES)
    text, columns = _text(c)
    c.send(messages.close_statement(name), messages.parse(text, name))
    c.send(messages.bind([c.value], statement=name), messages.execute(), SYNC)
    await c.each(b"312")
    c.session.statements[name] = columns
    await _answer(c, columns)
    await c.ready()


async def prepare_by_sql(c: TaggedClient) -> None:
    await c.command(f"prepare by_sql(text) as select '{c.tag}', $1", "PREPARE", b"I")
    for _ in range(c.rng.randint(1, 2)):
        await c.ask("select 1", b"1")
        await c.ask("execute by_sql('x')", c.value, b"x")
    await c.command("deallocate by_sql", "DEALLOCATE", b"I")


# --- settings


async def change_settings(c: TaggedClient) -> None:
    """One of three settings gets a value of this client's own; sometimes the change is rolled back."""
    name = c.rng.choice(["application_name", "search_path", "pgweir_mixup.mine"])
    value = c.rng.choice(_PATHS) if name == "search_path" else f"{c.tag}.{c.rng.randrange(100)}"
    command = f"set {name} = {value}" if name == "search_path" else f"set {name} = '{value}'"
    if c.rng.random() < 0.3:
        await c.command("begin", "BEGIN", b"T")
        await c.command(command, "SET", b"T")
        end = c.rng.choice(["commit", "rollback"])
        await c.command(end, end.upper(), b"I")
        if end == "rollback":
            return
    elif c.rng.random() < 0.5:
        await c.ask(f"select set_config('{name}', '{value}', false)", value.encode())
    else:
        await c.command(command, "SET", b"I")
    c.session.settings[name] = value


async def look_at_settings(c: TaggedClient) -> None:
    """What this client has set, and nobody else's."""
    sql = (
        "select current_setting('application_name'), current_setting('search_path'),"
        " nullif(current_setting('pgweir_mixup.mine', true), '')"
    )
    settings = c.session.settings
    mine = settings.get("pgweir_mixup.mine")
    await c.ask(
        sql,
        settings.get("application_name", c.tag).encode(),
        settings.get("search_path", '"$user", public').encode(),
        None if mine is None else mine.encode(),
    )


async def notify(c: TaggedClient) -> None:
    """Nobody listens: the message must reach nobody, this client included."""
    await c.command("begin", "BEGIN", b"T")
    await c.command(f"notify mixup, '{c.tag}'", "NOTIFY", b"T")
    await c.ask(f"select '{c.tag}'", c.value, status=b"T")
    await c.command("commit", "COMMIT", b"I")
    await c.ask(f"select '{c.tag}'", c.value)


# --- cancels


async def cancel_own_sleep(c: TaggedClient) -> None:
    """The cancel hits this query; no other operation of any client may see 57014."""
    c.send(messages.query(f"select '{c.tag}', pg_sleep(30)"))
    await asyncio.sleep(c.rng.uniform(0.01, 0.03))
    c.cancels += 1
    await cancel(c.address.host, c.address.port, c.raw.pid, c.raw.secret)
    # The query may have waited for a server when the cancel came: then there was nothing to cancel.
    while True:
        try:
            async with asyncio.timeout(0.5):
                received = await c.raw.receive()
                break
        except TimeoutError:
            c.cancels += 1
            await cancel(c.address.host, c.address.port, c.raw.pid, c.raw.secret)
    while received.tag in b"TS":
        received = await c.raw.receive()
    if received.tag != b"E" or error_fields(received.body).get("C") != "57014":
        raise MixupError(f"a cancelled sleep ended with {received.tag!r} {received.body[:80]!r}")
    await c.ready()


async def cancel_late(c: TaggedClient) -> None:
    """A cancel that comes when the query is over, or as it ends: this query may fail, nobody else's."""
    c.send(messages.query(f"select '{c.tag}'"))
    c.cancels += 1
    await cancel(c.address.host, c.address.port, c.raw.pid, c.raw.secret)
    received = [await c.raw.receive()]
    while received[-1].tag != b"Z":
        received.append(await c.raw.receive())
    c.queries += 1
    errors = [error_fields(body).get("C") for tag, body in received if tag == b"E"]
    rows = messages.rows(received)
    if errors not in ([], ["57014"]) or (not errors and rows != [[c.value]]) or (rows and rows != [[c.value]]):
        raise MixupError(f"a query that was cancelled late: {errors} {rows}")


# --- DDL under a prepared statement


async def change_table_under_statement(c: TaggedClient) -> None:
    """A cached `select *` of a table of this client's own: 0A000 once, then the new shape; never a wrong value.

    The table is a new one each time: a text whose table was dropped and made anew may get 0A000 once more.
    """
    table = f"{c.table}_{c.tag.replace('-', '_')}_{c.queries}"
    await c.command(f"create table {table} (t text, n int)", "CREATE TABLE", b"I")
    await c.command(f"insert into {table} values ('{c.tag}', 7)", "INSERT 0 1", b"I")
    text = f"select * from {table}"
    await _prepare_described(c, text, [_OID_TEXT, _OID_INT4])
    await _run_cached(c, [c.value, b"7"])
    await c.command(f"alter table {table} alter n type float4 using n + 0.5", "ALTER TABLE", b"I")
    c.send(messages.bind(statement="cached"), messages.execute(), SYNC)
    await c.error("0A000")
    await c.ready()
    c.send(messages.close_statement("cached"), SYNC)
    await c.each(b"3")
    await c.ready()
    await _prepare_described(c, text, [_OID_TEXT, _OID_FLOAT4])
    await _run_cached(c, [c.value, b"7.5"])
    c.send(messages.close_statement("cached"), SYNC)
    await c.each(b"3")
    await c.ready()
    await c.command(f"drop table {table}", "DROP TABLE", b"I")


async def _prepare_described(c: TaggedClient, text: str, types: list[int]) -> None:
    c.send(messages.parse(text, "cached"), messages.describe_statement("cached"), SYNC)
    await c.each(b"1t")
    found = messages.column_types(await c.expect(b"T"))
    if found != types:
        raise MixupError(f"{text!r} is described with {found}, not {types}")
    await c.ready()


async def _run_cached(c: TaggedClient, values: list[bytes]) -> None:
    for _ in range(c.rng.randint(1, 3)):
        c.send(messages.bind(statement="cached"), messages.execute(), SYNC)
        await c.each(b"2")
        await c.row(*values)
        await c.complete("SELECT 1")
        await c.ready()


# --- what keeps a server


async def session_lock(c: TaggedClient) -> None:
    """A session's advisory lock lives over transactions and is this client's alone."""
    key = _LOCKS + int(c.tag.rpartition("-")[2], 16) % 1_000_000_000
    await c.ask(f"select pg_advisory_lock({key})", b"")
    await c.ask(f"select '{c.tag}'", c.value)
    count = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
    await c.ask(count, b"1")
    await c.ask(f"select pg_advisory_unlock({key})", b"t")


async def temporary_table(c: TaggedClient) -> None:
    await c.command("create temp table mine (t text)", "CREATE TABLE", b"I")
    await c.command(f"insert into mine values ('{c.tag}')", "INSERT 0 1", b"I")
    await c.ask("select * from pg_temp.mine", c.value)
    await c.command("drop table mine", "DROP TABLE", b"I")


async def holdable_cursor(c: TaggedClient) -> None:
    query = f"select '{c.tag}' from generate_series(1, 3)"
    await c.command(f"declare held cursor with hold for {query}", "DECLARE CURSOR", b"I")
    c.send(messages.query("fetch 2 from held"))
    await c.expect(b"T")
    await c.row(c.value)
    await c.row(c.value)
    await c.complete("FETCH 2")
    await c.ready()
    await c.command("close held", "CLOSE CURSOR", b"I")
