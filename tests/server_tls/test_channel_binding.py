"""SCRAM-SHA-256-PLUS with real PostgreSQL, and with somebody in the middle who has a certificate of his own."""

import datetime
import hashlib
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from harness.certificates import Pair
from harness.tls_postgres import TlsPostgres
from net.poolers import NewPooler
from pgweir_pooler.net.channel_binding import server_end_point
from server_tls.tenants import PEMS, SERVER, role, secured
from server_tls.test_attacks import ATTACKER, through
from server_tls.test_modes import refusal, rows
from server_tls.tls_relay import Relay

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()


def signed(key: Any, algorithm: Any, **options: Any) -> Pair:
    """A self-signed certificate."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "db")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 7, start, start.replace(year=2046))
        .sign(key, algorithm, **options)
        .public_bytes(Encoding.PEM)
    )
    return Pair(made.decode(), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def der(pair: Pair) -> bytes:
    return x509.load_pem_x509_certificate(pair.certificate.encode()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("key", "algorithm", "name"),
    [
        (RSA, hashes.SHA256(), "sha256"),
        (RSA, hashes.SHA512(), "sha512"),
        (EC, hashes.SHA384(), "sha384"),
        (EC, hashes.SHA3_256(), "sha3_256"),
    ],
)
def test_the_hash_is_that_of_the_signature(key: Any, algorithm: Any, name: str) -> None:
    certificate = der(signed(key, algorithm))
    assert server_end_point(certificate) == hashlib.new(name, certificate).digest()


def test_md5_and_sha_1_give_way_to_sha_256(monkeypatch: pytest.MonkeyPatch) -> None:
    for weak in (hashes.MD5(), hashes.SHA1()):
        found = SimpleNamespace(signature_hash_algorithm=weak)
        monkeypatch.setattr(x509, "load_der_x509_certificate", lambda _, found=found: found)
        assert server_end_point(b"certificate") == hashlib.sha256(b"certificate").digest()


def test_what_has_no_hash_has_no_end_point() -> None:
    assert server_end_point(der(signed(ED, None))) == b""
    assert server_end_point(b"no certificate") == b""


@pytest.mark.parametrize("shown", [SERVER, signed(EC, hashes.SHA384()), signed(RSA, hashes.SHA512())])
async def test_channels_are_bound_where_that_is_required(
    pooler: NewPooler, tls_postgres: TlsPostgres, shown: Pair
) -> None:
    entry = secured(role(tls_postgres), "acme", "Require", channel_binding="Require")
    with tls_postgres.serving(shown, SERVER):
        assert (await rows(pooler(entry), entry))[0][0] == b"t"


async def test_required_binding_refuses_other_ways_to_log_in(pooler: NewPooler, tls_postgres: TlsPostgres) -> None:
    ways = {"md5users": "an MD5 hash", "cleartexts": "the password itself"}
    required = {
        group: secured(role(tls_postgres, group), group, "Require", channel_binding="Require") for group in ways
    }
    allowed = secured(role(tls_postgres, "cleartexts"), "allowed", "Require")
    process = pooler(*required.values(), allowed)
    for group, entry in required.items():
        # A role whose password is a verifier is asked for SCRAM by md5, too.
        if group == "cleartexts":
            assert await refusal(process, entry) == (
                "08006",
                f"(InsecureLogin) channel binding is required, and the database server asks for {ways[group]}",
            )
        else:
            assert (await rows(process, entry))[0][0] == b"t"
    assert (await rows(process, allowed))[0][0] == b"t"


def without_plus(data: bytes) -> bytes:
    return data.replace(b"\0\0\0*\0\0\0\x0aSCRAM-SHA-256-PLUS\0", b"\0\0\0\x17\0\0\0\x0a")


@pytest.mark.parametrize(
    ("channel_binding", "takes_the_offer_away", "sqlstate", "words"),
    [
        ("Prefer", False, "28000", "channel binding check failed"),
        ("Require", False, "28000", "channel binding check failed"),
        # The server hears from us that we could have bound.
        ("Prefer", True, "28000", "channel binding negotiation error"),
        ("Require", True, "08006", "asks for SCRAM without it"),
    ],
)
async def test_a_man_in_the_middle_fails_though_nobody_looks_at_his_certificate(
    pooler: NewPooler,
    tls_postgres: TlsPostgres,
    channel_binding: str,
    takes_the_offer_away: bool,
    sqlstate: str,
    words: str,
) -> None:
    database = role(tls_postgres)
    async with Relay(tls_postgres.port, ATTACKER) as relay:
        if takes_the_offer_away:
            relay.rewrite = without_plus
        entry = through(relay, database, "acme", "Require", channel_binding=channel_binding)
        found, text = await refusal(pooler(entry, pems=PEMS), entry)
        assert (found, words in text) == (sqlstate, True)


async def test_a_man_in_the_middle_reads_along_when_channels_are_not_bound(
    pooler: NewPooler, tls18: TlsPostgres
) -> None:
    database = role(tls18)
    async with Relay(tls18.port, ATTACKER) as relay:
        entry = through(relay, database, "acme", "Require", channel_binding="Disable")
        await rows(pooler(entry, pems=PEMS), entry)
        assert database.password.encode() not in relay.seen
