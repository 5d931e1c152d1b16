"""One connection to PostgreSQL that listens, after its login; see `session.listening` for what it says.

It belongs to its holder (a `Hub`) from `Seat` until the holder discards it, and tells the holder once when it ends by
anybody else's doing. A connection that answers nothing for WATCH_S is given up: a network that is silently gone ends
no TCP connection by itself.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Protocol

from pgweir_pooler.net.flow import PausableProtocol
from pgweir_pooler.pool.keys import CloseReason
from pgweir_pooler.session.listening import ARE_YOU_THERE, ListeningStream, Notification
from pgweir_pooler.wire.cursor import ServerProtocolError
from pgweir_pooler.wire.messages import TERMINATE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from pgweir_pooler.directory import TenantPool
    from pgweir_pooler.errors import PoolerError
    from pgweir_pooler.pool.pool import Pool
    from pgweir_pooler.pool.slot import Connection, Slot

    Answered: TypeAlias = Callable[[dict[str, str]], None]

# An idle server is asked for a sign of life this often, and has as long to give one.
WATCH_S = 15.0
CLOSE_TIMEOUT_S = 15.0  # how long PostgreSQL may take to close its side


class Holder(Protocol):
    """Who listens by the server."""

    def on_notification(self, server: ListeningServer, channel: bytes, message: bytes) -> None:
        """`message` is a whole NotificationResponse."""

    def on_lost(self, server: ListeningServer) -> None:
        """The server listens no more; what it was asked and has not answered is never answered."""

    def on_outdated(self, server: ListeningServer) -> None:
        """Another server should take its place: endpoint or password changed, or its pool goes away."""


class ListeningServer(PausableProtocol):
    """See the module."""

    __slots__ = ("_answered", "_is_closing", "_is_silent", "_loop", "_stream", "_timer", "holder", "pool", "slot")

    def __init__(self, pool: Pool, slot: Slot, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.pool = pool
        self.slot = slot
        self.holder: Holder | None = None  # from `hold` to the end
        self._loop = loop
        self._stream = ListeningStream()
        self._answered: deque[Answered | None] = deque()  # for each query that is not answered; None: nobody cares
        self._is_silent = False  # nothing came since the last watch
        self._is_closing = False
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, holder: Holder) -> None:
        """The server is the holder's from now on."""
        self.holder = holder
        self._timer = self._loop.call_later(WATCH_S, self._watch)

    def ask(self, queries: Sequence[bytes], answered: Answered | None = None) -> None:
        """Sends queries; `answered` gets the error fields of the first that failed, or {}; never if it is lost."""
        if self._is_closing or not queries:
            return
        self._stream.owed += len(queries)
        if answered is None:
            self._answered.extend([None] * len(queries))
        else:
            first_error: dict[str, str] = {}
            self._answered.extend([partial(_keep, first_error)] * (len(queries) - 1))
            self._answered.append(partial(_with_first, answered, first_error))
        self.transport.write(b"".join(queries))

    def discard(self) -> None:
        """The holder listens no more."""
        self.holder = None
        self.pool.discard(self, CloseReason.LISTENING_ENDED)

    # --- pool.slot.ListeningConnection

    def renew(self) -> None:
        """Asks the holder to find another one."""
        if self.holder is not None:
            self.holder.on_outdated(self)

    def close(self, reason: CloseReason) -> None:
        """Says goodbye and waits for PostgreSQL to close its side; the slot is free only then."""
        if self._is_closing:
            return
        self._is_closing = True
        self._stop_timer()
        self.transport.write(TERMINATE)
        self._timer = self._loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)
        self._tell_lost()

    # --- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._is_silent = False
        if self._is_closing:
            return
        try:
            found = self._stream.receive(data)
        except ServerProtocolError:
            self.pool.discard(self, CloseReason.BROKEN)
            self.transport.abort()
            return
        for item in found:
            if self._is_closing:  # by what an earlier one led to
                return
            if isinstance(item, Notification):
                if self.holder is not None:
                    self.holder.on_notification(self, item.channel, item.message)
            else:
                answered = self._answered.popleft()
                if answered is not None:
                    answered(item.error)

    def eof_received(self) -> bool:
        return False  # close our side too

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._is_closing = True
        self.pool.lost(self)
        self._tell_lost()

    def _tell_lost(self) -> None:
        holder, self.holder = self.holder, None
        self._answered.clear()
        if holder is not None:
            holder.on_lost(self)

    def _watch(self) -> None:
        self._timer = None
        if self._stream.owed and self._is_silent:
            self.transport.abort()
            return
        self._is_silent = True
        if not self._stream.owed:
            self.ask([ARE_YOU_THERE])
        self._timer = self._loop.call_later(WATCH_S, self._watch)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Opening:
    """A server to listen with was asked for; one of `opened` and `refused` is called, once."""

    __slots__ = ("_opened", "_refused", "pool")

    def __init__(
        self, held: TenantPool, opened: Callable[[ListeningServer], None], refused: Callable[[PoolerError], None]
    ) -> None:
        self.pool = held.pool
        self._opened = opened
        self._refused = refused

    def begin(self) -> None:
        """May call back at once."""
        self.pool.ask_to_listen(self)

    def abandon(self) -> None:
        """Nothing is called any more."""
        self.pool.abandon_listening(self)

    def granted(self, connection: Connection, now: float) -> None:
        assert isinstance(connection, ListeningServer)
        self._opened(connection)

    def refused(self, error: PoolerError) -> None:
        self._refused(error)


def _keep(first_error: dict[str, str], error: dict[str, str]) -> None:
    if not first_error:
        first_error.update(error)


def _with_first(answered: Answered, first_error: dict[str, str], error: dict[str, str]) -> None:
    answered(first_error or error)
