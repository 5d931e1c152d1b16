"""Certificates change while clients work: nobody is dropped, what is bad changes nothing, and all of it can be seen."""

import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from harness.certificates import Pair, authority, ca_pem
from harness.config import cluster
from harness.config import files as config_files
from harness.tls import TlsFiles, issued, served
from tls.conftest import Door

HOW_OFTEN = 6


def shown(door: Door) -> bytes:
    """The certificate that a new client gets to see."""
    import socket
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["postgresql"])
    with (
        socket.create_connection(("127.0.0.1", door.process.port()), timeout=20) as sock,
        context.wrap_socket(sock) as tls,
    ):
        found = tls.getpeercert(binary_form=True)
        assert found is not None
        return found


def first_of(pair: Pair) -> bytes:
    import ssl

    return ssl.PEM_cert_to_DER_cert(pair.certificate[: pair.certificate.index("-----END CERTIFICATE-----") + 26])


def problems(door: Door) -> list[str]:
    return [f"{x['where']}: {x['problem']}" for x in door.process.status()["problems"]]


class Worker(threading.Thread):
    """Clients that query without end: one that stays, and one that connects anew each time."""

    def __init__(self, door: Door) -> None:
        super().__init__(daemon=True)
        self._door = door
        self._stop_asked = threading.Event()
        self.queries = self.logins = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with self._door.connect() as lasting:
                while not self._stop_asked.is_set():
                    assert lasting.execute("select repeat('x', 20000)").fetchone() is not None
                    self.queries += 1
                    with self._door.connect() as connection:
                        connection.execute("select 1")
                    self.logins += 1
        except Exception as error:
            self.error = error

    def finish(self) -> None:
        self._stop_asked.set()
        self.join(30)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error


def test_certificates_rotate_under_load_and_no_client_is_dropped(door: Callable[..., Door]) -> None:
    target = door()
    workers = [Worker(target) for _ in range(3)]
    for worker in workers:
        worker.start()
    for i in range(1, HOW_OFTEN + 1):
        pair = served(serial=i % 3)
        target.files.put(pair)
        target.process.wait_for(lambda pair=pair: shown(target) == first_of(pair), f"certificate {i} served")  # type: ignore[misc]
        queries = [worker.queries for worker in workers]
        target.process.wait_for(
            lambda queries=queries: all(  # type: ignore[misc]
                worker.error or worker.queries > before for worker, before in zip(workers, queries, strict=True)
            ),
            "more queries",
        )
    for worker in workers:
        worker.finish()
    assert all(worker.logins >= HOW_OFTEN for worker in workers)
    assert target.process.metrics()["pgweir_tls_certificate_reloads_total"] >= HOW_OFTEN


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (served()._replace(key=issued("other.test").key), "the private key does not fit the certificate"),
        (Pair("-----BEGIN NONSENSE", "x"), "the certificate is no PEM text"),
        (issued("127.0.0.1", expired=True), "the certificate has expired"),
    ],
    ids=["misfit", "nonsense", "expired"],
)
def test_a_bad_pair_leaves_the_old_one_serving(door: Callable[..., Door], bad: Pair, said: str) -> None:
    target = door()
    before = shown(target)
    with target.connect() as connection:
        target.files.put(bad)
        target.process.wait_for(lambda: any(said in problem for problem in problems(target)), "reported", 15)
        assert shown(target) == before
        assert connection.execute("select 1").fetchone() == (1,)
        metrics = target.process.metrics()
        assert metrics["pgweir_tls_certificate_reload_failures_total"] >= 1
        assert metrics["pgweir_config_problems"] == 1
        assert said in target.process.log_text()
        good = served(serial=1)
        target.files.put(good)
        target.process.wait_for(lambda: shown(target) == first_of(good), "the good one served", 15)
        assert problems(target) == []
    assert "PRIVATE KEY" not in target.process.log_text()


def test_the_expiry_of_what_is_served_is_a_metric(door: Callable[..., Door]) -> None:
    from cryptography import x509

    expires = x509.load_pem_x509_certificate(served().certificate.encode()).not_valid_after_utc.timestamp()
    assert door().process.metrics()["pgweir_tls_certificate_expiry_timestamp_seconds"] == expires
    assert "pgweir_tls_certificate_expiry_timestamp_seconds" not in door("Disable").process.metrics()


def test_a_certificate_of_another_ca_fails_those_who_trust_the_old_one(door: Callable[..., Door]) -> None:
    target = door()
    old, new = target.files.write("old.crt", ca_pem()), target.files.write("new.crt", ca_pem("theirs"))
    with target.connect(sslmode="verify-full", sslrootcert=old) as connection:
        pair = served(ca="theirs")
        target.files.put(pair)
        target.process.wait_for(lambda: shown(target) == first_of(pair), "the new one served", 15)
        assert connection.execute("select 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
            target.connect(sslmode="verify-full", sslrootcert=old)
        with target.connect(sslmode="verify-full", sslrootcert=new, channel_binding="require") as other:
            assert other.execute("select 1").fetchone() == (1,)


def test_a_client_certificate_is_revoked_by_replacing_its_ca(door: Callable[..., Door]) -> None:
    target = door("VerifyCA")
    own = target.files.of_client(issued("client.test"))
    theirs = target.files.of_client(issued("client.test", ca="theirs"), "theirs")
    with target.connect(**own) as connection:
        target.files.put_ca(ca_pem("theirs"))

        def is_new() -> bool:
            try:
                target.connect(**theirs).close()
            except psycopg.OperationalError:
                return False
            return True

        target.process.wait_for(is_new, "the new CA counts", 15)
        with pytest.raises(psycopg.OperationalError, match="alert"):
            target.connect(**own)
        assert connection.execute("select 1").fetchone() == (1,)  # who is in, stays in


def test_modes_change_live_and_wait_for_their_files(door: Callable[..., Door]) -> None:
    target = door("Disable")
    folder = target.files.folder
    later = TlsFiles(folder)
    wanted = later.cluster_tls("Require")
    pair = later.cert.read_text(), later.key.read_text()
    later.cert.unlink()
    target.process.write(config_files([target.entry], cluster(tls=wanted)))
    target.process.wait_for(lambda: any("cannot be read" in problem for problem in problems(target)), "reported")
    with target.connect(sslmode="disable") as plain:
        later.put(Pair(*pair))
        target.process.wait_for(lambda: problems(target) == [], "taken over", 15)
        assert plain.execute("select 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="the connection must use TLS"):
            target.connect(sslmode="disable")
        with target.connect() as connection:
            assert connection.pgconn.ssl_in_use
            target.process.write(config_files([target.entry], cluster()))

            def is_plain_again() -> bool:
                try:
                    target.connect(sslmode="disable").close()
                except psycopg.OperationalError:
                    return False
                return True

            target.process.wait_for(is_plain_again, "plain again")
            assert connection.execute("select 1").fetchone() == (1,)


def test_files_may_lie_in_the_configurations_own_directory(door: Callable[..., Door], tmp_path: Path) -> None:
    """As `pgweir local` and a projected volume have them: relative paths, swapped by a link."""
    target = door("Disable")

    def content(pair: Pair) -> dict[str, bytes]:
        tls = {"mode": "Prefer", "certFile": "tls.crt", "keyFile": "tls.key"}
        made = cluster().model_validate(
            {"cluster": "test", "limits": {"drainTimeout": "2s"}, "tls": {"client": tls}, "revision": "7"},
            context=None,
        )
        return config_files([target.entry], made) | {"tls.crt": pair.certificate.encode(), "tls.key": pair.key.encode()}

    for pair in (served(), served(serial=1), served()):
        target.process.write(content(pair))

        def is_served(pair: Pair = pair) -> bool:
            try:
                return shown(target) == first_of(pair)
            except OSError:
                return False

        target.process.wait_for(is_served, "served", 15)


def test_keys_that_everybody_can_read_are_warned_about(door: Callable[..., Door]) -> None:
    target = door("Disable")
    target.files.key.chmod(0o644)
    target.process.write(config_files([target.entry], cluster(tls=target.files.cluster_tls("Prefer"))))
    target.process.wait_for(lambda: "can be read by everybody" in target.process.log_text(), "warned")


def test_the_authorities_differ() -> None:
    assert authority() is not authority("theirs")
