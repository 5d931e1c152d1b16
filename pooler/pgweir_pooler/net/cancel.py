"""CancelRequests: the ones that clients send us, and the ones that we send to PostgreSQL.

A cancel names a session by its key. What it ends:

- the query that the session's server works on: the cancel goes to PostgreSQL, and the server is not lent to anybody
  else before PostgreSQL has closed the cancel's connection: by then the signal has been delivered, so it cannot hit the
  next client's query. Just before it is sent it is asked for once more whether that query still runs;
- the query that waits for a server: it is answered at once, and leaves the queue;
- nothing, when the session is idle, unknown or gone.

A client's cancel connection is closed only when all that has been done, as PostgreSQL does it: whoever waits for its
end knows that the cancel hits nothing that it sends from there on.

Bounds: one cancel of a server is under way at a time, what comes meanwhile is carried out by one more behind it; and an
instance gets at most MAX_IN_FLIGHT at a time, for each costs it a process.

A cancel goes to the address that its server was reached at, and under TLS when that was: the key in it is a secret.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from pgweir_pooler.errors import PoolerError
from pgweir_pooler.net.server_channel import ServerChannels
from pgweir_pooler.wire.messages import cancel_request

if TYPE_CHECKING:
    from pgweir_pooler.net.clients import Clients
    from pgweir_pooler.net.server_connection import ServerConnection

CANCEL_TIMEOUT_S = 10.0  # of one cancel, its turn included; PgBouncer's cancel_wait_timeout
MAX_IN_FLIGHT = 16  # per instance

Fact = Callable[[], bool]


def _always() -> bool:
    return True


class _UnderWay:
    """The cancels of one server."""

    __slots__ = ("ended", "is_wanted", "task")

    def __init__(self) -> None:
        # What was asked for and is not yet carried out: whether it still has an aim, and whom to tell of its end.
        self.is_wanted: list[Fact] = []
        self.ended: list[Callable[[], None]] = []
        self.task: asyncio.Task[None] | None = None


class CancelSender:
    """Sends CancelRequests to PostgreSQL, each on a connection of its own."""

    def __init__(self, channels: ServerChannels) -> None:
        self._channels = channels
        self._under_way: dict[ServerConnection, _UnderWay] = {}  # each is removed by its task
        # One per host and port that has cancels under way; these keep it.
        self._turns: WeakValueDictionary[tuple[str, int], asyncio.Semaphore] = WeakValueDictionary()

    def cancel(
        self, server: "ServerConnection", is_wanted: Fact = _always, ended: Callable[[], None] | None = None
    ) -> None:
        """Starts a CancelRequest for what the server runs now.

        It is sent if `is_wanted()` still holds then. `ended` is called when it has been carried out or given up.
        """
        cancels = self._under_way.get(server)
        if cancels is None:
            self._under_way[server] = cancels = _UnderWay()
            server.cancels_under_way += (
                1  # now: the query may end before the task runs, and the server must not be lent
            )
            work = self._carry_out(server, cancels)
            cancels.task = asyncio.get_running_loop().create_task(work, name="cancel a query")
        cancels.is_wanted.append(is_wanted)
        if ended is not None:
            cancels.ended.append(ended)

    async def _carry_out(self, server: "ServerConnection", cancels: _UnderWay) -> None:
        ended: list[Callable[[], None]] = []
        try:
            while cancels.is_wanted:
                wanted, cancels.is_wanted = cancels.is_wanted, []
                ended, cancels.ended = cancels.ended, []
                await self._send(server, wanted)
                _tell(ended)
        finally:
            del self._under_way[server]
            server.cancel_ended()
            _tell(ended)
            _tell(cancels.ended)

    async def _send(self, server: "ServerConnection", wanted: list[Fact]) -> None:
        route = server.route
        turns = self._turns.get((route.host, route.port))
        if turns is None:
            turns = self._turns[route.host, route.port] = asyncio.Semaphore(MAX_IN_FLIGHT)
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_S), turns:
                if not server.secret_key or not _still(wanted):
                    return
                channel = await self._channels.reopen(route, _Closing)
                try:
                    if _still(wanted):
                        channel.transport.write(cancel_request(server.process_id, server.secret_key))
                        await channel.protocol.closed.wait()  # PostgreSQL answers by closing
                finally:
                    channel.transport.abort()
        except (PoolerError, TimeoutError):
            pass  # a cancel may always come to nothing; the query runs on


class _Closing(asyncio.Protocol):
    """Waits for the end of a connection."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


def _still(wanted: list[Fact]) -> bool:
    return any(is_wanted() for is_wanted in wanted)


def _tell(ended: list[Callable[[], None]]) -> None:
    """Each is told once."""
    while ended:
        ended.pop()()


def cancel_by_key(clients: "Clients", process_id: int, secret: bytes, ended: Callable[[], None]) -> None:
    """Carries out a client's CancelRequest, then calls `ended`. Unknown keys are ignored, as PostgreSQL does."""
    session = clients.session_of(process_id.to_bytes(4, "big") + secret)
    server = session.server if session is not None else None
    if session is None or server is None:
        if session is not None:
            session.cancel_wait()
        elif clients.console is not None:
            clients.console.cancel(process_id, secret)
        ended()
        return
    if server.is_lost or not server.stream.pipeline.owed:
        ended()
        return
    asked = session.query_started
    server.canceller.cancel(server, lambda: session.server is server and session.query_started == asked != 0.0, ended)
