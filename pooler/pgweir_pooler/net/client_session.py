"""One logged-in client.

Detached, it costs nothing but this object. Its first message makes it ask its pool for a server; until one is granted,
what it sends waits in `_pending` (its socket is paused above PENDING_LIMIT). With a server, bytes go through both ways,
and the server is released at the ReadyForQuery that frees it (transaction and statement mode) or when the client leaves
(session mode).
"""

from bisect import bisect_left
from time import monotonic
from typing import TYPE_CHECKING

from pgweir_pooler.errors import PoolerError, QueryCanceled, TransactionInStatementMode
from pgweir_pooler.net.boundary import Boundary, replay
from pgweir_pooler.net.client_connection import LINGER_S, SESSION, STATEMENT, TRANSACTION, ClientConnection
from pgweir_pooler.net.server_connection import ServerConnection, error_of
from pgweir_pooler.session.backend_stream import READY_SIZE
from pgweir_pooler.session.frontend_stream import FOR_COPY, FOR_REPLAY, says_goodbye
from pgweir_pooler.session.session_state import MAX_CUSTOM_NAMES, custom_names
from pgweir_pooler.session.suspicion import DEALLOCATED, PREPARED, SETTINGS, deallocated
from pgweir_pooler.session.waiting_batch import first_batch_size
from pgweir_pooler.telemetry import HISTOGRAM_BOUNDS
from pgweir_pooler.wire.framing import HEADER_SIZE, IDLE, IN_TRANSACTION, QUERY, read_header
from pgweir_pooler.wire.messages import FLUSH, error_response_for, ready_for_query

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgweir_pooler.pool.slot import Connection

__all__ = ["LINGER_S", "LOST_IN_A_ROW", "SESSION", "STATEMENT", "TRANSACTION", "ClientSession"]

PENDING_LIMIT = 65_536  # bytes; above, the waiting client's socket is paused
# A server that ends before it was of use is replaced for the waiting client, but not by one after the other for ever:
# a PostgreSQL that accepts logins and ends at once would see thousands a second.
LOST_IN_A_ROW = 5


class ClientSession(ClientConnection):
    """A client after its login, and the server it holds, if any."""

    __slots__ = ()

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
        size = len(pending)
        if (
            stream.is_at_start
            and size > HEADER_SIZE
            and read_header(pending, 0) == (QUERY, size - 1)
            and pending.find(b"(") < 0
        ):
            # `FrontendStream.receive` would come to the same: a server that is lent skips nothing.
            stream.text = pending
            server.stream.pipeline.owed.append(QUERY)
            self.held.counters.bytes_from_clients += size
            server.transport.write(pending)
            return
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
        if self._claimed is not server:  # the query that it was claimed for has been cancelled
            server.stream.is_tainted |= bool(error)
            server.release()
            return
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

    def cancel_wait(self) -> None:
        """A CancelRequest that found us without a server: the query that waits for one is answered as cancelled."""
        size = first_batch_size(self._pending) if self._is_waiting and not self.is_closing else 0
        if not size:
            return
        rest, self._pending = self._pending[size:], b""
        self._is_waiting = self._is_held_up = False
        if self._claimed is None:
            self.pool.abandon(self)
        self._claimed = None  # `_applied` gives it back
        error = QueryCanceled()
        self.clients.counters.error(error.code)
        self.transport.write(error_response_for(error) + ready_for_query())
        self.resume_reading()
        if self._closing_error is not None:
            self.close(self._closing_error)
        elif rest:
            self.data_received(rest)

    # --- with a server

    def adopt(self, server: ServerConnection) -> None:
        """Session mode: the client was told the process id of this server, which has its settings, at its login."""
        self.server = server
        server.client = self
        server.stream.is_session_owned = True

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
        else:
            self.is_heard = True
        if stream.has_news:
            self._handle_news()
        elif self._is_release_due and not stream.remaining:
            self._is_release_due = False
            pipeline = server.stream.pipeline
            if pipeline.is_settled and pipeline.status == IDLE:
                server.stream.asks |= stream.all_asks()  # too late to ask: the client has read that it is ready
                self._release(server)

    def on_answer(self, server: ServerConnection, out: bytes) -> None:
        """The server answered one Query and no transaction is open; the answer ends with `out`."""
        if (
            self._transaction_started != self._started
            or not self._is_ordinary
            or not self.stream.is_at_start
            or self.is_reading_paused
        ):
            self.on_ready(server, out)
            return
        # By far the most common case. `on_ready` would come to the same.
        self.transport.write(out)
        backend = server.stream
        backend.ready_count = backend.transaction_count = 0
        self.ready_at = now = monotonic()
        counters = self.held.counters
        counters.bytes_from_servers += len(out)
        times = counters.alone_time
        query_s = now - self._started
        times.counts[bisect_left(HISTOGRAM_BOUNDS, query_s)] += 1  # `Histogram.observe`, without the call
        times.sum_s += query_s
        self.server = server.client = None
        if backend.is_tainted or server.cancels_under_way or server.is_reading_paused:
            self._stop_stall_watch()  # that last write was one too many for the client, and has paused the server
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
        self._count(server)
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
            self._end_loan()
            self.deliver_mail()
            if self._closing_error is not None:
                self.close(self._closing_error)
        elif stream.remaining:
            self._is_release_due = True
            server.feed_rest()
        else:
            self._release(server)

    def _end_loan(self) -> None:
        """The server goes back, or would if the client were not pinned to it."""
        stream = self.stream
        statements = stream.statements
        if statements is not None and statements.binds + statements.client_parses:
            counters = self.held.counters
            counters.client_parses += statements.client_parses
            counters.server_parses += statements.server_parses
            counters.binds += statements.binds
            statements.client_parses = statements.server_parses = statements.binds = 0
        stream.loan_ended()

    def _count(self, server: ServerConnection) -> None:
        """Takes over what has been counted since the last time, and names that may be settings'."""
        backend = server.stream
        if (backend.asks | self.stream.all_asks()) & SETTINGS:
            self.note_custom_names(custom_names(self.stream.statement_texts()))
            if self.stream.is_text_cut or len(self.custom_names) >= MAX_CUSTOM_NAMES:
                server.has_hidden_settings = True
        if backend.asks & DEALLOCATED:
            backend.asks &= ~DEALLOCATED
            self.forget_statements(server)
        elif backend.asks & PREPARED and backend.pipeline.status == IN_TRANSACTION:
            self.forget_statement(deallocated(self.stream.text), server)
        if self.stream.statements is not None and not backend.pipeline.owed:
            self.stream.statements.doomed = None  # what was to drop all has failed
        if backend.ready_count:
            self.ready_at = now = monotonic()
            self.held.counters.queries_ended(
                backend.ready_count, backend.transaction_count, now - self._started, now - self._transaction_started
            )
            backend.ready_count = 0
            self._started = now if backend.pipeline.owed else 0.0
            if backend.transaction_count:
                backend.transaction_count = 0
                self._transaction_started = self._started
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
        elif pipeline.is_skipping and not pipeline.owed:
            self.resume()  # skipped, up to the Sync: there is room behind it
        elif not pipeline.owed or pipeline.reads_copy:
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
        server.stream.pipeline.statements.unnamed = None  # a Query of ours drops it
        self._stop_stall_watch()
        server.feed_rest()

    def keep(self, server: ServerConnection) -> None:
        """The server is the client's again."""
        self._claimed = None
        self.server = server
        server.client = self
        if self._is_writing_paused:
            server.pause_reading()

    def return_server(self, server: ServerConnection) -> None:
        """What is to be known of the server is known: it goes back, unless the client is pinned to it."""
        self._end_loan()
        self._count_pins(self.pins)
        if self.pins:
            self.keep(server)
        else:
            self._claimed = None
            server.release()

    def listen(self, channels: frozenset[bytes], done: "Callable[[PoolerError | None], None]") -> None:
        """Has the hub listen to these channels for the client, instead of those before."""

        def confirmed(error: PoolerError | None) -> None:
            self._awaits_hub = False
            if error is None:
                self.channels = channels
            if not self.is_closing:
                done(error)

        self._awaits_hub = True
        self.clients.hubs.set_channels(self, channels, confirmed)

    def errand_ended(self) -> None:
        """What the session has become is known, and the client has been told that it is ready."""
        self.stream.replay_wanted(is_wanted=bool(self.sql_statements or self.channels))
        self._is_ordinary = not (self.pins or self.channels or self._closing_error)
        if self._closing_error is not None:
            self.close(self._closing_error)
        else:
            self.deliver_mail()
            self.resume()

    def errand_failed(self, error: PoolerError) -> None:
        """What the session has become is not known: it ends."""
        self._claimed = None
        self.close(error)

    # --- the end of a loan

    def _release(self, server: ServerConnection) -> None:
        self.server = None
        server.client = None
        self._end_loan()
        server.stream.pipeline.statements.unnamed = None
        if self._stall_watch is not None:
            self._stop_stall_watch()
        if self.is_reading_paused:
            self.resume_reading()
        if server.stream.rest:
            server.feed_rest()
        server.release()
        if self.mailbox is not None:
            self.deliver_mail()
        if self._closing_error is not None:
            self.close(self._closing_error)

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
            server = self.server
            if server is not None:
                if stream.stop == FOR_REPLAY and server.stream.pipeline.owed:
                    server.transport.write(FLUSH)  # we wait for answers that the client has not asked for yet
                self._go_on(server)
