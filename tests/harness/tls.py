"""The certificates that a pooler shows its clients, and the files that it reads them from."""

import datetime
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from harness.certificates import Pair, ca_pem, pair
from pgweir_contract.client_tls import ClientTls, ClientTlsMode, ClusterTls

HOST = "pooler.test"


def issued(
    *names: str, ca: str = "tests", common_name: str | None = None, expired: bool = False, serial: int = 0
) -> Pair:
    """A certificate for these host names or addresses."""
    not_after = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC) if expired else None
    not_before = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC) if expired else None
    return pair(*names, ca=ca, common_name=common_name, not_before=not_before, not_after=not_after, serial=serial)


def served(ca: str = "tests", serial: int = 0) -> Pair:
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
        self.put_ca(ca or ca_pem())

    def put(self, pair: Pair) -> None:
        """Replaces certificate and key, one after the other as a careless administrator would."""
        _replace(self.cert, pair.certificate)
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
        return {"sslcert": self.write(f"{name}.crt", pair.certificate), "sslkey": self.write(f"{name}.key", pair.key)}


def _replace(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)
