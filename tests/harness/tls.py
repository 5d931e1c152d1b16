"""Certificates of tests, made by trustme, and the files that a pooler reads them from.

A certificate takes 0.1 s to make, so those that many tests want are made once per process.
"""

import datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pgweir_contract.client_tls import ClientTls, ClientTlsMode, ClusterTls

HOST = "pooler.test"


class Pair(NamedTuple):
    """A certificate with its chain, and its key: PEM."""

    cert: str
    key: str


@cache
def authority(name: str = "ours") -> trustme.CA:
    """A certificate authority, the same for the same name."""
    return trustme.CA(organization_name=name)


def ca_text(name: str = "ours") -> str:
    return authority(name).cert_pem.bytes().decode()


@cache
def issued(
    *names: str, ca: str = "ours", common_name: str | None = None, expired: bool = False, serial: int = 0
) -> Pair:
    """A certificate for these host names or addresses; another `serial`, another certificate."""
    not_after = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC) if expired else None
    not_before = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC) if expired else None
    leaf = authority(ca).issue_cert(*names, common_name=common_name, not_after=not_after, not_before=not_before)
    return Pair("".join(x.bytes().decode() for x in leaf.cert_chain_pems), leaf.private_key_pem.bytes().decode())


def served(ca: str = "ours", serial: int = 0) -> Pair:
    """The pooler's usual certificate: for HOST and for 127.0.0.1."""
    return issued(HOST, "127.0.0.1", ca=ca, serial=serial)


@cache
def self_signed(host: str = "127.0.0.1", key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None) -> Pair:
    """A certificate that nobody has signed but itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )


class TlsFiles:
    """The mounted files of a pooler, and files for its clients, in one folder."""

    def __init__(self, folder: Path, pair: Pair | None = None, ca: str | None = None) -> None:
        self.folder = folder
        self.cert, self.key, self.ca = folder / "tls.crt", folder / "tls.key", folder / "ca.crt"
        self.put(pair or served())
        self.put_ca(ca or ca_text())

    def put(self, pair: Pair) -> None:
        """Replaces certificate and key, one after the other as a careless administrator would."""
        _replace(self.cert, pair.cert)
        _replace(self.key, pair.key)

    def put_ca(self, text: str) -> None:
        """Replaces who may sign the clients' certificates."""
        _replace(self.ca, text)

    def cluster_tls(self, mode: ClientTlsMode | None = None, *, asks: bool = False, **more: object) -> ClusterTls:
        """What cluster.json says of them; `asks` names the CA where the mode does not demand it."""
        ca = str(self.ca) if asks or mode in ("VerifyCA", "VerifyFull") else None
        return ClusterTls(
            client=ClientTls(mode=mode, cert_file=str(self.cert), key_file=str(self.key), ca_file=ca, **more)  # type: ignore[arg-type]
        )

    def write(self, name: str, text: str) -> str:
        """A file for a client; its path."""
        path = self.folder / name
        _replace(path, text)
        return str(path)

    def of_client(self, pair: Pair, name: str = "client") -> dict[str, str]:
        """libpq's parameters for a client's certificate."""
        return {"sslcert": self.write(f"{name}.crt", pair.cert), "sslkey": self.write(f"{name}.key", pair.key)}


def _replace(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)
