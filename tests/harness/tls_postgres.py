"""PostgreSQL that speaks TLS: with a certificate that a test may replace, and roles for each way to log in.

Nobody gets in without TLS. A role's group says how it logs in: `certs` by its certificate alone, `doubles` by one and a
password, `md5users` and `cleartexts` by a password, everybody else by SCRAM.
"""

import contextlib
import os
import shutil
import signal
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.certificates import Pair, ca_pem
from pgweir_operator.local_postgres import PostgresServer
from pgweir_operator.postgres_programs import unprivileged_user

_HBA = (
    "hostnossl all all all reject",
    "hostssl all +certs all cert",
    "hostssl all +doubles all scram-sha-256 clientcert=verify-ca",
    "hostssl all +md5users all md5",
    "hostssl all +cleartexts all password",
)
SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")


class TlsPostgres(PostgresServer):
    """`serve` puts another certificate in place."""

    def __init__(self, bin_dir: Path, pair: Pair, settings: Mapping[str, str] | None = None) -> None:
        self._tls_dir = Path(tempfile.mkdtemp(prefix="pgweir-tls-"))
        self._tls_dir.chmod(0o755)
        self._write("ca.crt", ca_pem())
        self._place(pair)
        tls = {"ssl": "on"} | {
            f"ssl_{kind}_file": str(self._tls_dir / name)
            for kind, name in (("cert", "server.crt"), ("key", "server.key"), ("ca", "ca.crt"))
        }
        super().__init__(bin_dir, settings={**tls, **(settings or {})}, hba_lines=_HBA)

    def start(self) -> None:
        super().start()
        self.sql("create role certs; create role doubles; create role md5users; create role cleartexts")

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self._tls_dir, ignore_errors=True)

    @contextlib.contextmanager
    def serving(self, pair: Pair, certificate: Pair) -> Iterator[None]:
        """Shows `pair` instead of `certificate` for a while."""
        self.serve(pair)
        try:
            yield
        finally:
            self.serve(certificate)

    def serve(self, pair: Pair) -> None:
        """Replaces the certificate and returns once new connections see it."""
        self._place(pair)
        os.kill(self.pid, signal.SIGHUP)
        wanted = ssl.PEM_cert_to_DER_cert(pair.certificate)
        deadline = time.monotonic() + 10
        while self._shown() != wanted:
            assert time.monotonic() < deadline, "PostgreSQL shows the old certificate"
            time.sleep(0.02)

    def _shown(self) -> bytes | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with socket.create_connection((self.host, self.port), timeout=5) as plain:
            plain.sendall(SSL_REQUEST)
            assert plain.recv(1) == b"S"
            with context.wrap_socket(plain) as secure:
                return secure.getpeercert(binary_form=True)

    def _place(self, pair: Pair) -> None:
        self._write("server.key", pair.key)
        self._write("server.crt", pair.certificate)

    def _write(self, name: str, text: str) -> None:
        path = self._tls_dir / name
        path.touch(0o600)
        path.chmod(0o600)
        path.write_text(text)
        account = unprivileged_user()
        if account is not None:
            os.chown(path, account.pw_uid, account.pw_gid)
