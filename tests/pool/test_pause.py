"""A paused pool lends nothing, keeps its waiters without an error, and says when its last server is gone."""

from __future__ import annotations

import pytest

from pgweir_pooler.errors import QueueTimeout, Terminated
from pgweir_pooler.pool.instance_ledger import InstanceLedger
from pgweir_pooler.pool.keys import CloseReason
from pool.books import DOWN, Client, Server, closes, grants, lend, limits, new_pool, opens, refusals, rest
from pool.test_pool import Database, FakeClient, lent, new_instance
from pool.test_pool import new_pool as shell
from pool.virtual_time import in_virtual_time, pass_time

# --- the books


def test_idle_servers_close_at_once_and_lent_ones_at_their_return() -> None:
    pool = new_pool()
    idle, busy = lend(pool, 2)
    pool.give_back(idle, 1.0)
    assert closes(pool.pause(2.0)) == [(idle, CloseReason.PAUSED)]
    assert closes(pool.give_back(busy, 3.0)) == [(busy, CloseReason.PAUSED)]


def test_a_login_that_ends_during_the_pause_is_closed_and_lent_to_nobody() -> None:
    pool = new_pool()
    (slot,) = opens(pool.ask(Client(), 0.0))
    assert not pool.pause(1.0)
    effects = pool.opened(slot, Server(slot), 2.0)
    assert closes(effects) == [(slot, CloseReason.PAUSED)]
    assert not grants(effects)
    assert len(pool.waiters) == 1


def test_whoever_asks_waits_and_is_served_in_order_after_the_pause() -> None:
    pool = new_pool(bounds=limits(size=1))
    first, second = Client("first"), Client("second")
    assert not pool.pause(0.0)
    assert not pool.ask(first, 1.0)
    assert not pool.ask(second, 2.0)
    (slot,) = opens(pool.resume(3.0))
    assert grants(pool.opened(slot, Server(slot), 4.0)) == [(first, slot)]
    assert grants(pool.give_back(slot, 5.0)) == [(second, slot)]


def test_the_queue_timeout_does_not_run_during_a_pause_and_begins_again_after_it() -> None:
    pool = new_pool(bounds=limits(size=1, queue_timeout_s=10))
    before, during = Client("before"), Client("during")
    (slot,) = lend(pool, 1)
    assert not pool.ask(before, 1.0)
    assert not pool.pause(10.0)
    assert not refusals(pool.tick(11.0))
    assert not pool.ask(during, 100.0)
    assert not refusals(pool.tick(1000.0))
    assert not pool.resume(2000.0)
    assert not refusals(pool.tick(2009.0))
    assert pool.wake_at == 2010.0
    effects = pool.tick(2010.0)
    assert [(waiter, type(error)) for waiter, error in refusals(effects)] == [
        (before, QueueTimeout),
        (during, QueueTimeout),
    ]
    assert slot in pool.active


def test_a_failed_login_is_no_error_for_those_who_are_held() -> None:
    pool = new_pool()
    waiter = Client()
    (slot,) = opens(pool.ask(waiter, 0.0))
    pool.pause(1.0)
    assert not refusals(pool.open_failed(slot, DOWN, 2.0))
    assert not refusals(pool.ask(Client(), 2.1))
    assert next(iter(pool.waiters)) is waiter


def test_a_paused_pool_keeps_no_minimum_and_claims_no_place() -> None:
    instance = InstanceLedger(1)
    pool = new_pool(instance, bounds=limits(min_idle=1))
    pool.pause(0.0)
    assert not opens(pool.tick(5.0))
    pool.ask(Client(), 6.0)
    assert pool not in instance.starving
    other = new_pool(instance, "globex")
    assert opens(other.ask(Client(), 7.0))


def test_the_minimum_is_there_again_after_the_pause() -> None:
    pool = new_pool(bounds=limits(min_idle=1))
    (slot,) = rest(pool, 1)
    pool.pause(0.0)
    pool.lost(slot, 1.0)
    pool.resume(2.0)
    assert pool.wake_at == 2.0
    assert opens(pool.tick(2.0))


def test_resuming_what_is_not_paused_changes_nothing() -> None:
    pool = new_pool()
    (slot,) = rest(pool, 1)
    assert not pool.resume(1.0)
    assert pool.idle == [slot]


def test_a_drain_ends_the_wait_of_those_who_are_held() -> None:
    pool = new_pool()
    waiter = Client()
    pool.pause(0.0)
    pool.ask(waiter, 0.0)
    error = Terminated()
    assert refusals(pool.drain(error, 1.0)) == [(waiter, error)]


# --- the shell


@in_virtual_time
async def test_emptied_is_done_when_postgresql_has_closed_the_last_server() -> None:
    database = Database()
    pool = shell(database, limits(size=2))
    idle, busy = await lent(pool), await lent(pool)
    pool.give_back(idle)
    pool.pause()
    emptied = pool.emptied()
    await pass_time(5)
    assert not emptied.done()
    pool.give_back(busy)
    assert not emptied.done()
    await pass_time(0.02)
    assert emptied.done()
    assert pool.counters.server_closes == {"paused": 2}
    assert pool.emptied().done()


@in_virtual_time
async def test_a_held_client_gets_its_server_after_the_pause() -> None:
    pool = shell(Database(), limits(size=1, queue_timeout_s=1))
    pool.pause()
    client = FakeClient()
    assert pool.checkout(client, 0.0) is None
    await pass_time(100)
    assert client.told == 0
    assert pool.oldest_wait_s() == pytest.approx(100, abs=0.1)
    pool.resume()
    await pass_time(0.1)
    assert client.connection is not None


@in_virtual_time
async def test_a_cancelled_wait_disturbs_no_other() -> None:
    pool = shell(Database(), limits(size=1))
    busy = await lent(pool)
    pool.pause()
    given_up, kept = pool.emptied(), pool.emptied()
    given_up.cancel()
    pool.give_back(busy)
    await pass_time(0.1)
    assert kept.done() and not kept.cancelled()


@in_virtual_time
async def test_renewed_waits_for_servers_of_before_the_retirement_alone() -> None:
    pool = shell(Database(), limits(size=2))
    old = await lent(pool)
    assert pool.renewed().done()
    pool.retire()
    renewed = pool.renewed()
    young = await lent(pool)
    pool.give_back(young)
    await pass_time(1)
    assert not renewed.done()
    pool.give_back(old)
    await pass_time(0.1)
    assert renewed.done()


@in_virtual_time
async def test_a_server_that_is_lost_by_itself_counts_as_gone() -> None:
    pool = shell(Database(), limits(size=1), new_instance())
    busy = await lent(pool)
    pool.pause()
    emptied = pool.emptied()
    pool.lost(busy)
    assert emptied.done()
