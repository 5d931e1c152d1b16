"""The servers of one pool that listen for notifications: lent to nobody, outside of the pool's size. Pure.

Enters: who wants a server to listen with. Leaves: `Seat` when it has one, `Renew` when it should get another (endpoint
or password changed, or the pool goes away), `Refuse`. Always true: such a server counts for the instance like any
other, from the decision to open it until PostgreSQL has closed its side, and at least one place of the instance is left
to the pools; it has no lifetime, and only its holder, a smaller limit or PostgreSQL ends it.

It comes before all that clients wait for: without room an idle server makes place, or the next one that comes back.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from pgweir_pooler.errors import NoRoomToListen, QueueTimeout
from pgweir_pooler.pool.keys import CloseReason
from pgweir_pooler.pool.slot import Close, Effect, Open, Refuse, Renew, Seat, Slot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgweir_pooler.errors import PoolerError
    from pgweir_pooler.pool.ledger import PoolLedger
    from pgweir_pooler.pool.slot import Connection, Waiter


class ListeningPlaces:
    """See the module. A closing server is in its pool's `closing`, until lost."""

    __slots__ = ("_pool", "_waiters", "opening", "servers", "wanted")

    def __init__(self, pool: PoolLedger) -> None:
        self._pool = pool
        self.wanted: dict[
            Slot, float
        ] = {}  # wait for room, with the time they asked; until begun, refused or abandoned
        self.opening: dict[Slot, None] = {}  # until opened, open_failed or lost
        self.servers: dict[Slot, None] = {}  # logged in; until closed or lost
        self._waiters: dict[Slot, Waiter] = {}  # of `wanted` and `opening`; one that left has none

    @property
    def is_empty(self) -> bool:
        """No server listens or will."""
        return not (self.wanted or self.opening or self.servers)

    def ask(self, waiter: Waiter, now: float) -> Sequence[Effect]:
        """The waiter gets a server of its own (`Seat`) as soon as there is room for one, or a refusal."""
        pool = self._pool
        error = self._reason_to_refuse(now)
        if error is not None:
            return [Refuse(waiter, error)]
        slot = Slot(pool, pool.generation)
        self.wanted[slot] = now
        self._waiters[slot] = waiter
        pool.instance.listeners += 1
        if pool.limits.queue_timeout_s:
            pool.wake_by(now + pool.limits.queue_timeout_s)
        effects: list[Effect] = []
        pool.settle(now, effects)
        return effects

    def abandon(self, waiter: Waiter, now: float) -> Sequence[Effect]:
        """The waiter wants no server any more; one that is being opened is closed when it has logged in."""
        effects: list[Effect] = []
        for slot in [slot for slot, holder in self._waiters.items() if holder is waiter]:
            del self._waiters[slot]
            if slot in self.wanted:
                self._forget(slot, self.wanted)
                self._pool.settle(now, effects)
        return effects

    def begin(self, effects: list[Effect]) -> None:
        """Begins the login that was wanted first. The caller has asked the instance for room."""
        slot = next(iter(self.wanted))
        del self.wanted[slot]
        self.opening[slot] = None
        instance = self._pool.instance
        instance.opening += 1
        instance.servers += 1
        effects.append(Open(slot))

    def opened(self, slot: Slot, connection: Connection, now: float) -> Sequence[Effect]:
        """A login is done."""
        pool, instance = self._pool, self._pool.instance
        del self.opening[slot]
        instance.opening -= 1
        slot.connection = connection
        slot.opened_at = now
        slot.expires_at = inf
        self.servers[slot] = None
        effects: list[Effect] = []
        waiter = self._waiters.pop(slot, None)
        if waiter is None:
            self._close(slot, CloseReason.LISTENING_ENDED, effects)
        elif pool.refusal is not None:
            self._close(slot, CloseReason.DRAINED, effects)
            effects.append(Refuse(waiter, pool.refusal))
        elif instance.listeners >= instance.limit:
            self._close(slot, CloseReason.RESIZED, effects)
            effects.append(Refuse(waiter, NoRoomToListen(instance.limit)))
        else:
            effects.append(Seat(waiter, slot))
            if slot.generation == pool.generation:
                pool.backoff.forget()
            else:
                effects.append(Renew(slot))
        pool.settle(now, effects)
        pool.wake_for_minimum(now)
        return effects

    def open_failed(self, slot: Slot, error: PoolerError, now: float) -> Sequence[Effect]:
        """A login failed: its waiter is told at once, for a client waits behind it."""
        pool, instance = self._pool, self._pool.instance
        self._forget(slot, self.opening)
        instance.opening -= 1
        instance.servers -= 1
        if slot.generation == pool.generation:
            pool.backoff.failed(error, now)
        effects: list[Effect] = []
        self._refuse(slot, error, effects)
        pool.settle(now, effects)
        pool.wake_for_minimum(now)
        return effects

    def discard(self, slot: Slot, reason: CloseReason, now: float) -> Sequence[Effect]:
        """Closes a server; nothing happens to one that is closing or gone."""
        if slot not in self.servers:
            return ()
        effects: list[Effect] = []
        self._close(slot, reason, effects)
        self._pool.settle(now, effects)
        return effects

    def lost(self, slot: Slot) -> bool:
        """PostgreSQL has closed its side; False when the slot is not here. The pool counts it out."""
        if slot in self.servers:
            self._forget(slot, self.servers)
        elif slot in self.opening:
            self._forget(slot, self.opening)
            self._pool.instance.opening -= 1
        else:
            return False
        return True

    def refuse_late(self, now: float, effects: list[Effect]) -> None:
        """Who waited for room as long as a client would wait for a server gets none."""
        timeout_s = self._pool.limits.queue_timeout_s
        for slot, asked_at in list(self.wanted.items()):
            if timeout_s and asked_at + timeout_s <= now:
                self._forget(slot, self.wanted)
                text = f"no server connection became free to listen with within {timeout_s:g} s"
                hint = "The database instance's maxConnections is used up: raise it, or make transactions shorter."
                self._refuse(slot, QueueTimeout(text, hint=hint), effects)

    def renew(self, effects: list[Effect]) -> None:
        """No server of before should go on listening; each one stays until its holder has a better one."""
        effects.extend([Renew(slot) for slot in self.servers])

    def drain(self, error: PoolerError, effects: list[Effect]) -> None:
        """The pool goes away."""
        for slot in list(self.wanted):
            self._forget(slot, self.wanted)
            self._refuse(slot, error, effects)
        self.renew(effects)

    def shrink(self, now: float, effects: list[Effect]) -> None:
        """The instance's limit was lowered: gives places up until one is left to the pools."""
        instance = self._pool.instance
        for slot in list(self.wanted):
            if instance.listeners >= instance.limit:
                self._forget(slot, self.wanted)
                self._refuse(slot, NoRoomToListen(instance.limit), effects)
        if self._pool in instance.starving and self._pool.shortfall(now) <= 0:
            del instance.starving[self._pool]
        for slot in list(self.servers):
            if instance.listeners >= instance.limit:
                self._close(slot, CloseReason.RESIZED, effects)

    def _reason_to_refuse(self, now: float) -> PoolerError | None:
        pool = self._pool
        if pool.refusal is not None:
            return pool.refusal
        if pool.instance.listeners + 1 >= pool.instance.limit:
            return NoRoomToListen(pool.instance.limit)
        return pool.backoff.error if now < pool.backoff.retry_at else None

    def _refuse(self, slot: Slot, error: PoolerError, effects: list[Effect]) -> None:
        waiter = self._waiters.pop(slot, None)
        if waiter is not None:
            effects.append(Refuse(waiter, error))

    def _forget(self, slot: Slot, place: dict[Slot, None] | dict[Slot, float]) -> None:
        del place[slot]
        self._pool.instance.listeners -= 1

    def _close(self, slot: Slot, reason: CloseReason, effects: list[Effect]) -> None:
        self._forget(slot, self.servers)
        self._pool.closing[slot] = None
        self._pool.instance.closing += 1
        effects.append(Close(slot, reason))
