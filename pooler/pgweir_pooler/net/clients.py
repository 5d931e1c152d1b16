"""All clients of this process: who is here, their cancel keys, and how many there may be."""

import asyncio
import datetime
import secrets
from itertools import count
from typing import TYPE_CHECKING, Protocol

import structlog

from pgweir_pooler.errors import PoolerError, Terminated
from pgweir_pooler.net.notifications import Hubs
from pgweir_pooler.net.served_tls import ServedTls
from pgweir_pooler.net.upstream_guard import UpstreamGuard
from pgweir_pooler.pool.cancel_keys import KeyMaker, is_same_key
from pgweir_pooler.pool.client_limits import ClientLimits
from pgweir_pooler.telemetry import ProcessCounters

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgweir_contract.models import ClusterLimits
    from pgweir_pooler.directory import Directory, TenantPool
    from pgweir_pooler.net.client_connection import ClientConnection
    from pgweir_pooler.net.client_login import ClientLogin
    from pgweir_pooler.net.client_session import ClientSession
    from pgweir_pooler.net.proxied_client import ProxiedClient
    from pgweir_pooler.session.steps import Settings
    from pgweir_pooler.wire.scram import Verifier

log = structlog.get_logger()

INTERNED_SETTINGS = 4096


class ConsoleDoor(Protocol):
    """The admin console, as a login sees it."""

    @property
    def is_open(self) -> bool:
        """Whether there is anybody who may log in."""
        ...

    def verifier(self, user: str) -> "tuple[Verifier, bool]":
        """The user's verifier and True, or one that no password fits and False."""

    def enter(
        self, user: str, settings: "Settings", transport: asyncio.Transport, early: bytes, client_id: int
    ) -> None:
        """Takes over an authenticated admin's transport, and what was received ahead."""

    def cancel(self, process_id: int, secret: bytes) -> None:
        """A CancelRequest for none of our sessions."""


class Clients:
    """The register of clients, shared by all listeners of the process."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        directory: "Directory",
        limits: "ClusterLimits",
        counters: ProcessCounters,
    ) -> None:
        self.loop = loop
        self.directory = directory
        self.limits = limits
        self.counters = counters
        self.client_limits = ClientLimits()
        self.hubs = Hubs(loop)
        self.new_nonce = UpstreamGuard().new_nonce  # for SCRAM; replaced by the composition root
        self.mock_key = secrets.token_bytes(32)  # makes the salts of users that do not exist
        # Both ordered by time; a ClientLogin enters and leaves them by itself.
        self.logins: dict[ClientLogin, None] = {}  # connected, not authenticated: `maxHalfOpenLogins` bounds them
        self.unannounced: dict[ProxiedClient, None] = {}  # the same, before the PROXY header has said whose they are
        self.admitted: dict[ClientLogin, None] = {}  # authenticated, waiting for a server's parameters
        self.keys = KeyMaker(secrets.token_bytes)
        self.sessions: dict[bytes, ClientSession] = {}  # logged in, by `keys.index` of their cancel keys
        # Told about each client that finished its login; set by the composition root.
        self.on_joined: Callable[[ClientSession], None] = lambda _session: None
        self.is_draining = False
        self.tls = ServedTls(directory, lambda: datetime.datetime.now(datetime.UTC))
        self.console: ConsoleDoor | None = None  # set by the composition root
        self.ids = count(1)  # for people: SHOW CLIENTS has them
        self.default_tenant: str | None = None  # for clients that name none
        # One object for equal settings, so that a server's are recognised by identity.
        self._settings: dict[Settings, Settings] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def new_key(self, protocol_minor: int, process_id: int = 0) -> bytes:
        """A cancel key that no session has; it shows the server's process id if that is given and may be shown."""
        while True:
            key = self.keys.make(protocol_minor, process_id)
            if self.keys.index(key) not in self.sessions:
                return key

    def session_of(self, key: bytes) -> "ClientSession | None":
        """Whose cancel key this is."""
        session = self.sessions.get(self.keys.index(key))
        return session if session is not None and is_same_key(session.key, key) else None

    def is_session(self, process_id: int, secret: bytes) -> bool:
        """Whether a client of ours has this cancel key."""
        return self.session_of(process_id.to_bytes(4, "big") + secret) is not None

    def interned(self, settings: "Settings") -> "Settings":
        """The one object that stands for these settings."""
        if len(self._settings) >= INTERNED_SETTINGS:
            self._settings.clear()  # equality still works, it only costs more
        return self._settings.setdefault(settings, settings)

    def pool_removed(self, held: "TenantPool", why: str) -> None:
        """Nobody may use this pool any more: its clients leave at their next transaction boundary."""
        for session in list(self.sessions.values()):
            if session.held is held:
                session.close_at_boundary(Terminated(why))

    def joined(self, session: "ClientSession") -> None:
        """A client finished its login."""
        self.sessions[self.keys.index(session.key)] = session
        session.held.pool.counters.clients += 1
        session.held.pool.counters.logins += 1
        self._empty.clear()
        self.counters.logins += 1
        self.on_joined(session)

    def left(self, session: "ClientSession") -> None:
        """A logged-in client is gone."""
        if self.sessions.pop(self.keys.index(session.key), None) is not None:
            session.held.pool.counters.clients -= 1
            self.client_limits.leave(session.identity.tenant, session.identity.user)
            if session.has_listened:
                self.hubs.leave(session)
            if not self.sessions:
                self._empty.set()

    async def all_left(self) -> None:
        """Returns when no logged-in client is left."""
        await self._empty.wait()

    def log_closed(self, session: "ClientConnection", error: PoolerError, event: str = "client closed") -> None:
        """One line for a session that we ended, or for what else befell it."""
        who = session.identity
        log.log(
            error.log_level,
            event,
            code=error.code,
            reason=error.log_text(),
            tenant=who.tenant,
            user=who.user,
            database=who.database,
        )
