"""Clients are counted per process, tenant and user, and the refusal says which limit was met."""

from __future__ import annotations

import pytest

from pgweir_pooler.pool.client_limits import ClientCaps, ClientLimits, Whose


@pytest.mark.parametrize(
    ("caps", "words"),
    [
        (ClientCaps(address=1), "your address is 1"),
        (ClientCaps(tenant_address=1), "your address at tenant 'acme' is 1"),
        (ClientCaps(process=1, address=1), "your address is 1"),
        (ClientCaps(user=1, tenant_address=1), "your address at tenant 'acme' is 1"),
        (ClientCaps(user=1), "user 'app' is 1"),
        (ClientCaps(tenant=1), "tenant 'acme' is 1"),
        (ClientCaps(process=1), "this pooler is 1"),
        (ClientCaps(process=1, tenant=1, user=1), "user 'app' is 1"),
    ],
)
def test_a_refusal_names_the_narrowest_limit_and_its_number(caps: ClientCaps, words: str) -> None:
    clients = ClientLimits()
    assert clients.admit(Whose("acme", "app"), caps) is None
    error = clients.admit(Whose("acme", "app"), caps)
    assert error is not None
    assert error.wire_sqlstate() == "53300"
    assert words in error.text
    assert clients.total == clients.of_tenant("acme") == clients.of_user("acme", "app") == 1, "nothing was counted"


def test_limits_of_one_tenant_and_user_do_not_touch_another() -> None:
    clients = ClientLimits()
    caps = ClientCaps(tenant=2, user=1)
    assert clients.admit(Whose("acme", "app"), caps) is None
    assert clients.admit(Whose("globex", "app"), caps) is None
    assert clients.admit(Whose("acme", "report"), caps) is None
    assert clients.admit(Whose("acme", "third"), caps) is not None


def test_zero_means_no_limit() -> None:
    clients = ClientLimits()
    assert all(clients.admit(Whose("acme", "app"), ClientCaps()) is None for _ in range(1000))


def test_who_leaves_makes_room_and_leaves_no_name_behind() -> None:
    clients = ClientLimits()
    caps = ClientCaps(process=1)
    assert clients.admit(Whose("acme", "app"), caps) is None
    clients.leave(Whose("acme", "app"))
    assert (clients.total, clients.of_tenant("acme"), clients.of_user("acme", "app")) == (0, 0, 0)
    assert not clients._counts
    assert clients.admit(Whose("acme", "app"), caps) is None


def test_leaving_without_having_come_is_a_loud_mistake_and_changes_nothing() -> None:
    clients = ClientLimits()
    clients.admit(Whose("acme", "app"), ClientCaps())
    with pytest.raises(KeyError):
        clients.leave(Whose("acme", "other"))
    assert (clients.total, clients.of_tenant("acme")) == (1, 1)


def test_an_address_has_its_own_limits_over_all_tenants_and_at_each() -> None:
    clients = ClientLimits()
    caps = ClientCaps(address=3, tenant_address=2)
    here, there = "192.0.2.1", "192.0.2.2"
    assert [clients.admit(Whose("acme", user, here), caps) is None for user in ("a", "b", "c")] == [True, True, False]
    assert clients.admit(Whose("acme", "a", there), caps) is None
    assert clients.admit(Whose("globex", "a", here), caps) is None
    assert clients.admit(Whose("globex", "b", here), caps) is not None
    assert clients.of_address(here) == 3
    clients.leave(Whose("acme", "a", here))
    assert clients.admit(Whose("globex", "b", here), caps) is None
