"""Bounds and cross-checks of the models, and that no text but the rendered file shows a secret."""

import pickle
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from contract.contract_values import PASSWORD, VERIFIER, tenant
from pgweir_contract.json_form import describe_errors, path_text, render
from pgweir_contract.models import (
    ClusterFile,
    ClusterLimits,
    Database,
    Listener,
    PoolOverrides,
    PoolSettings,
    TenantEntry,
    Upstream,
    User,
)
from pgweir_contract.reading import ContractError, parse_tenants, validate


def user(name: str = "app", **values: Any) -> dict[str, Any]:
    return {"name": name, "passwords": [PASSWORD], **values}


def entry(**changes: Any) -> dict[str, Any]:
    plain = {"tenantId": "acme", "upstream": {"host": "h"}, "databases": [{"name": "shop"}], "users": [user()]}
    return plain | changes


def problems_of(value: object) -> list[str]:
    with pytest.raises(ContractError) as caught:
        validate(TenantEntry, value)
    return caught.value.problems


# --- defaults and what is valid


def test_a_plain_entry_has_the_documented_defaults() -> None:
    found = validate(TenantEntry, entry())
    assert found.pool == PoolSettings()
    assert (found.pool.size, found.pool.min_idle, found.pool.max_clients) == (20, 0, 1000)
    assert (found.pool.queue_timeout, found.pool.server_idle_timeout, found.pool.server_lifetime) == (60, 300, 3600)
    assert (found.pool.query_timeout, found.pool.transaction_timeout, found.pool.query_wait_notify) == (0, 0, 5)
    assert (found.upstream.port, found.upstream.max_connections, found.upstream.connect_timeout) == (5432, 60, 10)
    assert found.upstream.instance == "h:5432"
    assert found.databases[0].server_name == "shop"
    assert found.users[0].login_name == "app"
    assert found.listen.on_gap == "Disconnect"


def test_the_default_listeners_are_transaction_and_session() -> None:
    listeners = [(x.name, x.port, x.mode) for x in ClusterFile(cluster="c").listeners]
    assert listeners == [("transaction", 6543, "Transaction"), ("session", 5432, "Session")]
    assert ClusterLimits().max_clients == 10_000


@pytest.mark.parametrize("model", [PoolSettings, ClusterLimits])
def test_defaults_are_valid_values(model: type[PoolSettings | ClusterLimits]) -> None:
    assert model(**model().model_dump()) == model()


def test_models_are_frozen() -> None:
    found = tenant()
    with pytest.raises(ValidationError):
        found.paused = True  # type: ignore[misc]


def test_the_longest_names_fit() -> None:
    assert validate(TenantEntry, entry(tenantId="a" * 63, users=[user("ä" * 31)]))


# --- bounds


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"tenantId": ""}, "tenantId"),
        ({"tenantId": "a" * 64}, "tenantId"),
        ({"tenantId": "has.dot"}, "tenantId"),
        ({"tenantId": "Upper"}, "tenantId"),
        ({"tenantId": "acme\n"}, "tenantId"),
        ({"upstream": {"host": ""}}, "upstream.host"),
        ({"upstream": {"host": "a b"}}, "upstream.host"),
        ({"upstream": {"host": "a\x00"}}, "upstream.host"),
        ({"upstream": {"host": "a\u2028"}}, "upstream.host"),
        ({"upstream": {"host": "h", "port": 0}}, "upstream.port"),
        ({"upstream": {"host": "h", "port": 65536}}, "upstream.port"),
        ({"upstream": {"host": "h", "port": "5432"}}, "upstream.port"),
        ({"upstream": {"host": "h", "port": True}}, "upstream.port"),
        ({"upstream": {"host": "h", "maxConnections": 0}}, "upstream.maxConnections"),
        ({"upstream": {"host": "h", "tls": {"mode": "require"}}}, "upstream.tls.mode"),
        ({"databases": []}, "databases"),
        ({"databases": "shop"}, "databases"),
        ({"databases": {"shop": {}}}, "databases"),
        ({"databases": [{"name": "d"}] * 129}, "databases"),
        ({"databases": [{"name": ""}]}, "databases[0].name"),
        ({"databases": [{"name": "a\x00b"}]}, "databases[0].name"),
        ({"databases": [{"name": "a\nb"}]}, "databases[0].name"),
        ({"databases": [{"name": "ä" * 32}]}, "databases[0].name"),
        ({"databases": [{"name": "\ud800"}]}, "databases[0].name"),
        ({"users": [user(passwords=[])]}, "users[0]"),
        ({"users": [user(passwords=[""])]}, "users[0].passwords[0]"),
        ({"users": [user(passwords=["a\x00"])]}, "users[0].passwords[0]"),
        ({"users": [user(passwords=["\ud800"])]}, "users[0].passwords[0]"),
        ({"users": [user(passwords=["p"] * 5)]}, "users[0].passwords"),
        ({"users": [user(passwords=["p" * 4097])]}, "users[0].passwords[0]"),
        ({"users": [user(verifiers=["md5abc"])]}, "users[0].verifiers[0]"),
        ({"users": [user(verifiers=[VERIFIER + "\n"])]}, "users[0].verifiers[0]"),
        ({"users": [user(maxClients=0)]}, "users[0].maxClients"),
        ({"pool": {"size": 0}}, "pool.size"),
        ({"pool": {"size": 10_001}}, "pool.size"),
        ({"pool": {"size": 5.0}}, "pool.size"),
        ({"pool": {"minIdle": -1}}, "pool.minIdle"),
        ({"pool": {"size": 2, "minIdle": 3}}, "pool"),
        ({"paused": "false"}, "paused"),
        ({"parameters": {str(n): "x" for n in range(33)}}, "parameters"),
        ({"replicas": [{"name": "r", "host": "h", "weight": 1001}]}, "replicas[0].weight"),
    ],
)
def test_what_is_out_of_bounds_is_refused_at_its_path(change: dict[str, Any], path: str) -> None:
    assert [problem.partition(":")[0] for problem in problems_of(entry(**change))] == [path]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"databases": [{"name": "shop"}, {"name": "shop"}]}, "database 'shop' is listed twice"),
        ({"users": [user(), user()]}, "user 'app' is listed twice"),
        ({"users": [user(), user("b", alias="app")]}, "login name 'app' is listed twice"),
        ({"users": []}, "at least one user is needed when auth.mode is Users"),
        ({"users": [user(databases=["crm"])]}, "user 'app' names the database 'crm', which is not listed"),
        (
            {"pool": {"minIdle": 5}, "users": [user(pool={"size": 4})]},
            "minIdle must not be larger than size once databases' and users' pools are applied",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, Any], problem: str) -> None:
    assert problems_of(entry(**change)) == [problem]


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_listener_has_a_port_or_asks_for_any(port: int) -> None:
    assert Listener(name="any", port=0).port == 0
    with pytest.raises(ValidationError):
        Listener(name="any", port=port)


def test_listeners_have_names_and_ports_of_their_own_except_any() -> None:
    def cluster(*listeners: Listener) -> ClusterFile:
        return ClusterFile(cluster="c", listeners=listeners)

    assert cluster(Listener(name="a", port=0), Listener(name="b", port=0))
    with pytest.raises(ValidationError, match="listener port '7000' is listed twice"):
        cluster(Listener(name="a", port=7000), Listener(name="b", port=7000))
    with pytest.raises(ValidationError, match="listener 'a' is listed twice"):
        cluster(Listener(name="a", port=7000), Listener(name="a", port=7001))


# --- pool settings


def test_the_user_has_the_last_word_on_its_pool() -> None:
    found = TenantEntry(
        tenant_id="acme",
        upstream=Upstream(host="h"),
        pool=PoolSettings(size=30, min_idle=1),
        databases=(Database(name="shop", pool=PoolOverrides(size=20, queue_timeout=5.0)),),
        users=(User(name="app", passwords=(SecretStr("x"),), pool=PoolOverrides(size=10, server_lifetime=0.0)),),
    )
    settings = found.pool_settings(found.databases[0], found.users[0])
    assert settings == PoolSettings(size=10, min_idle=1, queue_timeout=5.0, server_lifetime=0.0)


# --- secrets


def test_only_the_rendered_file_shows_a_secret() -> None:
    found = validate(TenantEntry, entry(users=[user(verifiers=[VERIFIER])]))
    shown = f"{found!r} {found} {found.users} {found.model_dump()} {found.model_dump_json()}"
    assert PASSWORD not in shown
    assert VERIFIER not in shown
    rendered = render(found).decode()
    assert f'"passwords":["{PASSWORD}"]' in rendered
    assert VERIFIER in rendered


@pytest.mark.parametrize(
    "users",
    [
        [user(passwords=PASSWORD)],
        [user(passwords=[[PASSWORD]])],
        [user(passwords=[PASSWORD + "\0"])],
        [user(verifiers=[PASSWORD])],
        [user(passwords={"password": PASSWORD})],
        [{"name": "app", "password": PASSWORD}],
        [PASSWORD],
        [user(), user()],
        PASSWORD,
    ],
)
def test_no_error_text_shows_a_secret(users: object) -> None:
    value = entry(users=users)
    with pytest.raises(ValidationError) as caught:
        TenantEntry.model_validate(value)
    assert PASSWORD not in str(caught.value)
    assert PASSWORD not in " ".join(describe_errors(caught.value))
    with pytest.raises(ContractError) as refused:
        validate(TenantEntry, value)
    assert PASSWORD not in f"{refused.value} {refused.value!r}"
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


def test_a_broken_file_does_not_show_what_is_in_it() -> None:
    with pytest.raises(ContractError) as caught:
        parse_tenants(b'{"version":"1.0","tenants":[{"users":[{"passwords":["' + PASSWORD.encode() + b"]}]}]}")
    assert PASSWORD not in str(caught.value)


def test_paths_read_like_code() -> None:
    assert path_text(("users", 0, "passwords", 1)) == "users[0].passwords[1]"
    assert path_text(()) == ""


def test_models_can_travel_between_processes() -> None:
    found = tenant()
    assert pickle.loads(pickle.dumps(found)) == found
