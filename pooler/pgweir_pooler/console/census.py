"""Pools by database and user, as the console's tables need them: one walk through the directory, without repeats.

A pool that moved to another instance shares key and counters with the one that drains there; both are of one group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

from pgweir_pooler.orders import DatabaseKey

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from pgweir_pooler.console.view import ServerView
    from pgweir_pooler.directory import Directory
    from pgweir_pooler.pool.keys import PoolKey
    from pgweir_pooler.pool.pool import Pool
    from pgweir_pooler.pool.slot import Slot
    from pgweir_pooler.telemetry import PoolCounters


T = TypeVar("T")


def database_of(key: PoolKey) -> DatabaseKey:
    """The database of a pool."""
    return DatabaseKey(key.database, key.tenant)


def all_pools(directory: Directory) -> list[Pool]:
    """Pools that serve, then pools that drain."""
    return [*directory.pools(), *directory.departed]


Stepwise: TypeAlias = "Generator[None, None, T]"
"""Long work that yields after each small step, so that others get their turn, and returns its result."""


def by_key(pools: Iterable[Pool]) -> Stepwise[list[tuple[PoolKey, list[Pool]]]]:
    """Grouped by tenant, database and user, in this order."""
    groups: dict[PoolKey, list[Pool]] = {}
    for pool in pools:
        groups.setdefault(pool.key, []).append(pool)
        yield
    return sorted(groups.items(), key=lambda item: item[0])


def counters_by_database(pools: Iterable[Pool]) -> Stepwise[list[tuple[DatabaseKey, dict[PoolCounters, None]]]]:
    """Each database's counters, each once, sorted by tenant and database."""
    groups: dict[DatabaseKey, dict[PoolCounters, None]] = {}
    for pool in pools:
        groups.setdefault(database_of(pool.key), {})[pool.counters] = None
        yield
    return sorted(groups.items(), key=lambda item: (item[0].tenant, item[0].database))


def clients_of(pools: Iterable[Pool]) -> int:
    """Clients that are logged in to any of the pools."""
    return sum(counters.clients for counters in {pool.counters: None for pool in pools})


def servers_of(pools: Iterable[Pool]) -> int:
    """Server connections of the pools, opening and closing ones too."""
    return sum(pool.opening + pool.idle + pool.active + pool.closing for pool in pools)


def server_of(slot: Slot) -> ServerView | None:
    """The slot's connection once it is logged in; `net` puts nothing else there."""
    return slot.connection  # type: ignore[return-value]


class LentServers:
    """How the lent servers of some pools are used."""

    __slots__ = ("active", "being_canceled", "cancels", "tested")

    def __init__(self, pools: Iterable[Pool]) -> None:
        self.active = 0  # by a client
        self.tested = 0  # an errand of the pooler's runs on it: a reset, a rollback, a client's settings
        self.being_canceled = 0  # free but for a CancelRequest that is under way
        self.cancels = 0  # CancelRequests under way
        for slot in _lent(pools):
            server = server_of(slot)
            if server is None:
                continue
            self.cancels += server.cancels_under_way
            state = lent_state(server)
            if state == "active":
                self.active += 1
            elif state == "being_canceled":
                self.being_canceled += 1
            else:
                self.tested += 1


def lent_state(server: ServerView) -> str:
    """The state of a lent server, in PgBouncer's words."""
    if server.client is not None:
        return "active"
    return "being_canceled" if server.cancels_under_way else "tested"


def _lent(pools: Iterable[Pool]) -> Iterator[Slot]:
    for pool in pools:
        yield from pool.ledger.active
