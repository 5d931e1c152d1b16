"""Why a pool's server is closed at its return, and why a client that asks is sent away. Pure, as the books are."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from pgweir_pooler.pool.keys import CloseReason

if TYPE_CHECKING:
    from pgweir_pooler.errors import PoolerError
    from pgweir_pooler.pool.ledger import PoolLedger
    from pgweir_pooler.pool.slot import Slot


def reason_to_close(pool: PoolLedger, slot: Slot, now: float) -> CloseReason | None:
    """None: the slot, which is active and used by nobody, is lent again or rests."""
    if pool.refusal is not None:
        return CloseReason.DRAINED
    if pool.is_paused:
        return CloseReason.PAUSED
    if slot.generation != pool.generation:
        return CloseReason.RETIRED
    if pool.total() > pool.size or pool.instance.is_over_limit() or slot.expires_at == -inf:
        return CloseReason.RESIZED
    return CloseReason.LIFETIME if slot.expires_at <= now else None


def reason_to_refuse(pool: PoolLedger, now: float) -> PoolerError | None:
    """The last login's error, while there is nothing to wait for."""
    if now >= pool.backoff.retry_at or pool.has_servers() or pool.backoff.is_starting_up or pool.is_paused:
        return None
    return pool.backoff.error
