"""A client that leaves its answers unread: the server that it has given back works for everybody else."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pgweir_pooler.net.client_session import TRANSACTION, ClientSession
from pgweir_pooler.net.server_connection import ServerConnection
from pgweir_pooler.telemetry import PoolCounters


class FullTransport:
    """Takes what is written, and says that this was one too many, as uvloop does from inside `write`."""

    def __init__(self) -> None:
        self.session: ClientSession | None = None
        self.is_paused = False

    def write(self, data: bytes) -> None:
        assert self.session is not None
        self.session.pause_writing()

    def get_write_buffer_size(self) -> int:
        return 100_000

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


class Pool:
    def __init__(self) -> None:
        self.given_back: list[ServerConnection] = []

    def give_back(self, server: ServerConnection, now: float = 0.0) -> None:
        self.given_back.append(server)


@pytest.mark.parametrize("is_full", [True, False])
async def test_the_last_write_of_an_answer_leaves_no_server_paused(is_full: bool) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    pool = Pool()
    server = ServerConnection(
        cast("Any", pool),
        cast("Any", None),
        cast("Any", None),
        loop,
        route=cast("Any", None),
        parameters={},
        key=(0, b""),
    )
    server.connection_made(cast("Any", FullTransport()))
    clients = SimpleNamespace(loop=loop, ids=iter([1]), limits=SimpleNamespace(client_stall_timeout=0.01))
    held = SimpleNamespace(pool=pool, statements=None, counters=PoolCounters())
    session = ClientSession(cast("Any", clients), cast("Any", held), cast("Any", None), (), TRANSACTION, b"key")
    transport = FullTransport()
    session.connection_made(cast("Any", transport))
    transport.session = session
    if not is_full:
        transport.write = lambda data: None  # type: ignore[method-assign]
    session.server, server.client = server, session
    session._started = session._transaction_started = 1.0
    session.on_answer(server, b"the answer")
    assert pool.given_back == [server]
    assert not server.is_reading_paused
    assert not cast("FullTransport", server.transport).is_paused
    assert session.server is None
    assert session._stall_watch is None  # it holds no server, so nobody waits for it to read
    session.resume_writing()
