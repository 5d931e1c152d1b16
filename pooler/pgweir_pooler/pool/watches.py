"""Futures that are done as soon as something is true of a pool's books."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from pgweir_pooler.pool.ledger import PoolLedger


def holds_server(pool: PoolLedger) -> bool:
    """Whether PostgreSQL may still see a server of this pool."""
    return bool(pool.opening or pool.idle or pool.active or pool.closing)


def holds_retired(pool: PoolLedger) -> bool:
    """Whether a server of before the last `retire` is still there."""
    places = (pool.opening, pool.idle, pool.active, pool.closing)
    return any(slot.generation != pool.generation for place in places for slot in place)


class Watches:
    """What somebody waits for; asked whenever the books have changed in a way that may end a server."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        # Until the condition is no longer true, or nobody waits any more.
        self._waiting: list[tuple[Callable[[PoolLedger], bool], asyncio.Future[None]]] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def until_not(
        self, condition: Callable[[PoolLedger], bool], pool: PoolLedger, future: asyncio.Future[None]
    ) -> asyncio.Future[None]:
        """The future, done when the condition is false: now, or at a later `look`."""
        self._waiting.append((condition, future))
        self.look(pool)
        return future

    def look(self, pool: PoolLedger) -> None:
        """Tells whose time has come."""
        waiting, self._waiting = self._waiting, []
        for condition, future in waiting:
            if future.done():  # cancelled
                continue
            if condition(pool):
                self._waiting.append((condition, future))
            else:
                future.set_result(None)
