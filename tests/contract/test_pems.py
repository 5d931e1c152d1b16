"""PEM texts: one bad text harms the tenants that name it, and no sentence repeats a text."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from pydantic import SecretStr, ValidationError

from contract.contract_values import tenant
from harness.certificates import ca_pem, pair
from pgweir_contract.json_form import render
from pgweir_contract.models import TenantsFile, Upstream, UpstreamTls
from pgweir_contract.pems import PEM_MAX_CHARACTERS, key_fits, pem_digest, pem_problem
from pgweir_contract.reading import ContractError, merge_shards, parse_tenants

CLIENT = pair("app", common_name="app")
OTHER = pair("other", common_name="other")


def encrypted_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw")).decode()


def secured(tenant_id: str, ca: str = "", certificate: str = "", key: str = "", **changes: Any) -> Any:
    tls = UpstreamTls(
        mode="VerifyFull",
        ca=pem_digest(ca) if ca else None,
        system_cas=not ca,
        client_cert=pem_digest(certificate) if certificate else None,
        client_key=pem_digest(key) if key else None,
        **changes,
    )
    return tenant(tenant_id, upstream=Upstream(host="db.example", tls=tls))


def file(*entries: Any, pems: Any) -> bytes:
    tenants = [json.loads(render(entry)) for entry in entries]
    return json.dumps({"version": "1.0", "tenants": tenants, "pems": pems}).encode()


def by_digest(*texts: str) -> dict[str, str]:
    return {pem_digest(text): text for text in texts}


def test_tenants_share_a_text_which_is_read_back() -> None:
    entries = (secured("one", ca_pem()), secured("two", ca_pem(), *CLIENT))
    texts = {pem_digest(text): SecretStr(text) for text in (ca_pem(), *CLIENT)}
    data = render(TenantsFile(tenants=entries, pems=texts))
    read = parse_tenants(data, strict=True)
    assert read.tenants == {"one": entries[0], "two": entries[1]}
    assert read.pems == texts
    assert merge_shards({"tenants-00.json": read}).pems == texts


def test_no_repr_shows_a_text() -> None:
    texts = {pem_digest(CLIENT.key): SecretStr(CLIENT.key)}
    whole = TenantsFile(tenants=(), pems=texts)
    for shown in (repr(whole), str(whole), repr(parse_tenants(render(whole))), whole.model_dump_json()):
        assert "BEGIN" not in shown


@pytest.mark.parametrize(
    ("pems", "problem"),
    [
        ({}, "pems has no text with this digest"),
        ({pem_digest(ca_pem()): 7}, "the text in pems is no text"),
        ({pem_digest(ca_pem()): ca_pem() + "\n"}, "the text in pems is damaged: it has another digest"),
    ],
)
def test_a_missing_or_damaged_text_makes_its_tenant_bad_and_no_other(pems: Any, problem: str) -> None:
    read = parse_tenants(file(secured("bad", ca_pem()), tenant("good"), pems=pems))
    assert list(read.tenants) == ["good"]
    assert read.rejected == {"bad": [f"upstream.tls.ca: {problem}"]}
    assert not read.has_unidentified


def test_a_text_of_another_kind_is_refused_at_its_path() -> None:
    entry = secured("acme", CLIENT.key, OTHER.key, CLIENT.certificate)
    read = parse_tenants(file(entry, pems=by_digest(*CLIENT, OTHER.key)))
    assert read.rejected["acme"] == [
        "upstream.tls.ca: the text in pems must hold certificates only, and has a block of another kind",
        "upstream.tls.clientCert: the text in pems must hold certificates only, and has a block of another kind",
        "upstream.tls.clientKey: the text in pems must hold one private key and nothing else",
    ]


def test_a_key_must_fit_its_certificate() -> None:
    entry = secured("acme", ca_pem(), CLIENT.certificate, OTHER.key)
    read = parse_tenants(file(entry, pems=by_digest(ca_pem(), CLIENT.certificate, OTHER.key)))
    assert read.rejected["acme"] == ["upstream.tls.clientKey: the private key does not fit the certificate"]
    assert key_fits(CLIENT.key, CLIENT.certificate)


def test_pems_must_be_a_mapping() -> None:
    with pytest.raises(ContractError, match="pems: must be a mapping"):
        parse_tenants(file(pems=[]))


@pytest.mark.parametrize(
    ("text", "kind", "problem"),
    [
        ("", "certificates", "is no PEM text"),
        ("secret-words", "key", "is no PEM text"),
        (
            "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n",
            "certificates",
            "certificate that cannot",
        ),
        ("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n", "key", "private key that cannot"),
        ("-----BEGIN CERTIFICATE-----\nc2VjcmV0\n", "certificates", "certificate that cannot"),
        (CLIENT.key + OTHER.key, "key", "one private key and nothing else"),
        (encrypted_key(), "key", "is an encrypted private key"),
        ("-----BEGIN CERTIFICATE-----\n" + "A" * PEM_MAX_CHARACTERS, "certificates", "more than"),
    ],
)
def test_what_is_wrong_with_a_text_is_said_without_it(text: str, kind: Any, problem: str) -> None:
    said = pem_problem(text, kind) or ""
    assert problem in said
    assert "secret" not in said
    assert "c2Vj" not in said


def test_words_around_the_blocks_are_passed_over() -> None:
    assert pem_problem(f"subject=CN = tests\n{ca_pem()}\n# the next\n{CLIENT.certificate}", "certificates") is None


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"mode": "VerifyCA"}, "mode VerifyCA needs a CA"),
        ({"mode": "VerifyFull"}, "mode VerifyFull needs a CA or systemCAs"),
        ({"mode": "VerifyCA", "ca": "0" * 64, "system_cas": True}, "systemCAs needs mode VerifyFull"),
        ({"mode": "Require", "ca": "0" * 64}, "a CA has no effect unless"),
        ({"mode": "Prefer", "negotiation": "Direct"}, "negotiation Direct needs mode Require"),
        ({"mode": "Disable", "channel_binding": "Require"}, "channelBinding Require has no meaning"),
        ({"mode": "Disable", "server_name": "db"}, "has no meaning when mode is Disable"),
        ({"mode": "Require", "client_cert": "0" * 64}, "clientCert and clientKey need each other"),
        ({"mode": "VerifyFull", "ca": "ABC"}, "should match pattern"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings: Any, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        UpstreamTls(**settings)
