"""Opens connections to PostgreSQL: a channel, a login on it, then it is a `ServerConnection`'s."""

import asyncio
import secrets
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from time import time
from typing import TYPE_CHECKING

import structlog

from pgweir_pooler.errors import (
    NoClientKey,
    PoolerError,
    ServerLoginFailed,
    ServerTlsFailed,
    ServerUnreachable,
    UpstreamNotAllowed,
)
from pgweir_pooler.net.channel_binding import server_end_point
from pgweir_pooler.net.connect_reasons import tls_reason
from pgweir_pooler.net.listening_server import ListeningServer
from pgweir_pooler.net.lookup_server import LookupServer
from pgweir_pooler.net.server_channel import Channel, ServerChannels, Target
from pgweir_pooler.net.server_connection import Canceller, ServerConnection
from pgweir_pooler.net.upstream_guard import UpstreamGuard
from pgweir_pooler.session.backend_login import LEADS_BACK, BackendLogin
from pgweir_pooler.session.server_security import ServerSecurity
from pgweir_pooler.session.steps import Failed, LoggedIn, NeedKeys, Send
from pgweir_pooler.wire.scram import keys_of_password
from pgweir_pooler.wire.scram_keys import ScramKeys

log = structlog.get_logger()

Server = ServerConnection | ListeningServer | LookupServer

if TYPE_CHECKING:
    from pgweir_pooler.directory import Endpoint, TenantPool
    from pgweir_pooler.pool.pool import Pool
    from pgweir_pooler.pool.slot import Slot
    from pgweir_pooler.session.backend_login import Secret
    from pgweir_pooler.session.steps import BackendStep

# A dead peer is noticed after 60 + 3 x 10 s, as libpq users expect from tcp_keepalives_*.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Switches TCP keepalive on; uvloop sets TCP_NODELAY itself."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class Connector:
    """Makes logged-in server connections; one for the process."""

    def __init__(self, canceller: Canceller, channels: ServerChannels, guard: UpstreamGuard) -> None:
        self._guard = guard
        self._canceller = canceller
        self._channels = channels

    async def connect(self, held: "TenantPool", pool: "Pool", slot: "Slot") -> "Server":
        """One more server for the pool, in its slot, to lend or to listen with.

        Raises PoolerError; the pool bounds the time.

        When cancelled, the half-made connection is closed. When the tenant moves away from the pool's instance during
        the login, the server still belongs to this pool, which closes it: its place in the budget is there.
        """
        endpoint = held.endpoint
        credentials = endpoint.credentials
        error: PoolerError = NoClientKey()
        ways = credentials.upstream(time())
        if not ways and not isinstance(pool.ledger.backoff.error, NoClientKey):  # said once, not at each try
            log.warning("no server is opened", code=error.code, reason=error.log_text(), pool=str(pool.key))
        for password in ways:
            if pool is not held.pool:  # `endpoint` is then, or may be, that of another instance
                raise ServerUnreachable("the tenant moved to another database server")
            try:
                return await self._log_in(held, pool, slot, endpoint, password)
            except ServerLoginFailed as failed:
                if failed.wire_sqlstate() != "28P01":
                    raise
                if isinstance(password, ScramKeys):
                    credentials.drop(password)
                error = failed  # the next password may be the right one while it is being rotated
        raise error

    async def _log_in(
        self, held: "TenantPool", pool: "Pool", slot: "Slot", endpoint: "Endpoint", password: "Secret"
    ) -> "Server":
        loop = asyncio.get_running_loop()
        will_listen = slot in pool.ledger.listening.opening
        target = Target(endpoint.host, endpoint.port, endpoint.tls, endpoint.pems, endpoint.connect_timeout_s)
        channel = await self._channels.open(target, lambda: _LoginDialogue(loop))
        dialogue = channel.protocol
        certificate = channel.certificate
        security = ServerSecurity(
            is_encrypted=channel.route.context is not None,
            binding=b"" if certificate is None else server_end_point(certificate),
            channel_binding=endpoint.tls.channel_binding,
        )
        login = BackendLogin(
            user=endpoint.user,
            database=endpoint.database,
            passwords=[password],
            client_nonce=secrets.token_urlsafe(18),
            parameters=_parameters(held, will_listen=will_listen),
            security=security,
            is_own_nonce=self._guard.is_own_nonce,
        )
        try:
            dialogue.begin(channel, login)
            done = await dialogue.outcome
            if done.secret_key and self._guard.is_own_session(done.process_id, done.secret_key):
                raise UpstreamNotAllowed(LEADS_BACK)
        except BaseException:
            channel.transport.abort()
            raise
        keep_alive(channel.transport)
        server: Server
        if held.is_for_lookups:
            server = LookupServer(pool, slot, loop, done)
        elif will_listen:
            server = ListeningServer(pool, slot, loop)
        else:
            server = ServerConnection(
                pool,
                slot,
                self._canceller,
                loop,
                route=channel.route,
                parameters=done.parameters,
                key=(done.process_id, done.secret_key),
            )
            server.always_resets = server.stream.is_tainted = endpoint.always_resets
            server.stream.pipeline.statements.limit = endpoint.max_prepared
            if pool is held.pool:
                held.server_reported(done.parameters)
        server.connection_made(channel.transport)
        channel.transport.set_protocol(server)
        if dialogue.is_lost:
            raise ServerUnreachable("the database server closed the connection after login")
        if done.rest:
            server.data_received(done.rest)
        return server


def _parameters(held: "TenantPool", *, will_listen: bool) -> dict[str, str]:
    """What a server is told at its login; nothing of it is a client's."""
    if held.is_for_lookups:
        timeout_ms = max(1, round(held.endpoint.connect_timeout_s * 1000))
        return {
            "application_name": "pgweir auth_query",
            "client_encoding": "UTF8",
            # Whatever the role or the database say: nothing that is not PostgreSQL's own is found by a bare name.
            "search_path": "pg_catalog, pg_temp",
            "statement_timeout": str(timeout_ms),
        }
    return {"application_name": "pgweir listener" if will_listen else "pgweir", "client_encoding": "UTF8"}


class _LoginDialogue(asyncio.Protocol):
    """Carries a BackendLogin's bytes; `outcome` is its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._login: BackendLogin
        self._loop = loop
        self._transport: asyncio.Transport
        self.outcome: asyncio.Future[LoggedIn] = loop.create_future()
        self.is_lost = False

    def begin(self, channel: "Channel[_LoginDialogue]", login: BackendLogin) -> None:
        """Sends the first message."""
        self._login = login
        self._transport = channel.transport
        self._transport.write(login.start())

    def data_received(self, data: bytes) -> None:
        self._take(self._login.receive(data))

    def _take(self, steps: "list[BackendStep]") -> None:
        for step in steps:
            if isinstance(step, Send):
                self._transport.write(step.data)
            elif isinstance(step, NeedKeys):
                self._work_out(step)
            elif isinstance(step, LoggedIn):
                if not self.outcome.done():
                    self.outcome.set_result(step)
            elif isinstance(step, Failed):
                self._fail(step.error)
                self._transport.abort()

    def _work_out(self, need: NeedKeys) -> None:
        """On a thread of its own, which ends with it: one that stayed would make each system call dearer."""
        executor = ThreadPoolExecutor(1)
        work = self._loop.run_in_executor(executor, keys_of_password, need.password, need.salt, need.iterations)
        executor.shutdown(wait=False)
        work.add_done_callback(lambda done: self._take(self._login.keys_found(*done.result())))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if isinstance(exc, ssl.SSLError):
            self._fail(ServerTlsFailed(f"the database server ended TLS during login: {tls_reason(exc)}"))
        else:
            self._fail(ServerUnreachable("the database server closed the connection during login"))

    def _fail(self, error: PoolerError) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)
            self.outcome.exception()  # it may have come before anybody awaits it
