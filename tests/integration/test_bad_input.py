"""Bytes that are wrong: each gets its error or an end, soon, and nobody else notices."""

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from harness import messages
from harness.config import cluster, tenant
from harness.databases import Database
from harness.messages import error_fields
from harness.pooler import Pooler
from harness.raw_client import RawClient, ServerClosedError
from harness.waiting import until
from integration.quiet import until_quiet
from pgweir_contract.models import ClusterLimits, TenantEntry

LOGIN_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Target:
    """A pooler with one tenant, a short login timeout, and a client that goes on throughout."""

    process: Pooler
    entry: TenantEntry
    bystander: RawClient

    async def stranger(self) -> RawClient:
        """A connection that has said nothing."""
        return await RawClient.open("127.0.0.1", self.process.port())

    async def client(self) -> RawClient:
        """A logged-in client."""
        return await RawClient.connect(self.process.address(self.entry))


@pytest.fixture
async def target(pooler: Callable[..., Pooler], database18: Database) -> AsyncIterator[Target]:
    """At the end the bystander is served as before, and all servers are idle."""
    entry = tenant(database18, size=2)
    limits = ClusterLimits(login_timeout=LOGIN_TIMEOUT_S, max_half_open_logins=20, drain_timeout=2.0)
    process = pooler(entry, cluster_file=cluster(limits=limits))
    bystander = await RawClient.connect(process.address(entry))
    yield Target(process, entry, bystander)
    assert await bystander.values("select 'here'") == [[b"here"]]
    bystander.close()
    await until_quiet(process, database18)


async def answer(client: RawClient) -> bytes:
    """Everything up to the end of the connection."""
    received = b""
    with contextlib.suppress(ServerClosedError):
        while True:
            received += await client.receive_bytes(1)
    client.abort()
    return received


def error_of(received: bytes) -> dict[str, str]:
    """The fields of an answer that is one ErrorResponse and nothing else."""
    assert received[:1] == b"E", received
    assert int.from_bytes(received[1:5], "big") == len(received) - 1, received
    return error_fields(received[5:])


BAD_STARTUPS = {
    "negative length": struct.pack(">iI", -1, messages.PROTOCOL_3_0),
    "length of nothing": struct.pack(">II", 4, messages.PROTOCOL_3_0),
    "length zero": bytes(8),
    "too long": struct.pack(">II", 1 << 30, messages.PROTOCOL_3_0) + b"user\0",
    "no end": struct.pack(">II", 13, messages.PROTOCOL_3_0) + b"user\0",
    "name without value": struct.pack(">II", 15, messages.PROTOCOL_3_0) + b"user\0\0x",
    "no user": messages.startup({"database": "x"}),
    "protocol 2": struct.pack(">II", 12, 2 << 16) + bytes(4),
    "protocol 9": struct.pack(">II", 12, 9 << 16) + bytes(4),
    "not UTF-8": struct.pack(">II", 17, messages.PROTOCOL_3_0) + b"user\0\xff\xfe\0\0",
}


@pytest.mark.parametrize("what", BAD_STARTUPS)
async def test_a_malformed_startup_is_refused(target: Target, what: str) -> None:
    client = await target.stranger()
    client.send(BAD_STARTUPS[what])
    fields = error_of(await answer(client))
    assert fields["S"] == fields["V"] == "FATAL"
    assert fields["C"] in ("08P01", "0A000", "22023", "28000"), fields
    assert fields["M"]


FOREIGN = {
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: pooler\r\n\r\n",
    "a TLS hello without SSLRequest": bytes.fromhex("16030100c4010000c00303") + bytes(180),
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "noise": bytes(range(255, 0, -1)) * 40,
}


@pytest.mark.parametrize("what", FOREIGN)
async def test_other_protocols_get_an_end(target: Target, what: str) -> None:
    client = await target.stranger()
    started = time.monotonic()
    client.send(FOREIGN[what])
    received = await answer(client)
    assert time.monotonic() - started < LOGIN_TIMEOUT_S, "they need not wait for the login timeout"
    if what == "an HTTP request":
        assert received.startswith(b"HTTP/1.")
    elif received:
        assert error_of(received)["S"] == "FATAL"


@pytest.mark.parametrize("first", [b"", b"\0", messages.startup({"user": "x.acme"})[:20], messages.ssl_request()])
async def test_slow_logins_are_ended(target: Target, first: bytes) -> None:
    client = await target.stranger()
    client.send(first)
    started = time.monotonic()
    received = (await answer(client)).removeprefix(b"N")
    assert LOGIN_TIMEOUT_S * 0.9 < time.monotonic() - started < LOGIN_TIMEOUT_S + 4
    assert error_of(received)["C"] == "08006"


async def test_a_client_that_never_sends_its_password_is_ended(target: Target) -> None:
    address = target.process.address(target.entry)
    client = await target.stranger()
    client.send(messages.startup({"user": address.user, "database": address.database}))
    assert (await client.receive()).tag == b"R"
    assert error_of(await answer(client))["C"] == "08006"


async def test_a_crowd_of_half_open_logins_is_bounded(target: Target) -> None:
    crowd = [await target.stranger() for _ in range(60)]
    await until(
        lambda: sum(client.closed for client in crowd) >= 40, "all but twenty turned away", LOGIN_TIMEOUT_S * 0.9
    )
    await asyncio.gather(*(answer(client) for client in crowd))
    client = await target.client()  # there is room again
    client.close()


BAD_PASSWORDS = {
    "unknown mechanism": messages.password(b"SCRAM-MD5\0" + struct.pack(">I", 1) + b"x"),
    "garbage": messages.password(b"\xff" * 20),
    "empty": messages.password(b""),
    "too long": b"p" + struct.pack(">I", 1 << 30) + b"x",
    "negative length": b"p" + struct.pack(">i", -7) + b"x",
    "a query instead": messages.query("select 1"),
    "inner length too long": messages.password(b"SCRAM-SHA-256\0" + struct.pack(">i", 500) + b"n,,n=,r=x"),
    "inner length negative": messages.password(b"SCRAM-SHA-256\0" + struct.pack(">i", -2) + b"n,,n=,r=x"),
    "channel binding that nobody offered": messages.password(
        b"SCRAM-SHA-256\0" + struct.pack(">i", 26) + b"p=tls-server-end-point,,n=,r=x"[:26]
    ),
}


@pytest.mark.parametrize("what", BAD_PASSWORDS)
async def test_a_malformed_password_is_refused(target: Target, what: str) -> None:
    address = target.process.address(target.entry)
    client = await target.stranger()
    client.send(messages.startup({"user": address.user, "database": address.database}))
    assert (await client.receive()).tag == b"R"
    client.send(BAD_PASSWORDS[what])
    fields = error_of(await answer(client))
    assert fields["S"] == "FATAL"
    assert fields["C"] in ("08P01", "28P01"), fields


BAD_MESSAGES = {
    "unknown type": messages.message(b"y", b"what"),
    "server's type": messages.message(b"Z", b"I"),
    "length zero": b"Q" + bytes(4),
    "length three": b"Q" + struct.pack(">I", 3),
    "negative length": b"Q" + struct.pack(">i", -5),
    "too long": b"Q" + struct.pack(">I", (1 << 31) - 1),
    "a startup again": messages.startup({"user": "x"}),
}


@pytest.mark.parametrize("state", ["idle", "in a transaction"])
@pytest.mark.parametrize("what", BAD_MESSAGES)
async def test_a_malformed_message_ends_the_session(target: Target, what: str, state: str) -> None:
    client = await target.client()
    if state == "in a transaction":
        await client.values("begin; select 1")
    client.send(BAD_MESSAGES[what])
    fields = error_of(await answer(client))
    assert (fields["S"], fields["C"]) == ("FATAL", "08P01")


@pytest.mark.parametrize(
    "sent",
    [
        messages.query("select 'x" + "y" * 100_000)[:50_000],
        messages.parse("select 1")[:-3],
        messages.parse("select 1"),
        messages.parse("select 1") + messages.FLUSH,
        messages.query("begin") + messages.query("select 1")[:7],
        messages.query("copy (select repeat('x', 1000) from generate_series(1, 50000)) to stdout"),
    ],
)
async def test_a_client_that_vanishes_in_the_middle_leaves_nothing(target: Target, sent: bytes) -> None:
    for _ in range(4):
        client = await target.client()
        client.send(sent)
        await asyncio.sleep(0)
        client.abort()
    assert await target.bystander.values("select 'still'") == [[b"still"]]
