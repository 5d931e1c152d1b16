"""What a Tenant says about TLS to its PostgreSQL: Secrets become texts of the shard's `pems`, once each."""

import json
from typing import Any

import pytest

from harness.certificates import ca_pem, pair
from operator_side.manifest_values import cluster, load, secret, tenant
from pgweir_contract.names import SHARD_LIMIT_BYTES, shard_of, tenants_file
from pgweir_contract.pems import pem_digest
from pgweir_contract.reading import merge_shards, parse_tenants
from pgweir_operator import config_rendering
from pgweir_operator.config_rendering import RenderResult, render_config

CLIENT = pair("app", common_name="app")
OTHER = pair("other", common_name="other")

CA = secret("ca", stringData={"ca.crt": ca_pem(), "other.crt": OTHER.certificate})
CERT = secret("cert", stringData={"tls.crt": CLIENT.certificate, "tls.key": CLIENT.key})
VERIFY = {"mode": "VerifyFull", "caSecretRef": {"name": "ca"}, "clientCertSecretRef": {"name": "cert"}}


@pytest.fixture(autouse=True)
def _is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_rendering, "unsupported", lambda _: [])


def secured(name: str = "acme", **tls: Any) -> dict[str, Any]:
    return tenant(name, upstream={"host": "db.example", "tls": VERIFY | tls})


def rendered(*documents: Any, **options: Any) -> RenderResult:
    manifests = load(cluster(), secret(), *documents)
    return render_config(manifests.clusters[0], manifests.tenants, manifests.secrets, **options)


def test_secrets_are_resolved_into_texts_that_the_pooler_finds() -> None:
    result = rendered(
        secured(serverName="pg.internal", systemCAs=True, negotiation="Direct", channelBinding="Require"), CA, CERT
    )
    assert result.rejected == {}
    read = merge_shards({n: parse_tenants(d, strict=True) for n, d in result.files.items() if "tenants-" in n})
    assert read.tenants == result.entries
    tls = read.tenants["acme"].upstream.tls
    assert (tls.mode, tls.server_name, tls.system_cas, tls.negotiation, tls.channel_binding) == (
        "VerifyFull",
        "pg.internal",
        True,
        "Direct",
        "Require",
    )
    texts = {digest: text.get_secret_value() for digest, text in read.pems.items()}
    assert tls.ca and tls.client_cert and tls.client_key
    assert texts == {tls.ca: ca_pem(), tls.client_cert: CLIENT.certificate, tls.client_key: CLIENT.key}
    assert result.pems == read.pems


def test_a_text_of_several_tenants_is_in_a_shard_once() -> None:
    names = [f"t{i}" for i in range(40)]
    result = rendered(*(secured(name) for name in names), CA, CERT)
    for number in range(16):
        document = json.loads(result.files[tenants_file(number)])
        assert set(document["pems"]) == ({pem_digest(x) for x in (ca_pem(), *CLIENT)} if document["tenants"] else set())
    assert {shard_of(name) for name in names} > {0}


@pytest.mark.parametrize(
    ("tls", "documents", "problem"),
    [
        ({}, [CERT], "caSecretRef: SecretNotFound: there is no Secret default/ca"),
        ({}, [CA], "clientCertSecretRef: SecretNotFound: there is no Secret default/cert"),
        (
            {},
            [CA, secret("cert", metadata={"name": "cert"}, stringData={})],
            'clientCertSecretRef: Secret default/cert needs the label pgweir.dev/credentials: "true"',
        ),
        (
            {},
            [CA, secret("cert", stringData={"tls.crt": CLIENT.certificate})],
            "clientCertSecretRef: SecretKeyMissing: Secret default/cert has no key 'tls.key'",
        ),
        (
            {},
            [CA, secret("cert", stringData={"tls.crt": CLIENT.certificate, "tls.key": OTHER.key})],
            "clientCertSecretRef: Secret default/cert: tls.key does not fit tls.crt",
        ),
        (
            {"caSecretRef": {"name": "cert", "key": "tls.key"}},
            [CERT],
            "caSecretRef: Secret default/cert: the value of key 'tls.key' must hold certificates only, and has …",
        ),
    ],
)
def test_what_a_secret_lacks_is_said_at_the_field(tls: Any, documents: list[Any], problem: str) -> None:
    result = rendered(secured(**tls), *documents)
    assert list(result.rejected) == ["default/acme"]
    assert result.rejected["default/acme"][0].startswith(f"spec.upstream.tls.{problem.removesuffix('…')}")


def test_settings_that_do_not_fit_together_are_refused() -> None:
    result = rendered(tenant(upstream={"host": "h", "tls": {"mode": "VerifyCA"}}))
    assert result.rejected == {"default/acme": ["spec.upstream.tls: mode VerifyCA needs a CA"]}


def test_a_tenant_that_turned_bad_keeps_its_entry_and_its_texts() -> None:
    before = rendered(secured(), CA, CERT)
    after = rendered(secured(), CERT, previous=before.entries, previous_pems=before.pems)
    assert list(after.rejected) == ["default/acme"]
    assert after.files == before.files


def test_texts_count_in_a_shards_size() -> None:
    big = [ca_pem() + f"# {i}\n" + "#" * 200_000 for i in range(6)]
    here = [name for name in (f"t{i}" for i in range(400)) if shard_of(name) == 0][: len(big)]
    secrets = [secret(f"ca-{i}", stringData={"ca.crt": text}) for i, text in enumerate(big)]
    tenants = [secured(name, caSecretRef={"name": f"ca-{i}"}) for i, name in enumerate(here)]
    result = rendered(*tenants, *secrets, CERT)
    assert len(result.files[tenants_file(0)]) <= SHARD_LIMIT_BYTES
    assert len(result.rejected) == 2
    assert parse_tenants(result.files[tenants_file(0)], strict=True).rejected == {}
