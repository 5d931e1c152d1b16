"""The clients of one tenant that listen in one database, and the server that listens for them.

A listening server that ends by itself leaves a gap, and every client that was listening is told (`listen.onGap`). One
that should be replaced (another password, the tenant moved) goes on until the next one listens to everything;
`handoff` says from which notification on the next one is delivered.

Without a server, one is being opened, or a timer will open one, or nobody listens and the hub ends. With a server that
is outdated, the same holds for the next one.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

import structlog

from pgweir_pooler.errors import (
    ListenFailed,
    ListeningLost,
    NoRoomToListen,
    NotificationsMissed,
    PoolerError,
    ServerUnreachable,
    Terminated,
)
from pgweir_pooler.net.channel_changes import ChannelChanges
from pgweir_pooler.net.handoff import Handoff
from pgweir_pooler.net.listening_server import Opening
from pgweir_pooler.pool.backoff import Backoff
from pgweir_pooler.session.listening import PREPARE_SESSION
from pgweir_pooler.session.subscriptions import Subscriptions

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable
    from typing import TypeAlias

    from pgweir_pooler.directory import TenantPool
    from pgweir_pooler.net.handoff import Heard
    from pgweir_pooler.net.listening_server import ListeningServer
    from pgweir_pooler.net.notifications import Listener
    from pgweir_pooler.session.listening import Change

    Done: TypeAlias = Callable[[PoolerError | None], None]

log = structlog.get_logger()


class _Request:
    """A `set_channels` that waits for the server."""

    __slots__ = ("before", "channels", "done")

    def __init__(self, before: frozenset[bytes], channels: frozenset[bytes], done: Done) -> None:
        self.before = before
        self.channels = channels
        self.done = done


class Hub:
    """See the module. `gone` is called when nobody listens any more."""

    __slots__ = (
        "_backoff",
        "_changes",
        "_gone",
        "_handoff",
        "_has_joined",
        "_is_outdated",
        "_loop",
        "_missed",
        "_opening",
        "_pending",
        "_retry",
        "_server",
        "_subscriptions",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, gone: Callable[[], object]) -> None:
        self._loop = loop
        self._gone: Callable[[], object] | None = gone  # until it is called
        # Clients with the channels that they have or wait for; those that a pending request drops are still there.
        self._subscriptions: Subscriptions[Listener] = Subscriptions()
        self._pending: dict[Listener, _Request] = {}  # until confirmed, failed or dropped
        self._missed: dict[Listener, None] = {}  # listened at the time of a gap; told when a server listens again
        self._server: ListeningServer | None = None  # whose notifications are delivered
        self._has_joined = False  # it has confirmed that it listens
        self._is_outdated = False  # it should be replaced
        self._opening: Opening | None = None  # of the first server, or of the next one
        self._handoff: Handoff | None = None  # while the next server is about to take over
        self._changes = ChannelChanges(loop, self._servers, self._failed)
        self._backoff = Backoff(random.random)
        self._retry: asyncio.TimerHandle | None = None

    # --- what clients want

    def set_channels(self, client: Listener, channels: frozenset[bytes], done: Done) -> None:
        """See `Hubs`."""
        assert client not in self._pending
        before = self._subscriptions.of(client)
        if channels <= before:
            self._change(self._subscriptions.replace(client, channels))
            if not channels:
                self._missed.pop(client, None)
            done(None)
            self._end_if_unused()
            return
        request = self._pending[client] = _Request(before, channels, done)
        self._change(self._subscriptions.replace(client, before | channels))
        if self._server is not None:
            self._changes.wait(partial(self._confirm, client, request))
        elif self._opening is None and self._retry is None:
            self._open()

    def leave(self, client: Listener) -> None:
        """See `Hubs`."""
        self._drop(client)
        self._end_if_unused()

    def _drop(self, client: Listener) -> None:
        self._pending.pop(client, None)
        self._missed.pop(client, None)
        self._change(self._subscriptions.replace(client, frozenset()))

    def _confirm(self, client: Listener, request: _Request) -> None:
        if self._pending.get(client) is request:
            del self._pending[client]
            self._change(self._subscriptions.replace(client, request.channels))
            request.done(None)

    def _fail_pending(self, error: PoolerError) -> None:
        if error.severity == "FATAL":
            error = ListenFailed.because_of(error)
        for client, request in list(self._pending.items()):
            if self._pending.pop(client, None) is request:
                self._change(self._subscriptions.replace(client, request.before))
                request.done(error)

    def _change(self, changes: list[Change]) -> None:
        if self._server is not None:  # one that is opened is told everything
            self._changes.add(changes)

    def _servers(self) -> list[ListeningServer]:
        servers = [self._server, self._handoff.new if self._handoff else None]
        return [server for server in servers if server is not None]

    # --- opening

    def _held(self) -> TenantPool | None:
        """A pool of one of the clients, one that is not going away."""
        return next((x.held for x in self._subscriptions.clients if x.held.pool.ledger.refusal is None), None)

    def _open(self) -> None:
        held = self._held()
        if held is None:
            self._give_up(Terminated("nobody who listens may use the database any more"))
            return
        self._opening = Opening(held, self._opened, self._refused)
        self._opening.begin()

    def _opened(self, server: ListeningServer) -> None:
        self._opening = None
        server.hold(self)
        self._server = server
        self._has_joined = self._is_outdated = False
        server.ask([PREPARE_SESSION])
        self._changes.begin(server, sorted(self._subscriptions.channels))
        self._changes.wait(self._joined)
        for client, request in self._pending.items():
            self._changes.wait(partial(self._confirm, client, request))

    def _joined(self) -> None:
        self._has_joined = True
        self._backoff.forget()
        self._tell_missed()

    def _refused(self, error: PoolerError) -> None:
        opening, self._opening = self._opening, None
        assert opening is not None
        if opening.pool.ledger.refusal is not None and self._held() is not None:
            self._open()  # the tenant moved, or that user was removed, while it was opened
            return
        if isinstance(error, NoRoomToListen):  # it would stay so until somebody changes the limits
            self._give_up(error)
            return
        self._fail_pending(error)
        self._end_if_unused()
        if self._gone is not None:
            self._try_later(error)

    def _give_up(self, error: PoolerError) -> None:
        """There will be no listening server."""
        self._fail_pending(error)
        self._disconnect(self._subscriptions.clients)
        self._end_if_unused()

    def _try_later(self, error: PoolerError) -> None:
        now = self._loop.time()
        self._backoff.failed(error, now)
        self._stop_retry()
        self._retry = self._loop.call_later(max(0.0, self._backoff.retry_at - now), self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        if self._server is None:
            self._open()
        else:
            self._replace()

    # --- gaps

    def on_lost(self, server: ListeningServer) -> None:
        """Holder: a server ended, and not by our doing."""
        self._lost(server, ServerUnreachable("the server connection that listens was lost"))

    def _failed(self, server: ListeningServer, fields: dict[str, str]) -> None:
        """The server cannot listen: in recovery, out of memory. Its state is not known any more."""
        server.discard()
        self._lost(server, ListenFailed(fields.get("C", "08006"), fields.get("M", "the server gave no reason")))

    def _lost(self, server: ListeningServer, error: PoolerError) -> None:
        who = server.pool.key
        log.warning("listening server lost", tenant=who.tenant, database=who.database, reason=error.text)
        handoff = self._handoff
        if handoff is not None and server is handoff.new:
            self._handoff = None
            self._is_outdated = True
            self._try_later(error)
            for channel, message in handoff.abandon():
                self._deliver(channel, message)
            self._changes.forget(server)
            return
        had_joined = self._has_joined
        self._stop()
        if not had_joined:
            self._fail_pending(error)
        self._gap()
        self._end_if_unused()
        if self._gone is None or self._opening is not None:
            return
        if had_joined:
            self._open()
        else:
            self._try_later(error)

    def _gap(self) -> None:
        """Notifications may have been lost for all that listened; who had no channel yet just waits on."""
        listening = [x for x in self._subscriptions.clients if x not in self._pending or self._pending[x].before]
        if listening and listening[0].held.tenant.entry.listen.on_gap == "Notice":
            self._missed.update(dict.fromkeys(listening))
        else:
            self._disconnect(listening)

    def _disconnect(self, clients: Iterable[Listener]) -> None:
        for client in list(clients):
            self._drop(client)
            client.listening_lost(ListeningLost())

    def _tell_missed(self) -> None:
        missed, self._missed = self._missed, {}
        for client in missed:
            client.listening_lost(NotificationsMissed())

    # --- replacing a server that still listens

    def on_outdated(self, server: ListeningServer) -> None:
        """Holder: the server should be replaced."""
        self._is_outdated = True
        self._backoff.forget()
        self._stop_retry()
        # Not now: it comes from within a reload, which is about to close the clients of a pool that goes away.
        self._loop.call_soon(self._replace)

    def _replace(self) -> None:
        if not self._is_outdated or self._server is None or self._opening or self._handoff or self._retry:
            return
        held = self._held()
        if held is None:
            self._cut("nobody who listens may use the database any more")
            return
        self._opening = Opening(held, self._take_over, self._not_replaced)
        self._opening.begin()

    def _not_replaced(self, error: PoolerError) -> None:
        opening, self._opening = self._opening, None
        assert opening is not None
        if opening.pool.ledger.refusal is not None:
            self._replace()
        elif isinstance(error, NoRoomToListen):  # not for two at a time
            self._cut(error.text)
        else:
            self._try_later(error)

    def _cut(self, why: str) -> None:
        """Ends the outdated server before there is another one."""
        server = self._server
        assert server is not None
        server.discard()
        self._lost(server, ServerUnreachable(why))

    def _take_over(self, new: ListeningServer) -> None:
        assert self._server is not None
        self._opening = None
        self._is_outdated = False
        new.hold(self)
        new.ask([PREPARE_SESSION])
        self._handoff = Handoff(self._server, new, self._handed_over, self._failed)
        self._handoff.begin(sorted(self._subscriptions.channels))

    def _handed_over(self, heard: Heard | None) -> None:
        """The new server is delivered from here on, `heard` first; None: a gap, both never heard the same."""
        handoff = self._handoff
        assert handoff is not None
        self._handoff = None
        self._server = handoff.new
        self._backoff.forget()
        handoff.old.discard()
        self._changes.forget(handoff.old)
        if heard is None:
            who = handoff.new.pool.key
            log.warning("listening server replaced with a gap", tenant=who.tenant, database=who.database)
            self._gap()
            self._tell_missed()
        for channel, message in heard or ():
            self._deliver(channel, message)
        self._end_if_unused()
        self._replace()

    # --- what the servers say

    def on_notification(self, server: ListeningServer, channel: bytes, message: bytes) -> None:
        """Holder: a notification arrived."""
        if self._handoff is None or self._handoff.must_deliver(server, channel, message):
            self._deliver(channel, message)

    def _deliver(self, channel: bytes, message: bytes) -> None:
        for client in self._subscriptions.on(channel):
            client.notified(message)

    # --- the end

    def _end_if_unused(self) -> None:
        if not self._subscriptions.clients and self._gone is not None:
            self._stop()
            gone, self._gone = self._gone, None
            gone()

    def _stop(self) -> None:
        """No server, and none to come."""
        for server in self._servers():
            server.discard()
        if self._handoff is not None:
            self._handoff.abandon()
        if self._opening is not None:
            self._opening.abandon()
        self._stop_retry()
        self._server = self._handoff = self._opening = None
        self._is_outdated = False
        self._changes.clear()

    def _stop_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
