"""All clients of this process: who is here, their cancel keys, and how many there may be."""

import asyncio
import secrets
from itertools import count
from typing import TYPE_CHECKING, Protocol

import structlog

from pgweir_pooler.errors import PoolerError, Terminated
from pgweir_pooler.net.notifications import Hubs
from pgweir_pooler.pool.client_limits import ClientLimits
from pgweir_pooler.telemetry import ProcessCounters

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgweir_contract.models import ClusterLimits
    from pgweir_pooler.directory import Directory, TenantPool
    from pgweir_pooler.net.client_connection import ClientConnection
    from pgweir_pooler.net.client_login import ClientLogin
    from pgweir_pooler.net.client_session import ClientSession
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
        self.mock_key = secrets.token_bytes(32)  # makes the salts of users that do not exist
        # Both ordered by time; a ClientLogin enters and leaves them by itself.
        self.logins: dict[ClientLogin, None] = {}  # connected, not authenticated: `maxHalfOpenLogins` bounds them
        self.admitted: dict[ClientLogin, None] = {}  # authenticated, waiting for a server's parameters
        self.sessions: dict[int, ClientSession] = {}  # logged in, by cancel key
        # Told about each client that finished its login; set by the composition root.
        self.on_joined: Callable[[ClientSession], None] = lambda _session: None
        self.is_draining = False
        self.console: ConsoleDoor | None = None  # set by the composition root
        self.ids = count(1)  # for people: SHOW CLIENTS has them
        self.default_tenant: str | None = None  # for clients that name none
        # One object for equal settings, so that a server's are recognised by identity.
        self._settings: dict[Settings, Settings] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def new_key(self) -> int:
        """A cancel key that no session has: 31 bits of process id, 32 bits of secret, as one number."""
        while True:
            key = (secrets.randbits(31) | 1) << 32 | secrets.randbits(32)
            if key not in self.sessions:
                return key

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
        self.sessions[session.key] = session
        session.held.pool.counters.clients += 1
        session.held.pool.counters.logins += 1
        self._empty.clear()
        self.counters.logins += 1
        self.on_joined(session)

    def left(self, session: "ClientSession") -> None:
        """A logged-in client is gone."""
        if self.sessions.pop(session.key, None) is not None:
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
