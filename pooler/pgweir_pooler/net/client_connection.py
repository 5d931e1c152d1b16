"""What is known of one logged-in client, whatever it does, and how its connection ends.

Back-pressure: a client that does not read pauses its server, and is closed when it holds it for `clientStallTimeout`
without taking a byte; a server that does not read pauses its client. No buffer grows beyond the transport's high-water
mark plus one read, notifications apart, which `Mailbox` bounds.
"""

from time import monotonic
from typing import TYPE_CHECKING

from pgweir_pooler.errors import ClientStalled, NotificationsUnread, PoolerError, ServerLost
from pgweir_pooler.net.flow import PausableProtocol, StallWatch
from pgweir_pooler.net.server_connection import ServerConnection
from pgweir_pooler.pool.keys import CloseReason
from pgweir_pooler.session.frontend_stream import FrontendStream
from pgweir_pooler.session.mailbox import LIMIT_BYTES, Mailbox
from pgweir_pooler.session.notification_text import in_encoding
from pgweir_pooler.session.session_state import MAX_CUSTOM_NAMES
from pgweir_pooler.session.settings import reading_settings
from pgweir_pooler.session.statements import name_in_sql
from pgweir_pooler.session.suspicion import LOADED, PIN_REASONS
from pgweir_pooler.wire.framing import IDLE
from pgweir_pooler.wire.messages import error_response_for, notice_response

if TYPE_CHECKING:
    from pgweir_pooler.directory import TenantPool
    from pgweir_pooler.net.clients import Clients
    from pgweir_pooler.pool.pool import Pool
    from pgweir_pooler.session.statement_notes import ClientStatement
    from pgweir_pooler.session.steps import Identity, Settings

TRANSACTION, SESSION, STATEMENT = 0, 1, 2

LINGER_S = 5.0  # how long a closing client may take to read its last words


class ClientConnection(PausableProtocol):
    """What is known of a client after its login, and how its connection ends."""

    __slots__ = (
        "_awaits_hub",
        "_claimed",
        "_closing_error",
        "_counted_pins",
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
        "address_group",
        "channels",
        "clients",
        "connected_at",
        "custom_names",
        "held",
        "id",
        "identity",
        "is_closing",
        "is_heard",
        "key",
        "mailbox",
        "mode",
        "pins",
        "pool",
        "ready_at",
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
        key: bytes,
    ) -> None:
        super().__init__()
        self.clients = clients
        self.held = held
        self.pool: Pool = held.pool  # of the last transaction; `held.pool` when the tenant has moved since
        self.identity = identity
        self.address_group = ""  # what the limits count it by, besides tenant and user; set by the login
        self.settings = settings  # of the session now; the server it gets is brought to them
        self.startup_settings = settings  # what RESET goes back to
        self.sql_statements: dict[str, str] = {}  # prepared by SQL: name -> text
        self.custom_names: frozenset[str] = frozenset()  # settings that it may have made up, asked for by name
        self.channels: frozenset[bytes] = frozenset()  # what it listens to, in UTF-8
        self.mailbox: Mailbox | None = None  # notifications that must wait; made by its first LISTEN
        self._awaits_hub = False  # its LISTEN is answered when the listening server has confirmed
        self._counted_pins = 0
        self.pins = 0  # why the client keeps its server between transactions: bits of `suspicion`
        self.mode = mode
        self.id = next(clients.ids)
        self.connected_at = monotonic()
        self.key = key  # process id and secret: what a CancelRequest must carry
        self.stream = FrontendStream(None if mode == SESSION else held.statements, reading_settings(settings))
        self.server: ServerConnection | None = None
        self._claimed: ServerConnection | None = None  # ours, for an errand: brought to our settings, or asked
        self._lost_in_a_row = 0  # servers that ended before they took our settings
        self._pending = b""  # sent by the client while it waits
        self._is_ordinary = mode != SESSION  # a server that is free goes back without further ado
        self._is_held_up = False  # what the client sends now goes to `_pending`: it waits, must read first, or ends
        self._is_waiting = False  # in the pool's queue, or claiming
        self._started = 0.0  # when the oldest unanswered query was forwarded; time.monotonic
        self._transaction_started = 0.0  # when the first query of the open transaction was forwarded
        self.ready_at = monotonic()  # when the last ReadyForQuery was forwarded
        self.is_heard = False  # the client sent more of an unfinished query; cleared by `timeouts`
        self._is_release_due = False  # the server is free but the client is in the middle of a message
        self._is_writing_paused = False
        self.is_closing = False  # the session has ended; only its last words are still to be read
        self._closing_error: PoolerError | None = None  # to be told at the next transaction boundary
        self._stall_watch: StallWatch | None = None

    # --- back-pressure

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

    def _start(self, work: bytes) -> None:
        """The client wants something while it holds no server."""
        raise NotImplementedError

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

    # --- what `timeouts` asks and does

    @property
    def is_waiting(self) -> bool:
        """It waits for a server, or for one to take its settings."""
        return self._is_waiting

    @property
    def query_started(self) -> float:
        """When the oldest unanswered query was forwarded: another value, another query; 0.0 when there is none."""
        return self._started if self.server is not None else 0.0

    @property
    def transaction_started(self) -> float:
        """When the first query of the open transaction was forwarded. Meaningful while a server is held."""
        return self._transaction_started

    def cancel_query(self, server: ServerConnection) -> None:
        """Cancels what the server runs for us, and reads nothing from the client until the cancel has ended.

        Else the query may end by itself, and the cancel hit the client's next one.
        """
        if not self.is_reading_paused:
            self.pause_reading()
            server.holds_client_back = True
        server.canceller.cancel(server)

    @property
    def last_request_at(self) -> float:
        """When a query was forwarded last, as far as it is remembered; else 0.0."""
        return self._started or self._transaction_started

    # --- what the session holds

    def _count_pins(self, pins: int) -> None:
        """Has the counters show these pins of ours, and no others."""
        changed = pins ^ self._counted_pins
        if changed:
            self._counted_pins = pins
            counts = self.held.counters.pinned
            for bit, reason in PIN_REASONS.items():
                if changed & bit:
                    counts[reason] = counts.get(reason, 0) + (1 if pins & bit else -1)

    def note_custom_names(self, names: frozenset[str]) -> None:
        """Names that may be settings; asked for from now on."""
        if len(self.custom_names) < MAX_CUSTOM_NAMES:
            self.custom_names |= names

    def statement_names(self) -> "dict[bytes, ClientStatement]":
        """What the client has prepared by Parse, by its own names."""
        return self.stream.statements.names if self.stream.statements is not None else {}

    def forget_statement(self, name: bytes | None, server: "ServerConnection") -> None:
        """The client has dropped this one by SQL, in a transaction that would not bring it back."""
        names = server.stream.pipeline.statements.sql_names
        if name is not None and name_in_sql(name) in names and name_in_sql(name) not in self.sql_statements:
            names.remove(name_in_sql(name))
            self.statement_names().pop(name, None)

    def forget_statements(self, server: "ServerConnection") -> None:
        """The client has dropped all prepared statements."""
        on_server = server.stream.pipeline.statements
        if self.stream.statements is not None:
            self.stream.statements.forget(on_server)
        else:
            on_server.forget()
        on_server.sql_names.clear()
        self.sql_statements = {}

    # --- notifications

    def notified(self, message: bytes) -> None:
        """A notification on one of the client's channels; it goes out between transactions."""
        if self.is_closing:
            return
        encoding = dict(self.settings).get("client_encoding", "UTF8")
        try:
            self._post(in_encoding(message, encoding))
        except PoolerError as error:
            self.close_at_boundary(error)

    def listening_lost(self, error: PoolerError) -> None:
        """Notifications may have been lost: the session ends at its boundary, or the client is told."""
        if self.is_closing:
            return
        if error.severity == "FATAL":
            self.channels = frozenset()
            if self._awaits_hub:
                self.close(error)
            else:
                self.close_at_boundary(error)
        else:
            self._post(notice_response(error.severity, error.wire_sqlstate(), error.client_text(), hint=error.hint))

    @property
    def has_listened(self) -> bool:
        """Whether a hub may know this client."""
        return self._awaits_hub or bool(self.channels)

    def deliver_mail(self) -> None:
        """A transaction has ended: what waited for that goes out."""
        if self.mailbox is not None:
            mail = self.mailbox.take()
            if mail:
                self.transport.write(mail)

    def _post(self, message: bytes) -> None:
        mailbox = self.mailbox
        if mailbox is None:
            mailbox = self.mailbox = Mailbox()
        server = self.server
        is_between = self._is_idle_in(server) if server is not None else not (self._claimed or self._awaits_hub)
        out = mailbox.deliver(
            message, is_between_transactions=is_between, unwritten_bytes=self.transport.get_write_buffer_size()
        )
        if mailbox.has_overflown:
            self.close_at_boundary(NotificationsUnread(LIMIT_BYTES))
        elif out:
            self.transport.write(out)

    # --- the end

    def close_at_boundary(self, error: PoolerError) -> None:
        """Ends the session with this error as soon as no transaction is open; at once if none is."""
        if self.is_closing:
            return
        server = self.server
        if self._is_idle_in(server) if server is not None else not (self._is_waiting or self._claimed):
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
        server = self.server
        # In the middle of a server's message the client would take an error for the rest of it.
        if not self.transport.is_closing() and (server is None or not server.stream.forwarded_part_lacks):
            self.transport.write(error_response_for(error))
        self._close_transport()

    def _close_transport(self) -> None:
        self.is_closing = self._is_held_up = True
        self._let_go()
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self.clients.loop.call_later(LINGER_S, self.transport.abort)

    def _let_go(self) -> None:
        """Hands the server back, whatever it is doing."""
        self._count_pins(0)
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
