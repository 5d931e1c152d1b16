"""What must not work: bytes planted before TLS, TLS inside TLS, another protocol's clients, a man in the middle."""

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest

from harness import messages
from harness.certificates import ca_pem
from harness.config import cluster, tenant
from harness.config import files as config_files
from harness.databases import Database
from harness.pooler import Pooler
from harness.tls import HOST, TlsFiles, issued, served
from pgweir_contract.models import ClusterLimits, LoginRate
from tls.conftest import Door
from wire.test_client_hello import hello

SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
GSSENC_REQUEST = (8).to_bytes(4, "big") + (80877104).to_bytes(4, "big")
TIMEOUT_S = 20


def dial(door: Door) -> socket.socket:
    return socket.create_connection(("127.0.0.1", door.process.port()), timeout=TIMEOUT_S)


def blind() -> ssl.SSLContext:
    """A client's context that looks at no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def to_end(sock: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65536):
            received += data
    return received


def error_of(received: bytes) -> dict[str, str]:
    assert received[:1] == b"E", received
    return messages.error_fields(received[5:])


@pytest.mark.parametrize(
    "behind", [b"x", messages.startup({"user": "bob.acme"}), hello()], ids=["x", "startup", "hello"]
)
def test_bytes_behind_an_ssl_request_end_the_connection(door: Callable[..., Door], behind: bytes) -> None:
    with dial(door()) as sock:
        sock.sendall(SSL_REQUEST + behind)
        assert error_of(to_end(sock))["C"] == "08P01"


def test_bytes_between_the_answer_and_the_handshake_are_no_postgresql(door: Callable[..., Door]) -> None:
    target = door()
    with dial(target) as sock:
        sock.sendall(SSL_REQUEST)
        assert sock.recv(1) == b"S"
        sock.sendall(messages.startup({"user": "bob.acme"}))
        received = to_end(sock)
    assert received[:1] in (b"", b"\x15")  # nothing, or TLS's alert: never an answer to what was said in plain
    target.process.wait_for(lambda: '"code": "TlsFailed"' in target.process.log_text(), "in the log")


def test_gss_encryption_is_declined_and_tls_follows(door: Callable[..., Door]) -> None:
    with dial(door()) as sock:
        sock.sendall(GSSENC_REQUEST)
        assert sock.recv(1) == b"N"
        sock.sendall(SSL_REQUEST)
        assert sock.recv(1) == b"S"
        with blind().wrap_socket(sock) as tls:
            tls.sendall(messages.startup({"user": "nobody.acme"}))
            assert tls.recv(1) == b"R"


@pytest.mark.parametrize("request_bytes", [SSL_REQUEST, GSSENC_REQUEST])
def test_encryption_inside_tls_is_refused(door: Callable[..., Door], request_bytes: bytes) -> None:
    with dial(door()) as sock:
        sock.sendall(SSL_REQUEST)
        assert sock.recv(1) == b"S"
        with blind().wrap_socket(sock) as tls:
            tls.sendall(request_bytes)
            assert error_of(to_end(tls))["C"] == "08P01"


@pytest.mark.parametrize("protocols", [None, ["http/1.1"], ["h2", "http/1.1"]])
def test_direct_tls_needs_the_alpn_protocol(door: Callable[..., Door], protocols: list[str] | None) -> None:
    context = blind()
    if protocols:
        context.set_alpn_protocols(protocols)
    with dial(door()) as sock, pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        context.wrap_socket(sock)


def test_another_alpn_protocol_is_refused_after_a_request_too(door: Callable[..., Door]) -> None:
    context = blind()
    context.set_alpn_protocols(["h2"])
    with dial(door()) as sock:
        sock.sendall(SSL_REQUEST)
        assert sock.recv(1) == b"S"
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            context.wrap_socket(sock)


def test_direct_tls_where_there_is_none_is_refused(door: Callable[..., Door]) -> None:
    with dial(door("Disable")) as sock:
        sock.sendall(hello(protocols=["postgresql"]))
        assert error_of(to_end(sock))["C"] == "0A000"


def test_handshakes_count_for_the_rate_of_logins(
    pooler: Callable[..., Pooler], database18: Database, files: TlsFiles
) -> None:
    limits = ClusterLimits(login_rate_per_address=LoginRate(per_second=1, burst=3))
    entry = tenant(database18)
    door = Door(pooler(entry, cluster_file=cluster(tls=files.cluster_tls("Prefer"), limits=limits)), entry, files)
    with door.connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)  # its handshake and its login are one
    told = []
    for _ in range(12):
        with dial(door) as sock:
            sock.sendall(SSL_REQUEST)
            told.append(sock.recv(1))
    assert told[:2] == [b"S", b"S"]
    assert 1 <= told.count(b"E") <= 10
    with dial(door) as sock:
        sock.sendall(SSL_REQUEST)
        assert error_of(to_end(sock))["C"] == "53300"


def test_a_hello_after_tls_was_switched_off_is_refused(door: Callable[..., Door]) -> None:
    there = door("Prefer")
    with dial(there) as sock:
        sock.sendall(SSL_REQUEST)
        assert sock.recv(1) == b"S"
        there.process.write(config_files([there.entry], cluster()))
        there.process.wait_for(lambda: there.psql(sslmode="require")[0] != 0, "TLS is off")
        sock.sendall(hello(protocols=["postgresql"]))
        assert to_end(sock) == b"\x15\x03\x03\x00\x02\x02\x28", "TLS's alert handshake_failure"


@pytest.mark.parametrize("size", [1, 7, 600])
def test_a_hello_may_come_in_any_pieces(door: Callable[..., Door], size: int) -> None:
    context = blind()
    context.set_alpn_protocols(["postgresql"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
    with dial(door()) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                connection.do_handshake()
                break
            except ssl.SSLWantReadError:
                data = outgoing.read()
                for at in range(0, len(data), size):
                    sock.sendall(data[at : at + size])
                incoming.write(sock.recv(65536))
        connection.write(messages.startup({"user": "nobody.acme"}))
        sock.sendall(outgoing.read())
        incoming.write(sock.recv(65536))
        assert connection.read(1) == b"R"


def test_a_silent_handshake_ends_with_the_login_timeout(door: Callable[..., Door]) -> None:
    from harness.config import cluster

    target = door()
    limits = cluster().limits.model_copy(update={"login_timeout": 1.0})
    from harness.config import files as config_files

    target.process.write(config_files([target.entry], cluster(tls=target.files.cluster_tls("Prefer"), limits=limits)))
    target.process.wait_for(lambda: target.process.metrics()["pgweir_config_reloads_total"] >= 2, "applied")
    for sent in (SSL_REQUEST, hello(protocols=["postgresql"])[:100]):
        with dial(target) as sock:
            sock.sendall(sent)
            received = to_end(sock)
            assert received in (b"S", b""), received  # no error in plain where TLS is expected
    assert target.process.status()["state"] == "Serving"


def test_noise_in_place_of_records_ends_the_session(door: Callable[..., Door]) -> None:
    target = door()
    with target.connect() as good, target.connect() as connection:
        raw = socket.socket(fileno=connection.fileno())
        try:
            raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        finally:
            raw.detach()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
        assert good.execute("select 2").fetchone() == (2,)


# --- a man in the middle


@contextlib.contextmanager
def middle(target: Door, context: ssl.SSLContext) -> Iterator[int]:
    """Ends the clients' TLS by a certificate of its own, and begins another towards the pooler; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def carry(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            client.settimeout(TIMEOUT_S)
            assert client.recv(8) == SSL_REQUEST
            client.sendall(b"S")
            with context.wrap_socket(client, server_side=True) as near, dial(target) as server:
                server.sendall(SSL_REQUEST)
                assert server.recv(1) == b"S"
                with blind().wrap_socket(server) as far:
                    relay(near, far)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                thread = threading.Thread(target=carry, args=(listener.accept()[0],), daemon=True)
                thread.start()
                threads.append(thread)

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        server.join(TIMEOUT_S)
        for thread in threads:
            thread.join(TIMEOUT_S)


def relay(near: ssl.SSLSocket, far: ssl.SSLSocket) -> None:
    other = {near: far, far: near}
    while True:
        ready = [s for s in other if s.pending()] or select.select(list(other), [], [], TIMEOUT_S)[0]
        for sock in ready:
            data = sock.recv(65536)
            if not data:
                return
            other[sock].sendall(data)


def test_a_man_in_the_middle_fails_with_verify_full_and_with_plus(door: Callable[..., Door]) -> None:
    target = door()
    root = target.files.write("root.crt", ca_pem())
    evil = issued(HOST, "127.0.0.1", ca="evil")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(target.files.write("evil.crt", evil.certificate), target.files.write("evil.key", evil.key))
    with middle(target, context) as port:
        # It would work: who looks at nothing is read.
        with target.connect(port=str(port), channel_binding="disable") as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
            target.connect(port=str(port), sslmode="verify-full", sslrootcert=root)
        for binding in ("require", "prefer"):
            with pytest.raises(psycopg.OperationalError, match="SCRAM channel binding check failed"):
                target.connect(port=str(port), channel_binding=binding)
    target.process.wait_for(lambda: "ChannelBindingFailed" in target.process.log_text(), "in the log")


@pytest.mark.parametrize("sslnegotiation", ["postgres", "direct"])
def test_channel_binding_can_be_required(door: Callable[..., Door], sslnegotiation: str) -> None:
    target = door()
    root = target.files.write("root.crt", ca_pem())
    with target.connect(
        sslmode="verify-full", sslrootcert=root, channel_binding="require", sslnegotiation=sslnegotiation
    ) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    code, said = target.psql(sslmode="verify-full", sslrootcert=root, channel_binding="require")
    assert (code, said) == (0, "in")
    with pytest.raises(psycopg.OperationalError, match="channel binding required"):
        target.connect(sslmode="disable", channel_binding="require")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        target.connect(channel_binding="require", password="wrong")


def test_the_usual_certificates_serve_both() -> None:
    assert served() != served(serial=1)
