"""When a pool's books need a tick, and the end of a wait that was too long. Pure, as the books are."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from pgweir_pooler.errors import QueueTimeout
from pgweir_pooler.pool.slot import Refuse

if TYPE_CHECKING:
    from pgweir_pooler.pool.ledger import PoolLedger
    from pgweir_pooler.pool.slot import Effect

# How soon a pool below its minimum, without room in the instance, looks again.
MINIMUM_RETRY_S = 1.0


def idle_deadline(pool: PoolLedger, now: float) -> float:
    """When the first server could be due: one that is idle, or one that is lent and becomes idle at any time."""
    idle_timeout_s = pool.limits.server_idle_timeout_s or inf
    deadline = inf
    if pool.total() > pool.limits.min_idle:
        deadline = (pool.idle[0].idle_since if pool.idle else now) + idle_timeout_s
    for slot in pool.idle:
        deadline = min(deadline, slot.expires_at)
    for slot in pool.active:
        if slot.expires_at > now:  # one that is past it closes at its return
            deadline = min(deadline, slot.expires_at)
    return deadline


def next_deadline(pool: PoolLedger, now: float) -> float:
    """The value of `wake_at` after a tick; later than now, for `tick` has done all that was due."""
    deadline = idle_deadline(pool, now)
    deadline = min(deadline, refusal_deadline(pool))
    if pool.listening.wanted and pool.limits.queue_timeout_s:
        deadline = min(deadline, next(iter(pool.listening.wanted.values())) + pool.limits.queue_timeout_s)
    if now < pool.backoff.retry_at and (pool.waiters or pool.is_below_minimum()):
        deadline = min(deadline, pool.backoff.retry_at)
    elif pool.is_below_minimum():
        deadline = min(deadline, now + MINIMUM_RETRY_S)
    if pool in pool.instance.starving:
        deadline = min(deadline, pool.instance.look_again_at(now))
    return deadline


def refuse_late_waiters(pool: PoolLedger, now: float, effects: list[Effect]) -> None:
    """Takes those out of the queue who waited for the pool's `queueTimeout`."""
    while refusal_deadline(pool) <= now:
        waiter, _ = pool.waiters.popitem(last=False)
        effects.append(Refuse(waiter, _queue_timeout(pool)))


def refusal_deadline(pool: PoolLedger) -> float:
    """When the oldest waiter has waited too long. A pause does not count: whoever it held has the whole time again."""
    timeout_s = pool.limits.queue_timeout_s
    if not timeout_s or not pool.waiters or pool.is_paused:
        return inf
    return max(pool.oldest_asked_at(), pool.resumed_at) + timeout_s


def _queue_timeout(pool: PoolLedger) -> QueueTimeout:
    """What the waiter reads: the limits that made it wait, and what may be changed."""
    limits, error = pool.limits, pool.backoff.error
    text = f"no server connection became free within {limits.queue_timeout_s:g} s (pool size {limits.size})"
    hint = "Make the pool's size larger, or transactions shorter."
    if pool in pool.instance.starving:
        hint = "The database instance's maxConnections is used up: raise it, or make transactions shorter."
    return QueueTimeout(text, hint=hint, detail=error.text if error else "")
