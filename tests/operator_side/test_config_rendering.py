"""Rendering: the same manifests give the same bytes, each refusal concerns one tenant, and the pooler reads it all."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from operator_side.manifest_values import PASSWORD, cluster, load, secret, tenant
from pgweir_contract.models import Assignment, FailedLogins, LoginRate, Member, PoolSettings, TenantEntry
from pgweir_contract.names import SHARD_LIMIT_BYTES, shard_of, tenants_file
from pgweir_contract.reading import merge_shards, parse_assignments, parse_cluster, parse_tenants
from pgweir_operator import config_rendering
from pgweir_operator.config_rendering import RenderResult, render_config
from pgweir_operator.resources import ManifestError


def rendered(*documents: Any, **options: Any) -> RenderResult:
    manifests = load(*documents)
    return render_config(manifests.clusters[0], manifests.tenants, manifests.secrets, **options)


def read(result: RenderResult) -> dict[str, TenantEntry]:
    shards = {n: parse_tenants(d, strict=True) for n, d in result.files.items() if n.startswith("tenants-")}
    merged = merge_shards(shards)
    assert merged.rejected == {}
    return merged.tenants


def test_the_pooler_reads_what_is_rendered() -> None:
    member = Member(name="demo-0", ordinal=0, uid="u", address="10.0.0.1:6544")
    assignment = Assignment(instance="db.example:5432", owner="demo-0", epoch=4)
    result = rendered(cluster(), tenant(), secret(), members=[member], assignments=[assignment])
    assert result.rejected == {}
    assert result.problems == []
    assert len(result.files) == 33
    assert read(result) == result.entries
    entry = result.entries["acme"]
    assert entry.users[0].passwords[0].get_secret_value() == PASSWORD
    file = parse_cluster(result.files["cluster.json"], strict=True)
    assert (file.cluster, file.members) == ("default/demo", (member,))
    assert [(x.instance, x.max_connections) for x in file.instances] == [("db.example:5432", 60)]
    home = f"assignments-{shard_of(assignment.instance):02d}.json"
    assert parse_assignments(result.files[home], strict=True).assignments == (assignment,)


def test_pools_inherit_from_the_cluster_over_the_tenant_to_database_and_user() -> None:
    result = rendered(
        cluster(defaults={"size": 30, "minIdle": 1, "queueTimeout": "5s"}),
        tenant(
            pool={"size": 25, "maxClients": 50},
            databases=[{"name": "shop", "pool": {"size": 20}}, {"name": "crm"}],
            users=[
                {"name": "app", "passwordSecretRef": {"name": "acme-app"}},
                {
                    "name": "web",
                    "passwordSecretRef": {"name": "acme-app"},
                    "pool": {"size": 3, "maxClients": 7},
                },
            ],
        ),
        secret(),
    )
    entry = read(result)["acme"]
    shop, crm = entry.databases
    app, web = entry.users
    expected = PoolSettings(size=25, min_idle=1, queue_timeout=5.0, max_clients=50)
    assert entry.pool == expected
    assert entry.pool_settings(crm, app) == expected
    assert entry.pool_settings(shop, app).size == 20
    assert entry.pool_settings(shop, web).size == 3
    assert (app.max_clients, web.max_clients) == (None, 7)


def test_timeouts_are_set_for_cluster_tenant_database_and_user() -> None:
    result = rendered(
        cluster(
            defaults={
                "queryTimeout": "5m",
                "transactionTimeout": "10m",
                "idleTransactionTimeout": "1m",
                "clientIdleTimeout": "1h",
                "queryWaitNotify": "2s",
                "connectTimeout": "3s",
            }
        ),
        tenant(
            pool={"queryTimeout": "4m", "queryWaitNotify": "0s"},
            databases=[{"name": "shop", "pool": {"transactionTimeout": "9m", "queryTimeout": "3m"}}],
            users=[
                {
                    "name": "app",
                    "passwordSecretRef": {"name": "acme-app"},
                    "pool": {"queryTimeout": "2m", "idleTransactionTimeout": "30s"},
                }
            ],
        ),
        tenant("other", upstream={"host": "db.example", "connectTimeout": "4s"}),
        secret(),
    )
    assert result.rejected == {}
    entry, other = read(result)["acme"], read(result)["other"]
    assert entry.pool == PoolSettings(
        query_timeout=240,
        transaction_timeout=600,
        idle_transaction_timeout=60,
        client_idle_timeout=3600,
        query_wait_notify=0,
    )
    found = entry.pool_settings(entry.databases[0], entry.users[0])
    assert (found.query_timeout, found.transaction_timeout, found.idle_transaction_timeout) == (120, 540, 30)
    assert (entry.upstream.connect_timeout, other.upstream.connect_timeout) == (3, 4)
    assert other.pool.query_timeout == 300


def test_what_a_gap_means_to_listening_clients_is_passed_on() -> None:
    result = rendered(cluster(), tenant(listen={"onGap": "Notice"}), secret())
    assert result.entries["acme"].listen.on_gap == "Notice"


def test_limits_come_from_the_cluster() -> None:
    spec = {"maxClientsPerPod": 7, "loginTimeout": "3s", "clientStallTimeout": "4s", "maxHalfOpenLogins": 9}
    result = rendered(cluster(limits=spec, drain={"timeout": "2s"}, defaultTenant="acme"))
    file = parse_cluster(result.files["cluster.json"])
    limits = file.limits
    assert (limits.max_clients, limits.login_timeout, limits.client_stall_timeout) == (7, 3, 4)
    assert (limits.max_half_open_logins, limits.drain_timeout, file.default_tenant) == (9, 2, "acme")


def test_limits_against_abuse_are_passed_on() -> None:
    spec = {
        "maxClientsPerAddress": 50,
        "maxHalfOpenLoginsPerAddress": 20,
        "loginRatePerAddress": {"perSecond": 30, "burst": 40},
        "failedLogins": {"max": 5, "window": "1m", "block": "2m", "maxBlock": "4m"},
    }
    limits = parse_cluster(rendered(cluster(limits=spec)).files["cluster.json"]).limits
    assert (limits.max_clients_per_address, limits.max_half_open_logins_per_address) == (50, 20)
    assert limits.login_rate_per_address == LoginRate(per_second=30, burst=40)
    assert limits.failed_logins == FailedLogins(max=5, window=60, block=120, max_block=240)


def test_networks_are_passed_on_and_bad_ones_have_their_place() -> None:
    result = rendered(cluster(), tenant(allowedCIDRs=["10.0.0.0/8"], deniedCIDRs=["10.9.0.0/16"]), secret())
    entry = result.entries["acme"]
    assert (entry.allowed_cidrs, entry.denied_cidrs) == (("10.0.0.0/8",), ("10.9.0.0/16",))
    with pytest.raises(ManifestError, match=r"spec.deniedCIDRs\[0\]: .*10.0.0.0/8 is the network"):
        rendered(cluster(), tenant(deniedCIDRs=["10.0.0.1/8"]), secret())


def test_a_rejection_is_passed_on() -> None:
    access = {"mode": "Reject", "reason": "unpaid", "until": "2026-12-31T18:00:00Z"}
    entry = rendered(cluster(), tenant(access=access), secret()).entries["acme"]
    assert (entry.access.mode, entry.access.reason) == ("Reject", "unpaid")
    assert entry.access.until == datetime(2026, 12, 31, 18, tzinfo=UTC)


def test_the_key_of_salts_is_the_writers() -> None:
    key = SecretStr("k" * 40)
    result = rendered(cluster(), tenant(), secret(), mock_key=key)
    assert parse_cluster(result.files["cluster.json"]).mock_key == key
    assert parse_cluster(rendered(cluster(), tenant(), secret()).files["cluster.json"]).mock_key is None


# --- revisions and order


@settings(max_examples=20)
@given(st.permutations([cluster(), tenant("a"), tenant("b"), tenant("c"), secret()]))
def test_order_does_not_matter(documents: list[dict[str, Any]]) -> None:
    assert rendered(*documents).files == rendered(*sorted(documents, key=str)).files


def test_a_change_of_one_tenant_changes_one_file() -> None:
    before = rendered(cluster(), tenant("a"), tenant("b"), secret())
    after = rendered(cluster(), tenant("a"), tenant("b", pool={"size": 3}), secret())
    changed = [name for name, data in before.files.items() if after.files[name] != data]
    assert changed == [tenants_file(shard_of("b"))]
    revisions = [json.loads(x.files[changed[0]])["revision"] for x in (before, after)]
    assert revisions[0] != revisions[1]


# --- refusals

OF_KEY = "spec.users[0].passwordSecretRef: Secret default/acme-app: the value of key 'password' "


@pytest.mark.parametrize(
    ("documents", "problem"),
    [
        ([tenant()], "spec.users[0].passwordSecretRef: SecretNotFound: there is no Secret default/acme-app"),
        (
            [tenant(), secret(metadata={"name": "acme-app"})],
            'spec.users[0].passwordSecretRef: Secret default/acme-app needs the label pgweir.dev/credentials: "true"',
        ),
        (
            [tenant(), secret(stringData={"other": PASSWORD})],
            "spec.users[0].passwordSecretRef: SecretKeyMissing: Secret default/acme-app has no key 'password'",
        ),
        (
            [tenant(), secret(stringData={}, data={"password": "//79"})],
            "spec.users[0].passwordSecretRef: Secret default/acme-app: the value of key 'password' is not UTF-8 text",
        ),
        (
            [tenant(), secret(stringData={"password": PASSWORD + "\x07" * 4096})],
            OF_KEY + "has more than 4096 characters",
        ),
        (
            [tenant(), secret(stringData={"password": ""})],
            OF_KEY + "is empty",
        ),
        (
            [tenant(), secret(stringData={"password": f"{PASSWORD}\0"})],
            OF_KEY + "is no password: a password cannot hold a NUL character",
        ),
        ([tenant(pool={"minIdle": 21}), secret()], "spec.pool: minIdle must not be larger than size"),
        ([tenant(users=[]), secret()], "spec: at least one user is needed when auth.mode is Users"),
        ([tenant("a.b"), secret()], "spec.tenantId: metadata.name is no tenant id"),
    ],
)
def test_a_bad_tenant_is_refused_with_its_reason(documents: list[Any], problem: str) -> None:
    good = tenant("good", users=[{"name": "x", "passwordSecretRef": {"name": "good"}}])
    result = rendered(cluster(), *documents, good, secret("good"))
    assert list(read(result)) == ["good"]
    ((_, problems),) = result.rejected.items()
    assert problems[0].startswith(problem)
    assert PASSWORD not in "".join(problems)


def test_a_refused_tenant_keeps_the_entry_that_it_had() -> None:
    before = rendered(cluster(), tenant(), secret())
    after = rendered(cluster(), tenant(pool={"minIdle": 21}), secret(), previous=before.entries)
    assert list(after.rejected) == ["default/acme"]
    assert after.files == before.files


def test_a_deleted_tenant_does_not_come_back() -> None:
    before = rendered(cluster(), tenant(), secret())
    assert read(rendered(cluster(), previous=before.entries)) == {}


def test_the_older_of_two_tenants_has_the_id() -> None:
    old = tenant("z", tenantId="acme", metadata={"creationTimestamp": "2024-01-01T00:00:00Z"})
    new = tenant("a", tenantId="acme", requireTLS=True, metadata={"creationTimestamp": "2025-01-01T00:00:00Z"})
    result = rendered(cluster(), new, old, secret())
    assert list(read(result)) == ["acme"]
    assert result.rejected == {"default/a": ["spec.tenantId: TenantIdConflict: Tenant default/z has the same"]}


def test_tenants_of_other_clusters_and_namespaces_stay_out() -> None:
    foreign = tenant("f", clusterRef={"name": "other"})
    elsewhere = tenant("e", metadata={"namespace": "team"}, clusterRef={"name": "demo", "namespace": "default"})
    theirs = secret(metadata={"name": "acme-app", "namespace": "team", "labels": {"pgweir.dev/credentials": "true"}})
    closed = rendered(cluster(), foreign, elsewhere, secret())
    assert list(closed.rejected) == ["team/e"]
    assert closed.rejected["team/e"][0].startswith("spec.clusterRef: NotAllowedByCluster")
    open_to_all = cluster(tenants={"namespaces": {"from": "All"}})
    assert rendered(open_to_all, elsewhere, secret()).rejected["team/e"][0].endswith("no Secret team/acme-app")
    assert list(read(rendered(open_to_all, foreign, elsewhere, theirs))) == ["e"]


def test_what_the_cluster_asks_for_in_vain_is_named() -> None:
    result = rendered(cluster(replicas=2, paused=True, parameters={"a": "b"}))
    assert [problem.partition(":")[0] for problem in result.problems] == [
        "spec.replicas",
        "spec.parameters",
        "spec.paused",
    ]


# --- shards


def test_a_full_shard_refuses_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [tenant(f"t{n}", metadata={"creationTimestamp": f"2024-01-{30 - n:02d}T00:00:00Z"}) for n in range(9)]
    monkeypatch.setattr(config_rendering, "SHARDS", 1)
    monkeypatch.setattr(config_rendering, "shard_of", lambda _: 0)
    monkeypatch.setattr(config_rendering, "SHARD_LIMIT_BYTES", 3600)
    result = rendered(cluster(), *documents, secret())
    data = result.files["tenants-00.json"]
    assert len(data) <= 3600
    kept = list(parse_tenants(data).tenants)
    assert kept == sorted(result.entries)
    assert 3 <= len(kept) < 9
    assert kept == [f"t{n}" for n in range(9 - len(kept), 9)]  # t8 is the oldest
    assert set(result.rejected) == {f"default/t{n}" for n in range(9 - len(kept))}
    assert all(p[0].startswith("ShardFull: ") for p in result.rejected.values())
    again = rendered(
        cluster(), *documents, secret(), previous={"t0": read(rendered(cluster(), tenant("t0"), secret()))["t0"]}
    )
    assert "t0" in again.entries


def test_the_limit_leaves_room_in_a_secret() -> None:
    assert SHARD_LIMIT_BYTES < 1024 * 1024


# --- instances


def test_the_smallest_limit_of_an_instance_counts_and_is_noted() -> None:
    result = rendered(
        cluster(),
        tenant("a", upstream={"host": "DB", "maxConnections": 9}),
        tenant("b", upstream={"host": "db", "maxConnections": 5}),
        secret(),
    )
    file = parse_cluster(result.files["cluster.json"])
    assert [(x.instance, x.max_connections) for x in file.instances] == [("db:5432", 5)]
    assert len(result.notes) == 1
    assert "db:5432" in result.notes[0]


def test_the_clusters_word_on_an_instance_counts() -> None:
    result = rendered(
        cluster(instances=[{"host": "db.example", "maxConnections": 7}]),
        tenant("a", upstream={"host": "db.example", "maxConnections": 9}),
        secret(),
    )
    assert result.notes == []
    file = parse_cluster(result.files["cluster.json"])
    assert [(x.instance, x.max_connections) for x in file.instances] == [("db.example:5432", 7)]
