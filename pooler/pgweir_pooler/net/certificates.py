"""From PEM texts to what TLS serves clients with: OpenSSL's context, and the data that SCRAM binds to.

The private key goes to OpenSSL through a file that exists in memory only, because Python's ssl takes nothing else.
"""

import contextlib
import datetime
import hashlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from pgweir_contract.client_tls import TlsVersion
from pgweir_contract.pems import key_fits, pem_problem

ALPN = "postgresql"

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
    return ServerCertificate(context, end_point(first), first.not_valid_before_utc, first.not_valid_after_utc)


def end_point(certificate: x509.Certificate) -> bytes:
    """RFC 5929 section 4.1: the certificate's hash by its signature's algorithm, SHA-256 in the place of MD5 and SHA-1.

    Empty for a signature without a hash of its own (Ed25519): the RFC leaves that undefined, and PostgreSQL and libpq
    fail there.
    """
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return b""
    if algorithm is None:
        return b""
    name = "sha256" if algorithm.name in ("md5", "sha1") else algorithm.name.replace("-", "_")
    try:
        return hashlib.new(name, certificate.public_bytes(Encoding.DER)).digest()
    except ValueError:
        return b""


def _context(cert_pem: str, key_pem: str, rules: Rules) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[rules.min_version]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Sessions are not resumed, as in PostgreSQL: a resumed one would outlive a change of the client CA.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols([ALPN])
    with _file_in_memory(f"{cert_pem}\n{key_pem}\n") as path:
        context.load_cert_chain(path, password="")  # never asks at the terminal
    if rules.ca_pem is not None:
        context.load_verify_locations(cadata=rules.ca_pem)
        context.verify_mode = ssl.CERT_REQUIRED if rules.demands_certificate else ssl.CERT_OPTIONAL
    return context


@contextlib.contextmanager
def _file_in_memory(text: str) -> Iterator[str]:
    fd = os.memfd_create("pgweir-tls", os.MFD_CLOEXEC)
    try:
        data = text.encode()
        while data:
            data = data[os.write(fd, data) :]
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def names_of(peer: dict[str, object] | None) -> frozenset[str]:
    """Common names and subject alternative names of a verified client certificate (`SSLObject.getpeercert`)."""
    if not peer:
        return frozenset()
    subject: tuple[tuple[tuple[str, str], ...], ...] = peer.get("subject", ())  # type: ignore[assignment]
    names = {value for rdn in subject for key, value in rdn if key == "commonName"}
    alternatives: tuple[tuple[str, str], ...] = peer.get("subjectAltName", ())  # type: ignore[assignment]
    names |= {value for kind, value in alternatives if kind in ("DNS", "email", "URI")}
    return frozenset(names)
