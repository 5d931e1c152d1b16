"""One logged-in client.

Detached, it costs nothing but this object. Its first message makes it ask its pool for a server; until one is granted,
what it sends waits in `_pending` (its socket is paused above PENDING_LIMIT). With a server, bytes go through both ways,
and the server is released at the ReadyForQuery that frees it (transaction and statement mode) or when the client leaves
(session mode).

Back-pressure: a client that does not read pauses its server, and is closed when it holds it for `clientStallTimeout`
without taking a byte; a server that does not read pauses its client. No buffer grows beyond the transport's high-water
mark plus one read.
"""

from bisect import bisect_left
from time import monotonic
from typing import TYPE_CHECKING

from pgweir_pooler.errors import (
    ClientStalled,
    PoolerError,
    ServerLost,
    Terminated,
    TransactionInStatementMode,
)
from pgweir_pooler.net.boundary import Boundary, replay
from pgweir_pooler.net.flow import PausableProtocol, StallWatch
from pgweir_pooler.net.server_connection import ServerConnection, error_of
from pgweir_pooler.pool.keys import CloseReason
from pgweir_pooler.session.backend_stream import READY_SIZE
from pgweir_pooler.session.frontend_stream import FOR_COPY, FrontendStream, says_goodbye
from pgweir_pooler.session.session_state import MAX_CUSTOM_NAMES, custom_names
from pgweir_pooler.session.settings import reading_settings
from pgweir_pooler.session.suspicion import DEALLOCATED, LOADED, SETTINGS
from pgweir_pooler.telemetry import HISTOGRAM_BOUNDS
from pgweir_pooler.wire.framing import IDLE, QUERY
from pgweir_pooler.wire.messages import error_response_for

if TYPE_CHECKING:
    from pgweir_pooler.directory import TenantPool
    from pgweir_pooler.net.clients import Clients
    from pgweir_pooler.pool.pool import Pool
    from pgweir_pooler.pool.slot import Connection
    from pgweir_pooler.session.backend_stream import BackendStream
    from pgweir_pooler.session.statements import ClientStatement
    from pgweir_pooler.session.steps import Identity, Settings

TRANSACTION, SESSION, STATEMENT = 0, 1, 2

PENDING_LIMIT = 65_536  # bytes; above, the waiting client's socket is paused
# A server that ends before it was of use is replaced for the waiting client, but not by one after the other for ever:
# a PostgreSQL that accepts logins and ends at once would see thousands a second.
LOST_IN_A_ROW = 5
LINGER_S = 5.0  # how long a closing client may take to read its last words


class ClientSession(PausableProtocol):
    """A client after its login, and the server it holds, if any."""

    __slots__ = (
        "_claimed",
        "_closing_error",
        "_is_held_up",
        "_is_ordinary",
        "_is_release_due",
        "_is_waiting",
        "_is_writing_paused",
        "_lost_in_a_row",
        "_pending",
        "_stall_watch",
        "_started",
        "_transaction_started",
        "clients",
        "custom_names",
        "held",
        "identity",
        "is_closing",
        "key",
        "mode",
        "pins",
        "pool",
        "server",
        "settings",
        "sql_statements",
        "startup_settings",
        "stream",
    )

    def __init__(
        self,
        clients: "Clients",
        held: "TenantPool",
        identity: "Identity",
        settings: "Settings",
        mode: int,
        key: int,
    ) -> None:
        super().__init__()
        self.clients = clients
        self.held = held
        self.pool: Pool = held.pool  # of the last transaction; `held.pool` when the tenant has moved since
        self.identity = identity
        self.settings = settings  # of the session now; the server it gets is brought to them
        self.startup_settings = settings  # what RESET goes back to
        self.sql_statements: dict[str, str] = {}  # prepared by SQL: name -> text
        self.custom_names: frozenset[str] = frozenset()  # settings that it may have made up, asked for by name
        self.pins = 0  # why the client keeps its server between transactions: bits of `suspicion`
        self.mode = mode
        self.key = key  # process id and secret as one number: what a CancelRequest must carry
        self.stream = FrontendStream(None if mode == SESSION else held.statements, reading_settings(settings))
        self.server: ServerConnection | None = None
        self._claimed: ServerConnection | None = None  # granted, and being brought to our settings
        self._lost_in_a_row = 0  # servers that ended before they took our settings
        self._pending = b""  # sent by the client while it waits
        self._is_ordinary = mode != SESSION  # a server that is free goes back without further ado
        self._is_held_up = False  # what the client sends now goes to `_pending`: it waits, must read first, or ends
        self._is_waiting = False  # in the pool's queue, or claiming
        self._started = 0.0  # when the oldest unanswered query was forwarded; time.monotonic
        self._transaction_started = 0.0  # when the first query of the open transaction was forwarded
        self._is_release_due = False  # the server is free but the client is in the middle of a message
        self._is_writing_paused = False
        self.is_closing = False
        self._closing_error: PoolerError | None = None  # to be told at the next transaction boundary
        self._stall_watch: StallWatch | None = None

    # --- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if self._is_held_up:
            self._wait_with(data)
            return
        server = self.server
        if server is not None:
            self._forward(server, data)
            return
        stream = self.stream
        work = data if data[0] == QUERY and stream.is_at_start else stream.skim(data)
        if work:
            self._start(work)
        elif stream.has_news:
            self._handle_news()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_waiting and not self.is_closing and says_goodbye(self._pending):
            # It said goodbye behind its last query and did not wait: the query is carried out when there is a server.
            self._stop_stall_watch()
            self.clients.left(self)
            return
        self.is_closing = self._is_held_up = True
        self._stop_stall_watch()
        self.clients.left(self)
        self._pending = b""
        if self._is_waiting and self._claimed is None:
            self._is_waiting = False
            self.pool.abandon(self)
        self._let_go()

    def pause_writing(self) -> None:
        self._is_writing_paused = True
        if self.server is not None:
            self.server.pause_reading()
            self._stop_stall_watch()
            clients = self.clients
            self._stall_watch = StallWatch(
                self.transport, clients.limits.client_stall_timeout, clients.loop, self._stalled
            )

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self._stop_stall_watch()
        if self.server is not None:
            self.server.resume_reading()
        elif self._pending and not self._is_waiting and not self.is_closing:
            pending, self._pending = self._pending, b""
            self.resume_reading()
            self._start(pending)

    # --- waiting for a server

    def _start(self, work: bytes) -> None:
        """The client wants something while it holds no server."""
        self._pending = work
        self._is_held_up = True
        if self._is_writing_paused:  # it must read what it got before it gets more
            self.pause_reading()
            return
        self._is_waiting = True
        self.pool = pool = self.held.pool
        now = monotonic()
        server = pool.checkout(self, now)
        if server is not None:
            self.granted(server, now)

    def _wait_with(self, data: bytes) -> None:
        if self.is_closing:
            return
        self._pending += data
        if len(self._pending) > PENDING_LIMIT:
            self.pause_reading()

    def granted(self, connection: "Connection", now: float) -> None:
        """The pool lends us a server."""
        server: ServerConnection = connection  # type: ignore[assignment]  # the pool holds nothing else
        if self.is_closing:
            self._is_waiting = False
            server.release()
            return
        if server.settings is not self.settings and server.settings != self.settings:
            self._claimed = server
            server.apply(self.settings, self._applied)
            return
        self._is_waiting = self._is_held_up = False
        self.server = server
        server.client = self
        if self.mode == SESSION:
            server.stream.is_session_owned = True
        pending = self._pending
        self._pending = b""
        if self.is_reading_paused:
            self.resume_reading()
        self._started = self._transaction_started = now
        stream = self.stream  # `_forward`, without the call and what cannot be yet
        out = stream.receive(pending, server.stream.pipeline)
        self.held.counters.bytes_from_clients += len(out)
        server.transport.write(out)
        if stream.has_news:
            self._handle_news()

    def refused(self, error: PoolerError) -> None:
        """The pool has no server for us."""
        if self.pool is not self.held.pool and not self.is_closing:
            self._ask_again()  # it drains because the tenant has moved: ask where it is now
            return
        self._is_waiting = False
        self.close(error)

    def _ask_again(self) -> None:
        self.pool = self.held.pool
        self.pool.ask(self)

    def _applied(self, server: ServerConnection, error: dict[str, str]) -> None:
        """The claimed server has our settings, or could not take them."""
        self._claimed = None
        if server.is_lost:
            if self.is_closing:
                return
            self._lost_in_a_row += 1
            if self._lost_in_a_row < LOST_IN_A_ROW:
                self._ask_again()  # nothing of the client's was sent: another server will do
                return
            self._is_waiting = False
            self.close(error_of(error))
        elif self.is_closing:
            server.release()
        elif error:
            self._is_waiting = False
            server.stream.is_tainted = True
            server.release()
            self.close(error_of(error))
        else:
            self._lost_in_a_row = 0
            self.granted(server, monotonic())

    # --- with a server

    def _forward(self, server: ServerConnection, data: bytes) -> None:
        stream = self.stream
        out = stream.receive(data, server.stream.pipeline)
        if out:
            self.held.counters.bytes_from_clients += len(out)
            server.transport.write(out)
        if self._started == 0.0:
            self._started = monotonic()
            if self._transaction_started == 0.0:
                self._transaction_started = self._started
        if stream.has_news:
            self._handle_news()
        elif self._is_release_due and not stream.remaining:
            self._is_release_due = False
            pipeline = server.stream.pipeline
            if pipeline.is_settled and pipeline.status == IDLE:
                self._release(server)

    def on_answer(self, server: ServerConnection, out: bytes) -> None:
        """The server answered one Query and no transaction is open; the answer ends with `out`."""
        if (
            self._transaction_started != self._started
            or not self._is_ordinary
            or not self.stream.is_at_start
            or self.is_reading_paused
            or server.is_reading_paused
        ):
            self.on_ready(server, out)
            return
        # By far the most common case. `on_ready` would come to the same.
        self.transport.write(out)
        backend = server.stream
        backend.ready_count = backend.transaction_count = 0
        now = monotonic()
        counters = self.held.counters
        counters.bytes_from_servers += len(out)
        times = counters.alone_time
        query_s = now - self._started
        times.counts[bisect_left(HISTOGRAM_BOUNDS, query_s)] += 1  # `Histogram.observe`, without the call
        times.sum_s += query_s
        self.server = server.client = None
        if backend.is_tainted or server.cancels_under_way:
            server.release()
        else:
            server.pool.give_back(server, now)

    def on_ready(self, server: ServerConnection, out: bytes) -> None:
        """The server sent `out`: with a ReadyForQuery, or something that the client's next message waits for."""
        backend = server.stream
        stream = self.stream
        asks = 0
        if backend.is_free and self.mode != SESSION:
            asks = backend.asks | stream.all_asks()
            if stream.remaining or stream.stop:
                asks = 0  # the server is in the middle of what comes next: at the next boundary
            if asks:  # the client reads that it is ready when we know what its session has become
                out = out[:-READY_SIZE]
        if out:
            self.held.counters.bytes_from_servers += len(out)
            self.transport.write(out)
        self._count(backend)
        if stream.stop:
            if backend.is_free:
                server.feed_rest()
            self._go_on(server)
        elif not backend.is_free:
            if self.mode == STATEMENT and backend.pipeline.status != IDLE:
                self.close(TransactionInStatementMode())
        elif self.mode == SESSION and self._closing_error is None:
            backend.asks = 0
            server.feed_rest()
        elif asks:
            Boundary(self, server, asks).begin()
        elif self.pins:
            server.feed_rest()
            self.stream.loan_ended()
            if self._closing_error is not None:
                self.close(self._closing_error)
        elif stream.remaining:
            self._is_release_due = True
            server.feed_rest()
        else:
            self._release(server)

    def _count(self, backend: "BackendStream") -> None:
        """Takes over what has been counted since the last time, and names that may be settings'."""
        if (backend.asks | self.stream.all_asks()) & SETTINGS:
            self.note_custom_names(custom_names(self.stream.statement_texts()))
        if backend.asks & DEALLOCATED and self.server is not None:
            backend.asks &= ~DEALLOCATED  # what is prepared from now on is there to stay
            backend.pipeline.statements.forget()
            self.server.sql_names.clear()
            self.forget_statements()
        if backend.ready_count:
            now = monotonic()
            counters = self.held.counters
            counters.queries_ended(
                backend.ready_count, backend.transaction_count, now - self._started, now - self._transaction_started
            )
            backend.ready_count = 0
            if backend.transaction_count:
                backend.transaction_count = 0
                self._transaction_started = 0.0
            self._started = now if backend.pipeline.owed else 0.0
        if backend.errors:
            self.held.counters.server_errors += backend.errors
            backend.errors = 0
            if backend.plan_changed:
                backend.plan_changed = False
                if self.stream.statements is not None:
                    self.stream.statements.plan_changed()

    # --- stops in front of a message

    def _go_on(self, server: ServerConnection) -> None:
        """Feeds what the stream has stopped in front of, if the reason is gone."""
        stream = self.stream
        pipeline = server.stream.pipeline
        if stream.stop == FOR_COPY:
            if stream.statements is not None and not stream.statements.can_go_on(pipeline):
                return
            self.resume()
        elif pipeline.is_settled:
            replay(self, server)
        elif not pipeline.owed or pipeline.is_copying_in:
            stream.is_replayed = True  # in the middle of a pipeline: nothing of ours may come between
            self.resume()

    def resume(self) -> None:
        """What the client sent goes on, from the message in front of which it was stopped."""
        stopped = self.stream.take_stopped()
        pending, self._pending = stopped + self._pending, b""
        self._is_held_up = False
        if self.is_reading_paused and not self._is_writing_paused:
            self.resume_reading()
        if pending:
            self.data_received(pending)

    # --- while we have the server ourselves: `boundary`

    def lend_for_errand(self, server: ServerConnection) -> None:
        """Takes the server from the client, which is held up until `keep`, `errand_ended` or `errand_failed`."""
        self._is_held_up = True
        self.server = server.client = None
        self._claimed = server
        self._stop_stall_watch()
        server.feed_rest()

    def keep(self, server: ServerConnection) -> None:
        """The server is the client's again."""
        self._claimed = None
        self.server = server
        server.client = self
        if self._is_writing_paused:
            server.pause_reading()

    def errand_ended(self, server: ServerConnection) -> None:
        """What the session has become is known, and the client has been told that it is ready."""
        self.stream.loan_ended()
        self._is_ordinary = not self.pins and self._closing_error is None
        if self.pins:
            self.keep(server)
        else:
            self._claimed = None
            server.stream.pipeline.statements.unnamed = None
            server.release()
        if self._closing_error is not None:
            self.close(self._closing_error)
        else:
            self.resume()

    def errand_failed(self, error: PoolerError) -> None:
        """What the session has become is not known: it ends."""
        self._claimed = None
        self.close(error)

    def note_custom_names(self, names: frozenset[str]) -> None:
        """Names that may be settings; asked for from now on."""
        if len(self.custom_names) < MAX_CUSTOM_NAMES:
            self.custom_names |= names

    def statement_names(self) -> "dict[bytes, ClientStatement]":
        """What the client has prepared by Parse, by its own names."""
        return self.stream.statements.names if self.stream.statements is not None else {}

    def forget_statements(self) -> None:
        """The client has dropped all its prepared statements."""
        self.statement_names().clear()
        self.sql_statements = {}
        self.stream.replay_wanted(is_wanted=False)

    # --- the end of a loan

    def _release(self, server: ServerConnection) -> None:
        self.server = None
        server.client = None
        self.stream.loan_ended()
        server.stream.pipeline.statements.unnamed = None
        if self._stall_watch is not None:
            self._stop_stall_watch()
        if self.is_reading_paused:
            self.resume_reading()
        if server.stream.rest:
            server.feed_rest()
        server.release()
        if self._closing_error is not None:
            self.close(self._closing_error)

    def on_server_lost(self, server: ServerConnection) -> None:
        """The connection to PostgreSQL ended under us."""
        self.server = None
        self._stop_stall_watch()
        last = server.stream.last_error
        if last.get("V", last.get("S")) in ("FATAL", "PANIC"):
            self._close_transport()  # PostgreSQL's own last words have been forwarded
        else:
            self.close(
                ServerLost(
                    "the connection to the database was lost",
                    hint="Whether a COMMIT under way took effect is not known." if server.was_busy else "",
                )
            )

    def _stalled(self) -> None:
        """The client holds a server and does not read."""
        self._stall_watch = None
        error = ClientStalled("the client does not read its results")
        self.clients.counters.error(error.code)
        self.clients.log_closed(self, error)
        self.is_closing = self._is_held_up = True
        server, self.server = self.server, None
        if server is not None:
            server.client = None
            server.pool.discard(server, CloseReason.CLIENT_STALLED)
        self.transport.abort()

    def _stop_stall_watch(self) -> None:
        if self._stall_watch is not None:
            self._stall_watch.cancel()
            self._stall_watch = None

    # --- the end

    def close_at_boundary(self, detail: str) -> None:
        """Ends the session with 57P01 as soon as no transaction is open; at once if none is."""
        if self.is_closing:
            return
        error = Terminated(detail)
        server = self.server
        if self._is_idle_in(server) if server is not None else not self._is_waiting:
            self.close(error)
        else:
            self._closing_error = error
            self._is_ordinary = False

    def _is_idle_in(self, server: ServerConnection) -> bool:
        pipeline = server.stream.pipeline
        return pipeline.is_settled and pipeline.status == IDLE and not self.stream.is_mid_message

    def close(self, error: PoolerError) -> None:
        """Ends the session with an error that the client reads."""
        if self.is_closing:
            return
        self.clients.counters.error(error.code)
        self.clients.log_closed(self, error)
        if not self.transport.is_closing():
            self.transport.write(error_response_for(error))
        self._close_transport()

    def _close_transport(self) -> None:
        self.is_closing = self._is_held_up = True
        self._let_go()
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self.clients.loop.call_later(LINGER_S, self.transport.abort)

    def _handle_news(self) -> None:
        """The stream has something to say beside bytes to forward."""
        stream = self.stream
        stream.has_news = False
        if stream.error is not None:
            self.close(stream.error)
        elif stream.has_terminated:
            self._close_transport()
        elif stream.stop:
            self._is_held_up = True
            if self.server is not None:
                self._go_on(self.server)

    def _let_go(self) -> None:
        """Hands the server back, whatever it is doing."""
        server, self.server = self.server, None
        if server is not None:
            stream = self.stream
            server.stream.asks |= stream.all_asks()
            server.stream.pipeline.statements.unnamed = None
            if self.pins:
                server.stream.is_tainted = True
            if self.pins & LOADED:
                server.client = None
                server.pool.discard(server, CloseReason.CLIENT_GONE)
                return
            server.client_gone(is_mid_message=stream.is_mid_message, said_goodbye=stream.has_terminated)
