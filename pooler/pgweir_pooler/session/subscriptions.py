"""Which client listens on which channels: the fan-out of one listening server. Pure.

Enters: a client's new set of channels. Leaves: what the server must be told for it, LISTEN for a channel's first client
and UNLISTEN after its last. Always true: both directions say the same; a client without channels is not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection

    from pgweir_pooler.session.listening import Change

T = TypeVar("T")

_NONE: frozenset[bytes] = frozenset()


class Subscriptions(Generic[T]):
    """See the module. T are the clients."""

    __slots__ = ("_channels_of", "_clients_of")

    def __init__(self) -> None:
        self._channels_of: dict[T, frozenset[bytes]] = {}
        self._clients_of: dict[bytes, dict[T, None]] = {}  # in the order in which they began to listen

    @property
    def clients(self) -> Collection[T]:
        """Who listens on anything."""
        return self._channels_of.keys()

    @property
    def channels(self) -> Collection[bytes]:
        """What anybody listens on."""
        return self._clients_of.keys()

    def of(self, client: T) -> frozenset[bytes]:
        """The client's channels."""
        return self._channels_of.get(client, _NONE)

    def on(self, channel: bytes) -> tuple[T, ...]:
        """Who listens on the channel. A copy, since a client that is told may leave."""
        return tuple(self._clients_of.get(channel, ()))

    def replace(self, client: T, channels: frozenset[bytes]) -> list[Change]:
        """The client listens on these channels and no other ones."""
        before = self._channels_of.pop(client, _NONE)
        if channels:
            self._channels_of[client] = channels
        changes: list[Change] = []
        for channel in sorted(channels - before):
            clients = self._clients_of.get(channel)
            if clients is None:
                clients = self._clients_of[channel] = {}
                changes.append((True, channel))
            clients[client] = None
        for channel in sorted(before - channels):
            clients = self._clients_of[channel]
            del clients[client]
            if not clients:
                del self._clients_of[channel]
                changes.append((False, channel))
        return changes
