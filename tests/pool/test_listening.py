"""Servers that listen: beside the pool's size, inside the instance's budget, before everybody else in line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgweir_pooler.errors import NoRoomToListen, QueueTimeout, ServerUnreachable, Terminated
from pgweir_pooler.pool.instance_ledger import InstanceLedger
from pgweir_pooler.pool.keys import CloseReason
from pgweir_pooler.pool.slot import Renew, Seat
from pool.books import DOWN, Client, Server, closes, grants, lend, limits, new_pool, opens, refusals, rest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgweir_pooler.pool.ledger import PoolLedger
    from pgweir_pooler.pool.slot import Effect, Slot


def seats(effects: Sequence[Effect]) -> list[tuple[object, Slot]]:
    return [(effect.waiter, effect.slot) for effect in effects if isinstance(effect, Seat)]


def renewals(effects: Sequence[Effect]) -> list[Slot]:
    return [effect.slot for effect in effects if isinstance(effect, Renew)]


def listen(pool: PoolLedger, now: float = 0.0) -> Slot:
    """A server that listens."""
    client = Client()
    (slot,) = opens(pool.listening.ask(client, now))
    assert seats(pool.opened(slot, Server(slot), now)) == [(client, slot)]
    return slot


def test_a_listening_server_takes_no_place_of_the_pool() -> None:
    pool = new_pool(InstanceLedger(2), bounds=limits(size=1))
    slot = listen(pool)
    assert (pool.total(), pool.instance.servers, pool.instance.listeners) == (0, 1, 1)
    lend(pool, 1)
    assert not opens(pool.ask(Client(), 0.0))
    assert not pool.is_empty
    assert closes(pool.discard(slot, CloseReason.LISTENING_ENDED, 1.0)) == [(slot, CloseReason.LISTENING_ENDED)]
    assert (pool.instance.servers, pool.instance.listeners, pool.instance.closing) == (2, 0, 1)
    assert not pool.discard(slot, CloseReason.LISTENING_ENDED, 1.0)
    pool.lost(slot, 1.0)
    assert (pool.instance.servers, pool.instance.closing) == (1, 0)
    assert not pool.lost(slot, 1.0)


def test_one_place_of_the_instance_is_left_to_the_pools() -> None:
    pool = new_pool(InstanceLedger(1))
    client = Client()
    ((refused, error),) = refusals(pool.listening.ask(client, 0.0))
    assert refused is client
    assert isinstance(error, NoRoomToListen)
    assert error.wire_sqlstate() == "53300"
    assert "maxConnections" in error.hint
    other = new_pool(InstanceLedger(3))
    listen(other)
    listen(other)
    assert refusals(other.listening.ask(client, 0.0))


def test_an_idle_server_makes_place_after_its_second() -> None:
    pool = new_pool(InstanceLedger(2))
    first, _ = rest(pool, 2, now=0.0)
    client = Client()
    assert not pool.listening.ask(client, 0.5)
    assert pool.wake_at <= 1.0
    assert closes(pool.tick(1.0)) == [(first, CloseReason.EVICTED)]
    (slot,) = opens(pool.lost(first, 1.1))
    assert seats(pool.opened(slot, Server(slot), 1.2)) == [(client, slot)]


def test_the_next_server_that_comes_back_makes_place() -> None:
    instance = InstanceLedger(2)
    pool, other = new_pool(instance), new_pool(instance, "other")
    mine, _ = lend(pool, 2)
    waiter, client = Client(), Client()
    pool.ask(waiter, 0.0)
    assert not other.listening.ask(client, 0.1)
    assert closes(pool.give_back(mine, 0.2)) == [(mine, CloseReason.EVICTED)]
    (slot,) = opens(pool.lost(mine, 0.3))
    assert slot.pool is other
    assert waiter in pool.waiters


def test_who_waits_too_long_for_room_is_refused() -> None:
    pool = new_pool(InstanceLedger(2), bounds=limits(queue_timeout_s=5))
    lend(pool, 2)
    client = Client()
    assert not pool.listening.ask(client, 1.0)
    while pool.wake_at < 6.0:
        assert not pool.tick(pool.wake_at)
    ((refused, error),) = refusals(pool.tick(6.0))
    assert refused is client
    assert isinstance(error, QueueTimeout)
    assert pool.instance.listeners == 0
    assert pool not in pool.instance.starving


def test_a_failed_login_is_told_at_once_and_makes_the_next_one_wait() -> None:
    pool = new_pool()
    client = Client()
    (slot,) = opens(pool.listening.ask(client, 0.0))
    assert refusals(pool.open_failed(slot, DOWN, 1.0)) == [(client, DOWN)]
    assert (pool.instance.servers, pool.instance.listeners, pool.instance.opening) == (0, 0, 0)
    ((_, error),) = refusals(pool.listening.ask(client, 1.1))
    assert isinstance(error, ServerUnreachable)
    assert opens(pool.listening.ask(client, 1.25))


def test_a_waiter_that_left_gets_nothing_and_its_server_is_closed() -> None:
    pool = new_pool(InstanceLedger(2))
    client = Client()
    (slot,) = opens(pool.listening.ask(client, 0.0))
    assert not pool.listening.abandon(client, 0.1)
    assert closes(pool.opened(slot, Server(slot), 0.2)) == [(slot, CloseReason.LISTENING_ENDED)]
    pool.lost(slot, 0.3)
    lend(pool, 2)
    pool.listening.ask(client, 1.0)
    assert pool in pool.instance.starving
    pool.listening.abandon(client, 1.1)
    assert pool not in pool.instance.starving
    assert pool.instance.listeners == 0


def test_another_password_asks_for_another_server_and_keeps_the_old_one() -> None:
    pool = new_pool()
    slot = listen(pool)
    client = Client()
    (opening,) = opens(pool.listening.ask(client, 0.0))
    assert renewals(pool.retire(1.0)) == [slot]
    assert slot in pool.listening.servers
    effects = pool.opened(opening, Server(opening), 2.0)
    assert seats(effects) == [(client, opening)]
    assert renewals(effects) == [opening], "it logged in with the old password"


def test_a_pool_that_drains_waits_for_the_end_of_its_listening_server() -> None:
    pool = new_pool(InstanceLedger(3))
    slot = listen(pool)
    client = Client()
    (opening,) = opens(pool.listening.ask(client, 0.0))
    error = Terminated("the tenant was removed")
    assert renewals(pool.drain(error, 1.0)) == [slot]
    effects = pool.opened(opening, Server(opening), 1.1)
    assert refusals(effects) == [(client, error)]
    assert closes(effects) == [(opening, CloseReason.DRAINED)]
    assert refusals(pool.listening.ask(client, 1.2)) == [(client, error)]
    pool.lost(opening, 1.3)
    assert not pool.is_empty
    pool.discard(slot, CloseReason.DRAINED, 1.4)
    pool.lost(slot, 1.5)
    assert pool.is_empty


def test_a_smaller_limit_ends_listening_servers_before_it_starves_the_pools() -> None:
    pool = new_pool(InstanceLedger(4))
    first, second = listen(pool), listen(pool)
    client = Client()
    (opening,) = opens(pool.listening.ask(client, 0.0))
    assert closes(pool.instance.resize(3, 1.0)) == [(first, CloseReason.RESIZED)]
    assert closes(pool.instance.resize(2, 1.0)) == [(second, CloseReason.RESIZED)]
    pool.instance.resize(1, 1.0)
    effects = pool.opened(opening, Server(opening), 1.1)
    assert closes(effects) == [(opening, CloseReason.RESIZED)]
    assert isinstance(refusals(effects)[0][1], NoRoomToListen)
    for slot in (first, second, opening):
        pool.lost(slot, 2.0)
    lend(pool, 1)


def test_a_listening_server_survives_a_smaller_pool_and_all_times() -> None:
    pool = new_pool(bounds=limits(size=5, server_idle_timeout_s=1, server_lifetime_s=2))
    slot = listen(pool)
    assert not pool.resize(limits(size=1, server_idle_timeout_s=1, server_lifetime_s=2), 1.0)
    assert not pool.tick(1000.0)
    assert slot in pool.listening.servers
    assert not grants(pool.tick(2000.0))
