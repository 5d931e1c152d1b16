"""The thin shell over the books: it connects, keeps one timer per pool, and does what the books say.

The books are final before the first effect is performed, and effects are performed from one queue per instance: whoever
calls back in from `granted`, `refused` or `close` only adds to that queue, so a chain of hand-offs needs no stack.

Every connect runs in a task that its pool owns; its end is noticed by `_connect_ended`, which leaves the books right
whether it succeeded, failed, or was cancelled before it began.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from pgweir_pooler.errors import PoolerError, ServerUnreachable
from pgweir_pooler.pool.instance import Instance
from pgweir_pooler.pool.keys import CloseReason
from pgweir_pooler.pool.ledger import PoolLedger
from pgweir_pooler.pool.slot import Close, Effect, Grant, Open, Renew, Seat, Slot
from pgweir_pooler.pool.watches import Watches, holds_retired, holds_server
from pgweir_pooler.telemetry import HISTOGRAM_BOUNDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import TypeAlias

    from pgweir_pooler.pool.keys import PoolKey, PoolLimits
    from pgweir_pooler.pool.slot import Connection, Waiter
    from pgweir_pooler.telemetry import PoolCounters

    # Returns a connection that finished its login and has its `slot` set; raises PoolerError. Cancelled, it must not
    # leave a socket behind. It runs under `PoolLimits.connect_timeout_s`.
    Connect: TypeAlias = Callable[["Pool", Slot], Awaitable[Connection]]

__all__ = ["Instance", "Pool"]

log = logging.getLogger(__name__)


class Pool:
    """Lends the servers of one pool. All times are the loop's.

    `closed` is done when the pool was drained and its last server is gone. `take` + `give_back` cost 300 ns here under
    uvloop, interpreted, and `ask` + `give_back` with a hand-off 1.3 us (compiled by mypyc: 0.2 and 0.8 us).
    """

    __slots__ = (
        "_connects",
        "_loop",
        "_now",
        "_timer",
        "_timer_at",
        "_watches",
        "closed",
        "connect",
        "counters",
        "instance",
        "key",
        "ledger",
    )

    def __init__(
        self, key: PoolKey, limits: PoolLimits, instance: Instance, connect: Connect, counters: PoolCounters
    ) -> None:
        self.key = key
        self.instance = instance
        self.connect = connect  # may be replaced, together with `retire`
        self.counters = counters
        self.ledger = PoolLedger(key, limits, instance.ledger, instance.rng.random)
        self.closed: asyncio.Future[None] = instance.loop.create_future()
        self._loop = instance.loop
        self._now = instance.now
        self._connects: dict[Slot, asyncio.Task[Connection]] = {}  # removed by _connect_ended
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._watches = Watches()
        instance.pools[self.ledger] = self
        self.arm()

    # --- the hot path

    def take(self) -> Connection | None:
        """The server used last, or None: then `ask`."""
        slot = self.ledger.take()
        if slot is None:
            return None
        self.counters.checkouts += 1
        return slot.connection

    def checkout(self, waiter: Waiter, now: float) -> Connection | None:
        """`take`, else `ask`: the server, or None when the waiter waits or has been told."""
        ledger = self.ledger
        if ledger.idle:
            self.counters.checkouts += 1
            slot = ledger.idle.pop()  # `PoolLedger.take`, without the call
            ledger.active[slot] = None
            return slot.connection
        if ledger.waiters and len(ledger.active) >= ledger.size:
            # `PoolLedger.ask` would come to the same: an older waiter's timeout is due before this one's.
            ledger.waiters[waiter] = now
            return None
        self._ask(waiter, now)
        return None

    def ask(self, waiter: Waiter) -> None:
        """Queues the waiter; it is told at once when there is a server, or no hope for one."""
        self._ask(waiter, self._now())

    def _ask(self, waiter: Waiter, now: float) -> None:
        effects = self.ledger.ask(waiter, now)
        if effects:
            self.instance.perform(effects)
        if self.ledger.wake_at < self._timer_at:
            self.arm()

    def give_back(self, connection: Connection, now: float = 0.0) -> None:
        """A lent server is free again. KeyError for one that is not lent: after `lost` or `discard`, never this.

        `now` spares a look at the clock that the caller has just made.
        """
        ledger = self.ledger
        slot = connection.slot
        now = now or self._now()
        instance = self.instance
        if (
            ledger.waiters
            and now < slot.expires_at
            and not (instance.is_performing or ledger.instance.starving)
            and len(ledger.active) <= ledger.size
            and slot in ledger.active
        ):
            # What `PoolLedger.give_back` would say, without the way through the queue of effects: 0.5 us less per query
            # of a busy pool.
            waiter, asked_at = ledger.waiters.popitem(last=False)
            instance.is_performing = True  # what the waiter does in turn is performed after it
            try:
                self._lend(connection, waiter, asked_at, now)
            finally:
                instance.is_performing = False
            if instance.due:
                instance.perform(())
            return
        effects = ledger.give_back(slot, now)
        if effects:
            self._carry_out(effects)

    # --- the rest of a loan and of a server

    def abandon(self, waiter: Waiter) -> None:
        """The waiter will not be told anything any more; what was granted to it meanwhile is given back.

        After its `granted` was called there is nothing to abandon: the holder gives back or discards.
        """
        now = self._now()
        slot = self.instance.withdraw(waiter)
        if slot is None:
            self._carry_out(self.ledger.abandon(waiter, now))
        elif slot in self.ledger.active:
            self._carry_out(self.ledger.give_back(slot, now))

    def discard(self, connection: Connection, reason: CloseReason) -> None:
        """Closes a server instead of using it again; nothing happens to one that is closing or gone."""
        self._carry_out(self.ledger.discard(connection.slot, reason, self._now()))

    def ask_to_listen(self, waiter: Waiter) -> None:
        """The waiter gets a server of its own, outside of the pool's size, until it discards it."""
        self._carry_out(self.ledger.listening.ask(waiter, self._now()))

    def abandon_listening(self, waiter: Waiter) -> None:
        """As `abandon`, after `ask_to_listen`."""
        now = self._now()
        slot = self.instance.withdraw(waiter)
        if slot is None:
            self._carry_out(self.ledger.listening.abandon(waiter, now))
        else:
            self._carry_out(self.ledger.discard(slot, CloseReason.LISTENING_ENDED, now))

    def lost(self, connection: Connection) -> None:
        """PostgreSQL has closed its side. May come at any time after the login, and twice."""
        slot = connection.slot
        ledger = self.ledger
        if slot in ledger.active or slot in ledger.idle or slot in ledger.listening.servers:
            self._count_close(CloseReason.SERVER_CLOSED)
        self._carry_out(self.ledger.lost(slot, self._now()))

    # --- changes from outside

    def resize(self, limits: PoolLimits) -> None:
        """Takes over new limits; surplus servers close when they are free."""
        self._carry_out(self.ledger.resize(limits, self._now()))

    def retire(self) -> None:
        """Endpoint or password changed (set `connect` before, if it knows them): no server of before is lent again."""
        self._carry_out(self.ledger.retire(self._now()))

    def retry(self) -> None:
        """A new password or key is there: logins are tried at once."""
        self._carry_out(self.ledger.retry(self._now()))

    def drain(self, error: PoolerError) -> None:
        """Refuses waiters of now and later with `error` and closes servers as they become free; see `closed`."""
        self._carry_out(self.ledger.drain(error, self._now()))

    def pause(self) -> None:
        """Lends nothing until `resume`; transactions that run go on. See `emptied`."""
        self._carry_out(self.ledger.pause(self._now()))

    def resume(self) -> None:
        """Ends a pause, if there is one."""
        self._carry_out(self.ledger.resume(self._now()))

    def emptied(self) -> asyncio.Future[None]:
        """Done as soon as PostgreSQL sees no server of this pool, which comes about by `pause` or `drain`."""
        return self._watches.until_not(holds_server, self.ledger, self._loop.create_future())

    def renewed(self) -> asyncio.Future[None]:
        """Done as soon as no server of before the last `retire` is left."""
        return self._watches.until_not(holds_retired, self.ledger, self._loop.create_future())

    # --- numbers for status and metrics

    @property
    def opening(self) -> int:
        return len(self.ledger.opening) + len(self.ledger.listening.opening)

    @property
    def idle(self) -> int:
        return len(self.ledger.idle)

    @property
    def active(self) -> int:
        return len(self.ledger.active)

    @property
    def closing(self) -> int:
        return len(self.ledger.closing)

    @property
    def listening(self) -> int:
        return len(self.ledger.listening.servers)

    @property
    def waiting(self) -> int:
        return len(self.ledger.waiters)

    def asked_at(self, waiter: Waiter) -> float | None:
        """Since when the waiter waits; None when it is not in the queue."""
        return self.ledger.waiters.get(waiter)

    def has_place(self) -> bool:
        """Whether `ask` would not wait for another client: a server is idle, or can be opened for every waiter."""
        ledger = self.ledger
        if ledger.idle:
            return True
        waiting = len(ledger.waiters)
        instance = ledger.instance
        return (
            waiting + len(ledger.active) < ledger.size
            and instance.servers - len(ledger.opening) + waiting < instance.limit
        )

    def oldest_wait_s(self) -> float:
        """How long the oldest waiter has waited; 0 when nobody waits."""
        return max(0.0, self._now() - self.ledger.oldest_asked_at())

    # --- what the books want

    def perform(self, effect: Grant | Open | Close | Seat | Renew) -> None:
        """One effect of this pool; called by `Instance.perform` alone."""
        if isinstance(effect, Grant):
            self._grant(effect)
        elif isinstance(effect, Open):
            slot = effect.slot
            task = self._loop.create_task(self._connect_in_time(slot), name=f"connect a server for {self.key}")
            self._connects[slot] = task
            task.add_done_callback(partial(self._connect_ended, slot))
        elif isinstance(effect, Close):
            self._close(effect)
        else:
            self._tell_listener(effect)

    def arm(self) -> None:
        """Makes sure that the timer fires by the books' `wake_at`; an earlier one stays and finds nothing to do."""
        when = self.ledger.wake_at
        if when >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        # A timer may fire a clock resolution early; what it was set for is due all the same.
        now = max(self._now(), self._timer_at)
        self._timer = None
        self._timer_at = inf
        self._carry_out(self.ledger.tick(now))

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        if effects:
            self.instance.perform(effects)
        if self.ledger.wake_at < self._timer_at:
            self.arm()
        if self._watches:
            self._watches.look(self.ledger)
        if self.ledger.refusal is not None and self.ledger.is_empty and not self.closed.done():
            self._end()

    def _end(self) -> None:
        self.instance.ledger.forget(self.ledger)
        del self.instance.pools[self.ledger]
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = -inf  # no timer is armed again
        self.closed.set_result(None)

    def _grant(self, grant: Grant) -> None:
        slot = grant.slot
        if slot not in self.ledger.active:  # lost by what an earlier effect did: the waiter asks again
            self.ask(grant.waiter)
            return
        assert slot.connection is not None
        self._lend(slot.connection, grant.waiter, grant.asked_at, self._now())

    def _lend(self, connection: Connection, waiter: Waiter, asked_at: float, now: float) -> None:
        counters = self.counters
        counters.checkouts += 1
        counters.waits += 1
        waits = counters.wait_time  # `observe`, without the call
        waited_s = now - asked_at
        waits.counts[bisect_left(HISTOGRAM_BOUNDS, waited_s)] += 1
        waits.sum_s += waited_s
        try:
            waiter.granted(connection, now)
        except Exception:  # whatever a session does wrong, its server must not be lost to the pool
            log.exception("a client of %s failed when it got its server", self.key)
            if connection.slot in self.ledger.active and not self.instance.is_promised(connection.slot):
                self.discard(connection, CloseReason.BROKEN)

    def _tell_listener(self, effect: Seat | Renew) -> None:
        connection = effect.slot.connection
        try:
            if isinstance(effect, Seat):
                assert connection is not None
                effect.waiter.granted(connection, self._now())
            elif effect.slot in self.ledger.listening.servers:
                connection.renew()  # type: ignore[union-attr]  # a ListeningConnection, as it sits there
        except Exception:  # it must not be left open with nobody to end it
            log.exception("whoever listens for %s failed", self.key)
            self._carry_out(self.ledger.discard(effect.slot, CloseReason.BROKEN, self._now()))

    def _close(self, effect: Close) -> None:
        self._count_close(effect.reason)
        assert effect.slot.connection is not None
        try:
            effect.slot.connection.close(effect.reason)
        except Exception:  # it counts until PostgreSQL has closed its side: only `lost` may release it
            log.exception("closing a server of %s failed", self.key)

    def _count_close(self, reason: CloseReason) -> None:
        closes = self.counters.server_closes
        closes[reason.value] = closes.get(reason.value, 0) + 1

    async def _connect_in_time(self, slot: Slot) -> Connection:
        timeout_s = self.ledger.limits.connect_timeout_s
        try:
            async with asyncio.timeout(timeout_s or None):
                return await self.connect(self, slot)
        except TimeoutError:
            raise ServerUnreachable(f"the database did not finish the login within {timeout_s:g} s") from None

    def _connect_ended(self, slot: Slot, task: asyncio.Task[Connection]) -> None:
        del self._connects[slot]
        now = self._now()
        error = ServerUnreachable("the login was given up") if task.cancelled() else task.exception()
        if error is None:
            self.counters.server_opens += 1
            self._carry_out(self.ledger.opened(slot, task.result(), now))
            return
        if not isinstance(error, PoolerError):
            log.error("connecting a server of %s failed in an unknown way", self.key, exc_info=error)
            error = ServerUnreachable("the pooler failed to connect to the database")
        self._carry_out(self.ledger.open_failed(slot, error, now))
