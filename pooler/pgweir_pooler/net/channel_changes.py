"""LISTEN and UNLISTEN on their way to the listening servers, and who waits for the answers.

Changes of one turn of the loop go out together. Usually there is one server; while one takes over from another, both
are told, and a batch counts as answered when both have answered.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pgweir_pooler.session.listening import queries

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Sequence

    from pgweir_pooler.net.listening_server import ListeningServer
    from pgweir_pooler.session.listening import Change


class _Batch:
    __slots__ = ("asked", "changes", "waiters")

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.waiters: list[Callable[[], None]] = []
        self.asked: set[ListeningServer] = set()  # have not answered yet


class ChannelChanges:
    """See the module. `servers` says whom to tell, `failed` hears of a server that answered with an error."""

    __slots__ = ("_failed", "_loop", "_next", "_sent", "_servers")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        servers: Callable[[], Iterable[ListeningServer]],
        failed: Callable[[ListeningServer, dict[str, str]], None],
    ) -> None:
        self._loop = loop
        self._servers = servers
        self._failed = failed
        self._next: _Batch | None = None  # goes out in this turn of the loop
        self._sent: list[_Batch] = []  # not answered by all servers; the oldest first

    def add(self, changes: Sequence[Change]) -> None:
        """To be told to the servers."""
        if not changes:
            return
        if self._next is None:
            self._next = _Batch()
            self._loop.call_soon(self._send, self._next)
        self._next.changes += changes

    def wait(self, waiter: Callable[[], None]) -> None:
        """Calls the waiter when all that was added is answered; at once if it is."""
        batch = self._next or (self._sent[-1] if self._sent else None)
        if batch is None:
            waiter()
        else:
            batch.waiters.append(waiter)

    def begin(self, server: ListeningServer, channels: Iterable[bytes]) -> None:
        """A server that is told everything; what is added later follows."""
        batch = _Batch()
        batch.changes += [(True, channel) for channel in channels]
        self._tell(batch, [server])

    def forget(self, server: ListeningServer) -> None:
        """Nobody waits for this server any more."""
        for batch in self._sent:
            batch.asked.discard(server)
        self._settle()

    def clear(self) -> None:
        """No server is left; nobody who waited is told."""
        self._next = None
        self._sent.clear()

    def _send(self, batch: _Batch) -> None:
        if batch is self._next:
            self._next = None
            self._tell(batch, self._servers())

    def _tell(self, batch: _Batch, servers: Iterable[ListeningServer]) -> None:
        batch.asked.update(servers)
        self._sent.append(batch)
        for server in list(batch.asked):
            server.ask(queries(batch.changes), partial(self._answered, batch, server))

    def _answered(self, batch: _Batch, server: ListeningServer, error: dict[str, str]) -> None:
        if error:
            self._failed(server, error)
            return
        batch.asked.discard(server)
        self._settle()

    def _settle(self) -> None:
        while self._sent and not self._sent[0].asked:
            for waiter in self._sent.pop(0).waiters:
                waiter()
