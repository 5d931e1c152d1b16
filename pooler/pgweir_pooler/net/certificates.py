"""From PEM texts to what TLS serves clients with: OpenSSL's context, and the data that SCRAM binds to."""

import datetime
import ssl
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pgweir_contract.client_tls import TlsVersion
from pgweir_contract.pems import key_fits, pem_problem
from pgweir_pooler.net.channel_binding import server_end_point
from pgweir_pooler.net.tls_contexts import ALPN, certificates_alone, load_key_pair

_VERSIONS = {"TLS1.2": ssl.TLSVersion.TLSv1_2, "TLS1.3": ssl.TLSVersion.TLSv1_3}


class BadCertificate(Exception):
    """A certificate, a key or a CA that cannot be used; the text begins with which."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is the same for all certificates of a cluster."""

    min_version: TlsVersion = "TLS1.2"
    ca_pem: str | None = None  # who may sign certificates of clients; None: they are asked for none
    demands_certificate: bool = False


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """One certificate, ready to serve."""

    context: ssl.SSLContext
    binding: bytes = field(repr=False)  # its tls-server-end-point; empty when the RFC defines none for it
    not_before: datetime.datetime
    not_after: datetime.datetime


def server_certificate(cert_pem: str, key_pem: str, rules: Rules) -> ServerCertificate:
    """Raises BadCertificate, whose text holds no part of a PEM text."""
    for what, text, kind in (
        ("the certificate", cert_pem, "certificates"),
        ("the private key", key_pem, "key"),
        ("the client CA", rules.ca_pem, "certificates"),
    ):
        problem = pem_problem(text, kind) if text is not None else None  # type: ignore[arg-type]
        if problem is not None:
            raise BadCertificate(f"{what} {problem}")
    if not key_fits(key_pem, cert_pem):
        raise BadCertificate("the private key does not fit the certificate")
    first = x509.load_pem_x509_certificates(cert_pem.encode())[0]
    try:
        context = _context(cert_pem, key_pem, rules)
    except ssl.SSLError as error:  # a key that is too weak, for instance
        raise BadCertificate(f"the certificate is not usable: {(error.reason or 'unknown').lower()}") from None
    return ServerCertificate(
        context,
        server_end_point(first.public_bytes(Encoding.DER)),
        first.not_valid_before_utc,
        first.not_valid_after_utc,
    )


def _context(cert_pem: str, key_pem: str, rules: Rules) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[rules.min_version]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Sessions are not resumed, as in PostgreSQL: a resumed one would outlive a change of the client CA.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols([ALPN])
    load_key_pair(context, cert_pem, key_pem)
    if rules.ca_pem is not None:
        context.load_verify_locations(cadata=certificates_alone(rules.ca_pem))
        context.verify_mode = ssl.CERT_REQUIRED if rules.demands_certificate else ssl.CERT_OPTIONAL
    return context


def names_of(peer: dict[str, object] | None) -> frozenset[str]:
    """Common names and subject alternative names of a verified client certificate (`SSLObject.getpeercert`)."""
    if not peer:
        return frozenset()
    subject: tuple[tuple[tuple[str, str], ...], ...] = peer.get("subject", ())  # type: ignore[assignment]
    names = {value for rdn in subject for key, value in rdn if key == "commonName"}
    alternatives: tuple[tuple[str, str], ...] = peer.get("subjectAltName", ())  # type: ignore[assignment]
    names |= {value for kind, value in alternatives if kind in ("DNS", "email", "URI")}
    return frozenset(names)
