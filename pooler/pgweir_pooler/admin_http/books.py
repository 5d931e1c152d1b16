"""Which tenants have a name in the metrics, and what each of them and all others together have done.

Enters: the directory, at each reading. Leaves: rows, one per named tenant and the row OTHERS. Always true:

- The rows add up to what all pools, those that are gone included, have done (of a pool that came and went between
  two readings nothing is known).
- No row's counters go down while the row stays, because counts never leave a row that stays: a tenant that gets a name
  starts at zero, and what it did before stays in OTHERS; one that loses its name adds its row to OTHERS.

A tenant keeps its name until it is removed, or until all names are taken, it had no client and no query for IDLE_S, and
a busier tenant has no name. A pool that moved to another instance shares its counters with the one that drains there:
counters count once, whoever holds them. All changes are made on a copy and take effect in one step at the end.
"""

from __future__ import annotations

from heapq import nlargest
from math import inf
from typing import TYPE_CHECKING, Final, TypeAlias

from pgweir_pooler.admin_http.tally import (
    NOBODY,
    Present,
    Tally,
    add_present,
    add_to,
    nothing,
    present,
    take_from,
    tally,
)

if TYPE_CHECKING:
    from pgweir_pooler.admin_http.view import DirectoryView, PoolView
    from pgweir_pooler.slices import Slices
    from pgweir_pooler.telemetry import PoolCounters

OTHERS: Final = "_other"  # no tenant id begins with an underscore
NAMED_TENANTS: Final = 100
IDLE_S: Final = 600.0


class Row:
    """One line of a reading."""

    __slots__ = ("counts", "oldest_wait_s", "present")

    def __init__(self) -> None:
        self.counts: Tally = nothing()
        self.present: Present = NOBODY
        self.oldest_wait_s = 0.0

    def add(self, pool: PoolView, clients: int) -> None:
        """Adds what a pool has now, its clients apart."""
        self.present = add_present(self.present, present(pool, clients))
        self.oldest_wait_s = max(self.oldest_wait_s, pool.oldest_wait_s())


Rows: TypeAlias = dict[str, Row]  # named tenants in the order of their names, OTHERS last


class _Name:
    """A named tenant. `correction` makes its row of the sum over its pools: plus those gone, minus those before."""

    __slots__ = ("active_at", "correction")

    def __init__(self) -> None:
        self.correction: Tally = nothing()
        self.active_at = -inf  # the last reading that found a client or a new query

    def copy(self) -> _Name:
        name = _Name()
        name.correction = self.correction.copy()
        name.active_at = self.active_at
        return name


class _Accounts:
    """What outlives a reading."""

    __slots__ = ("folded", "named", "queries", "seen")

    def __init__(self) -> None:
        self.named: dict[str, _Name] = {}
        self.folded: Tally = nothing()  # of OTHERS, what is not in the pools of unnamed tenants
        self.seen: dict[PoolCounters, str] = {}  # all pools of the last reading, with their tenant
        self.queries: dict[str, int] = {}  # by tenant, at the last reading

    def copy(self) -> _Accounts:
        accounts = _Accounts()
        accounts.named = {name: account.copy() for name, account in self.named.items()}
        accounts.folded = self.folded.copy()
        return accounts

    def unname(self, tenant: str) -> None:
        """The tenant's pools, if it has any left, are counted in OTHERS from now on."""
        add_to(self.folded, self.named.pop(tenant).correction)


class TenantBooks:
    """See the module. One reading at a time."""

    def __init__(self, directory: DirectoryView, named_tenants: int = NAMED_TENANTS) -> None:
        self._directory = directory
        self._capacity = named_tenants
        self._accounts = _Accounts()

    async def read(self, now: float, slices: Slices) -> Rows:
        """Everything as it is now; `now` is the loop's time in seconds. Cancelled, it has changed nothing."""
        before = self._accounts
        after = before.copy()
        # The directory may change at the first await, so the list is made in one go.
        pools = [*self._directory.pools(), *self._directory.departed]
        await slices.pause()
        busy = await self._activity(pools, after, slices)
        newcomers = self._rename(after, busy, now)
        rows: Rows = {name: Row() for name in sorted(after.named)}
        others = rows[OTHERS] = Row()
        for pool in pools:
            tenant, counters = pool.key.tenant, pool.counters
            row = rows.get(tenant, others)
            if counters in after.seen:
                row.add(pool, 0)
            else:
                after.seen[counters] = tenant
                row.add(pool, counters.clients)
                counts = tally(counters)
                add_to(row.counts, counts)
                if tenant in newcomers and counters in before.seen:
                    add_to(after.folded, counts)
                    take_from(after.named[tenant].correction, counts)
            if slices.is_over:
                await slices.rest()
        await self._keep_what_is_gone(before, after, newcomers, slices)
        for name, account in after.named.items():
            add_to(rows[name].counts, account.correction)
        add_to(others.counts, after.folded)
        self._accounts = after
        return rows

    async def _activity(self, pools: list[PoolView], after: _Accounts, slices: Slices) -> dict[str, int]:
        """Clients plus queries since the last reading, by tenant."""
        before = self._accounts.queries
        queries = after.queries
        busy: dict[str, int] = {}
        for counters, tenant in {pool.counters: pool.key.tenant for pool in pools}.items():
            queries[tenant] = queries.get(tenant, 0) + counters.queries + sum(counters.alone_time.counts)
            busy[tenant] = busy.get(tenant, 0) + counters.clients
            if slices.is_over:
                await slices.rest()
        for tenant in busy:
            busy[tenant] += max(0, queries[tenant] - before.get(tenant, 0))  # less when a pool is gone
            if slices.is_over:
                await slices.rest()
        return busy

    def _rename(self, after: _Accounts, busy: dict[str, int], now: float) -> set[str]:
        """Takes names from those who lose them, gives free ones to the busiest; returns who is new."""
        named = after.named
        for name in [x for x in named if x not in busy and x not in self._directory.tenants]:
            after.unname(name)
        for name, account in named.items():
            if busy.get(name):
                account.active_at = now
        unnamed = [(score, tenant) for tenant, score in busy.items() if tenant not in named]
        lacking = sum(score > 0 for score, _ in unnamed) - (self._capacity - len(named))
        if lacking > 0:
            idle = sorted((x.active_at, name) for name, x in named.items() if x.active_at + IDLE_S <= now)
            for _, name in idle[:lacking]:
                after.unname(name)
        newcomers = nlargest(self._capacity - len(named), unnamed)
        for score, tenant in newcomers:
            named[tenant] = _Name()
            named[tenant].active_at = now if score else -inf
        return {tenant for _, tenant in newcomers}

    async def _keep_what_is_gone(
        self, before: _Accounts, after: _Accounts, newcomers: set[str], slices: Slices
    ) -> None:
        """Pools of the last reading that exist no more: their final counts stay in the row that showed them."""
        for counters in [x for x in before.seen if x not in after.seen]:
            tenant = before.seen[counters]
            stays = tenant in after.named and tenant not in newcomers
            add_to(after.named[tenant].correction if stays else after.folded, tally(counters))
            if slices.is_over:
                await slices.rest()
