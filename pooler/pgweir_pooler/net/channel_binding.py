"""The data that ties a SCRAM exchange to the TLS connection below it."""

import hashlib

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm


def server_end_point(certificate: bytes) -> bytes:
    """RFC 5929, section 4.1, of a certificate (DER): its hash by its signature's algorithm, SHA-256 for MD5 and SHA-1.

    Empty for a signature without a hash of its own (Ed25519), for which the RFC has no word: PostgreSQL and libpq fail
    there.
    """
    try:
        algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    except (UnsupportedAlgorithm, ValueError):
        return b""
    if algorithm is None:
        return b""
    name = "sha256" if algorithm.name in ("md5", "sha1") else algorithm.name.replace("-", "_")
    try:
        return hashlib.new(name, certificate).digest()
    except ValueError:
        return b""
