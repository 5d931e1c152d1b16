"""A listening server that is lost: who listened is told, who was about to listen is served, nothing is silent."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from harness.config import tenant
from harness.databases import Database
from harness.waiting import until
from net.listeners import Notifier, Place, listening_backends, terminate_listeners
from pgweir_contract.models import Listen, TenantEntry
from pgweir_operator.local_postgres import PostgresServer
from pgweir_pooler.errors import ListenFailed
from pgweir_pooler.net import listening_server


def entry(database: Database, on_gap: str = "Disconnect") -> TenantEntry:
    return tenant(database, size=1).model_copy(update={"listen": Listen.model_validate({"onGap": on_gap})})


@pytest_asyncio.fixture
async def place() -> AsyncIterator[Place]:
    made = Place()
    yield made
    await made.end()


async def test_a_terminated_listener_ends_its_clients_sessions(place: Place, database: Database) -> None:
    place.put(entry(database))
    clients = [place.client() for _ in range(3)]
    for client in clients:
        await client.listen("a")
    await asyncio.to_thread(terminate_listeners, database)
    for client in clients:
        await client.until(lambda client=client: client.lost)  # type: ignore[misc]
        (error,) = client.lost
        assert (error.severity, error.wire_sqlstate()) == ("FATAL", "57P01")
    assert len(place.hubs) == 0
    assert place.listening() == 0
    await clients[0].listen("a")  # as its application would, after it has connected again


async def test_with_notice_the_clients_are_warned_when_they_can_read_anew_and_hear_on(
    place: Place, database: Database
) -> None:
    place.put(entry(database, "Notice"))
    one, other = place.client(), place.client()
    await one.listen("a")
    await other.listen("a", "b")
    notifier = await Notifier.connect(database.address)
    for round_ in range(3):
        await asyncio.to_thread(terminate_listeners, database)
        for client in (one, other):
            await client.until(lambda client=client, count=round_: len(client.lost) > count)  # type: ignore[misc]
        for channel in "ab":  # told means: it listens again
            await notifier.notify(channel, f"{channel}{round_}")
        await one.until_hears(f"a{round_}")
        await other.until_hears(f"b{round_}")
    assert {(error.severity, error.wire_sqlstate()) for error in one.lost + other.lost} == {("WARNING", "01000")}
    assert one.payloads() == ["a0", "a1", "a2"]
    assert other.payloads() == ["a0", "b0", "a1", "b1", "a2", "b2"]
    await notifier.close()


async def test_a_restart_of_postgres_with_notice(
    place: Place, new_postgres: Callable[..., PostgresServer], new_database: Callable[[PostgresServer], Database]
) -> None:
    server = await asyncio.to_thread(new_postgres)
    database = await asyncio.to_thread(new_database, server)
    place.put(entry(database, "Notice"))
    client = place.client()
    await client.listen("a")
    await asyncio.to_thread(server.restart)
    await client.until(lambda: client.lost)
    notifier = await Notifier.connect(database.address)
    await notifier.notify("a", "after the restart")
    await client.until_hears("after the restart")
    await notifier.close()


async def test_a_restart_of_postgres_with_disconnect_and_a_client_that_comes_while_it_is_down(
    place: Place, new_postgres: Callable[..., PostgresServer], new_database: Callable[[PostgresServer], Database]
) -> None:
    server = await asyncio.to_thread(new_postgres)
    database = await asyncio.to_thread(new_database, server)
    place.put(entry(database))
    client = place.client()
    await client.listen("a")
    await asyncio.to_thread(server.crash)
    await client.until(lambda: client.lost)
    with pytest.raises(ListenFailed) as refused:
        await client.listen("a")
    assert refused.value.wire_sqlstate() == "08006"
    assert len(place.hubs) == 0
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(20):
        while True:
            try:
                await client.listen("a")
                break
            except ListenFailed:
                await asyncio.sleep(0.05)
    notifier = await Notifier.connect(database.address)
    await notifier.notify("a", "back")
    await client.until_hears("back")
    await notifier.close()


async def test_requests_of_the_moment_of_the_loss_are_answered_by_the_next_server(
    place: Place, database: Database
) -> None:
    place.put(entry(database))
    listening, coming = place.client(), place.client()
    await listening.listen("a")
    (pid,) = await asyncio.to_thread(listening_backends, database)
    notifier = await Notifier.connect(database.admin_address)
    wanted = asyncio.create_task(coming.listen("b"))
    await notifier.run(f"select pg_terminate_backend({pid})")
    await listening.until(lambda: listening.lost)
    await wanted
    await notifier.notify("b", "1")
    while not coming.heard and not coming.lost:  # it may have been answered before the end, and lost too
        await coming.until(lambda: coming.heard or coming.lost)
    await notifier.close()


async def test_a_network_that_is_silently_gone_is_noticed(
    place: Place, database18: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening_server, "WATCH_S", 0.2)
    hole = await _Hole.open(database18.server.port)
    at_hole = tenant(database18, size=1)
    place.put(at_hole.model_copy(update={"upstream": at_hole.upstream.model_copy(update={"port": hole.port})}))
    client = place.client()
    await client.listen("a")
    notifier = await Notifier.connect(database18.address)
    await asyncio.sleep(1)  # alive: it stays, however often it is asked
    await notifier.notify("a", "1")
    await client.until_hears("1")
    assert not client.lost
    hole.swallows = True
    await client.until(lambda: client.lost)
    await notifier.close()
    await hole.close()
    await until(lambda: not listening_backends(database18), "the backend behind the hole is gone")


class _Hole:
    """A relay to PostgreSQL that swallows everything when told to, and keeps the connections open."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0
        self.swallows = False

    @classmethod
    async def open(cls, upstream_port: int) -> "_Hole":
        made = cls(upstream_port)
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        made.port = sock.getsockname()[1]
        made._server = await asyncio.start_server(made._serve, sock=sock)
        return made

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        self._writers += [writer, far_writer]
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._relay(source, sink))
            self._tasks.add(task)

    async def _relay(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if not self.swallows:
                    sink.write(data)
        except ConnectionError:
            pass
        if not self.swallows:
            sink.close()

    async def close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
