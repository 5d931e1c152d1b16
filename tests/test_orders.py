"""Pauses by the console and by the configuration do not end each other."""

from pgweir_pooler.orders import DatabaseKey, Orders

SHOP = DatabaseKey("shop", "acme")


def test_a_tenant_is_paused_with_all_its_databases_and_no_other() -> None:
    orders = Orders()
    assert orders.pause_tenant("acme", is_paused=True)
    assert not orders.pause_tenant("acme", is_paused=True)
    assert orders.is_paused(SHOP)
    assert not orders.is_paused(DatabaseKey("shop", "globex"))
    assert orders.pause_tenant("acme", is_paused=False)
    assert not orders.is_paused(SHOP)


def test_either_pause_is_enough() -> None:
    orders = Orders()
    orders.paused.add(SHOP)
    orders.pause_tenant("acme", is_paused=True)
    orders.paused.discard(SHOP)
    assert orders.is_paused(SHOP)
    orders.paused.add(SHOP)
    orders.pause_tenant("acme", is_paused=False)
    assert orders.is_paused(SHOP)


def test_a_tenant_that_is_removed_leaves_no_order_behind() -> None:
    orders = Orders()
    orders.paused.add(SHOP)
    orders.disabled.add(SHOP)
    orders.pause_tenant("acme", is_paused=True)
    orders.forget_tenant("acme")
    assert (orders.paused, orders.disabled, orders.paused_tenants) == (set(), set(), set())
