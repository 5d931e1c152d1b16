"""One connection to PostgreSQL, after its login.

It is lent to one client at a time (`client`), runs short errands of its own between clients (roll back, reset, apply a
client's settings), and tells its pool when PostgreSQL has closed its side: only then its slot is free.

Who may free it: `ClientSession.on_ready` when the stream says so, `ClientSession` when the client goes away. Nothing
here decides that a server is free; `session.pipeline` does.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from pgweir_pooler.errors import PoolerError, ServerUnreachable
from pgweir_pooler.net.flow import PausableProtocol
from pgweir_pooler.pool.keys import CloseReason
from pgweir_pooler.session.backend_stream import BackendStream
from pgweir_pooler.session.session_state import deallocate
from pgweir_pooler.session.settings import (
    NO_SETTINGS,
    RESET_SESSION,
    ROLLBACK,
    UNKNOWN_SETTINGS,
    apply_settings,
)
from pgweir_pooler.session.steps import Settings
from pgweir_pooler.session.suspicion import DEALLOCATED
from pgweir_pooler.wire.cursor import ServerProtocolError
from pgweir_pooler.wire.framing import IDLE, QUERY
from pgweir_pooler.wire.messages import TERMINATE

if TYPE_CHECKING:
    from pgweir_pooler.net.client_session import ClientSession
    from pgweir_pooler.net.server_channel import Route
    from pgweir_pooler.pool.pool import Pool
    from pgweir_pooler.pool.slot import Slot


# How long an errand may take before the server is given up, and how long PostgreSQL may take to close its side.
ERRAND_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 15.0
# How long a query may run on whose client said goodbye without waiting for the answer.
FINISH_TIMEOUT_S = 60.0

ErrandDone = Callable[["ServerConnection", dict[str, str]], None]


class Canceller(Protocol):
    """Sends a CancelRequest for a server's running query, on a connection of its own."""

    def cancel(
        self, server: "ServerConnection", is_wanted: Callable[[], bool] = ..., ended: Callable[[], None] | None = None
    ) -> None: ...


class ServerConnection(PausableProtocol):
    """One server: a transport, a stream, and the client that holds it."""

    __slots__ = (
        "_errand_done",
        "_errand_error",
        "_errand_output",
        "_has_release_due",
        "_is_closing",
        "_is_mid_outgoing",
        "_postponed",
        "_timer",
        "always_resets",
        "canceller",
        "cancels_under_way",
        "client",
        "has_channels",
        "has_hidden_settings",
        "holds_client_back",
        "loop",
        "pool",
        "process_id",
        "route",
        "secret_key",
        "settings",
        "slot",
        "sql_names",
        "stream",
    )

    def __init__(
        self,
        pool: "Pool",
        slot: "Slot",
        canceller: Canceller,
        loop: asyncio.AbstractEventLoop,
        *,
        route: "Route",
        parameters: dict[bytes, bytes],
        key: tuple[int, bytes],
    ) -> None:
        super().__init__()
        self.pool = pool
        self.slot = slot
        self.loop = loop
        self.canceller = canceller
        self.route = route  # that a cancel takes, too
        self.stream = BackendStream(parameters)
        self.process_id, self.secret_key = key
        self.always_resets = False  # it is reset after each client, whatever that client did
        self.client: ClientSession | None = None
        # Settings that the session has.
        self.settings: Settings = NO_SETTINGS
        self.has_hidden_settings = False  # maybe, by names that we do not know: until the next reset
        # Names that the session has beside those of `pipeline.statements`: prepared by SQL, or for SQL's use.
        self.sql_names: set[str] = set()
        self.has_channels = False  # it listens to what its client listens to, so that UNLISTEN finds something
        self.cancels_under_way = 0  # the server is not lent again before they have ended
        self.holds_client_back = False  # its client is not read before they have ended
        self._has_release_due = False
        self._errand_done: ErrandDone | None = None
        self._errand_error: dict[str, str] = {}
        self._postponed: tuple[bytes, Sequence[int]] | None = None  # the errand, until no cancel is under way
        self._errand_output: list[bytes] | None = None  # what PostgreSQL answers, when the errand reads it
        self._timer: asyncio.TimerHandle | None = None
        self._is_closing = False
        self._is_mid_outgoing = False  # the client went away before the end of a message

    # --- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        stream = self.stream
        client = self.client
        try:
            out = stream.receive(data)
        except ServerProtocolError as error:
            self._broke_protocol(error)
            return
        if client is None:
            self._unattended(out)
        elif stream.is_answer_alone:
            client.on_answer(self, out)
        elif stream.ready_count or client.stream.stop:
            client.on_ready(self, out)
        elif out:
            self.pool.counters.bytes_from_servers += len(out)
            client.transport.write(out)

    def pause_writing(self) -> None:
        if self.client is not None:
            self.client.pause_reading()

    def resume_writing(self) -> None:
        if self.client is not None:
            self.client.resume_reading()

    def eof_received(self) -> bool:
        return False  # close our side too

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        done, self._errand_done = self._errand_done, None
        self._is_closing = True
        self.pool.lost(self)
        client, self.client = self.client, None
        if client is not None:
            client.on_server_lost(self)
        elif done is not None:
            done(self, self._errand_error or {"M": "the server closed the connection", "C": "08006"})

    # --- errands: queries of our own while no client is attached

    def run_errand(self, messages: bytes, tags: Sequence[int], done: ErrandDone) -> None:
        """Sends messages of these types and calls `done(self, error fields or {})` when all have been answered.

        `done` is called once, also when the connection is lost (it is gone from the pool then: `is_lost`).
        """
        assert self.client is None and self._errand_done is None
        self._errand_done = done
        self._errand_error = {}
        self.stream.last_error = {}
        self._timer = self.loop.call_later(ERRAND_TIMEOUT_S, self._errand_timed_out)
        if self.cancels_under_way:
            self._postponed = (messages, tags)  # else what was meant for the client's query would hit ours
        else:
            self.stream.pipeline.owed.extend(tags)
            self.transport.write(messages)

    def ask(self, question: bytes, done: Callable[[bytes, dict[str, str]], None]) -> None:
        """Errand: one Query whose answer, all messages of it, is wanted."""
        output: list[bytes] = []
        self._errand_output = output

        def answered(server: ServerConnection, error: dict[str, str]) -> None:
            server._errand_output = None
            done(b"".join(output), error)

        self.run_errand(question, (QUERY,), answered)

    @property
    def was_busy(self) -> bool:
        """Something was owed when the connection ended."""
        return bool(self.stream.pipeline.owed)

    @property
    def is_lost(self) -> bool:
        """The connection is closed or closing; it must not be given back."""
        return self._is_closing

    def apply(self, settings: Settings, done: ErrandDone) -> None:
        """Errand: brings the session to `settings`."""
        statements = self.stream.pipeline.statements
        is_reading_changed = statements.is_reading_changed

        def applied(server: ServerConnection, error: dict[str, str]) -> None:
            # RESET ALL and set_config report what they change: that is not a client's doing.
            server.stream.asks = 0
            statements.is_reading_changed = is_reading_changed
            server.settings = settings
            done(server, error)

        messages, count = apply_settings(settings)
        self.run_errand(messages, (QUERY,) * count, applied)

    def release(self) -> None:
        """Gives the server back, rolled back and reset if need be. No client is attached any more."""
        if self.is_reading_paused:
            self.resume_reading()
        if self._is_closing:
            return
        stream = self.stream
        if self.has_hidden_settings:
            self.has_hidden_settings = False
            self.settings = UNKNOWN_SETTINGS
        if self.cancels_under_way:
            self._has_release_due = True
        elif stream.pipeline.status != IDLE:
            self.run_errand(ROLLBACK + RESET_SESSION, (QUERY, QUERY), _given_back)
        elif stream.is_tainted or stream.is_session_owned or stream.asks:
            self.run_errand(RESET_SESSION, (QUERY,), _given_back)
        elif self.sql_names:
            self.run_errand(deallocate(self.sql_names), (QUERY,), _given_back_without_names)
        else:
            self.pool.give_back(self)

    def client_gone(self, *, is_mid_message: bool, said_goodbye: bool) -> None:
        """The client that held this server is gone, at any moment of a transaction.

        What it sent before a Terminate is carried out, as PostgreSQL would; what it left without a word is cancelled.
        """
        self.client = None
        self.resume_reading()
        pipeline = self.stream.pipeline
        if self._is_closing:
            return
        if pipeline.is_settled and not is_mid_message and not self.stream.is_mid_message:
            self.release()
        elif said_goodbye and pipeline.will_settle:
            self._errand_done = _finished
            self._timer = self.loop.call_later(FINISH_TIMEOUT_S, self._errand_timed_out)
        else:
            self._is_mid_outgoing = is_mid_message
            self.pool.discard(self, CloseReason.CLIENT_GONE)

    def cancel_ended(self) -> None:
        """A CancelRequest for this server has been carried out or given up."""
        self.cancels_under_way -= 1
        if self.holds_client_back and not self.cancels_under_way:
            self.holds_client_back = False
            if self.client is not None:
                self.client.resume_reading()
        if self._postponed is not None and not self.cancels_under_way and not self._is_closing:
            messages, tags = self._postponed
            self._postponed = None
            self.stream.pipeline.owed.extend(tags)
            self.transport.write(messages)
        if self._has_release_due and not self.cancels_under_way and not self._is_closing:
            self._has_release_due = False
            self.release()

    # --- the end

    def close(self, reason: CloseReason) -> None:
        """Says goodbye and waits for PostgreSQL to close its side; the slot is free only then."""
        if self._is_closing:
            return
        self._is_closing = True
        self._has_release_due = False
        self._stop_timer()
        self.resume_reading()
        if self.stream.pipeline.is_settled and not self._is_mid_outgoing:
            self.transport.write(TERMINATE)
        else:
            # Maybe in the middle of a message or a query: end of file says it all, a cancel makes it heard.
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.canceller.cancel(self)
        self._timer = self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)

    def _unattended(self, out: bytes) -> None:
        """Bytes arrived while no client is attached: an errand's answer, or something asynchronous."""
        stream = self.stream
        pipeline = stream.pipeline
        stream.ready_count = stream.transaction_count = 0
        if self._is_closing:
            return
        if self._errand_output is not None:
            self._errand_output.append(out)
        error: dict[str, str] = {}
        if stream.errors:
            stream.errors = 0
            # Taken away: for the next client, its server's last words would be words that it has read.
            error, stream.last_error = stream.last_error, {}
            self._errand_error = self._errand_error or error
        if self._errand_done is None:
            self._errand_error = {}
            stream.asks = 0  # a setting that PostgreSQL changed by itself, for all sessions
            if error:
                # PostgreSQL ends this session. Lent before the end of file arrives, it would cost a client its own.
                self.pool.discard(self, CloseReason.SERVER_CLOSED)
            elif pipeline.is_confused:
                self._broke_protocol(ServerProtocolError("an answer that nobody asked for"))
            return
        if self._postponed is not None:
            return
        if pipeline.is_settled:
            self._errand_ended()
        elif pipeline.is_copying_in:  # a client left its COPY FROM STDIN with a Terminate: nobody will send the rest
            self._errand_done = None
            self._stop_timer()
            self.pool.discard(self, CloseReason.CLIENT_GONE)
        elif pipeline.is_confused:
            self._broke_protocol(ServerProtocolError("an answer that does not fit the question"))

    def _errand_ended(self) -> None:
        self._stop_timer()
        done, self._errand_done = self._errand_done, None
        error, self._errand_error = self._errand_error, {}
        self.feed_rest()
        if done is not None:  # also when the rest ended the connection: who waits must hear of it
            done(self, error)

    def feed_rest(self) -> None:
        """Reads what followed the ReadyForQuery that freed this server, with no client to see it."""
        rest, self.stream.rest = self.stream.rest, b""
        if rest:
            self.data_received(rest)

    def _errand_timed_out(self) -> None:
        self._timer = None
        done, self._errand_done = self._errand_done, None
        self.pool.discard(self, CloseReason.RESET_FAILED)
        if done is not None:
            done(self, {"C": "08006", "M": "the server did not answer in time"})

    def _broke_protocol(self, error: PoolerError) -> None:
        client, self.client = self.client, None
        done, self._errand_done = self._errand_done, None
        self._stop_timer()
        if not self._is_closing:
            self.pool.discard(self, CloseReason.BROKEN)
        self.transport.abort()
        if client is not None:
            client.on_server_lost(self)
        elif done is not None:
            done(self, {"C": error.sqlstate, "M": error.text})

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _given_back(server: ServerConnection, error: dict[str, str]) -> None:
    """A server was rolled back and reset between clients."""
    if server.is_lost:
        return
    if error:
        server.pool.discard(server, CloseReason.RESET_FAILED)
        return
    stream = server.stream
    stream.is_session_owned = False
    stream.is_tainted = server.always_resets
    stream.asks = 0
    stream.pipeline.statements.forget()
    stream.pipeline.statements.is_reading_changed = False
    server.sql_names.clear()
    server.has_channels = False
    server.settings = NO_SETTINGS  # DISCARD ALL went back to the values of the server's own login
    server.pool.give_back(server)


def _given_back_without_names(server: ServerConnection, error: dict[str, str]) -> None:
    """What was prepared by SQL has been deallocated."""
    if server.is_lost:
        return
    if error:
        server.pool.discard(server, CloseReason.RESET_FAILED)
        return
    if server.stream.asks & DEALLOCATED:
        server.stream.pipeline.statements.forget()
    server.stream.asks = 0
    server.sql_names.clear()
    server.pool.give_back(server)


def _finished(server: ServerConnection, _error: dict[str, str]) -> None:
    """What a client left behind with a Terminate has been carried out."""
    if not server.is_lost:
        server.release()


def error_of(fields: dict[str, str]) -> ServerUnreachable:
    """An errand's failure as an error for a client that waits for its end."""
    return ServerUnreachable(fields.get("M", "the server failed"))
