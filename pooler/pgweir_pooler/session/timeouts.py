"""What a client's timeouts demand, decided from what its session does and since when.

Enters: a `Sight`, the pool's `Timeouts`, the time. Leaves: a `Verdict`, or None while nothing is due. `net.timeouts`
looks at sessions and carries verdicts out.

A timeout may be found late by one period of the looking, never early. Of several that are due the one with the earliest
deadline counts; of two with the same deadline the transaction's, as in PostgreSQL.
"""

from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final, NamedTuple

# How long a cancelled query may take to end before its server is closed.
CANCEL_GRACE_S: Final = 5.0

# How often somebody looks: ten times within the shortest timeout, between these two.
SHORTEST_PERIOD_S: Final = 0.05
LONGEST_PERIOD_S: Final = 1.0
_LOOKS_PER_TIMEOUT: Final = 10


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The timeouts of one pool's clients in seconds; 0 is off."""

    query_s: float = 0.0  # from a query to its ReadyForQuery
    transaction_s: float = 0.0  # from a transaction's first query to its end
    idle_transaction_s: float = 0.0  # a client holds a server and is silent
    client_idle_s: float = 0.0  # a client is silent outside of a transaction
    wait_notify_s: float = 0.0  # a client that has waited this long for a server is told so
    period_s: float = field(init=False)  # how often its clients must be looked at

    def __post_init__(self) -> None:
        wanted = (self.query_s, self.transaction_s, self.idle_transaction_s, self.client_idle_s, self.wait_notify_s)
        shortest_s = min((timeout_s for timeout_s in wanted if timeout_s), default=inf)
        period_s = min(max(shortest_s / _LOOKS_PER_TIMEOUT, SHORTEST_PERIOD_S), LONGEST_PERIOD_S)
        object.__setattr__(self, "period_s", period_s)


class Phase(Enum):
    """Whose turn it is."""

    IDLE = "idle"  # the client's; no transaction is open and no server is kept from others
    WAITING = "waiting"  # nobody's: the client waits for a server
    RUNNING = "running"  # the server's
    HOLDING = "holding"  # the client's, while it holds a server


class Sight(NamedTuple):
    """What a session does. Times are of the clock that `now` is of; 0.0: it is not so."""

    phase: Phase
    since: float  # when the phase began
    query_started: float = 0.0  # of the query that a cancel would end
    transaction_started: float = 0.0
    cancelled_at: float = 0.0  # when that query was cancelled
    is_told: bool = False  # the client knows that it waits


class Verdict(Enum):
    """What must be done."""

    TELL = "tell the client that it waits"
    CANCEL = "cancel the query"
    END_QUERY = "end the session: its query did not react to the cancel"
    END_TRANSACTION = "end the session: its transaction lasts too long"
    END_IDLE_TRANSACTION = "end the session: it holds a server and is silent"
    END_IDLE_CLIENT = "end the session: it is silent"


def decide(sight: Sight, timeouts: Timeouts, now: float) -> Verdict | None:
    """What is due now."""
    if sight.phase is Phase.IDLE:
        return Verdict.END_IDLE_CLIENT if _deadline(sight.since, timeouts.client_idle_s) <= now else None
    if sight.phase is Phase.WAITING:
        is_due = not sight.is_told and _deadline(sight.since, timeouts.wait_notify_s) <= now
        return Verdict.TELL if is_due else None
    deadline, verdict = _deadline(sight.transaction_started, timeouts.transaction_s), Verdict.END_TRANSACTION
    if sight.phase is Phase.HOLDING:
        idle_deadline = _deadline(sight.since, timeouts.idle_transaction_s)
        if idle_deadline < deadline:
            deadline, verdict = idle_deadline, Verdict.END_IDLE_TRANSACTION
    if sight.cancelled_at:
        query_deadline, query_verdict = sight.cancelled_at + CANCEL_GRACE_S, Verdict.END_QUERY
    else:
        query_deadline, query_verdict = _deadline(sight.query_started, timeouts.query_s), Verdict.CANCEL
    if query_deadline < deadline:
        deadline, verdict = query_deadline, query_verdict
    return verdict if deadline <= now else None


def _deadline(since: float, timeout_s: float) -> float:
    return since + timeout_s if since and timeout_s else inf
