"""One pool's counters as a list of integers with a fixed layout, so that pools are summed and subtracted.

Integers, also for the durations (nanoseconds): sums of floats depend on their order in the last bit, and a counter that
goes back by one bit is a restarted process to Prometheus, which then counts all of it once more.
"""

from __future__ import annotations

from operator import add, sub
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from pgweir_pooler.pool.keys import CloseReason
from pgweir_pooler.telemetry import HISTOGRAM_BUCKETS

if TYPE_CHECKING:
    from pgweir_pooler.admin_http.view import PoolView
    from pgweir_pooler.telemetry import Histogram, PoolCounters

Tally: TypeAlias = list[int]

COUNTERS: Final = (
    "checkouts",
    "waits",
    "transactions",
    "queries",
    "bytes_from_clients",
    "bytes_from_servers",
    "server_opens",
    "server_errors",
)
CLOSE_REASONS: Final = tuple(reason.value for reason in CloseReason)
HISTOGRAMS: Final = ("wait_time", "query_time", "transaction_time")

_FIRST_REASON: Final = len(COUNTERS)
_FIRST_HISTOGRAM: Final = _FIRST_REASON + len(CLOSE_REASONS)
_HISTOGRAM_LENGTH: Final = HISTOGRAM_BUCKETS + 1  # the sum comes after the buckets
LENGTH: Final = _FIRST_HISTOGRAM + len(HISTOGRAMS) * _HISTOGRAM_LENGTH

_NO_CLOSES: Final = [0] * len(CLOSE_REASONS)
_NS_PER_S: Final = 1e9


def _sum_ns(histogram: Histogram) -> int:
    return int(histogram.sum_s * _NS_PER_S)


def tally(counters: PoolCounters) -> Tally:
    """The counters now. In one go: no await, so that all are of the same moment."""
    closes = counters.server_closes
    waits, queries, transactions = counters.wait_time, counters.query_time, counters.transaction_time
    alone = counters.alone_time  # each of them is a query and a transaction
    alone_count = sum(alone.counts)
    return [
        counters.checkouts,
        counters.waits,
        counters.transactions + alone_count,
        counters.queries + alone_count,
        counters.bytes_from_clients,
        counters.bytes_from_servers,
        counters.server_opens,
        counters.server_errors,
        *([closes.get(reason, 0) for reason in CLOSE_REASONS] if closes else _NO_CLOSES),
        *waits.counts,
        _sum_ns(waits),
        *map(add, queries.counts, alone.counts),
        _sum_ns(queries) + _sum_ns(alone),
        *map(add, transactions.counts, alone.counts),
        _sum_ns(transactions) + _sum_ns(alone),
    ]


def nothing() -> Tally:
    """A tally of zeros."""
    return [0] * LENGTH


def add_to(total: Tally, other: Tally) -> None:
    """Adds in place."""
    total[:] = map(add, total, other)


def take_from(total: Tally, other: Tally) -> None:
    """Subtracts in place."""
    total[:] = map(sub, total, other)


def counter_of(total: Tally, name: str) -> int:
    """One of COUNTERS."""
    return total[COUNTERS.index(name)]


def closes_of(total: Tally) -> list[tuple[str, int]]:
    """How many servers were closed, by the reasons that occurred."""
    counts = total[_FIRST_REASON:_FIRST_HISTOGRAM]
    return [(reason, count) for reason, count in zip(CLOSE_REASONS, counts, strict=True) if count]


def histogram_of(total: Tally, name: str) -> tuple[list[int], float]:
    """One of HISTOGRAMS: its counts by bucket, not cumulative, and its sum in seconds."""
    first = _FIRST_HISTOGRAM + HISTOGRAMS.index(name) * _HISTOGRAM_LENGTH
    end = first + HISTOGRAM_BUCKETS
    return total[first:end], total[end] / _NS_PER_S


class Present(NamedTuple):
    """What is there at this moment."""

    clients: int
    clients_waiting: int
    servers_active: int
    servers_idle: int
    servers_opening: int
    servers_closing: int
    servers_listening: int

    @property
    def clients_active(self) -> int:
        """Clients with a server. A server may be lent to no client any more, and a waiter not be a client yet."""
        return max(0, min(self.servers_active, self.clients - self.clients_waiting))

    @property
    def clients_idle(self) -> int:
        """The rest, so that each client has one state."""
        return max(0, self.clients - self.clients_waiting - self.clients_active)


NOBODY: Final = Present(0, 0, 0, 0, 0, 0, 0)


def present(pool: PoolView, clients: int) -> Present:
    """The pool now, with the number of its clients."""
    return Present(clients, pool.waiting, pool.active, pool.idle, pool.opening, pool.closing, pool.listening)


def add_present(one: Present, other: Present) -> Present:
    """Both pools together."""
    return Present(*map(add, one, other))
