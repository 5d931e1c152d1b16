"""Manifests are read strictly: each mistake has its file, document and path, and no value is shown."""

import base64
from pathlib import Path
from typing import Any

import pytest

from operator_side.manifest_values import PASSWORD, cluster, load, secret, tenant, text
from pgweir_operator.resources import ManifestError, load_manifests
from pgweir_operator.strict_yaml import NotYaml, read_documents

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart"


def problems_of(*documents: Any) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        load(*documents)
    return caught.value.problems


def test_the_quickstart_is_read() -> None:
    manifests = load_manifests({p.name: p.read_text() for p in sorted(QUICKSTART.glob("*.yaml"))})
    (demo,) = manifests.clusters
    assert demo.spec.replicas == 1
    assert [(x.name, x.port) for x in demo.spec.listeners] == [("transaction", 6543), ("session", 5432)]
    assert [t.tenant_id for t in manifests.tenants] == ["acme", "globex"]
    assert all(t.cluster_key == demo.key and t.spec.pool.size == 5 for t in manifests.tenants)
    assert len(manifests.secrets) == 2


def test_a_minimal_cluster_has_the_defaults_of_the_api() -> None:
    found = load({"apiVersion": "pgweir.dev/v1alpha1", "kind": "PoolerCluster", "metadata": {"name": "c"}}).clusters[0]
    assert found.key == "default/c"
    assert (found.spec.replicas, found.spec.defaults.size, found.spec.limits.max_clients_per_pod) == (2, 20, 10_000)
    assert found.spec.drain.timeout == 60


def test_what_the_api_server_and_people_add_is_passed_over() -> None:
    document = cluster(image="pgweir:1", service={"type": "LoadBalancer"}, affinity={"x": 1}, podTemplate={})
    document["metadata"] |= {"uid": "u", "resourceVersion": "7", "managedFields": [], "generation": 3}
    document["status"] = {"conditions": []}
    assert load(document).clusters[0].metadata.name == "demo"


def test_other_kinds_are_noted() -> None:
    manifests = load(cluster(), {"apiVersion": "apps/v1", "kind": "Deployment"}, None)
    assert manifests.notes == ("all.yaml: document 2: passed over: Deployment is not ours",)
    assert manifests.places["PoolerCluster", "default/demo"] == "all.yaml: document 1"


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (cluster(colour="red"), "spec.colour: unknown field"),
        (cluster(tls={"peer": {}}), "spec.tls.peer: not supported yet"),
        (cluster(tls={"client": {"mode": "Require"}}), "spec.tls.client: mode Require needs certSecretRef"),
        (
            cluster(tls={"client": {"mode": "VerifyCA", "certSecretRef": {"name": "a"}}}),
            "spec.tls.client: mode VerifyCA needs caSecretRef",
        ),
        (
            cluster(listeners=[{"name": "a", "port": 6543, "proxyProtocol": {"mode": "Require"}}]),
            "spec.listeners[0].proxyProtocol: mode Require needs trustedCIDRs",
        ),
        (tenant(sniHostnames=["Acme.test"]), "spec.sniHostnames[0]: must be a host name in lower case"),
        (cluster(replicas="1"), "spec.replicas: Input should be a valid integer"),
        (cluster(listeners=[{"name": "a", "port": 80}]), "spec.listeners[0].port: Input should be greater than"),
        (cluster(defaults={"queueTimeout": 60}), "spec.defaults.queueTimeout: a duration is a whole number"),
        (cluster(defaults={"size": 1, "minIdle": 2}), "spec.defaults: minIdle must not be larger than size"),
        (cluster("n" * 41), "metadata.name has at most 40 characters"),
        (cluster("Upper"), "metadata.name: String should match pattern"),
        (cluster(tenants={"namespaces": {"from": "Selector"}}), "spec.tenants.namespaces.from: Input should be"),
        (tenant(databases=[{"name": "d", "weight": 3}]), "spec.databases[0].weight: not supported yet"),
        (tenant(databases=[{"name": "d", "wieght": 3}]), "spec.databases[0].wieght: unknown field"),
        (tenant(databases=[]), "spec.databases: must have at least 1 item"),
        (
            tenant(users=[{"name": "app", "passwordSecretRef": {"name": "a"}}] * 65),
            "spec.users: must have at most 64 items",
        ),
        (tenant(databases={"name": "d"}), "spec.databases: must be a list"),
        (tenant(databases=["d"]), "spec.databases[0]: must be a mapping"),
        (tenant(parameters=["x"]), "spec.parameters: must be a mapping"),
        (tenant() | {"spec": "x"}, "spec: must be a mapping"),
        (tenant(users=[{"name": "app"}]), "spec.users[0]: a user needs passwordSecretRef or"),
        (tenant(users=[{"name": "app", "password": PASSWORD}]), "spec.users[0].password: unknown field"),
        (tenant(upstream={}), "spec.upstream.host: required field is missing"),
        (tenant(tenantId="a.b"), "spec.tenantId: String should match pattern"),
        (secret(data={"password": "!" + PASSWORD}), "data.password: must be base64"),
        (secret(stringData={"password": 4711}), "stringData.password: Input should be a valid string"),
        ({"apiVersion": "pgweir.dev/v2", "kind": "Tenant"}, "kind: unknown, pgweir.dev/v1alpha1 has PoolerCluster"),
        ({"apiVersion": "pgweir.dev/v1alpha1", "kind": "Pooler"}, "kind: unknown"),
        ({"kind": "Tenant"}, "apiVersion and kind: required fields are missing"),
        (["x"], "must be a mapping with apiVersion and kind"),
    ],
)
def test_each_mistake_has_its_path(document: Any, problem: str) -> None:
    found = problems_of(cluster("other"), document)
    assert found[0].startswith(f"all.yaml: document 2: {problem}")
    assert PASSWORD not in "".join(found)
    assert not [word for word in ("instance of", "after validation", "uple", "ictionary") if word in "".join(found)]


def test_all_mistakes_of_all_files_are_listed() -> None:
    with pytest.raises(ManifestError) as caught:
        load_manifests({"a.yaml": text(cluster(x=1), cluster("b", y=1)), "b.yaml": "a: ["})
    assert caught.value.problems == [
        "a.yaml: document 1: spec.x: unknown field",
        "a.yaml: document 2: spec.y: unknown field",
        "b.yaml: line 1, column 5: not valid YAML: expected the node content, but found '<stream end>'",
    ]


def test_an_object_is_given_once() -> None:
    assert problems_of(tenant(), tenant()) == [
        "all.yaml: document 2: Tenant default/acme is already in all.yaml: document 1"
    ]


def test_secrets_give_their_text_and_do_not_show_it() -> None:
    encoded = base64.b64encode(b"from data").decode()
    (found,) = load(secret(data={"password": encoded, "other": encoded, "binary": "//79"})).secrets
    first, second = found.value("password"), found.value("other")
    assert first is not None
    assert second is not None
    assert (first.get_secret_value(), second.get_secret_value()) == (PASSWORD, "from data")
    assert found.value("none") is None
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        found.value("binary")
    assert PASSWORD not in f"{found!r}{found}"
    assert encoded not in f"{found!r}{found}"


# --- YAML


@pytest.mark.parametrize(
    "broken",
    [
        f"password: !{PASSWORD}",
        f"password: *{PASSWORD}",
        f"password: '{PASSWORD}",
        f'password: "{PASSWORD}\n- x',
        f"password: {PASSWORD}: x",
        f"{PASSWORD}: 1\n{PASSWORD}: 2",
        f"%{PASSWORD}",
        f"@{PASSWORD}",
        f"a: &{PASSWORD}! b",
        "[" * 10_000 + PASSWORD,
        f"!!python/object:os.{PASSWORD} x",
        f"? [{PASSWORD}, {{}}]\n: 1",
        "a: \x00",
    ],
)
def test_broken_yaml_shows_the_place_and_no_text(broken: str) -> None:
    with pytest.raises(NotYaml) as caught:
        read_documents(broken)
    assert "not valid YAML" in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert caught.value.__suppress_context__


def test_timestamps_are_texts_as_in_kubernetes() -> None:
    assert read_documents("a: 2024-01-01T00:00:00Z") == [{"a": "2024-01-01T00:00:00Z"}]
    assert read_documents("a: 2024-99-99") == [{"a": "2024-99-99"}]
