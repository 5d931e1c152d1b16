"""What identifies a pool, what bounds it, and the words for why a server connection ends."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class PoolKey(NamedTuple):
    """One pool holds the servers of one user of one tenant on one database."""

    tenant: str
    database: str
    user: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.database}/{self.user}"


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """The bounds of one pool. Times are seconds; 0 switches a time limit off."""

    size: int  # servers opening, idle or lent, at most
    min_idle: int  # servers opening, idle or lent that are kept even when nobody needs them
    queue_timeout_s: float  # a client waits this long for a server
    server_idle_timeout_s: float
    server_lifetime_s: float  # a server is closed at its next return after this age, up to a fifth earlier
    connect_timeout_s: float  # from connect() to a finished login


class CloseReason(Enum):
    """Why a server connection ended; the value is the word in logs and in the metric's label."""

    IDLE_TIMEOUT = "idle_timeout"
    LIFETIME = "lifetime"
    EVICTED = "evicted"  # another pool of the same instance needed the place
    RESIZED = "resized"  # the pool or its instance was made smaller
    RETIRED = "retired"  # opened for an endpoint or a password that has changed since
    PAUSED = "paused"  # the pool is paused: nothing is lent, no server is kept
    DRAINED = "drained"  # the pool goes away
    CLIENT_GONE = "client_gone"  # the client left in mid-transaction and the server could not be saved
    CLIENT_STALLED = "client_stalled"
    LISTENING_ENDED = "listening_ended"  # nobody listens any more, or another server does
    BROKEN = "broken"  # the connection or its holder is in a state that nobody understands
    RESET_FAILED = "reset_failed"
    SERVER_CLOSED = "server_closed"  # PostgreSQL or the network ended it
