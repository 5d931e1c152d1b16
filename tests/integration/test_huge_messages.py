"""Huge queries, rows and copies flow through in bounded memory; what is over PostgreSQL's limit is refused by name."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from harness import messages
from harness.config import tenant
from harness.databases import Database
from harness.messages import error_fields
from harness.pooler import Pooler
from harness.raw_client import RawClient
from harness.waiting import until
from net.poolers import NewPooler, is_at_rest, pool_status

MIB = 1 << 20
HUGE = 200 * MIB
LARGE = 40 * MIB  # where being larger than the limit on growth is enough
GROWTH_LIMIT = 32 * MIB
READY = b"Z\0\0\0\5I"
LIMIT = 0x3FFFFFFE  # PostgreSQL's PQ_LARGE_MESSAGE_LIMIT: the length of the longest message


class Sink(RawClient):
    """Counts what it receives instead of keeping it, while `is_counting`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_counting = False
        self.count = 0
        self.tail = b""

    def data_received(self, data: bytes) -> None:
        if not self.is_counting:
            super().data_received(data)
            return
        self.count += len(data)
        self.tail = (self.tail + data[-len(READY) :])[-len(READY) :]
        self._wake()

    async def count_until_ready(self) -> int:
        """Bytes up to a ReadyForQuery that says idle and is the last to come for now."""
        self.is_counting = True
        while self.tail != READY:
            await self._more()
        self.is_counting = False
        self.tail = b""
        count, self.count = self.count, 0
        return count


class Memory:
    """How far the pooler's memory has grown at its highest."""

    def __init__(self, process: Pooler) -> None:
        self._status = Path(f"/proc/{process.pid}/status")
        self._before = self._read("VmRSS")

    def _read(self, name: str) -> int:
        [line] = [line for line in self._status.read_text().splitlines() if line.startswith(name + ":")]
        return int(line.split()[1]) * 1024

    def check(self, what: str) -> None:
        growth = self._read("VmHWM") - self._before
        assert growth < GROWTH_LIMIT, f"{what}: {growth / MIB:.1f} MiB"


async def _a_parameter(client: Sink, _: Database) -> None:
    client.send(messages.parse("select length($1::text)"), messages.bind([b"x" * LARGE]), messages.execute())
    client.send(messages.SYNC)
    assert messages.rows(await client.receive_until(b"Z")) == [[b"%d" % LARGE]]


async def _a_query(client: Sink, _: Database) -> None:
    client.send(messages.query("select 7 --" + "x" * HUGE))
    assert messages.rows(await client.receive_until(b"Z")) == [[b"7"]]


async def _a_row(client: Sink, _: Database) -> None:
    client.send(messages.query(f"select repeat('x', {HUGE})"))
    assert HUGE < await client.count_until_ready() < HUGE + 200


async def _many_rows(client: Sink, _: Database) -> None:
    client.send(messages.query(f"select repeat('x', 1000) from generate_series(1, {LARGE // 1000})"))
    assert LARGE < await client.count_until_ready() < 1.1 * LARGE


async def _a_row_that_nobody_reads_for_a_while(client: Sink, database: Database) -> None:
    client.send(messages.query(f"select repeat('x', {LARGE})"))
    client.transport.pause_reading()
    waits = f"select count(*) from pg_stat_activity where usename = '{database.user}' and wait_event = 'ClientWrite'"
    await until(lambda: database.sql(waits).strip() == "1", "PostgreSQL waits for its reader")
    client.transport.resume_reading()
    assert LARGE < await client.count_until_ready() < LARGE + 200


async def _a_query_behind_one_that_runs(client: Sink, _: Database) -> None:
    """PostgreSQL does not read meanwhile."""
    client.send(messages.query("select pg_sleep(0.5)"), messages.query("select 7 --" + "x" * LARGE))
    await client.receive_until(b"Z")
    assert messages.rows(await client.receive_until(b"Z")) == [[b"7"]]


async def _copies(client: Sink, _: Database) -> None:
    line = b"x" * 65_535 + b"\n"
    await client.query("begin; create temp table lines (t text) on commit drop")
    client.send(messages.query("copy lines from stdin"))
    await client.receive_until(b"G")
    client.send(messages.copy_data(line) * (HUGE // len(line)), messages.COPY_DONE)
    received = await client.receive_until(b"Z")
    assert received[0].body == b"COPY %d\0" % (HUGE // len(line))
    client.send(messages.query("copy lines to stdout; commit"))
    assert HUGE <= await client.count_until_ready() < 1.01 * HUGE


async def _one_copy_message(client: Sink, _: Database) -> None:
    await client.query("begin; create temp table lines (t text) on commit drop")
    client.send(messages.query("copy lines from stdin"), messages.copy_data(b"x" * LARGE), messages.COPY_DONE)
    received = await client.receive_until(b"Z")
    assert messages.tags(received) == b"GCZ"
    client.send(messages.query("copy lines to stdout; commit"))
    assert LARGE < await client.count_until_ready() < LARGE + 200


PASSAGES: dict[str, Callable[[Sink, Database], object]] = {
    name[1:].replace("_", " "): function
    for name, function in globals().items()
    if asyncio.iscoroutinefunction(function) and name.startswith("_")
}


async def test_huge_messages_pass_in_bounded_memory(pooler: NewPooler, database: Database) -> None:
    entry = tenant(database, size=1)
    process = pooler(entry)
    client = await Sink.connect(process.address(entry))
    await client.query("select 1")
    memory = Memory(process)
    for name, pass_it in PASSAGES.items():
        await pass_it(client, database)  # type: ignore[misc]
        memory.check(name)
        assert await client.values("select 7") == [[b"7"]], name
    client.close()
    await until(lambda: is_at_rest(process, entry), "all at rest")


async def test_a_huge_query_that_waits_for_a_server_stays_in_its_socket(
    pooler: NewPooler, database18: Database
) -> None:
    entry = tenant(database18, size=1)
    process = pooler(entry)
    holder, waiter = [await RawClient.connect(process.address(entry)) for _ in range(2)]
    await holder.query("begin")
    memory = Memory(process)
    waiter.send(messages.query("select 7 --" + "x" * LARGE))
    await until(lambda: pool_status(process, entry)["waiting"] == 1, "it waits")
    await holder.query("commit")
    assert messages.rows(await waiter.receive_until(b"Z")) == [[b"7"]]
    memory.check("waiting")
    holder.close()
    waiter.close()


async def test_a_message_over_the_limit_is_refused_at_its_header(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=1)
    process = pooler(entry)
    for before in ("select 1", "begin"):  # the client holds no server, or one
        for tag in (b"Q", b"P", b"B", b"F", b"d"):
            for length in (LIMIT + 1, 1 << 30, 0x7FFFFFFF, 0xFFFFFFFF, 3, 0):
                client = await RawClient.connect(process.address(entry))
                await client.query(before)
                client.send(tag + length.to_bytes(4, "big") + b"the beginning of its body")
                error = error_fields((await client.receive()).body)
                assert (error["S"], error["C"]) == ("FATAL", "08P01")
                assert f"invalid message length {length} of a message of type {tag.decode()!r}" in error["M"]
                assert await client.wait_closed() == b""
    for tag in (b"S", b"H", b"E", b"c", b"f", b"D", b"C"):  # those that are short in PostgreSQL, too
        client = await RawClient.connect(process.address(entry))
        await client.query("begin")
        client.send(tag + (10_001).to_bytes(4, "big"))
        assert error_fields((await client.receive()).body)["C"] == "08P01"
        assert await client.wait_closed() == b""
    await until(lambda: is_at_rest(process, entry), "all at rest")


async def test_a_message_of_the_longest_length_is_taken(pooler: NewPooler, database18: Database) -> None:
    """Its header; nobody wants to send the rest, and PostgreSQL may not have the memory for it."""
    entry = tenant(database18, size=1)
    process = pooler(entry)
    client = await RawClient.connect(process.address(entry))
    client.send(b"Q" + LIMIT.to_bytes(4, "big") + b"select 1 --" + b"x" * MIB)
    await until(lambda: pool_status(process, entry)["serversActive"] == 1, "it is on its way")
    assert not client.closed
    client.abort()
    await until(lambda: is_at_rest(process, entry), "all at rest")
