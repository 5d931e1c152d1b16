"""Credentials in manifests: from Secrets to the contract, and the overlap of a rotation."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from operator_side.manifest_values import PASSWORD, cluster, load, secret, tenant
from pgweir_contract.models import TenantEntry, User
from pgweir_contract.reading import merge_shards, parse_tenants
from pgweir_operator.config_rendering import RenderResult, render_config
from pgweir_operator.resources import ManifestError

NOW = datetime(2027, 1, 31, 12, tzinfo=UTC)
VERIFIER = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$" + "A" * 43 + "=:" + "B" * 43 + "="
VERIFIER_2 = VERIFIER.replace("4096", "9000")
MINUTE = timedelta(minutes=1)
ROLE = secret("role", stringData={"username": "pooler_auth", "password": "look-up"})


def rendered(*documents: Any, **options: Any) -> RenderResult:
    manifests = load(*documents)
    return render_config(manifests.clusters[0], manifests.tenants, manifests.secrets, **options)


def user_of(result: RenderResult) -> User:
    return result.entries["acme"].users[0]


def passwords(result: RenderResult) -> list[str]:
    return [x.get_secret_value() for x in user_of(result).passwords]


def rotated(password: str, before: RenderResult | None, now: datetime, **spec: Any) -> RenderResult:
    changed = secret(stringData={"password": password})
    entries = before.entries if before is not None else {}
    return rendered(cluster(**spec), tenant(), changed, previous=entries, now=now)


def test_the_old_password_stays_for_the_overlap_and_goes_after_it() -> None:
    first = rotated("one", None, NOW)
    assert (passwords(first), user_of(first).overlap_until) == (["one"], None)
    second = rotated("two", first, NOW)
    assert (passwords(second), user_of(second).overlap_until) == (["two", "one"], NOW + 10 * MINUTE)
    again = rotated("two", second, NOW + 5 * MINUTE)
    assert again.files == second.files, "the end does not move"
    third = rotated("three", second, NOW + 9 * MINUTE)
    assert (passwords(third), user_of(third).overlap_until) == (["three", "two", "one"], NOW + 19 * MINUTE)
    after = rotated("three", third, NOW + 19 * MINUTE)
    assert (passwords(after), user_of(after).overlap_until) == (["three"], None)
    late = rotated("four", third, NOW + 30 * MINUTE)
    assert passwords(late) == ["four", "three"], "what was over does not come back"


def test_a_password_that_returns_is_listed_once() -> None:
    second = rotated("two", rotated("one", None, NOW), NOW)
    back = rotated("one", second, NOW + MINUTE)
    assert passwords(back) == ["one", "two"]


def test_without_an_overlap_an_old_password_ends_at_once() -> None:
    second = rotated("two", rotated("one", None, NOW), NOW, passwordOverlap="0s")
    assert passwords(second) == ["two"]
    both = rotated("two", rotated("one", None, NOW), NOW)
    assert passwords(rotated("two", both, NOW, passwordOverlap="0s")) == ["two"]


def test_at_most_four_passwords_are_listed() -> None:
    result = rotated("0", None, NOW)
    for i in range(1, 7):
        result = rotated(str(i), result, NOW)
    assert passwords(result) == ["6", "5", "4", "3"]


def test_verifiers_come_from_secrets_and_overlap_too() -> None:
    user = {"name": "app", "verifierSecretRef": {"name": "acme-app"}, "validUntil": "2027-06-01T00:00:00+02:00"}
    first = rendered(cluster(), tenant(users=[user]), secret(stringData={"verifier": VERIFIER + "\n"}), now=NOW)
    assert first.rejected == {}
    assert user_of(first).passwords == ()
    assert user_of(first).valid_until == datetime(2027, 5, 31, 22, tzinfo=UTC)
    second = rendered(
        cluster(),
        tenant(users=[user]),
        secret(stringData={"verifier": VERIFIER_2}),
        previous=first.entries,
        now=NOW,
    )
    assert [x.get_secret_value() for x in user_of(second).verifiers] == [VERIFIER_2, VERIFIER]
    merged = merge_shards(
        {n: parse_tenants(d, strict=True) for n, d in second.files.items() if n.startswith("tenants")}
    )
    assert merged.tenants == second.entries


def test_the_role_that_looks_users_up_comes_from_a_secret() -> None:
    auth = {
        "mode": "AuthQuery",
        "query": "select * from auth.find($1)",
        "database": "auth",
        "cacheTTL": "30s",
        "clientMethod": "MD5",
        "maxUsers": 7,
        "userSecretRef": {"name": "role"},
    }
    result = rendered(cluster(), tenant(users=[], auth=auth), ROLE)
    assert result.rejected == {}
    found = result.entries["acme"].auth
    assert (found.user, found.passwords[0].get_secret_value()) == ("pooler_auth", "look-up")
    assert (found.query, found.database, found.cache_ttl) == ("select * from auth.find($1)", "auth", 30.0)
    assert (found.client_method, found.max_users) == ("MD5", 7)


@pytest.mark.parametrize(
    ("documents", "problem"),
    [
        (
            [tenant(users=[], auth={"mode": "AuthQuery", "userSecretRef": {"name": "gone"}})],
            "spec.auth.userSecretRef: SecretNotFound: there is no Secret default/gone",
        ),
        (
            [
                tenant(users=[], auth={"mode": "AuthQuery", "userSecretRef": {"name": "role", "usernameKey": "user"}}),
                ROLE,
            ],
            "spec.auth.userSecretRef: SecretKeyMissing: Secret default/role has no key 'user'",
        ),
        (
            [
                tenant(
                    users=[],
                    auth={"mode": "AuthQuery", "userSecretRef": {"name": "acme-app", "usernameKey": "password"}},
                ),
                secret(stringData={"password": PASSWORD + "\0"}),
            ],
            "spec.auth.userSecretRef: Secret default/acme-app: the value of key 'password' is no password",
        ),
        (
            [tenant(users=[{"name": "app", "verifierSecretRef": {"name": "acme-app", "key": "password"}}]), secret()],
            "spec.users[0].verifiers[0]: a verifier has the form",
        ),
        ([tenant(auth={"clientMethod": "Cleartext"})], "spec.users[0].passwordSecretRef: SecretNotFound"),
    ],
)
def test_what_cannot_be_had_is_named_and_no_value_of_it(documents: list[Any], problem: str) -> None:
    result = rendered(cluster(), *documents)
    (first, *_) = result.rejected["default/acme"]
    assert first.startswith(problem)
    assert PASSWORD not in str(result.rejected)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"users": [{"name": "app"}]}, "spec.users[0]: a user needs passwordSecretRef or verifierSecretRef"),
        ({"auth": {"mode": "AuthQuery"}}, "spec.auth: mode AuthQuery needs userSecretRef"),
        ({"auth": {"userSecretRef": {"name": "x"}}}, "spec.auth: userSecretRef is for mode AuthQuery alone"),
        ({"auth": {"query": "select $1"}}, "spec.auth: query is for mode AuthQuery alone"),
        ({"auth": {"passwords": ["x"]}}, "spec.auth.passwords: unknown field"),
        (
            {"auth": {"mode": "AuthQuery", "userSecretRef": {"name": "x"}, "query": "select 1"}},
            "spec.auth.query: the query takes",
        ),
        (
            {"users": [{"name": "a", "passwordSecretRef": {"name": "x"}, "validUntil": "tomorrow"}]},
            "spec.users[0].validUntil: a moment is",
        ),
        (
            {"users": [{"name": "a", "passwordSecretRef": {"name": "x"}, "validUntil": "2027-01-01T00:00:00"}]},
            "spec.users[0].validUntil: a moment is",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(spec: dict[str, Any], problem: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load(tenant(**spec))
    assert problem in str(caught.value)


def test_an_entry_of_before_is_not_needed() -> None:
    entry: TenantEntry = rotated("one", None, NOW).entries["acme"]
    assert entry.users[0].overlap_until is None
