"""A client from its first byte to its first ReadyForQuery.

Drives a `FrontendLogin`, looks up who it names, applies the limits on clients, and gets the ParameterStatus messages
from a real server (from the pool's memory when a client with the same settings has been here). Then the transport goes
to a `ClientSession`, which costs less memory and does nothing but carry.
"""

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from pgweir_pooler.admission.addresses import group_of, host_of
from pgweir_pooler.admission.failure_time import answer_at
from pgweir_pooler.errors import (
    AuthenticationFailed,
    DatabaseDisabled,
    InvalidParameter,
    LoginTimeout,
    PoolerError,
    ProtocolViolation,
    TenantRejected,
    Terminated,
    TlsFailed,
    TlsRequired,
    TooManyClients,
    TooManyLogins,
    TooManyUsers,
    UnknownDatabase,
)
from pgweir_pooler.net.cancel import cancel_by_key
from pgweir_pooler.net.client_lookup import ClientLookup
from pgweir_pooler.net.client_session import LINGER_S, LOST_IN_A_ROW, SESSION, ClientSession
from pgweir_pooler.net.connect import keep_alive
from pgweir_pooler.net.doorkeeper import Verdict
from pgweir_pooler.net.served_tls import ClientHandshake
from pgweir_pooler.net.server_connection import ServerConnection, error_of
from pgweir_pooler.net.tls_transport import TlsTransport
from pgweir_pooler.orders import DatabaseKey
from pgweir_pooler.pool.client_limits import ClientCaps, Whose
from pgweir_pooler.session.frontend_login import FrontendLogin
from pgweir_pooler.session.settings import render_parameters, split_application_name
from pgweir_pooler.session.startup import CONSOLE_TENANT
from pgweir_pooler.session.steps import (
    Admitted,
    CancelRequested,
    FrontendStep,
    Identity,
    NeedSecret,
    NotPostgres,
    Refused,
    Send,
    UpgradeToTls,
)
from pgweir_pooler.wire.messages import (
    authentication_ok,
    backend_key_data,
    error_response_for,
    ready_for_query,
)

if TYPE_CHECKING:
    from pgweir_pooler.directory import TenantPool
    from pgweir_pooler.net.clients import Clients
    from pgweir_pooler.pool.pool import Pool
    from pgweir_pooler.pool.slot import Connection

# What a client may send ahead of its first ReadyForQuery, after its password.
EARLY_LIMIT = 65_536


class ClientLogin(asyncio.Protocol):
    """One connection that has not logged in yet."""

    def __init__(self, clients: "Clients", mode: int) -> None:
        self._clients = clients
        self._mode = mode
        self._login: FrontendLogin | None = None
        self._early = b""  # after Admitted: bytes for the session to come
        self._asked_for = Identity("", "", "")  # who it says it is, which need not be true nor exist
        self.client_address = ""  # of the connection, unless it was set before; empty when the peer has none
        self._verdict = Verdict.ADMIT
        self._has_begun = False  # it was counted for `loginRatePerAddress`
        self._startup_at = 0.0  # when its StartupMessage was read; 0.0 before
        self._admitted: Admitted | None = None
        self._held: TenantPool | None = None
        self._is_counted = False  # by the limits on clients
        self._lookup: ClientLookup | None = None  # set when its user is known
        self._asked: Pool | None = None  # in whose queue it waits for a server to ask for parameters
        self._lost_in_a_row = 0  # servers that ended before they could be asked
        self._is_closing = False
        self._is_cancel = False  # it sent a CancelRequest: it gets no word, only the end of the connection
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports derive from no asyncio class
        clients = self._clients
        clients.counters.clients_accepted += 1
        self.came_from(self.client_address or host_of(transport.get_extra_info("peername")))
        keep_alive(transport)
        directory = clients.directory
        self._login = FrontendLogin(
            default_tenant=clients.default_tenant,
            server_nonce=clients.new_nonce(),
            is_tenant=directory.tenants.__contains__,
            has_console=clients.console is not None and clients.console.is_open,
            policy=clients.tls.policy,
        )
        self._timer = clients.loop.call_later(clients.limits.login_timeout, self._timed_out)

    def came_from(self, address: str) -> None:
        """The client's address: what limits count it by from here on."""
        self.client_address = address
        self._clients.door.arrived(self, address, self._clients.limits)

    def bar_if_of(self, tenant_id: str) -> None:
        """Too many logins of the tenant have failed from this address: this one will, too."""
        if self._login is not None and self._startup_at and self._asked_for.tenant == tenant_id:
            self._login.bar()

    def data_received(self, data: bytes) -> None:
        if self._is_closing or self._login is None:
            return
        if self._admitted is not None:
            self._early += data
            if len(self._early) > EARLY_LIMIT:
                self._refuse(ProtocolViolation("too many bytes before the first ReadyForQuery"))
            return
        for step in self._login.receive(data):
            self._take(step)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        self._forget()
        self._leave_queue()

    # --- steps

    def _take(self, step: FrontendStep) -> None:
        if self._is_closing:
            return
        match step:
            case Send(data):
                self._transport.write(data)
            case UpgradeToTls(received):
                self._begin_tls(received)
            case NeedSecret():
                self._look_up(step)
            case Admitted():
                self._admit(step)
            case CancelRequested(process_id, secret):
                self._is_cancel = True
                cancel_by_key(self._clients, process_id, secret, self._close)
            case Refused(error):
                self._refuse(error)
            case NotPostgres(reply):
                self._transport.write(reply)
                self._close()

    def _begins_in_time(self) -> bool:
        """Counts the login when it first costs us something, which is the TLS handshake if there is one."""
        if self._has_begun:
            return True
        self._has_begun = True
        return self._clients.door.is_in_time(self.client_address)

    def _begin_tls(self, received: bytes) -> None:
        if not self._begins_in_time():
            self._refuse(TooManyLogins())
            return
        if not received:
            self._transport.write(b"S")
        handshake = ClientHandshake(self._clients.tls, is_direct=bool(received))
        tls = TlsTransport(self._transport, self, handshake.context_for, partial(self._tls_ended, handshake))
        self._transport = tls  # takes no word from us before the handshake has ended
        if received:
            tls.data_received(received)

    def _tls_ended(self, handshake: ClientHandshake, error: TlsFailed | None) -> None:
        """The handshake is over, well or not."""
        if self._is_closing:
            return
        if error is None:
            assert self._login is not None
            assert isinstance(self._transport, TlsTransport)
            try:
                self._login.secured(handshake.channel(self._transport.ssl_object))
                self._clients.counters.tls_handshakes += 1
                return
            except TlsFailed as failed:
                error = failed
        self._refuse(error)

    def _look_up(self, need: NeedSecret) -> None:
        assert self._login is not None
        self._asked_for = Identity(need.tenant, need.user, need.database)
        self._startup_at = self._clients.loop.time()
        if not self._begins_in_time():
            self._refuse(TooManyLogins())
            return
        door = self._clients.door
        self._verdict = door.judge(need.tenant, self.client_address)
        if self._verdict is Verdict.BLOCK:
            self._refuse(AuthenticationFailed(self._login.shown_user))
            return
        if self._verdict is Verdict.BAR:
            self._login.bar()
        console = self._clients.console
        if need.tenant == CONSOLE_TENANT and console is not None:
            verifier, is_real = console.verifier(need.user, self.client_address)
            for step in self._login.secret_found(verifier, real=is_real):
                self._take(step)
            return
        is_barred = self._verdict is Verdict.BAR
        self._lookup = ClientLookup(self._clients, need, self._login, self.client_address, is_barred=is_barred)
        self._lookup.begin(self._found)

    def _found(self, steps: list[FrontendStep]) -> None:
        for step in steps:
            self._take(step)

    def _admit(self, admitted: Admitted) -> None:
        """The client has proved who it is. May it come in, and what does its server look like?"""
        self._admitted = admitted
        assert self._login is not None
        self._early = self._login.unconsumed
        clients = self._clients
        who = admitted.identity
        clients.door.succeeded(who, self.client_address)
        if who.tenant == CONSOLE_TENANT and clients.console is not None:
            self._is_closing = True  # for this object: the connection lives on
            self._forget()
            clients.console.succeeded(who.user, self.client_address)
            clients.console.enter(who.user, admitted.settings, self._transport, self._early, next(clients.ids))
            return
        tenant = clients.directory.tenants.get(who.tenant)
        login = tenant.login_of(who.user) if tenant else None
        if self._lookup is not None:
            self._lookup.succeeded()
        if clients.is_draining or tenant is None or login is None:
            self._refuse(Terminated("the pooler is shutting down" if clients.is_draining else "the tenant was removed"))
            return
        if tenant.entry.require_tls and self._login.channel is None:
            self._refuse(TlsRequired())  # only now: before, it would tell who is a tenant here
            return
        if tenant.entry.access.rejects(datetime.now(UTC)):
            self._refuse(TenantRejected(tenant.entry.access.reason))
            return
        database = tenant.database_for(login, who.database)
        if database is None:
            self._refuse(
                UnknownDatabase(
                    f'database "{who.database}" does not exist',
                    hint="Name the database, as in dbname=NAME or psql -d NAME; without one it is the user's name.",
                )
            )
            return
        if DatabaseKey(database.name, who.tenant) in clients.directory.orders.disabled:
            self._refuse(DatabaseDisabled(database.name))
            return
        limits, pool = clients.limits, tenant.entry.pool
        caps = ClientCaps(
            process=limits.max_clients,
            tenant=pool.max_clients,
            user=login.entry.max_clients or 0,
            address=limits.max_clients_per_address or 0,
            tenant_address=pool.max_clients_per_address or 0,
        )
        over = clients.client_limits.admit(self._whose(), caps)
        if over is not None:
            self._refuse(over)
            return
        self._is_counted = True
        # From here the tenant's limit on clients bounds it: one tenant's logins that wait for a server must not take
        # the places of others.
        clients.logins.discard(self)
        clients.admitted[self] = None
        try:
            self._held = held = clients.directory.pool_for(tenant, database, login)
        except TooManyUsers as error:
            self._refuse(error)
            return
        settings, _ = split_application_name(admitted.settings)
        known = held.parameters.get(settings)
        if known is not None and not self._may_adopt(held.pool):
            self._welcome(known)
        else:
            self._ask()

    def _whose(self) -> Whose:
        """Whom the limits count the client for."""
        assert self._admitted is not None
        who = self._admitted.identity
        return Whose(who.tenant, who.user, group_of(self.client_address))

    # --- asking a server for its parameters

    def _ask(self) -> None:
        assert self._held is not None
        self._asked = pool = self._held.pool
        server = pool.take()
        if server is None:
            pool.ask(self)
        else:
            self.granted(server, 0.0)

    def granted(self, connection: "Connection", now: float) -> None:
        """The pool lends us a server; it is asked, and given back."""
        assert isinstance(connection, ServerConnection)
        assert self._admitted is not None
        assert self._held is not None
        self._asked = None
        settings, _ = split_application_name(self._admitted.settings)
        known = self._held.parameters.get(settings)
        if known is None and not self._is_closing:
            connection.apply(settings, self._applied)
        elif known is None or self._is_closing:
            connection.release()
        else:  # a client like us was told while we waited, or we want the server itself
            self._go_on(known, connection)

    def refused(self, error: PoolerError) -> None:
        """The pool has no server for us: the client learns why before it sends a query in vain."""
        assert self._held is not None
        asked, self._asked = self._asked, None
        if asked is not self._held.pool and not self._is_closing:
            self._ask()  # it drains because the tenant has moved: ask where it is now
            return
        known = self._known() if self._mode == SESSION and not isinstance(error, Terminated) else None
        if known is not None and not self._is_closing:
            self._welcome(known)  # it was asked for the server itself; the first query asks again
            return
        self._refuse(error)

    def _known(self) -> dict[bytes, bytes] | None:
        """The parameters that a client with our settings is told, if some server has been asked."""
        assert self._admitted is not None
        assert self._held is not None
        settings, _ = split_application_name(self._admitted.settings)
        return self._held.parameters.get(settings)

    def _applied(self, server: ServerConnection, error: dict[str, str]) -> None:
        assert self._admitted is not None
        assert self._held is not None
        parameters = dict(server.stream.parameters)
        if server.is_lost:
            self._lost_in_a_row += 1
            if self._is_closing:
                return
            if self._lost_in_a_row < LOST_IN_A_ROW:
                self._ask()
            else:
                self._refuse(error_of(error))
            return
        if error:
            server.stream.is_tainted = True
        if error or self._is_closing or server.pool is not self._held.pool:
            server.release()
        if self._is_closing:
            return
        if server.pool is not self._held.pool:
            self._ask()  # the tenant has moved meanwhile: what this server says does not hold at the new place
            return
        if error:
            text = error.get("M", "the server refused the startup parameters")
            self._refuse(InvalidParameter(text, sqlstate=error.get("C", "22023")))
            return
        settings, _ = split_application_name(self._admitted.settings)
        self._held.remember(settings, parameters)
        self._go_on(parameters, server)

    # --- session mode: the server is there at login, so that the client is told its process id

    def _may_adopt(self, pool: "Pool") -> bool:
        """Whether to take a server now; when all are lent the client takes one at its first query, under another id."""
        assert self._admitted is not None
        minor = self._admitted.protocol_minor
        return self._mode == SESSION and self._clients.keys.shows_process_id(minor) and pool.has_place()

    def _go_on(self, parameters: dict[bytes, bytes], server: ServerConnection) -> None:
        """Everything is known. The server goes back, except that a session-mode client keeps it."""
        assert self._admitted is not None
        minor = self._admitted.protocol_minor
        if self._mode != SESSION or not self._clients.keys.shows_process_id(minor):
            server.release()
            self._welcome(parameters)
            return
        settings = self._clients.interned(self._admitted.settings)
        if server.settings == settings:
            self._welcome(parameters, server)
        else:
            server.apply(settings, partial(self._adopted, parameters))

    def _adopted(self, parameters: dict[bytes, bytes], server: ServerConnection, error: dict[str, str]) -> None:
        """The server has all our settings, or the first query will find another one, or hear why not."""
        assert self._held is not None
        if self._is_closing or error or server.is_lost or server.pool is not self._held.pool:
            server.stream.is_tainted |= bool(error)
            server.release()
            if not self._is_closing:
                self._welcome(parameters)
        else:
            self._welcome(parameters, server)

    # --- the end

    def _welcome(self, parameters: dict[bytes, bytes], server: ServerConnection | None = None) -> None:
        """The client is in: AuthenticationOk, parameters, key, ReadyForQuery, and a ClientSession takes over."""
        assert self._admitted is not None
        assert self._held is not None
        clients = self._clients
        settings = self._admitted.settings
        _, application_name = split_application_name(settings)
        key = clients.new_key(self._admitted.protocol_minor, server.process_id if server is not None else 0)
        session = ClientSession(clients, self._held, self._held.identity, clients.interned(settings), self._mode, key)
        self._transport.write(
            b"".join(
                (
                    authentication_ok(),
                    render_parameters(parameters, application_name),
                    backend_key_data(int.from_bytes(key[:4], "big"), key[4:]),
                    ready_for_query(),
                )
            )
        )
        session.address_group = self._whose().group
        self._is_counted = False  # the session answers for it from here
        self._forget()
        clients.joined(session)
        session.connection_made(self._transport)
        self._transport.set_protocol(session)
        if server is not None:
            session.adopt(server)
        early, self._early = self._early, b""
        if early:
            session.data_received(early)

    def make_room(self) -> None:
        """There are too many that have not logged in: this one ends without a word, which is cheapest in a flood."""
        self._clients.counters.error(TooManyClients.__name__)
        self._is_closing = True
        self._forget()
        self._transport.abort()

    def refuse_for_drain(self) -> None:
        """The process drains: nobody new comes in."""
        self._refuse(Terminated("the pooler is shutting down"))

    def _timed_out(self) -> None:
        self._timer = None
        if self._asked is not None and self._asked.ledger.is_paused:  # an admin's doing: it waits as clients do
            clients = self._clients
            self._timer = clients.loop.call_later(clients.limits.login_timeout, self._timed_out)
            return
        self._refuse(LoginTimeout("the login took too long"))

    def _refuse(self, error: PoolerError) -> None:
        if self._is_closing:
            return
        if self._is_cancel:
            self._close()
            return
        clients = self._clients
        if isinstance(error, AuthenticationFailed):
            self._failed()
        clients.counters.error(error.code)
        who, door = self._asked_for, clients.door
        if isinstance(error, AuthenticationFailed):
            door.log_refusal(error, who, self.client_address, cause=self._verdict.value)
            door.failed(who, self.client_address, self._verdict)
            self._fail_later(error)
            return
        door.log_refusal(error, who, self.client_address)
        self._transport.write(error_response_for(error))
        self._close()

    def _fail_later(self, error: AuthenticationFailed) -> None:
        """The failure is told when `failure_time` says; until then the connection is deaf, and half open."""
        self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
        loop = self._clients.loop
        self._timer = loop.call_at(answer_at(self._startup_at, loop.time()), self._fail, error)

    def _fail(self, error: AuthenticationFailed) -> None:
        self._timer = None
        self._transport.write(error_response_for(error))
        self._close()

    def _failed(self) -> None:
        """The password was wrong: the user's next login may be asked for another one."""
        who, console = self._asked_for, self._clients.console
        if self._lookup is not None:
            self._lookup.failed()
        elif who.tenant == CONSOLE_TENANT and console is not None:
            console.failed(who.user, self.client_address)

    def _close(self) -> None:
        self._is_closing = True
        self._forget()
        self._leave_queue()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._clients.loop.call_later(LINGER_S, self._transport.abort)

    def _leave_queue(self) -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.abandon(self)

    def _forget(self) -> None:
        if self._lookup is not None:
            self._lookup.abandon()
        self._clients.logins.discard(self)
        self._clients.admitted.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_counted:
            self._is_counted = False
            self._clients.client_limits.leave(self._whose())
