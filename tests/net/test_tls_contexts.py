"""TLS contexts: shared by equal settings, made without a file, and never more than there is room for."""

import ssl
from typing import Any

import pytest
from pydantic import SecretStr

from harness.certificates import ca_pem, pair
from pgweir_contract.models import UpstreamTls
from pgweir_contract.pems import pem_digest
from pgweir_pooler.errors import ServerTlsFailed
from pgweir_pooler.net import tls_contexts
from pgweir_pooler.net.tls_contexts import TlsContexts

CLIENT, OTHER = pair("app", common_name="app"), pair("other", common_name="other")
WORDS = f"# größer\n{ca_pem()}# Ende\n"
PEMS = {pem_digest(text): SecretStr(text) for text in (ca_pem(), WORDS, *CLIENT, *OTHER)}


def tls(mode: Any, ca: str = "", client: tuple[str, str] | None = None, **changes: Any) -> UpstreamTls:
    if client is not None:
        changes |= {"client_cert": pem_digest(client[0]), "client_key": pem_digest(client[1])}
    return UpstreamTls(mode=mode, ca=pem_digest(ca) if ca else None, **changes)


def test_equal_settings_share_a_context() -> None:
    contexts = TlsContexts()
    full = contexts.context(tls("VerifyFull", ca_pem()), PEMS)
    assert contexts.context(tls("VerifyFull", ca_pem(), server_name="db", channel_binding="Disable"), {}) is full
    assert contexts.context(tls("VerifyCA", ca_pem()), PEMS) is not full
    loose = contexts.context(tls("Require"), {})
    assert contexts.context(tls("Prefer"), {}) is loose
    assert contexts.context(tls("Require", client=CLIENT), PEMS) is not loose


def test_a_mode_checks_what_it_promises() -> None:
    contexts = TlsContexts()
    for mode, verify, hostname in (
        ("Prefer", 0, False),
        ("Require", 0, False),
        ("VerifyCA", 2, False),
        ("VerifyFull", 2, True),
    ):
        made = contexts.context(tls(mode, ca_pem() if verify else ""), PEMS)
        assert (made.verify_mode, made.check_hostname) == (verify, hostname)
        assert made.minimum_version == ssl.TLSVersion.TLSv1_2


def test_words_in_a_bundle_and_the_systems_cas_do_no_harm() -> None:
    contexts = TlsContexts()
    assert contexts.context(tls("VerifyFull", WORDS), PEMS).cert_store_stats()["x509_ca"] == 1
    assert contexts.context(tls("VerifyFull", system_cas=True), PEMS).verify_mode == ssl.CERT_REQUIRED


def test_a_key_that_openssl_does_not_take_is_an_error_without_it() -> None:
    with pytest.raises(ServerTlsFailed) as caught:
        TlsContexts().context(tls("Require", client=(CLIENT.certificate, OTHER.key)), PEMS)
    assert caught.value.text == "the configured certificates cannot be used: key values mismatch"


def test_the_least_recently_used_context_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_contexts, "CONTEXTS_MAX", 2)
    contexts = TlsContexts()
    loose = contexts.context(tls("Require"), {})
    by_ca = contexts.context(tls("VerifyCA", ca_pem()), PEMS)
    assert contexts.context(tls("Require"), {}) is loose
    contexts.context(tls("VerifyFull", ca_pem()), PEMS)
    assert contexts.context(tls("Require"), {}) is loose
    assert contexts.context(tls("VerifyCA", ca_pem()), PEMS) is not by_ca
