"""A server's place in the books, what the books ask the shell to do, and the two things they hold for it.

The books (`ledger`, `instance_ledger`) keep connections and waiters but never call them: whoever calls is `pool`.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from pgweir_pooler.errors import PoolerError
    from pgweir_pooler.pool.keys import CloseReason
    from pgweir_pooler.pool.ledger import PoolLedger


_ids = count(1)


class Connection(Protocol):
    """A server connection that finished its login."""

    slot: Slot

    def close(self, reason: CloseReason) -> None:
        """Sends Terminate, waits for PostgreSQL to close its side, then calls `Pool.lost`; bounds that wait itself."""


class ListeningConnection(Connection, Protocol):
    """A server connection that listens for notifications."""

    def renew(self) -> None:
        """The endpoint or the password changed, or the pool goes away: its holder finds another one, then ends this."""


class Waiter(Protocol):
    """Someone in a pool's queue. Exactly one of the two is called, once, unless the waiter is abandoned before."""

    def granted(self, connection: Connection, now: float) -> None:
        """The connection is this waiter's until it is given back or discarded."""

    def refused(self, error: PoolerError) -> None:
        """There will be no server."""


class Slot:
    """One server connection in the books, from the decision to open it until PostgreSQL has closed its side.

    Its state is the collection of its pool that it sits in, and nothing here repeats that.
    """

    __slots__ = ("connection", "expires_at", "generation", "id", "idle_since", "opened_at", "pool")

    def __init__(self, pool: PoolLedger, generation: int) -> None:
        self.id = next(_ids)  # for people
        self.pool = pool
        self.generation = generation  # of the pool when the slot was made; an older one is not lent again
        self.connection: Connection | None = None  # set once, by `opened`
        self.opened_at = 0.0
        self.expires_at = 0.0  # closed when given back after this time; -inf: at its next return, whenever that is
        self.idle_since = 0.0  # meaningful while idle


class Grant:
    """Hand the slot's connection to the waiter; the books have it as active already."""

    __slots__ = ("asked_at", "slot", "waiter")

    def __init__(self, waiter: Waiter, slot: Slot, asked_at: float) -> None:
        self.waiter = waiter
        self.slot = slot
        self.asked_at = asked_at


class Open:
    """Connect for this slot and report `opened` or `open_failed`. The slot may belong to another pool."""

    __slots__ = ("slot",)

    def __init__(self, slot: Slot) -> None:
        self.slot = slot


class Close:
    """Close the slot's connection and report `lost` when PostgreSQL has closed its side."""

    __slots__ = ("reason", "slot")

    def __init__(self, slot: Slot, reason: CloseReason) -> None:
        self.slot = slot
        self.reason = reason


class Refuse:
    """Tell the waiter that it will get no server; it is in no queue any more."""

    __slots__ = ("error", "waiter")

    def __init__(self, waiter: Waiter, error: PoolerError) -> None:
        self.waiter = waiter
        self.error = error


class Seat:
    """Tell the waiter that the slot's connection is its own to listen with."""

    __slots__ = ("slot", "waiter")

    def __init__(self, waiter: Waiter, slot: Slot) -> None:
        self.waiter = waiter
        self.slot = slot


class Renew:
    """Tell the slot's listening connection that another one should take its place."""

    __slots__ = ("slot",)

    def __init__(self, slot: Slot) -> None:
        self.slot = slot


Effect: TypeAlias = Grant | Open | Close | Refuse | Seat | Renew
