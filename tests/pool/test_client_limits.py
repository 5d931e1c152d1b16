"""Clients are counted per process, tenant and user, and the refusal says which limit was met."""

from __future__ import annotations

import pytest

from pgweir_pooler.pool.client_limits import ClientCaps, ClientLimits


@pytest.mark.parametrize(
    ("caps", "words"),
    [
        (ClientCaps(user=1), "user 'app' is 1"),
        (ClientCaps(tenant=1), "tenant 'acme' is 1"),
        (ClientCaps(process=1), "this pooler is 1"),
        (ClientCaps(process=1, tenant=1, user=1), "user 'app' is 1"),
    ],
)
def test_a_refusal_names_the_narrowest_limit_and_its_number(caps: ClientCaps, words: str) -> None:
    clients = ClientLimits()
    assert clients.admit("acme", "app", caps) is None
    error = clients.admit("acme", "app", caps)
    assert error is not None
    assert error.wire_sqlstate() == "53300"
    assert words in error.text
    assert clients.total == clients.of_tenant("acme") == clients.of_user("acme", "app") == 1, "nothing was counted"


def test_limits_of_one_tenant_and_user_do_not_touch_another() -> None:
    clients = ClientLimits()
    caps = ClientCaps(tenant=2, user=1)
    assert clients.admit("acme", "app", caps) is None
    assert clients.admit("globex", "app", caps) is None
    assert clients.admit("acme", "report", caps) is None
    assert clients.admit("acme", "third", caps) is not None


def test_zero_means_no_limit() -> None:
    clients = ClientLimits()
    assert all(clients.admit("acme", "app", ClientCaps()) is None for _ in range(1000))


def test_who_leaves_makes_room_and_leaves_no_name_behind() -> None:
    clients = ClientLimits()
    caps = ClientCaps(process=1)
    assert clients.admit("acme", "app", caps) is None
    clients.leave("acme", "app")
    assert (clients.total, clients.of_tenant("acme"), clients.of_user("acme", "app")) == (0, 0, 0)
    assert not clients._of_tenant
    assert not clients._of_user
    assert clients.admit("acme", "app", caps) is None


def test_leaving_without_having_come_is_a_loud_mistake_and_changes_nothing() -> None:
    clients = ClientLimits()
    clients.admit("acme", "app", ClientCaps())
    with pytest.raises(KeyError):
        clients.leave("acme", "other")
    assert (clients.total, clients.of_tenant("acme")) == (1, 1)
