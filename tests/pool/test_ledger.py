"""The rules of one pool's books, one by one."""

from __future__ import annotations

from math import inf

import pytest

from pgweir_pooler.errors import QueueTimeout, ServerLoginFailed, ServerUnreachable, Terminated
from pgweir_pooler.pool.instance_ledger import InstanceLedger
from pgweir_pooler.pool.keys import CloseReason
from pgweir_pooler.pool.ledger import NOTHING
from pool.books import DOWN, Client, Server, closes, grants, lend, limits, new_pool, opens, refusals, rest

STARTING = ServerLoginFailed("57P03", "the database system is starting up")


# --- lending


def test_an_empty_pool_has_nothing_to_take_and_opens_a_server_for_the_first_waiter() -> None:
    pool = new_pool()
    client = Client()
    assert pool.take() is None
    (slot,) = opens(pool.ask(client, 0.0))
    assert grants(pool.opened(slot, Server(slot), 1.0)) == [(client, slot)]
    assert list(pool.active) == [slot]
    assert not pool.waiters


def test_a_server_that_comes_back_goes_idle_without_an_object_made() -> None:
    pool = new_pool()
    (slot,) = lend(pool, 1)
    assert pool.give_back(slot, 5.0) is NOTHING
    assert pool.idle == [slot]
    assert slot.idle_since == 5.0


def test_the_server_used_last_is_lent_first() -> None:
    pool = new_pool()
    first, second = rest(pool, 2)
    assert pool.take() is second
    assert pool.take() is first
    assert pool.take() is None


def test_asking_while_a_server_is_idle_grants_it_at_once() -> None:
    pool = new_pool()
    (slot,) = rest(pool, 1)
    client = Client()
    assert grants(pool.ask(client, 1.0)) == [(client, slot)]


def test_a_freed_server_goes_to_the_oldest_waiter_with_the_time_it_asked() -> None:
    pool = new_pool(bounds=limits(size=1))
    (slot,) = lend(pool, 1)
    clients = [Client("first"), Client("second")]
    assert not pool.ask(clients[0], 1.0)
    assert not pool.ask(clients[1], 2.0)
    (grant,) = pool.give_back(slot, 4.0)
    assert grants([grant]) == [(clients[0], slot)]
    assert grant.asked_at == 1.0  # type: ignore[union-attr]
    assert list(pool.active) == [slot]
    assert grants(pool.give_back(slot, 5.0)) == [(clients[1], slot)]


@pytest.mark.parametrize("waiters", [0, 1])
def test_giving_back_twice_is_a_loud_mistake(waiters: int) -> None:
    pool = new_pool(bounds=limits(size=1))
    (slot,) = lend(pool, 1)
    pool.give_back(slot, 1.0)
    pool.take()
    pool.lost(slot, 2.0)
    for _ in range(waiters):
        pool.ask(Client(), 2.0)
    with pytest.raises(KeyError):
        pool.give_back(slot, 3.0)
    assert len(pool.waiters) == waiters


def test_an_abandoned_waiter_is_passed_over_and_abandoning_twice_is_harmless() -> None:
    pool = new_pool(bounds=limits(size=1))
    (slot,) = lend(pool, 1)
    gone, here = Client("gone"), Client("here")
    pool.ask(gone, 1.0)
    pool.ask(here, 1.0)
    assert not pool.abandon(gone, 2.0)
    assert not pool.abandon(gone, 2.0)
    assert grants(pool.give_back(slot, 3.0)) == [(here, slot)]


# --- growing


def test_a_pool_opens_one_server_per_uncovered_waiter_up_to_its_size() -> None:
    pool = new_pool(bounds=limits(size=3))
    assert [len(opens(pool.ask(Client(), 0.0))) for _ in range(5)] == [1, 1, 1, 0, 0]
    assert len(pool.opening) == 3


def test_a_surplus_server_goes_idle_when_a_freed_one_served_its_waiter_first() -> None:
    pool = new_pool(bounds=limits(size=2))
    (busy,) = lend(pool, 1)
    client = Client()
    (fresh,) = opens(pool.ask(client, 1.0))
    assert grants(pool.give_back(busy, 1.1)) == [(client, busy)]
    assert not pool.opened(fresh, Server(fresh), 1.2)
    assert pool.idle == [fresh]


def test_logins_in_flight_on_an_instance_are_bounded_over_all_its_pools() -> None:
    instance = InstanceLedger(100, max_connecting=2)
    one, two = new_pool(instance, "one"), new_pool(instance, "two")
    first = opens(one.ask(Client(), 0.0))[0]
    assert opens(one.ask(Client(), 0.1))
    assert not opens(two.ask(Client(), 0.2))
    effects = one.opened(first, Server(first), 0.3)
    assert [slot.pool for slot in opens(effects)] == [two]


def test_the_minimum_is_opened_by_the_first_tick_and_again_after_a_loss() -> None:
    pool = new_pool(bounds=limits(size=5, min_idle=2))
    assert pool.wake_at == 0.0
    slots = opens(pool.tick(0.0))
    assert len(slots) == 2
    for slot in slots:
        pool.opened(slot, Server(slot), 1.0)
    assert pool.wake_at == inf
    assert not pool.lost(slots[0], 2.0)
    assert pool.wake_at == 2.0
    assert len(opens(pool.tick(2.0))) == 1


# --- time


def test_an_idle_server_is_closed_in_time_the_longest_idle_first_down_to_the_minimum() -> None:
    pool = new_pool(bounds=limits(size=3, min_idle=1, server_idle_timeout_s=10))
    slots = lend(pool, 3)
    for i, slot in enumerate(slots):
        pool.give_back(slot, 1.0 + i)
    assert pool.wake_at <= 11.0
    assert not pool.tick(10.9)
    assert pool.wake_at == 11.0
    assert closes(pool.tick(11.0)) == [(slots[0], CloseReason.IDLE_TIMEOUT)]
    assert closes(pool.tick(30.0)) == [(slots[1], CloseReason.IDLE_TIMEOUT)]
    assert pool.idle == [slots[2]]
    assert pool.wake_at == inf


def test_a_server_that_rests_long_after_the_last_tick_still_times_out_in_time() -> None:
    pool = new_pool(bounds=limits(server_idle_timeout_s=10))
    (slot,) = lend(pool, 1)
    for now in (10.0, 20.0):
        assert not pool.tick(now)
        assert pool.wake_at == now + 10
    pool.give_back(slot, 25.0)
    assert pool.wake_at == 30.0
    assert not pool.tick(30.0)
    assert closes(pool.tick(pool.wake_at)) == [(slot, CloseReason.IDLE_TIMEOUT)]


def test_a_server_past_its_lifetime_is_closed_when_it_comes_back_and_replaced_for_who_waits() -> None:
    pool = new_pool(bounds=limits(size=1, server_lifetime_s=100))
    (slot,) = lend(pool, 1)
    pool.ask(Client(), 50.0)
    effects = pool.give_back(slot, 100.0)
    assert closes(effects) == [(slot, CloseReason.LIFETIME)]
    assert len(opens(effects)) == 1


def test_an_idle_server_past_its_lifetime_may_be_lent_once_more_and_closes_by_the_tick_otherwise() -> None:
    pool = new_pool(bounds=limits(server_lifetime_s=100))
    first, second = rest(pool, 2)
    assert pool.take() is second
    assert closes(pool.tick(pool.wake_at)) == [(first, CloseReason.LIFETIME)]
    assert closes(pool.give_back(second, 101.0)) == [(second, CloseReason.LIFETIME)]


def test_a_server_that_was_lent_during_the_last_tick_is_still_closed_at_the_end_of_its_lifetime() -> None:
    pool = new_pool(bounds=limits(server_lifetime_s=100))
    (slot,) = lend(pool, 1)
    pool.tick(50.0)
    pool.give_back(slot, 60.0)
    assert pool.wake_at == 100.0
    assert closes(pool.tick(100.0)) == [(slot, CloseReason.LIFETIME)]


def test_lifetimes_are_spread_by_a_fifth() -> None:
    pool = new_pool(bounds=limits(server_lifetime_s=100))
    pool.jitter = lambda: 0.5
    (slot,) = lend(pool, 1)
    assert slot.expires_at == 90.0


def test_a_waiter_is_refused_after_the_queue_timeout_with_seconds_size_and_a_hint() -> None:
    pool = new_pool(bounds=limits(size=1, queue_timeout_s=1.5))
    lend(pool, 1)
    late, later = Client("late"), Client("later")
    pool.ask(late, 1.0)
    pool.ask(later, 2.0)
    assert pool.wake_at <= 2.5
    ((client, error),) = refusals(pool.tick(2.5))
    assert client is late
    assert isinstance(error, QueueTimeout)
    assert error.wire_sqlstate() == "53300"
    assert "1.5 s" in error.text
    assert "pool size 1" in error.text
    assert "size" in error.hint
    assert pool.wake_at == 3.5


def test_a_queue_timeout_of_zero_waits_for_ever() -> None:
    pool = new_pool(bounds=limits(size=1, queue_timeout_s=0))
    lend(pool, 1)
    pool.ask(Client(), 1.0)
    assert pool.wake_at == inf
    assert not pool.tick(1e9)


# --- failure


def test_a_failed_login_gives_all_waiters_the_servers_own_error_when_there_is_no_other_server() -> None:
    pool = new_pool(bounds=limits(size=2))
    clients = [Client(str(i)) for i in range(3)]
    slots = [slot for client in clients for slot in opens(pool.ask(client, 0.0))]
    assert not pool.open_failed(slots[0], DOWN, 1.0), "the other login may still succeed"
    assert refusals(pool.open_failed(slots[1], DOWN, 1.0)) == [(client, DOWN) for client in clients]
    assert pool.instance.servers == 0


def test_in_back_off_a_pool_without_servers_fails_fast_and_then_tries_again() -> None:
    pool = new_pool()
    pool.open_failed(opens(pool.ask(Client(), 0.0))[0], DOWN, 1.0)
    client = Client()
    assert refusals(pool.ask(client, 1.2)) == [(client, DOWN)]
    assert opens(pool.ask(client, 1.25))


def test_the_back_off_doubles_from_a_quarter_to_fifteen_seconds_and_a_success_ends_it() -> None:
    pool = new_pool()
    now, delays = 0.0, []
    for _ in range(8):
        pool.open_failed(opens(pool.ask(Client(), now))[0], DOWN, now)
        delays.append(pool.backoff.retry_at - now)
        now = pool.backoff.retry_at
    assert delays == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    lend(pool, 1, now)
    assert pool.backoff.error is None
    assert pool.backoff.retry_at == 0.0


def test_logins_that_fail_together_back_off_once() -> None:
    pool = new_pool(bounds=limits(size=4))
    for slot in [opens(pool.ask(Client(), 0.0))[0] for _ in range(4)]:
        pool.open_failed(slot, DOWN, 1.0)
    assert pool.backoff.retry_at == 1.25


@pytest.mark.parametrize("error", [DOWN, ServerLoginFailed("53300", "sorry, too many clients already")])
def test_waiters_of_a_pool_that_still_has_a_server_keep_waiting(error: ServerUnreachable) -> None:
    pool = new_pool(bounds=limits(size=2))
    (busy,) = lend(pool, 1)
    client = Client()
    (slot,) = opens(pool.ask(client, 1.0))
    assert not pool.open_failed(slot, error, 1.0)
    assert pool.wake_at == 1.25
    assert grants(pool.give_back(busy, 1.1)) == [(client, busy)]


def test_when_the_last_server_dies_in_back_off_the_waiters_are_served_by_the_next_try() -> None:
    pool = new_pool(bounds=limits(size=2))
    (busy,) = lend(pool, 1)
    client = Client()
    pool.open_failed(opens(pool.ask(client, 1.0))[0], DOWN, 1.0)
    assert not pool.lost(busy, 1.1)
    (slot,) = opens(pool.tick(pool.wake_at))
    assert grants(pool.opened(slot, Server(slot), 1.4)) == [(client, slot)]


def test_full_postgresql_refuses_waiters_only_when_the_pool_has_no_server() -> None:
    full = ServerLoginFailed("53300", "sorry, too many clients already")
    pool = new_pool()
    client = Client()
    (slot,) = opens(pool.ask(client, 0.0))
    assert refusals(pool.open_failed(slot, full, 0.0)) == [(client, full)]


def test_a_database_that_starts_up_is_waited_for_and_tried_at_least_once_a_second() -> None:
    pool = new_pool(bounds=limits(queue_timeout_s=30))
    client = Client()
    (slot,) = opens(pool.ask(client, 0.0))
    now, delays = 0.0, []
    for _ in range(5):
        assert not pool.open_failed(slot, STARTING, now)
        assert not opens(pool.ask(Client(), now)), "who comes now waits too"
        delays.append(pool.wake_at - now)
        now = pool.wake_at
        slot = opens(pool.tick(now))[0]
        for other in [one for one in pool.opening if one is not slot]:
            pool.open_failed(other, STARTING, now)
    assert delays == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert grants(pool.opened(slot, Server(slot), now))[0] == (client, slot)


def test_a_starting_database_keeps_nobody_beyond_the_queue_timeout_and_is_named_as_detail() -> None:
    pool = new_pool(bounds=limits(queue_timeout_s=0.2))
    (slot,) = opens(pool.ask(Client(), 0.0))
    pool.open_failed(slot, STARTING, 0.1)
    ((_, error),) = refusals(pool.tick(0.2))
    assert isinstance(error, QueueTimeout)
    assert "starting up" in error.detail


# --- the end of a server


def test_a_discarded_server_counts_for_the_instance_until_it_is_lost_but_not_for_the_pool() -> None:
    pool = new_pool(bounds=limits(size=1))
    (slot,) = lend(pool, 1)
    assert closes(pool.discard(slot, CloseReason.RESET_FAILED, 1.0)) == [(slot, CloseReason.RESET_FAILED)]
    assert not pool.discard(slot, CloseReason.BROKEN, 1.0)
    assert pool.instance.servers == 1
    assert opens(pool.ask(Client(), 1.0))
    assert not pool.lost(slot, 2.0)
    assert pool.instance.servers == 1
    assert not pool.closing


@pytest.mark.parametrize("place", ["opening", "idle", "active", "closing"])
def test_a_server_can_be_lost_anywhere_and_twice(place: str) -> None:
    pool = new_pool()
    (slot,) = opens(pool.ask(Client(), 0.0)) if place == "opening" else rest(pool, 1)
    if place == "active":
        assert pool.take() is slot
    elif place == "closing":
        pool.discard(slot, CloseReason.BROKEN, 1.0)
    assert slot in getattr(pool, place)
    pool.lost(slot, 1.0)
    assert slot not in [*pool.opening, *pool.idle, *pool.active, *pool.closing]
    assert pool.instance.servers == len(pool.opening)
    assert pool.lost(slot, 1.0) is NOTHING
    assert pool.opened(slot, Server(slot), 1.0) is NOTHING
    assert pool.open_failed(slot, DOWN, 1.0) is NOTHING


def test_a_lost_server_is_replaced_for_who_waits() -> None:
    pool = new_pool(bounds=limits(size=1))
    (slot,) = lend(pool, 1)
    pool.ask(Client(), 1.0)
    assert len(opens(pool.lost(slot, 2.0))) == 1


# --- changes


def test_a_smaller_pool_closes_idle_servers_now_and_lent_ones_at_their_return() -> None:
    pool = new_pool(bounds=limits(size=4))
    slots = lend(pool, 4)
    pool.give_back(slots[0], 1.0)
    assert closes(pool.resize(limits(size=2), 2.0)) == [(slots[0], CloseReason.RESIZED)]
    pool.ask(Client(), 2.0)
    assert closes(pool.give_back(slots[1], 3.0)) == [(slots[1], CloseReason.RESIZED)]
    assert grants(pool.give_back(slots[2], 4.0))
    assert pool.total() == 2


def test_a_larger_pool_opens_for_those_who_wait() -> None:
    pool = new_pool(bounds=limits(size=1))
    lend(pool, 1)
    for _ in range(3):
        pool.ask(Client(), 1.0)
    assert len(opens(pool.resize(limits(size=3), 2.0))) == 2


def test_a_login_that_ends_after_the_pool_shrank_is_closed() -> None:
    pool = new_pool(bounds=limits(size=2))
    lend(pool, 1)
    (slot,) = opens(pool.ask(Client(), 1.0))
    pool.resize(limits(size=1), 2.0)
    assert closes(pool.opened(slot, Server(slot), 3.0)) == [(slot, CloseReason.RESIZED)]


def test_after_retiring_no_old_server_is_lent_again() -> None:
    pool = new_pool(bounds=limits(size=3))
    idle, busy = rest(pool, 2)
    assert pool.take() is busy
    pool.take()
    pool.give_back(idle, 0.0)
    client = Client()
    assert closes(pool.retire(1.0)) == [(idle, CloseReason.RETIRED)]
    (fresh,) = opens(pool.ask(client, 2.0))
    effects = pool.give_back(busy, 2.0)
    assert closes(effects) == [(busy, CloseReason.RETIRED)]
    assert not grants(effects)
    assert grants(pool.opened(fresh, Server(fresh), 3.0)) == [(client, fresh)]


def test_a_login_begun_before_retiring_is_closed_and_begun_anew() -> None:
    pool = new_pool()
    (old,) = opens(pool.ask(Client(), 0.0))
    pool.retire(1.0)
    effects = pool.opened(old, Server(old), 2.0)
    assert closes(effects) == [(old, CloseReason.RETIRED)]
    assert [slot.generation for slot in opens(effects)] == [1]


def test_the_old_passwords_failure_says_nothing_about_the_new_one() -> None:
    pool = new_pool()
    (old,) = opens(pool.ask(Client(), 0.0))
    pool.retire(1.0)
    effects = pool.open_failed(old, ServerLoginFailed("28P01", "password authentication failed"), 2.0)
    assert not refusals(effects)
    assert len(opens(effects)) == 1


def test_a_login_from_before_retiring_does_not_end_the_back_off_of_after() -> None:
    pool = new_pool(bounds=limits(size=2))
    (old,) = opens(pool.ask(Client(), 0.0))
    pool.retire(1.0)
    (new,) = opens(pool.ask(Client(), 1.0))
    pool.open_failed(new, DOWN, 2.0)
    assert not opens(pool.opened(old, Server(old), 2.1))
    assert pool.backoff.error is DOWN


def test_retiring_ends_the_back_off() -> None:
    pool = new_pool(bounds=limits(queue_timeout_s=30))
    (slot,) = opens(pool.ask(Client(), 0.0))
    pool.open_failed(slot, STARTING, 0.0)
    assert len(opens(pool.retire(0.1))) == 1


def test_the_minimum_is_tried_at_once_when_retiring_or_a_success_ends_the_back_off() -> None:
    pool = new_pool(bounds=limits(size=3, min_idle=3))
    first, second, third = opens(pool.tick(0.0))
    pool.open_failed(first, DOWN, 0.0)
    pool.open_failed(second, DOWN, 0.0)
    pool.tick(0.1)
    assert pool.wake_at == 0.25
    pool.opened(third, Server(third), 0.2)
    assert pool.wake_at == 0.2
    for slot in opens(pool.tick(0.2)):
        pool.open_failed(slot, DOWN, 0.2)
    pool.tick(0.3)
    assert pool.wake_at == 0.45
    pool.retire(0.4)
    assert pool.wake_at == 0.4


def test_draining_refuses_everybody_and_closes_every_server_as_it_becomes_free() -> None:
    error = Terminated()
    pool = new_pool(bounds=limits(size=2, min_idle=2))
    (busy,) = lend(pool, 1)
    waiter, late = Client("waiter"), Client("late")
    (opening,) = opens(pool.ask(waiter, 1.0))
    assert refusals(pool.drain(error, 2.0)) == [(waiter, error)]
    assert refusals(pool.ask(late, 2.0)) == [(late, error)]
    assert closes(pool.give_back(busy, 3.0)) == [(busy, CloseReason.DRAINED)]
    assert closes(pool.opened(opening, Server(opening), 3.0)) == [(opening, CloseReason.DRAINED)]
    for slot in (busy, opening):
        assert not pool.is_empty
        assert not pool.lost(slot, 4.0)
    assert pool.is_empty
    assert not pool.tick(5.0), "a drained pool keeps no minimum"


def test_draining_closes_idle_servers_at_once() -> None:
    pool = new_pool()
    slots = rest(pool, 2)
    assert closes(pool.drain(Terminated(), 1.0)) == [(slot, CloseReason.DRAINED) for slot in slots]
