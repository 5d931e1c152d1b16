"""One database instance and the queue in which the effects of all its pools are performed, in order."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from pgweir_pooler.pool.instance_ledger import InstanceLedger
from pgweir_pooler.pool.slot import Effect, Grant, Refuse, Seat, Slot

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from random import Random

    from pgweir_pooler.pool.ledger import PoolLedger
    from pgweir_pooler.pool.pool import Pool
    from pgweir_pooler.pool.slot import Waiter

log = logging.getLogger(__name__)


class Instance:
    """One database instance (`host:port`) with its budget; performs the effects of all its pools."""

    __slots__ = ("due", "is_performing", "key", "ledger", "loop", "now", "pools", "rng")

    def __init__(
        self,
        key: str,
        limit: int,
        loop: asyncio.AbstractEventLoop,
        rng: Random,
        now: Callable[[], float] | None = None,
    ) -> None:
        """`now` must tell the loop's time; uvloop's own is exact to a millisecond only, which is a long wait."""
        self.key = key
        self.now = now or loop.time
        self.loop = loop
        self.rng = rng
        self.ledger = InstanceLedger(limit)
        self.pools: dict[PoolLedger, Pool] = {}  # added by Pool, removed when it is closed
        self.due: deque[Effect] = deque()  # effects of the books that are not performed yet
        self.is_performing = False

    def resize(self, limit: int) -> None:
        """Takes over a new limit; a lower one closes idle servers now and lent ones at their return."""
        self.perform(self.ledger.resize(limit, self.loop.time()))
        for pool in self.pools.values():
            pool.arm()

    def perform(self, effects: Sequence[Effect]) -> None:
        """Performs effects in order; called from inside an effect it returns at once and the caller goes on."""
        self.due.extend(effects)
        if self.is_performing:
            return
        self.is_performing = True
        try:
            while self.due:
                effect = self.due.popleft()
                if isinstance(effect, Refuse):
                    _refuse(effect)
                else:
                    self.pools[effect.slot.pool].perform(effect)
        finally:
            self.is_performing = False

    def withdraw(self, waiter: Waiter) -> Slot | None:
        """Drops what is still to be said to the waiter; the slot, if that was a grant."""
        for effect in self.due:
            if isinstance(effect, Grant | Refuse | Seat) and effect.waiter is waiter:
                self.due.remove(effect)
                return None if isinstance(effect, Refuse) else effect.slot
        return None

    def is_promised(self, slot: Slot) -> bool:
        """Whether the slot is granted to a waiter who has not been told yet."""
        return any(isinstance(effect, Grant) and effect.slot is slot for effect in self.due)


def _refuse(effect: Refuse) -> None:
    try:
        effect.waiter.refused(effect.error)
    except Exception:  # one session's fault must not keep the others from being told
        log.exception("a client failed when it was refused a server")
