"""COPY and function calls, in order and out of it: through the pooler every message comes as from PostgreSQL."""

import asyncio
import random

import pytest

from harness import messages
from harness.address import Address
from harness.messages import Message, error_fields
from harness.raw_client import RawClient, ServerClosedError
from harness.waiting import until
from integration.conftest import Route
from integration.copy_scripts import ATOMS, GOOD, IN, SCRIPTS, Script, start
from net.poolers import is_at_rest

# The first one ends a failed transaction, and takes what PostgreSQL 18 says of a portal that a Query behind a batch
# without a Sync has left (PORTAL_LEFT); a server between two loans has been reset.
PORTAL_LEFT = "StartTransactionCommand: unexpected state STARTED"
END = messages.query("rollback") + messages.query("select 'the end'")
END_ROW = b"\0\1\0\0\0\x07the end"
# Where in PostgreSQL's source an error came from is the same, too, but nothing that a client relies on.
_SOURCE_FIELDS = frozenset("FLR")


def _shown(message: Message) -> tuple[bytes, object]:
    """A message as it is compared."""
    if message.tag in (b"E", b"N"):
        return message.tag, {k: v for k, v in error_fields(message.body).items() if k not in _SOURCE_FIELDS}
    return message


async def _play(client: RawClient, script: Script, piece: int) -> list[tuple[bytes, object]]:
    """Sends a script in pieces; all that came back, up to the answer to a last query or the end of the connection."""
    received: list[Message] = []
    try:
        for data, awaited in [*script, (END, b"")]:
            for at in range(0, len(data), piece):
                client.send(data[at : at + piece])
                if piece < len(data) < 1000:
                    await asyncio.sleep(0)
            if awaited:
                received += await client.receive_until(awaited)
        while not received or received[-1].body != END_ROW:
            received.append(await client.receive())
        received += await client.receive_until(b"Z")
    except ServerClosedError as end:
        received.append(Message(b"", end.rest))
    return [_shown(message) for message in received]


async def _seen(client: RawClient) -> list[list[bytes | None]]:
    return await client.values("select count(*), sum(n) from seen")


@pytest.mark.parametrize("group", SCRIPTS)
async def test_every_message_comes_as_from_postgresql(route: Route, group: str) -> None:
    route.database.sql(f"create table seen (n int check (n >= 0)); grant all on seen to {route.database.user}")
    judge = await RawClient.connect(route.database.address)
    for name, script in SCRIPTS[group].items():
        for piece in (1 << 20, 11):
            outcomes = []
            for address in (route.database.address, route.address):
                await judge.query("truncate seen")
                client = await RawClient.connect(address, timeout_s=20)
                try:
                    outcomes.append((await _play(client, script, piece), await _seen(judge)))
                except TimeoutError:
                    pytest.fail(f"{name}, in pieces of {piece}: no answer from port {address.port}")
                client.close()
            assert outcomes[1] == outcomes[0], f"{name}, in pieces of {piece}"
    await until(lambda: is_at_rest(route.process, route.entry), "all at rest")
    judge.close()


async def test_random_scripts_are_answered_as_by_postgresql(route: Route) -> None:
    """Sent in one go, so that what is ambiguous in the protocol is so here."""
    route.database.sql(f"create table seen (n int check (n >= 0)); grant all on seen to {route.database.user}")
    judge = await RawClient.connect(route.database.address)
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    for number in range(60):
        script = [(b"".join(rng.choices(ATOMS, k=rng.randint(2, 9))) + messages.SYNC, b"")]
        outcomes = []
        for address in (route.database.address, route.address):
            await judge.query("truncate seen")
            client = await RawClient.connect(address, timeout_s=20)
            try:
                outcomes.append((await _play(client, script, 1 << 20), await _seen(judge)))
            except TimeoutError:
                pytest.fail(f"script {number} of seed {seed}: no answer from port {address.port}: {script}")
            client.abort()
        if PORTAL_LEFT not in str(outcomes[0]):
            assert outcomes[1] == outcomes[0], f"script {number} of seed {seed}: {script}"
    await until(lambda: is_at_rest(route.process, route.entry), "all at rest")
    judge.close()


DYING = {
    "at the start": messages.query(IN),
    "with data": messages.query(IN) + GOOD,
    "in the middle of a row": messages.query(IN) + GOOD[:-2],
    "in the middle of a header": messages.query(IN) + GOOD + b"d\0\0",
    "in a transaction": messages.query("begin; insert into seen values (1)") + messages.query(IN) + GOOD,
    "extended": start(IN) + messages.FLUSH + GOOD,
    "extended, behind a Sync": start(IN) + messages.SYNC + GOOD,
}


@pytest.mark.parametrize("says_goodbye", [False, True])
async def test_nothing_stays_of_a_client_that_dies_in_a_copy(route: Route, says_goodbye: bool) -> None:
    route.database.sql(f"create table seen (n int); grant all on seen to {route.database.user}")
    for how, data in DYING.items():
        client = await RawClient.connect(route.address)
        client.send(data)
        await client.receive_until(b"G")
        if says_goodbye:
            client.close()
        else:
            client.abort()
        await until(lambda: is_at_rest(route.process, route.entry), how)
        assert route.database.sql("select count(*) from seen").strip() == "0", how
        assert "active" not in [state for _, state in route.database.backends()], how
        other = await RawClient.connect(route.address)
        assert await other.values("select 7") == [[b"7"]], how
        other.close()


async def test_fifty_clients_copy_in_and_out_at_once(route: Route) -> None:
    """Copies that succeed, fail and are given up, side by side over five servers: each client reads its own."""
    route.database.sql(f"create table seen (n int); grant all on seen to {route.database.user}")

    async def work(address: Address, number: int) -> None:
        client = await RawClient.connect(address)
        for turn in range(6):
            client.send(messages.query("begin; create temp table own (n int) on commit drop"))
            assert b"E" not in messages.tags(await client.receive_until(b"Z"))
            client.send(messages.query("copy own from stdin"))
            await client.receive_until(b"G")
            client.send(messages.copy_data(b"%d\n" % number) * 3)
            client.send(messages.copy_fail("enough") if turn % 3 == 1 else messages.COPY_DONE)
            last = (await client.receive_until(b"Z"))[-1]
            if turn % 3 == 1:
                assert last.body == b"E"
            else:
                received = await client.query("copy own to stdout")
                assert [m.body for m in received if m.tag == b"d"] == [b"%d\n" % number] * 3
            await client.query("commit")
        client.close()

    count = 5 if route.is_session else 50
    await asyncio.gather(*(work(route.address, number) for number in range(count)))
    await until(lambda: is_at_rest(route.process, route.entry), "all at rest")
