"""The rules by which pools share the budget of one instance."""

from __future__ import annotations

from pgweir_pooler.pool.instance_ledger import InstanceLedger
from pgweir_pooler.pool.keys import CloseReason
from pool.books import Client, Server, closes, grants, lend, limits, new_pool, opens, refusals, rest


def test_pools_together_open_no_more_than_the_limit() -> None:
    instance = InstanceLedger(3)
    one, two = new_pool(instance, "one"), new_pool(instance, "two")
    lend(one, 2)
    assert opens(two.ask(Client(), 1.0))
    assert not two.ask(Client(), 1.0)
    assert list(instance.starving) == [two]


def test_another_pools_server_is_evicted_after_a_second_idle_and_its_place_reused_when_it_is_gone() -> None:
    instance = InstanceLedger(1)
    one, two = new_pool(instance, "one"), new_pool(instance, "two")
    (slot,) = rest(one, 1, 10.0)
    client = Client()
    assert not two.ask(client, 10.5)
    assert two.wake_at == 11.0
    assert closes(two.tick(11.0)) == [(slot, CloseReason.EVICTED)]
    assert instance.servers == 1, "a sent Terminate frees nothing"
    (fresh,) = opens(one.lost(slot, 11.2))
    assert fresh.pool is two
    assert grants(two.opened(fresh, Server(fresh), 11.3)) == [(client, fresh)]


def test_a_server_idle_for_long_is_evicted_at_once_the_longest_idle_first() -> None:
    instance = InstanceLedger(2)
    one, two, new = (new_pool(instance, name) for name in ("one", "two", "new"))
    (newer,) = rest(two, 1, 3.0)
    (older,) = rest(one, 1, 2.0)
    assert closes(new.ask(Client(), 10.0)) == [(older, CloseReason.EVICTED)]
    assert not new.tick(10.1), "one waiter needs one server"
    assert closes(new.ask(Client(), 10.3)) == [(newer, CloseReason.EVICTED)]


def test_a_minimum_is_spared_unless_a_pool_has_nothing_at_all_for_a_second() -> None:
    instance = InstanceLedger(2)
    warm, other = new_pool(instance, "warm", limits(min_idle=1)), new_pool(instance, "other")
    first, second = rest(warm, 2, 0.0)
    client = Client()
    assert closes(other.ask(client, 10.0)) == [(first, CloseReason.EVICTED)]
    (slot,) = opens(warm.lost(first, 10.0))
    other.opened(slot, Server(slot), 10.0)
    assert not other.ask(Client(), 10.0), "it has one, so the minimum of the other holds"
    assert not other.tick(20.0)
    poor = new_pool(instance, "poor")
    assert not poor.ask(Client(), 30.0)
    assert not poor.tick(30.9)
    assert closes(poor.tick(max(31.0, poor.wake_at))) == [(second, CloseReason.EVICTED)]


def test_the_minimum_never_evicts_and_grows_when_there_is_room() -> None:
    instance = InstanceLedger(1)
    one, two = new_pool(instance, "one"), new_pool(instance, "two", limits(min_idle=1))
    (slot,) = rest(one, 1, 0.0)
    assert not two.tick(10.0)
    assert two.wake_at == 11.0
    one.discard(slot, CloseReason.BROKEN, 10.1)
    one.lost(slot, 10.2)
    assert len(opens(two.tick(11.0))) == 1


def test_a_returning_server_is_closed_for_a_pool_without_any_that_waited_a_second_and_longer() -> None:
    instance = InstanceLedger(2)
    busy, poor = new_pool(instance, "busy"), new_pool(instance, "poor")
    one, two = lend(busy, 2)
    poor.ask(Client(), 10.0)
    busy.ask(Client("younger"), 10.1)
    assert grants(busy.give_back(one, 10.9)), "not yet a second"
    busy.ask(Client("younger"), 11.0)
    assert closes(busy.give_back(one, 11.0)) == [(one, CloseReason.EVICTED)]
    assert grants(busy.give_back(two, 11.0)), "one claim costs one server"
    assert [slot.pool for slot in opens(busy.lost(one, 11.1))] == [poor]


def test_a_returning_server_goes_to_its_own_waiter_when_that_one_is_older() -> None:
    instance = InstanceLedger(1)
    busy, poor = new_pool(instance, "busy"), new_pool(instance, "poor")
    (slot,) = lend(busy, 1)
    older = Client("older")
    busy.ask(older, 9.0)
    poor.ask(Client(), 10.0)
    assert grants(busy.give_back(slot, 12.0)) == [(older, slot)]
    assert closes(busy.give_back(slot, 12.2)) == [(slot, CloseReason.EVICTED)]


def test_a_pool_that_has_a_server_waits_until_one_is_idle() -> None:
    instance = InstanceLedger(2)
    one, two = new_pool(instance, "one"), new_pool(instance, "two")
    (slot,) = lend(one, 1)
    lend(two, 1)
    two.ask(Client(), 1.0)
    assert not one.give_back(slot, 5.0)
    assert not two.tick(5.5)
    assert closes(two.tick(6.1)) == [(slot, CloseReason.EVICTED)]


def test_a_freed_place_goes_to_pools_without_servers_first_and_then_to_the_oldest_waiter() -> None:
    instance = InstanceLedger(3)
    one, two, three, four = (new_pool(instance, name, limits(size=3)) for name in ("one", "two", "three", "four"))
    slots = lend(one, 3)
    one.resize(limits(size=4), 0.0)
    one.ask(Client(), 1.0)
    two.ask(Client(), 3.0)
    three.ask(Client(), 2.0)
    order = [slot.pool.key.tenant for gone in slots for slot in opens(one.lost(gone, 4.0))]
    assert order == ["three", "two", "one"]
    assert not four.waiters


def test_an_abandoned_waiter_frees_its_pools_claim() -> None:
    instance = InstanceLedger(1)
    one, two = new_pool(instance, "one"), new_pool(instance, "two")
    (slot,) = lend(one, 1)
    client = Client()
    two.ask(client, 1.0)
    two.abandon(client, 2.0)
    assert not instance.starving
    assert not opens(one.lost(slot, 3.0))


def test_a_timeout_caused_by_the_instance_says_so() -> None:
    instance = InstanceLedger(1)
    globex, acme = new_pool(instance, "globex"), new_pool(instance, "acme", limits(queue_timeout_s=2))
    lend(globex, 1)
    acme.ask(Client(), 0.0)
    ((_, error),) = refusals(acme.tick(2.0))
    assert "maxConnections" in error.hint
    assert "globex" not in error.client_text() + error.hint + error.detail, "another tenant's name stays secret"


def test_a_lower_limit_closes_idle_servers_now_and_lent_ones_at_their_return() -> None:
    instance = InstanceLedger(4)
    one, two = new_pool(instance, "one", limits(size=3)), new_pool(instance, "two")
    lent = lend(one, 3)
    (idle,) = rest(two, 1)
    assert closes(instance.resize(2, 1.0)) == [(idle, CloseReason.RESIZED)]
    returned = [closes(one.give_back(slot, 2.0)) for slot in lent]
    assert sorted(map(len, returned)) == [0, 0, 1]
    assert instance.servers - instance.closing == 2


def test_a_login_that_ends_after_the_limit_was_lowered_is_closed() -> None:
    instance = InstanceLedger(2)
    pool = new_pool(instance)
    lend(pool, 1)
    (slot,) = opens(pool.ask(Client(), 0.0))
    assert not instance.resize(1, 1.0)
    assert closes(pool.opened(slot, Server(slot), 2.0)) == [(slot, CloseReason.RESIZED)]


def test_a_higher_limit_serves_who_waits() -> None:
    instance = InstanceLedger(1)
    one, two = new_pool(instance, "one"), new_pool(instance, "two")
    lend(one, 1)
    two.ask(Client(), 1.0)
    assert [slot.pool for slot in opens(instance.resize(2, 2.0))] == [two]
