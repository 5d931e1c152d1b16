"""A cancel of a query that waits for a server is answered at once, and nothing of that query reaches PostgreSQL."""

from dataclasses import dataclass

import pytest

from harness import messages
from harness.config import tenant
from harness.databases import Database
from harness.messages import error_fields, tags
from harness.pooler import Pooler
from harness.raw_client import RawClient, cancel
from harness.waiting import until
from net.poolers import NewPooler, is_at_rest, pool_status
from pgweir_contract.models import TenantEntry

INSERT = "insert into seen values (1)"
FUNCTION_CALL = messages.message(b"F", b"\0\0\0\1\0\0\0\0\0\0")


@dataclass
class Scene:
    """The only server of the pool is lent to `holder`; `waiter` asks for it in vain."""

    process: Pooler
    entry: TenantEntry
    database: Database
    holder: RawClient
    waiter: RawClient

    @property
    def waiting(self) -> int:
        return pool_status(self.process, self.entry)["waiting"]

    async def wait_with(self, *parts: bytes) -> None:
        self.waiter.send(*parts)
        await until(lambda: self.waiting == 1, "it waits")

    async def cancel(self) -> None:
        await cancel("127.0.0.1", self.process.port(), self.waiter.pid, self.waiter.secret)

    async def end(self) -> None:
        self.holder.close()
        self.waiter.close()
        await until(lambda: is_at_rest(self.process, self.entry), "all at rest")


@pytest.fixture
async def scene(pooler: NewPooler, database18: Database) -> Scene:
    database18.sql(f"create table seen (n int); grant all on seen to {database18.user}")
    entry = tenant(database18, size=1)
    process = pooler(entry)
    holder, waiter = [await RawClient.connect(process.address(entry)) for _ in range(2)]
    await holder.query("begin")
    return Scene(process, entry, database18, holder, waiter)


@pytest.mark.parametrize(
    "batch",
    [
        messages.query(INSERT),
        messages.query("begin; " + INSERT),
        messages.extended(INSERT),
        messages.parse(INSERT) + messages.query(INSERT) + messages.SYNC,
        FUNCTION_CALL,
    ],
)
async def test_a_waiting_batch_is_answered_as_cancelled(scene: Scene, batch: bytes) -> None:
    await scene.wait_with(batch)
    await scene.cancel()
    received = await scene.waiter.receive_until(b"Z")
    assert tags(received) == b"EZ"
    fields = error_fields(received[0].body)
    assert (fields["S"], fields["V"], fields["C"]) == ("ERROR", "ERROR", "57014")
    assert fields["M"] == "canceling statement due to user request"
    assert received[1].body == b"I"
    assert scene.waiting == 0
    await scene.holder.query("commit")
    assert await scene.waiter.values("select count(*) from seen") == [[b"0"]]
    await scene.end()


async def test_what_follows_the_cancelled_batch_goes_on_waiting(scene: Scene) -> None:
    rest = messages.query("select 'rest'")
    await scene.wait_with(messages.extended(INSERT), messages.extended("select 'next'"), rest[:-3])
    await scene.cancel()
    assert tags(await scene.waiter.receive_until(b"Z")) == b"EZ"
    assert scene.waiting == 1
    scene.waiter.send(rest[-3:])
    await scene.holder.query("commit")
    assert messages.rows(await scene.waiter.receive_until(b"Z")) == [[b"next"]]
    assert messages.rows(await scene.waiter.receive_until(b"Z")) == [[b"rest"]]
    assert scene.database.sql("select count(*) from seen").strip() == "0"
    await scene.end()


async def test_copy_data_behind_a_cancelled_copy_is_ignored_as_by_postgresql(scene: Scene) -> None:
    await scene.wait_with(messages.query("copy seen from stdin"), messages.copy_data(b"1\n"), messages.COPY_DONE)
    await scene.cancel()
    assert tags(await scene.waiter.receive_until(b"Z")) == b"EZ"
    assert scene.waiting == 0
    await scene.holder.query("commit")
    assert await scene.waiter.values("select count(*) from seen") == [[b"0"]]
    await scene.end()


async def test_a_goodbye_behind_the_cancelled_batch_ends_the_session(scene: Scene) -> None:
    await scene.wait_with(messages.query(INSERT), messages.TERMINATE)
    await scene.cancel()
    assert tags(await scene.waiter.receive_until(b"Z")) == b"EZ"
    assert await scene.waiter.wait_closed() == b""
    assert scene.waiting == 0
    await scene.holder.query("commit")
    assert scene.database.sql("select count(*) from seen").strip() == "0"
    await scene.end()


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (messages.query("select 7 as n")[:-3], messages.query("select 7 as n")[-3:]),
        (messages.parse("select 7") + messages.bind() + messages.execute() + messages.FLUSH, messages.SYNC),
    ],
)
async def test_a_batch_that_is_not_whole_goes_on_waiting(scene: Scene, begin: bytes, end: bytes) -> None:
    await scene.wait_with(begin)
    await scene.cancel()
    assert scene.waiting == 1
    scene.waiter.send(end)
    await scene.holder.query("commit")
    received = await scene.waiter.receive_until(b"Z")
    assert messages.rows(received) == [[b"7"]]
    assert b"E" not in tags(received)
    await scene.end()


async def test_a_large_batch_that_paused_its_client_can_be_cancelled(scene: Scene) -> None:
    """Its socket is read again, and what had waited in it is found to be whole or not."""
    await scene.wait_with(*[messages.query(f"select '{'x' * 30_000}'")] * 8)
    for _ in range(8):
        await scene.cancel()
        assert tags(await scene.waiter.receive_until(b"Z")) == b"EZ"
    await scene.holder.query("commit")
    assert await scene.waiter.values("select 7") == [[b"7"]]
    await scene.end()


async def test_a_client_whose_settings_are_being_applied_gets_its_cancel_and_the_server_goes_back(
    pooler: NewPooler, database18: Database
) -> None:
    """The cancel arrives somewhere around that moment: before, in it, or when the query runs."""
    entry = tenant(database18, size=1)
    process = pooler(entry)
    first, second = [await RawClient.connect(process.address(entry), {"options": f"-c my.n={n}"}) for n in range(2)]
    outcomes: set[bytes] = set()
    for number in range(60):
        first.send(messages.query(f"select current_setting('my.n'), {number}"))
        second.send(messages.query(f"select current_setting('my.n'), {number}"))
        await cancel("127.0.0.1", process.port(), second.pid, second.secret)
        assert messages.rows(await first.receive_until(b"Z")) == [[b"0", b"%d" % number]]
        received = await second.receive_until(b"Z")
        outcomes.add(tags(received))
        if b"E" in tags(received):
            assert error_fields(received[-2].body)["C"] == "57014"
        else:
            assert messages.rows(received) == [[b"1", b"%d" % number]]
    assert b"EZ" in outcomes
    first.close()
    second.close()
    await until(lambda: is_at_rest(process, entry), "all at rest")
