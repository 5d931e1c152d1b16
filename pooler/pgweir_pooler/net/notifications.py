"""LISTEN for clients that share servers, as seen by their sessions: one hub per tenant and database.

A session that carried LISTEN or UNLISTEN out on a borrowed server tells its whole new set of channels, and answers its
client when the hub says that the listening server has confirmed. The borrowed server may be given back before (after
UNLISTEN *): nothing here needs it, and a pool whose servers all wait for a listening server would never get one.

Always true: a notification goes to a client at most once, in commit order, and none is left out between `done(None)`
and `listening_lost`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pgweir_pooler.errors import TooManyChannels
from pgweir_pooler.net.hub import Hub

if TYPE_CHECKING:
    import asyncio

    from pgweir_pooler.directory import Tenant, TenantPool
    from pgweir_pooler.errors import PoolerError
    from pgweir_pooler.net.hub import Done

CHANNELS_PER_CLIENT = 1_000


class Listener(Protocol):
    """A client that listens, or wants to."""

    @property
    def held(self) -> TenantPool:
        """The client's pool; its tenant and database say which hub is its own."""

    def notified(self, message: bytes) -> None:
        """A whole NotificationResponse, in commit order; the client gets it between transactions."""

    def listening_lost(self, error: PoolerError) -> None:
        """Notifications may have been lost.

        FATAL: the client listens on nothing any more, `done` of a pending `set_channels` is not called, and the session
        must end at the next transaction boundary. WARNING: the client goes on listening, and is told by a notice.
        """


class Hubs:
    """All hubs of the process: made when the first client of a database listens, gone after the last."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._hubs: dict[tuple[Tenant, str], Hub] = {}

    def __len__(self) -> int:
        return len(self._hubs)

    def set_channels(self, client: Listener, channels: frozenset[bytes], done: Done) -> None:
        """Replaces the client's channels. One call at a time per client: `done` comes first.

        `done(None)` when the listening server has confirmed those that are new, at once if there are none.
        `done(error)` with an ERROR for the client when there is no listening server to be had: then its channels are as
        before.
        """
        if len(channels) > CHANNELS_PER_CLIENT:
            done(TooManyChannels(CHANNELS_PER_CLIENT))
            return
        key = _key(client)
        hub = self._hubs.get(key)
        if hub is None:
            if not channels:
                done(None)
                return
            hub = self._hubs[key] = Hub(self._loop, lambda: self._hubs.pop(key))
        hub.set_channels(client, channels, done)

    def leave(self, client: Listener) -> None:
        """The client is gone; nothing happens if it does not listen."""
        hub = self._hubs.get(_key(client))
        if hub is not None:
            hub.leave(client)


def _key(client: Listener) -> tuple[Tenant, str]:
    return client.held.tenant, client.held.identity.database
