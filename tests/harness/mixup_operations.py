"""What the clients of the mix-up check do. Each operation sends, and states every message it must get back.

An operation starts and ends outside of a transaction, or raises KilledError after it has killed its client.
"""

import asyncio

from harness import messages
from harness.messages import BINARY, COPY_DONE, FLUSH, SYNC
from harness.mixup_client import MixupError, TaggedClient

# Bytes that a careless reader takes for ReadyForQuery (idle), and for a client's Sync or Terminate.
FAKE_READY = b"Z\0\0\0\5I"
FAKE_CLIENT_MESSAGES = b"S\0\0\0\4" + b"X\0\0\0\4"
COUNTER_ROWS = 7  # few, so that clients wait for each other's row locks
BYTEA_OID = 17

# --- simple queries


async def simple(c: TaggedClient) -> None:
    await c.ask(f"select '{c.tag}'", c.value)


async def several_statements(c: TaggedClient) -> None:
    n = c.rng.randint(2, 5)
    c.send(messages.query(";".join(f"select '{c.tag}', {i}" for i in range(n))))
    for i in range(n):
        await c.rows((c.value, str(i).encode()))
    await c.ready()


async def several_statements_and_an_error(c: TaggedClient) -> None:
    c.send(messages.query(f"select '{c.tag}'; select 1/0; select 'never'"))
    await c.rows((c.value,))
    await c.error("22012")
    await c.ready()


async def empty(c: TaggedClient) -> None:
    c.send(messages.query(c.rng.choice(["", ";", "  -- nothing"])))
    await c.each(b"I")
    await c.ready()


async def division_by_zero(c: TaggedClient) -> None:
    c.send(messages.query("select 1/0"))
    await c.error("22012")
    await c.ready()


async def syntax_error(c: TaggedClient) -> None:
    c.send(messages.query(f"selectt '{c.tag}'"))
    await c.error("42601")
    await c.ready()


async def notice(c: TaggedClient) -> None:
    c.send(messages.query(f"do $$ begin raise warning '{c.tag}'; end $$"))
    if c.value not in await c.expect(b"N"):
        raise MixupError("another client's notice")
    await c.complete("DO")
    await c.ready()


async def large_row(c: TaggedClient) -> None:
    times = 200_000 // len(c.tag)
    await c.ask(f"select repeat('{c.tag}', {times}), '{c.tag}'", c.value * times, c.value)


# --- the extended protocol


async def extended(c: TaggedClient) -> None:
    c.send(messages.extended("select $1::text", [c.value]))
    await c.each(b"12T")
    await c.row(c.value)
    await c.complete("SELECT 1")
    await c.ready()


async def extended_empty(c: TaggedClient) -> None:
    c.send(messages.extended(""))
    await c.each(b"12nI")
    await c.ready()


async def extended_syntax_error(c: TaggedClient) -> None:
    c.send(messages.extended("selectt"))
    await c.error("42601")
    await c.ready()


async def pipelined(c: TaggedClient) -> None:
    """Several Syncs in flight; one of the units fails in the middle and skips to its Sync."""
    n = c.rng.randint(2, 6)
    bad = c.rng.randrange(-2, n)
    good = messages.parse("select $1::text") + messages.bind([c.value]) + messages.execute()
    # A set-returning function keeps the planner from dividing early: the error comes with Execute.
    failing = messages.parse("select 1/x from generate_series(0, 0) x") + messages.bind() + messages.execute()
    c.send(*(good + (failing + good if i == bad else good) + SYNC for i in range(n)))
    for i in range(n):
        await c.each(b"12")
        await c.row(c.value)
        await c.complete("SELECT 1")
        await c.each(b"12")
        if i == bad:
            await c.error("22012")
        else:
            await c.row(c.value)
            await c.complete("SELECT 1")
        await c.ready()


async def simple_and_extended_in_one_write(c: TaggedClient) -> None:
    c.send(messages.query(f"select '{c.tag}'"), messages.extended("select $1::text", [c.value]))
    await c.rows((c.value,))
    await c.ready()
    await c.each(b"12T")
    await c.row(c.value)
    await c.complete("SELECT 1")
    await c.ready()


async def flush_and_pause(c: TaggedClient) -> None:
    """As asyncpg does: the pause is inside an implicit transaction, although nothing is owed."""
    c.send(messages.parse("select $1::text"), messages.describe_statement(), FLUSH)
    await c.each(b"1tT")
    await asyncio.sleep(c.rng.uniform(0, 0.01))
    c.send(messages.bind([c.value]), messages.execute(), SYNC)
    await c.each(b"2")
    await c.row(c.value)
    await c.complete("SELECT 1")
    await c.ready()


async def flush_twice_and_pause(c: TaggedClient) -> None:
    c.send(messages.extended("select $1::text", [c.value], end=FLUSH))
    await c.each(b"12T")
    await c.row(c.value)
    await c.complete("SELECT 1")
    await asyncio.sleep(c.rng.uniform(0, 0.01))
    c.send(messages.bind([c.value]), messages.execute(), FLUSH)
    await c.each(b"2")
    await c.row(c.value)
    await c.complete("SELECT 1")
    await asyncio.sleep(c.rng.uniform(0, 0.01))
    c.send(SYNC)
    await c.ready()


async def flush_an_error_and_pause(c: TaggedClient) -> None:
    """After an error the server drops everything up to Sync: it owes nothing and is not free."""
    c.send(messages.parse("select $1::nonsense"), FLUSH)
    await c.error("42704")
    await asyncio.sleep(c.rng.uniform(0, 0.01))
    c.send(messages.bind([c.value]), messages.execute(), SYNC)
    await c.ready()


async def fake_ready(c: TaggedClient) -> None:
    """Rows whose bytes look like messages, both ways, in binary, small and over many reads."""
    size = c.rng.choice([1, 1, 10, 5_000, 30_000])
    shift = b"." * c.rng.randrange(len(FAKE_READY))
    fake = shift + (FAKE_READY if c.rng.random() < 0.8 else FAKE_CLIENT_MESSAGES) * size
    c.send(messages.parse("select $2::text, $1::bytea", types=[BYTEA_OID]))
    c.send(messages.bind([fake, c.value], formats=[BINARY, BINARY], result_formats=[BINARY]))
    c.send(messages.execute(), SYNC)
    await c.each(b"12")
    await c.row(c.value, fake)
    await c.complete("SELECT 1")
    await c.ready()


async def fake_ready_as_text(c: TaggedClient) -> None:
    size = c.rng.choice([1, 10, 3_000])
    sql = f"select '{c.tag}', repeat('Z' || chr(1) || chr(5) || 'I', {size}), 'ZI'"
    await c.ask(sql, c.value, b"Z\1\5I" * size, b"ZI")


# --- transactions


async def transaction(c: TaggedClient) -> None:
    """Several round trips: all must run on one server, and the marker must end with the transaction."""
    await c.command("begin", "BEGIN", b"T")
    await c.ask(f"select set_config('pgweir.tag', '{c.tag}', true)", c.value, status=b"T")
    pid = await c.answer("select pg_backend_pid()", b"T")
    for _ in range(c.rng.randint(1, 4)):
        if c.rng.random() < 0.2:
            await asyncio.sleep(c.rng.uniform(0, 0.005))
        sql = "select current_setting('pgweir.tag', true), pg_backend_pid()"
        await c.ask(sql, c.value, pid, status=b"T")
    end = c.rng.choice(["commit", "rollback"])
    await c.command(end, end.upper(), b"I")
    if await c.answer("select current_setting('pgweir.tag', true)", b"I"):
        raise MixupError("a transaction's marker is seen outside of it")


async def extended_transaction(c: TaggedClient) -> None:
    """The unnamed statement and a named portal live on over round trips inside a transaction."""
    c.send(messages.query("begin"), messages.parse("select $1::text from generate_series(1, 5)"), SYNC)
    await c.complete("BEGIN")
    await c.ready(b"T")
    await c.each(b"1")
    await c.ready(b"T")
    c.send(messages.bind([c.value], portal="p"), messages.execute("p", 2), SYNC)
    await c.each(b"2")
    await c.row(c.value)
    await c.row(c.value)
    await c.each(b"s")
    await c.ready(b"T")
    c.send(messages.execute("p", 0), SYNC)
    for _ in range(3):
        await c.row(c.value)
    await c.complete("SELECT 3")
    await c.ready(b"T")
    await c.command("commit", "COMMIT", b"I")


async def aborted_transaction(c: TaggedClient) -> None:
    await c.command("begin", "BEGIN", b"T")
    c.send(messages.query("select 1/0"))
    await c.error("22012")
    await c.ready(b"E")
    c.send(messages.query(f"select '{c.tag}'"))
    await c.error("25P02")
    await c.ready(b"E")
    end = c.rng.choice(["commit", "rollback"])
    await c.command(end, "ROLLBACK", b"I")


async def row_lock(c: TaggedClient) -> None:
    """Clients wait for each other's row locks; each committed step must count exactly once."""
    await c.command("begin", "BEGIN", b"T")
    row = c.rng.randrange(COUNTER_ROWS)
    await c.command(f"update {c.table}_counter set steps = steps + 1 where id = {row}", "UPDATE 1", b"T")
    await c.ask(f"select '{c.tag}'", c.value, status=b"T")
    if c.rng.random() < 0.3:
        await c.command("rollback", "ROLLBACK", b"I")
        return
    c.uncertain_steps += 1
    await c.command("commit", "COMMIT", b"I")
    c.uncertain_steps -= 1
    c.committed_steps += 1


async def advisory_lock(c: TaggedClient) -> None:
    await c.command("begin", "BEGIN", b"T")
    await c.ask(f"select pg_advisory_xact_lock({c.rng.randrange(20)})", b"", status=b"T")
    await c.ask(f"select '{c.tag}'", c.value, status=b"T")
    await c.command("commit", "COMMIT", b"I")


# --- COPY


async def copy_in(c: TaggedClient) -> None:
    n = c.rng.randint(1, 20)
    c.send(messages.query(f"copy {c.table} from stdin"))
    await c.each(b"G")
    for i in range(n):
        c.send(messages.copy_data(f"{c.tag}\t{i}\n".encode()))
    c.uncertain_rows += n
    c.send(COPY_DONE)
    await c.complete(f"COPY {n}")
    await c.ready()
    c.uncertain_rows -= n
    c.committed_rows += n
    await c.ask(f"select count(*) from {c.table} where tag = '{c.tag}'", str(c.committed_rows).encode())


async def extended_copy_in(c: TaggedClient) -> None:
    """COPY between Execute and Sync: the server is free at the Sync's answer, not at the COPY's end."""
    c.send(messages.parse(f"copy {c.table} from stdin"), messages.bind(), messages.execute(), FLUSH)
    await c.each(b"12G")
    c.uncertain_rows += 1
    c.send(messages.copy_data(f"{c.tag}\t0\n".encode()), COPY_DONE, SYNC)
    await c.complete("COPY 1")
    await c.ready()
    c.uncertain_rows -= 1
    c.committed_rows += 1


async def copy_in_bad_data(c: TaggedClient) -> None:
    c.send(messages.query(f"copy {c.table} from stdin"))
    await c.each(b"G")
    c.send(messages.copy_data(f"{c.tag}\tnot a number\n".encode()))
    for i in range(c.rng.randint(0, 10)):
        c.send(messages.copy_data(f"{c.tag}\t{i}\n".encode()))
    c.send(COPY_DONE)
    await c.error("22P02")
    await c.ready()


async def copy_fail(c: TaggedClient) -> None:
    c.send(messages.query(f"copy {c.table} from stdin"))
    await c.each(b"G")
    c.send(messages.copy_data(f"{c.tag}\t1\n".encode()), messages.copy_fail(c.tag))
    await c.error("57014")
    await c.ready()


async def copy_out(c: TaggedClient) -> None:
    n = c.rng.choice([1, 10, 300])
    c.send(messages.query(f"copy (select '{c.tag}', i from generate_series(1, {n}) i) to stdout"))
    await c.each(b"H")
    for i in range(1, n + 1):
        if await c.expect(b"d") != f"{c.tag}\t{i}\n".encode():
            raise MixupError("another client's COPY data")
    await c.each(b"c")
    await c.complete(f"COPY {n}")
    await c.ready()


async def copy_out_binary(c: TaggedClient) -> None:
    """CopyData whose bytes look like ReadyForQuery, and a statement after it."""
    value = FAKE_READY * c.rng.choice([1, 2_000])
    copy = f"copy (select '\\x{value.hex()}'::bytea) to stdout (format binary)"
    c.send(messages.query(f"{copy}; select '{c.tag}'"))
    await c.each(b"H")
    received = b""
    while (message := await c.raw.receive()).tag == b"d":
        received += message.body
    if message.tag != b"c" or value not in received:
        raise MixupError(f"COPY data is not ours, or ends with {message.tag!r}")
    await c.complete("COPY 1")
    await c.rows((c.value,))
    await c.ready()


# --- clients that die


async def dies_inside_a_message(c: TaggedClient) -> None:
    whole = messages.query(f"select '{c.tag}', '{'x' * 1000}'")
    c.send(whole[: c.rng.randrange(1, len(whole))])
    await asyncio.sleep(c.rng.uniform(0, 0.005))
    c.kill()


async def dies_in_a_transaction(c: TaggedClient) -> None:
    await c.command("begin", "BEGIN", b"T")
    await c.ask(f"select set_config('pgweir.tag', '{c.tag}', true)", c.value, status=b"T")
    row = c.rng.randrange(COUNTER_ROWS)
    await c.command(f"update {c.table}_counter set steps = steps + 1 where id = {row}", "UPDATE 1", b"T")
    if c.rng.random() < 0.5:
        c.send(messages.query("select 1/0"))  # and the answer meets nobody
    c.kill()


async def dies_in_copy_in(c: TaggedClient) -> None:
    c.send(messages.query(f"copy {c.table} from stdin"))
    await c.each(b"G")
    data = messages.copy_data(f"{c.tag}\t1\n".encode() * 100)
    c.send(data, data[: c.rng.randrange(len(data))])
    c.kill()


async def dies_in_copy_out(c: TaggedClient) -> None:
    c.send(messages.query(f"copy (select repeat('{c.tag}', 50) from generate_series(1, 2000)) to stdout"))
    await c.each(b"H")
    for _ in range(c.rng.randrange(20)):
        await c.each(b"d")
    c.kill()


async def dies_waiting(c: TaggedClient) -> None:
    c.send(messages.query("select pg_sleep(0.02)"))
    await asyncio.sleep(c.rng.uniform(0, 0.03))
    c.kill()


async def dies_after_flush(c: TaggedClient) -> None:
    c.send(messages.parse("select $1::text"), messages.describe_statement(), FLUSH)
    if c.rng.random() < 0.5:
        await c.each(b"1tT")
    c.kill()


async def dies_in_a_pipeline(c: TaggedClient) -> None:
    c.send(messages.extended("select $1::text", [c.value]) * c.rng.randint(1, 5), messages.query("begin"))
    if c.rng.random() < 0.5:
        await c.each(b"12T")
    c.kill()
