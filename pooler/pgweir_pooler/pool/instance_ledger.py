"""The budget of one database instance (`host:port`) that all its pools share.

Enters: pools that want a server. Leaves: `Open` for those that may have one, `Close` for idle servers of others. Always
true: `servers` counts every slot of every pool from the decision to open it until PostgreSQL has closed its side, and
no slot is opened that lifts it above `limit`. A sent Terminate frees nothing: PostgreSQL counts the backend until it
is gone, so a closing slot holds its place.

Who comes first: who wants a server to listen with (there are few: see `listening`), then pools without any server, then
the pool whose oldest waiter is the oldest. To make room, a server that was idle for a second may be closed for another
pool; one that comes back from a transaction may be closed only for a pool that has no server at all and has waited for
a second, or to listen with. All are bounded by the logins that can be in flight, so a crowd of pools takes turns of a
second and does not spend its time on logins.

Searches over all pools happen only after `evict_at` or `claim_at`, so that the cost of a transaction does not grow with
the number of pools.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from pgweir_pooler.pool.keys import CloseReason

if TYPE_CHECKING:
    from pgweir_pooler.pool.ledger import PoolLedger
    from pgweir_pooler.pool.slot import Effect, Slot

# DESIGN section 5: an idle server belongs to its pool for a second, so that two busy pools do not trade it per query.
KEEP_IDLE_S = 1.0
# A pool without a server waits this long before a lent server is closed for it at its return.
PATIENCE_S = 1.0
# How soon a search that found enough closing servers, or nothing to take, is made again.
LOOK_AGAIN_S = 0.1
# Logins in flight at once per instance: each costs PostgreSQL a fork and, with SCRAM, some milliseconds of CPU.
MAX_CONNECTING = 8


class InstanceLedger:
    """How many servers an instance may have, has, and who waits for a place. Times come in as `now`, in seconds."""

    __slots__ = (
        "claim_at",
        "closing",
        "evict_at",
        "limit",
        "listeners",
        "max_connecting",
        "opening",
        "pools",
        "servers",
        "starving",
    )

    def __init__(self, limit: int, max_connecting: int = MAX_CONNECTING) -> None:
        self.limit = limit
        self.max_connecting = max_connecting
        self.pools: dict[PoolLedger, None] = {}  # all pools of the instance; `forget` removes one that is empty
        # Pools that want a server and may not open it yet, kept right by `PoolLedger.settle`.
        self.starving: dict[PoolLedger, None] = {}
        # Sums over all pools, kept by PoolLedger where a slot enters or leaves `opening` and `closing` and the books.
        self.servers = 0
        self.opening = 0
        self.closing = 0
        self.listeners = 0  # servers that listen for notifications or will; kept by ListeningPlaces
        self.evict_at = 0.0  # before this time no search for an idle server can find one
        self.claim_at = 0.0  # before this time no search for a starving pool is made at a return

    def has_room(self) -> bool:
        """Whether one more server may be opened now."""
        return self.servers < self.limit and self.opening < self.max_connecting

    def is_over_limit(self) -> bool:
        """Whether the limit was lowered below what is open and not yet closing."""
        return self.servers - self.closing > self.limit

    def serve(self, now: float, effects: list[Effect]) -> None:
        """Opens servers for starving pools while there is room; without room, makes some."""
        while self.starving and self.has_room():
            pool = self._first_claim()
            pool.open(effects)
            if pool.shortfall(now) <= 0:
                del self.starving[pool]
        if self.starving and self.servers >= self.limit:
            self._evict(now, effects)

    def look_again_at(self, now: float) -> float:
        """When a starving pool should tick, should nothing be freed before: later than now, after `serve`."""
        return self.evict_at if self.servers >= self.limit else now + KEEP_IDLE_S

    def has_better_claim(self, pool: PoolLedger, now: float) -> bool:
        """Whether a server that comes back to `pool` should be closed for a pool that has none.

        Counts what closes already, so that one such pool costs the others one server.
        """
        if not self.starving:
            return False
        busy = self.closing + self.opening >= self.max_connecting
        if now < self.claim_at or busy or self.servers < self.limit:
            return False
        if self._destitute(now, pool.oldest_asked_at()) > self.closing:
            return True
        self.claim_at = now + LOOK_AGAIN_S
        return False

    def resize(self, limit: int, now: float) -> list[Effect]:
        """Takes over a new limit: a higher one serves who waits, a lower one closes idle servers, then returning ones.

        The lent servers to close are chosen now, from the largest pools; a transaction is never cut short.
        """
        self.limit = limit
        effects: list[Effect] = []
        for pool in self.pools:
            if self.listeners >= limit:
                pool.listening.shrink(now, effects)
        while self.is_over_limit():
            victim = self._longest_idle(spare_minimum=False)
            if victim is None:
                break
            victim.pool.close(victim, CloseReason.RESIZED, now, effects)
        surplus = self.servers - self.closing - self.opening - limit
        for pool in sorted(self.pools, key=lambda pool: len(pool.active), reverse=True):
            surplus -= pool.expire_active(surplus)
        self.serve(now, effects)
        return effects

    def forget(self, pool: PoolLedger) -> None:
        """A drained and empty pool leaves the books."""
        assert pool.is_empty
        del self.pools[pool]

    def _first_claim(self) -> PoolLedger:
        best: PoolLedger | None = None
        for pool in self.starving:
            if best is None or _claim(pool) < _claim(best):
                best = pool
        assert best is not None
        return best

    def _evict(self, now: float, effects: list[Effect]) -> None:
        """Closes the longest idle servers for those who starve; leaves `evict_at` later than now if any still do."""
        if now < self.evict_at:
            return
        wanted = min(sum(pool.shortfall(now) for pool in self.starving), self.max_connecting) - self.closing
        destitute = self._destitute(now, inf)
        while wanted > 0:
            victim = self._longest_idle(spare_minimum=True)
            if (victim is None or victim.idle_since + KEEP_IDLE_S > now) and self.closing < destitute:
                victim = self._longest_idle(spare_minimum=False)
            if victim is None:
                self.evict_at = now + KEEP_IDLE_S  # what becomes idle from now on is not due before
                return
            if victim.idle_since + KEEP_IDLE_S > now:
                self.evict_at = victim.idle_since + KEEP_IDLE_S
                return
            victim.pool.close(victim, CloseReason.EVICTED, now, effects)
            wanted -= 1
        self.evict_at = now + LOOK_AGAIN_S

    def _destitute(self, now: float, before: float) -> int:
        """How many pools have no server at all, and a waiter who asked before that time and was patient.

        A server to listen with that is wanted counts as one.
        """
        count = 0
        for pool in self.starving:
            count += len(pool.listening.wanted)
            asked_at = pool.oldest_asked_at()
            if asked_at < before and asked_at + PATIENCE_S <= now and not pool.has_servers():
                count += 1
        return count

    def _longest_idle(self, *, spare_minimum: bool) -> Slot | None:
        longest: Slot | None = None
        for pool in self.pools:
            if not pool.idle or (spare_minimum and pool.total() <= pool.limits.min_idle):
                continue
            oldest = pool.idle[0]
            if longest is None or oldest.idle_since < longest.idle_since:
                longest = oldest
        return longest


def _claim(pool: PoolLedger) -> tuple[bool, bool, float]:
    return (not pool.listening.wanted, pool.has_servers(), pool.oldest_asked_at())
