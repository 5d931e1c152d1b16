"""How cancels go to PostgreSQL: one at a time per server, a few per instance, and only while they have an aim."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, cast

import pytest

from harness.config import loopback
from pgweir_pooler.net import cancel
from pgweir_pooler.net.cancel import MAX_IN_FLIGHT, CancelSender
from pgweir_pooler.net.server_channel import Route, ServerChannels

if TYPE_CHECKING:
    from pgweir_pooler.net.server_connection import ServerConnection


class _Server:
    """What a CancelSender sees of a server."""

    def __init__(self, port: int, number: int = 7, key: bytes = b"key!") -> None:
        self.route = Route("127.0.0.1", port, "127.0.0.1")
        self.process_id, self.secret_key = number, key
        self.cancels_under_way = 0
        self.ended = asyncio.Event()

    def cancel_ended(self) -> None:
        self.cancels_under_way -= 1
        self.ended.set()

    @property
    def real(self) -> "ServerConnection":
        return cast("ServerConnection", self)

    async def end(self) -> None:
        async with asyncio.timeout(5):
            await self.ended.wait()
        assert self.cancels_under_way == 0


class _Postgres:
    """Takes CancelRequests and closes their connections when told; empty connections come and go."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self.in_flight = self.most_in_flight = 0
        self.came = asyncio.Event()  # a packet; whoever waits for it clears it
        self.closes = asyncio.Event()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packet = await reader.read(16)
        if packet:
            self.packets.append(packet)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.came.set()
            await self.closes.wait()
            self.in_flight -= 1
        writer.close()

    async def packet(self) -> None:
        async with asyncio.timeout(5):
            await self.came.wait()
        self.came.clear()


@pytest.fixture
async def postgres() -> AsyncIterator[_Postgres]:
    fake = _Postgres()
    async with await asyncio.start_server(fake.serve, "127.0.0.1", 0) as listener:
        fake.port = listener.sockets[0].getsockname()[1]
        yield fake


async def test_a_server_counts_as_being_cancelled_from_the_first_moment(postgres: _Postgres) -> None:
    """Else its query may end before the cancel is under way, and the cancel hits the next client's."""
    server, ended = _Server(postgres.port), asyncio.Event()
    CancelSender(ServerChannels(loopback())).cancel(server.real, ended=ended.set)
    assert server.cancels_under_way == 1
    await postgres.packet()
    assert postgres.packets == [b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\7key!"]
    assert not ended.is_set()
    assert not server.ended.is_set()
    postgres.closes.set()
    await server.end()
    assert ended.is_set()


async def test_a_cancel_that_reaches_nobody_ends_too() -> None:
    server, ended = _Server(1), asyncio.Event()
    CancelSender(ServerChannels(loopback())).cancel(server.real, ended=ended.set)
    await server.end()
    assert ended.is_set()


async def test_a_server_that_gave_no_key_is_sent_nothing(postgres: _Postgres) -> None:
    server, ended = _Server(postgres.port, key=b""), asyncio.Event()
    CancelSender(ServerChannels(loopback())).cancel(server.real, ended=ended.set)
    await server.end()
    assert ended.is_set()
    assert postgres.packets == []


async def test_a_cancel_that_nobody_answers_is_given_up(postgres: _Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancel, "CANCEL_TIMEOUT_S", 0.1)
    server, ended = _Server(postgres.port), asyncio.Event()
    CancelSender(ServerChannels(loopback())).cancel(server.real, ended=ended.set)
    await server.end()
    assert ended.is_set()
    postgres.closes.set()


async def test_a_cancel_without_an_aim_is_not_sent(postgres: _Postgres) -> None:
    server, ended = _Server(postgres.port), asyncio.Event()
    CancelSender(ServerChannels(loopback())).cancel(server.real, lambda: False, ended.set)
    await server.end()
    assert ended.is_set()
    assert postgres.packets == []


async def test_a_cancel_whose_aim_goes_while_it_connects_is_not_sent(postgres: _Postgres) -> None:
    server = _Server(postgres.port)
    answers = iter([True, False])
    CancelSender(ServerChannels(loopback())).cancel(server.real, lambda: next(answers))
    await server.end()
    assert postgres.packets == []


async def test_cancels_of_one_server_follow_one_another_and_many_become_one(postgres: _Postgres) -> None:
    server, told = _Server(postgres.port), []
    sender = CancelSender(ServerChannels(loopback()))
    for number in range(100):  # before the first is sent: one serves them all
        sender.cancel(server.real, ended=lambda number=number: told.append(number))  # type: ignore[misc]
    await postgres.packet()
    for number in range(100, 200):  # behind it
        sender.cancel(server.real, ended=lambda number=number: told.append(number))  # type: ignore[misc]
    assert server.cancels_under_way == 1
    assert told == []
    postgres.closes.set()
    await postgres.packet()
    await server.end()
    assert sorted(told) == list(range(200))
    assert len(postgres.packets) == 2
    assert postgres.most_in_flight == 1


async def test_a_later_cancel_without_an_aim_is_dropped(postgres: _Postgres) -> None:
    server, ended = _Server(postgres.port), asyncio.Event()
    sender = CancelSender(ServerChannels(loopback()))
    sender.cancel(server.real)
    await postgres.packet()
    sender.cancel(server.real, lambda: False, ended.set)  # the query has ended when its turn comes
    postgres.closes.set()
    await server.end()
    assert ended.is_set()
    assert len(postgres.packets) == 1


async def test_an_instance_gets_a_few_cancels_at_a_time(postgres: _Postgres) -> None:
    servers = [_Server(postgres.port, number) for number in range(3 * MAX_IN_FLIGHT)]
    sender = CancelSender(ServerChannels(loopback()))
    for server in servers:
        sender.cancel(server.real)
    while postgres.in_flight < MAX_IN_FLIGHT:
        await postgres.packet()
    postgres.closes.set()
    await asyncio.gather(*(server.end() for server in servers))
    assert len(set(postgres.packets)) == len(servers)
    assert postgres.most_in_flight == MAX_IN_FLIGHT
    assert len(sender._turns) == 0


async def test_a_server_can_be_cancelled_again(postgres: _Postgres) -> None:
    server, sender = _Server(postgres.port), CancelSender(ServerChannels(loopback()))
    postgres.closes.set()
    for _ in range(3):
        server.ended.clear()
        sender.cancel(server.real)
        await server.end()
    assert len(postgres.packets) == 3
    assert sender._under_way == {}
