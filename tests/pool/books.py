"""A pool's books without a shell: the test is the shell, and the clock is a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgweir_pooler.errors import PoolerError, ServerUnreachable
from pgweir_pooler.pool.instance_ledger import InstanceLedger
from pgweir_pooler.pool.keys import CloseReason, PoolKey, PoolLimits
from pgweir_pooler.pool.ledger import PoolLedger
from pgweir_pooler.pool.slot import Close, Effect, Grant, Open, Refuse, Slot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgweir_pooler.pool.slot import Connection


class Client:
    """A waiter that the books hold and never call."""

    def __init__(self, name: str = "client") -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def granted(self, connection: Connection, now: float) -> None:
        raise AssertionError("the books call nobody")

    def refused(self, error: PoolerError) -> None:
        raise AssertionError("the books call nobody")


class Server:
    """A connection that the books hold and never call."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot

    def close(self, reason: CloseReason) -> None:
        raise AssertionError("the books call nobody")


DOWN = ServerUnreachable("the database is down")


def limits(
    size: int = 2,
    min_idle: int = 0,
    queue_timeout_s: float = 0,
    server_idle_timeout_s: float = 0,
    server_lifetime_s: float = 0,
    connect_timeout_s: float = 5,
) -> PoolLimits:
    return PoolLimits(size, min_idle, queue_timeout_s, server_idle_timeout_s, server_lifetime_s, connect_timeout_s)


def new_pool(
    instance: InstanceLedger | None = None, name: str = "acme", bounds: PoolLimits | None = None
) -> PoolLedger:
    """A pool whose jitter is 0, so that times are exact."""
    key = PoolKey(name, "db", "app")
    return PoolLedger(key, bounds or limits(), instance or InstanceLedger(100), lambda: 0.0)


def opens(effects: Sequence[Effect]) -> list[Slot]:
    return [effect.slot for effect in effects if isinstance(effect, Open)]


def closes(effects: Sequence[Effect]) -> list[tuple[Slot, CloseReason]]:
    return [(effect.slot, effect.reason) for effect in effects if isinstance(effect, Close)]


def grants(effects: Sequence[Effect]) -> list[tuple[object, Slot]]:
    return [(effect.waiter, effect.slot) for effect in effects if isinstance(effect, Grant)]


def refusals(effects: Sequence[Effect]) -> list[tuple[object, PoolerError]]:
    return [(effect.waiter, effect.error) for effect in effects if isinstance(effect, Refuse)]


def lend(pool: PoolLedger, count: int, now: float = 0.0) -> list[Slot]:
    """Opens and lends that many servers."""
    slots = []
    for _ in range(count):
        (slot,) = opens(pool.ask(Client(), now))
        assert grants(pool.opened(slot, Server(slot), now))
        slots.append(slot)
    return slots


def rest(pool: PoolLedger, count: int, now: float = 0.0) -> list[Slot]:
    """Opens that many servers and lets them be idle, the first one longest."""
    slots = lend(pool, count, now)
    for slot in slots:
        assert not pool.give_back(slot, now)
    return slots
