"""Tells a client why its session ends when its server is in the middle of a message to it.

An error written at once would be taken for the rest of a row. So the rest is let through first: this object stands
where the client stood at the server until the message is whole, then it says the error and closes both. It ends with
the session, or with the server; whoever put it there bounds its time.
"""

from typing import TYPE_CHECKING, cast

from pgweir_pooler.pool.keys import CloseReason

if TYPE_CHECKING:
    from pgweir_pooler.errors import PoolerError
    from pgweir_pooler.net.client_session import ClientSession
    from pgweir_pooler.net.server_connection import ServerConnection


class LastWords:
    """Client and transport of one server, as far as `ServerConnection` uses them."""

    __slots__ = ("_error", "_missing", "_server", "_session", "stream", "transport")

    def __init__(self, session: "ClientSession", server: "ServerConnection", error: "PoolerError") -> None:
        self._session = session
        self._server = server
        self._error = error
        self._missing = server.stream.forwarded_part_lacks  # bytes
        self.stream = session.stream
        self.transport = self
        server.client = cast("ClientSession", self)

    def write(self, data: bytes) -> None:
        """More from the server; it begins with what the message under way lacks."""
        rest = data[: self._missing]
        self._missing -= len(rest)
        session, server = self._session, self._server
        session.transport.write(rest)
        if self._missing:
            return
        session.server = server.client = None
        server.pool.discard(server, CloseReason.CLIENT_GONE)
        session.close(self._error)

    def on_answer(self, server: "ServerConnection", out: bytes) -> None:
        """As `write`."""
        self.write(out)

    def on_ready(self, server: "ServerConnection", out: bytes) -> None:
        """As `write`."""
        self.write(out)

    def on_server_lost(self, server: "ServerConnection") -> None:
        """The rest will not come."""
        self._session.on_server_lost(server)

    def pause_reading(self) -> None:
        """The server does not take what the client sends."""
        self._session.pause_reading()

    def resume_reading(self) -> None:
        """Undoes `pause_reading`."""
        self._session.resume_reading()
