"""The numbers of SHOW STATS: what pools have done in all, and per second or per piece over the last period.

Times are microseconds, from the sums of the histograms. An average is over the time since the reading before last, as
PgBouncer's (`stats_period`): one to two periods.
"""

from __future__ import annotations

from operator import add
from typing import TYPE_CHECKING, Final, TypeAlias

from pgweir_pooler.console.columns import STAT_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pgweir_pooler.telemetry import PoolCounters

Stats: TypeAlias = tuple[int, ...]  # in the order of STAT_NAMES

STATS_PERIOD_S: Final = 60.0
NOTHING: Final[Stats] = (0,) * len(STAT_NAMES)

_US: Final = 1e6
_AT: Final = {name: i for i, name in enumerate(STAT_NAMES)}
# Averages per piece, and of what; all others are per second.
_PER_PIECE: Final = {
    "xact_time": "xact_count",
    "query_time": "query_count",
    "wait_time": "server_assignment_count",
}


def stats_of(counters: PoolCounters) -> Stats:
    """One pool's numbers since the process started."""
    alone, alone_s = sum(counters.alone_time.counts), counters.alone_time.sum_s
    return (
        counters.checkouts,
        counters.transactions + alone,
        counters.queries + alone,
        counters.bytes_from_clients,
        counters.bytes_from_servers,
        int((counters.transaction_time.sum_s + alone_s) * _US),
        int((counters.query_time.sum_s + alone_s) * _US),
        int(counters.wait_time.sum_s * _US),
        counters.client_parses,
        counters.server_parses,
        counters.binds,
        counters.logins,
    )


def total(many: Iterable[Stats]) -> Stats:
    """The sum."""
    result = NOTHING
    for one in many:
        result = tuple(map(add, result, one))
    return result


class Averages:
    """The readings that averages begin at. `refresh` takes one each STATS_PERIOD_S."""

    def __init__(self, now: float) -> None:
        self._older: Mapping[PoolCounters, Stats] = {}
        self._newer: Mapping[PoolCounters, Stats] = {}
        self._older_at = self._newer_at = now

    def refresh(self, reading: Mapping[PoolCounters, Stats], now: float) -> None:
        """Takes a new reading of all pools; the last one becomes the one that averages begin at."""
        self._older, self._older_at = self._newer, self._newer_at
        self._newer, self._newer_at = reading, now

    def before(self, counters: PoolCounters) -> Stats:
        """A pool's numbers at the reading that averages begin at."""
        return self._older.get(counters, NOTHING)

    def average(self, sums: Stats, before: Stats, now: float) -> Stats:
        """The averages of pools whose numbers come to `sums` now and came to `before` then."""
        duration_s = now - self._older_at
        if duration_s <= 0:
            return NOTHING
        change = [max(0, new - old) for new, old in zip(sums, before, strict=True)]
        averages = []
        for name, value in zip(STAT_NAMES, change, strict=True):
            pieces = _PER_PIECE.get(name)
            if pieces is None:
                averages.append(int(value / duration_s))
            else:
                averages.append(value // change[_AT[pieces]] if change[_AT[pieces]] else 0)
        return tuple(averages)
