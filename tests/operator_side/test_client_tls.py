"""What manifests say about how clients connect: Secrets become files beside cluster.json, and texts of tenants."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.certificates import ca_pem, pair
from operator_side.manifest_values import cluster, load, secret, tenant
from pgweir_contract.names import CLIENT_CA_FILE, CLIENT_CERT_FILE, CLIENT_KEY_FILE, CLUSTER_FILE
from pgweir_contract.reading import parse_cluster
from pgweir_operator.config_rendering import RenderResult, render_config
from pgweir_operator.local_config_dir import ConfigDirectory

SERVED = pair("pooler.test")
OTHER = pair("other.test")
CERT = secret("cert", stringData={"tls.crt": SERVED.certificate, "tls.key": SERVED.key})
CA = secret("ca", stringData={"ca.crt": ca_pem()})


def secured(**client: Any) -> dict[str, Any]:
    return cluster(tls={"client": {"certSecretRef": {"name": "cert"}} | client})


def rendered(*documents: Any, **options: Any) -> RenderResult:
    manifests = load(*documents, secret())
    return render_config(manifests.clusters[0], manifests.tenants, manifests.secrets, **options)


def test_secrets_become_files_that_cluster_json_names() -> None:
    more = {"mode": "VerifyFull", "minVersion": "TLS1.3", "caSecretRef": {"name": "ca"}, "sniDomains": ["pooler.test"]}
    result = rendered(secured(**more), CERT, CA)
    assert result.problems == []
    tls = parse_cluster(result.files[CLUSTER_FILE], strict=True).tls.client
    assert (tls.mode, tls.min_version, tls.sni_domains) == ("VerifyFull", "TLS1.3", ("pooler.test",))
    assert (tls.cert_file, tls.key_file, tls.ca_file) == (CLIENT_CERT_FILE, CLIENT_KEY_FILE, CLIENT_CA_FILE)
    assert result.files[CLIENT_CERT_FILE].decode() == SERVED.certificate
    assert result.files[CLIENT_KEY_FILE].decode() == SERVED.key
    assert result.files[CLIENT_CA_FILE].decode() == ca_pem()
    assert SERVED.key not in result.files[CLUSTER_FILE].decode()


def test_files_are_private(tmp_path: Path) -> None:
    directory = ConfigDirectory(tmp_path / "config")
    directory.write(rendered(secured(), CERT).files)
    assert (directory.path / CLIENT_KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_without_a_certificate_there_is_no_tls() -> None:
    result = rendered(cluster())
    assert parse_cluster(result.files[CLUSTER_FILE], strict=True).tls.client.effective_mode == "Disable"
    assert CLIENT_CERT_FILE not in result.files


@pytest.mark.parametrize(
    ("documents", "problem"),
    [
        ([secured()], "spec.tls.client.certSecretRef: SecretNotFound: there is no Secret default/cert"),
        (
            [secured(), secret("cert", stringData={"tls.crt": SERVED.certificate})],
            "spec.tls.client.certSecretRef: SecretKeyMissing: Secret default/cert has no key 'tls.key'",
        ),
        (
            [secured(), secret("cert", stringData={"tls.crt": SERVED.certificate, "tls.key": OTHER.key})],
            "spec.tls.client.certSecretRef: Secret default/cert: tls.key does not fit tls.crt",
        ),
        (
            [secured(caSecretRef={"name": "ca"}), CERT, secret("ca", stringData={"ca.crt": "x"})],
            "spec.tls.client.caSecretRef: Secret default/ca: the value of key 'ca.crt' is no PEM text",
        ),
    ],
)
def test_a_secret_that_cannot_be_used_is_a_problem_and_switches_nothing_off(documents: list[Any], problem: str) -> None:
    result = rendered(*documents)
    assert [p[: len(problem)] for p in result.problems] == [problem]
    assert CLUSTER_FILE not in result.files
    assert "PRIVATE" not in "".join(result.problems)


def test_a_tenant_brings_names_and_a_certificate_of_its_own() -> None:
    own = tenant(requireTLS=True, sniHostnames=["db.acme.test"], clientTls={"certSecretRef": {"name": "cert"}})
    result = rendered(secured(), CERT, own)
    entry = result.entries["acme"]
    assert entry.require_tls
    assert entry.sni_hostnames == ("db.acme.test",)
    assert entry.client_tls is not None
    assert result.pems[entry.client_tls.cert].get_secret_value() == SERVED.certificate
    assert result.pems[entry.client_tls.key].get_secret_value() == SERVED.key


def test_a_host_name_is_one_tenants() -> None:
    users = [{"name": "app", "passwordSecretRef": {"name": "acme-app"}}]
    first = tenant("a", sniHostnames=["db.test"], users=users)
    second = tenant("b", sniHostnames=["db.test"], users=users)
    thief = tenant("c", sniHostnames=["a.pooler.test"], users=users)
    own = tenant("d", sniHostnames=["d.pooler.test"], users=users)
    result = rendered(secured(sniDomains=["pooler.test"]), CERT, first, second, thief, own)
    assert sorted(result.entries) == ["a", "d"]
    assert result.rejected == {
        "default/b": ["spec.sniHostnames[0]: HostnameConflict: db.test is another tenant's"],
        "default/c": ["spec.sniHostnames[0]: HostnameConflict: a.pooler.test is another tenant's"],
    }


def test_listeners_keep_what_they_say_of_the_proxy_protocol() -> None:
    proxy = {"mode": "Require", "trustedCIDRs": ["10.0.0.0/8"]}
    result = rendered(cluster(listeners=[{"name": "a", "port": 6543, "proxyProtocol": proxy}]))
    document = json.loads(result.files[CLUSTER_FILE])
    assert document["listeners"][0]["proxyProtocol"] == proxy
