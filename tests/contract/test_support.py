"""Everything that the schema takes and this version cannot do is named, and nothing that it can."""

from typing import Any

import pytest
from pydantic import SecretStr

from contract.contract_values import tenant
from pgweir_contract.client_tls import ClientTls
from pgweir_contract.models import (
    Auth,
    ClusterFile,
    Database,
    Member,
    PoolOverrides,
    PoolSettings,
    Replica,
    User,
)
from pgweir_contract.support import locked_out, unsupported, unsupported_cluster


def app(**values: Any) -> User:
    return User(**{"name": "app", "passwords": (SecretStr("x"),), **values})


def test_a_plain_tenant_is_supported() -> None:
    assert unsupported(tenant()) == []


def test_all_timeouts_are_supported_everywhere() -> None:
    timeouts: dict[str, Any] = {
        "query_timeout": 1.0,
        "transaction_timeout": 1.0,
        "idle_transaction_timeout": 1.0,
        "client_idle_timeout": 1.0,
        "query_wait_notify": 1.0,
    }
    overrides = PoolOverrides(**timeouts)
    entry = tenant(
        pool=PoolSettings(**timeouts),
        databases=(Database(name="shop", pool=overrides),),
        users=(app(pool=overrides),),
    )
    assert unsupported(entry) == []


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"replicas": (Replica(name="r", host="h"),)}, "replicas"),
        ({"parameters": {"work_mem": "1MB"}}, "parameters"),
        ({"pool": PoolSettings(reserve_size=1)}, "pool.reserveSize"),
        (
            {"databases": (Database(name="shop", pool=PoolOverrides(reserve_size=1)),)},
            "databases[0].pool.reserveSize",
        ),
        (
            {"databases": (Database(name="shop", pool=PoolOverrides(max_clients=1)),)},
            "databases[0].pool.maxClients",
        ),
        ({"users": (app(pool=PoolOverrides(reserve_size=1)),)}, "users[0].pool.reserveSize"),
        ({"users": (app(pool=PoolOverrides(max_clients=1)),)}, "users[0].pool.maxClients"),
    ],
)
def test_each_missing_feature_is_named_once(change: dict[str, Any], path: str) -> None:
    (sentence,) = unsupported(tenant(**change))
    assert sentence.startswith(f"{path}: not supported yet: ")


def test_one_member_is_supported_and_two_are_not() -> None:
    members = [Member(name=f"m-{n}", ordinal=n, address=f"10.0.0.{n}:6544") for n in range(2)]
    assert unsupported_cluster(ClusterFile(cluster="c", members=tuple(members[:1]))) == []
    (sentence,) = unsupported_cluster(ClusterFile(cluster="c", members=tuple(members)))
    assert sentence.startswith("members: not supported yet: ")


CERTIFICATE: dict[str, Any] = {"cert_file": "tls.crt", "key_file": "tls.key"}


@pytest.mark.parametrize(
    ("values", "tls", "problem"),
    [
        ({"require_tls": True}, ClientTls(), "requireTLS: nobody can log in"),
        ({"require_tls": True}, ClientTls(**CERTIFICATE), None),
        ({"auth": Auth(client_method="Certificate")}, ClientTls(**CERTIFICATE), "auth.clientMethod: nobody can log in"),
        ({"auth": Auth(client_method="Certificate")}, ClientTls(**CERTIFICATE, ca_file="ca.crt"), None),
        ({}, ClientTls(), None),
    ],
)
def test_who_cannot_get_in_for_want_of_tls(values: dict[str, Any], tls: ClientTls, problem: str | None) -> None:
    found = locked_out(tenant(users=(app(),), **values), tls)
    assert found is None if problem is None else (found or "").startswith(problem)
