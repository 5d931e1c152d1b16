"""Clients behind load balancers: the address that is stated counts, and only those who are trusted state one."""

import contextlib
import json
import socket
import ssl
from collections.abc import Callable

import pytest

from harness import messages
from harness.config import cluster, tenant
from harness.databases import Database
from harness.pooler import Pooler
from harness.raw_client import RawClient
from harness.tls import TlsFiles
from pgweir_contract.client_tls import ProxyProtocol
from pgweir_contract.models import ClusterLimits, Listener, TenantEntry
from tls.test_attacks import SSL_REQUEST, blind, to_end
from wire.test_client_hello import hello
from wire.test_proxy_header import BAD, GOOD, ip4

Started = Callable[..., Pooler]


@pytest.fixture
def entry(database18: Database) -> TenantEntry:
    return tenant(database18)


def start(pooler: Started, entry: TenantEntry, files: TlsFiles, *trusted: str, **limits: float) -> Pooler:
    proxy = ProxyProtocol(mode="Require", trusted_cidrs=trusted or ("127.0.0.0/8",))
    file = cluster(
        listeners=(Listener(name="transaction", port=0, proxy_protocol=proxy), Listener(name="session", port=0)),
        limits=ClusterLimits(drain_timeout=2.0, **limits),  # type: ignore[arg-type]
        tls=files.cluster_tls("Prefer"),
    )
    return pooler(entry, cluster_file=file)


def dial(process: Pooler) -> socket.socket:
    return socket.create_connection(("127.0.0.1", process.port()), timeout=20)


def refusals(process: Pooler, event: str) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in process.log_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def address_seen(process: Pooler) -> str:
    process.wait_for(lambda: bool(refusals(process, "login refused")), "refused")
    return refusals(process, "login refused")[-1]["client"]


@pytest.mark.parametrize("what", GOOD)
async def test_a_client_logs_in_behind_any_header(
    pooler: Started, entry: TenantEntry, files: TlsFiles, what: str
) -> None:
    process = start(pooler, entry, files)
    address = process.address(entry)
    client = await RawClient.open("127.0.0.1", address.port)
    client.send(GOOD[what][0])
    await client.login(address, {})
    assert await client.values("select 1") == [[b"1"]]
    client.close()


@pytest.mark.parametrize("what", ["v1 TCP4", "v1 UNKNOWN", "v2 TCP6", "v2 LOCAL"])
def test_the_stated_address_is_the_clients(pooler: Started, entry: TenantEntry, files: TlsFiles, what: str) -> None:
    process = start(pooler, entry, files)
    header, address = GOOD[what]
    with dial(process) as sock:
        sock.sendall(header + messages.startup({"user": "nobody"}))
        assert to_end(sock)[:1] == b"E"
    assert address_seen(process) == (address or "127.0.0.1")


@pytest.mark.parametrize("direct", [False, True])
def test_tls_begins_behind_the_header(pooler: Started, entry: TenantEntry, files: TlsFiles, direct: bool) -> None:
    process = start(pooler, entry, files)
    context = blind()
    context.set_alpn_protocols(["postgresql"])
    with dial(process) as sock:
        sock.sendall(ip4() + (b"" if direct else SSL_REQUEST))
        if not direct:
            assert sock.recv(1) == b"S"
        with context.wrap_socket(sock) as tls:
            tls.sendall(messages.startup({"user": "nobody"}))
            assert to_end(tls)[:1] == b"E"
    assert address_seen(process) == "203.0.113.7"


def test_a_header_and_a_hello_may_come_in_one_piece(pooler: Started, entry: TenantEntry, files: TlsFiles) -> None:
    process = start(pooler, entry, files)
    context = blind()
    context.set_alpn_protocols(["postgresql"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    with dial(process) as sock:
        sock.sendall(ip4() + outgoing.read())
        incoming.write(sock.recv(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            connection.do_handshake()
        assert connection.version() == "TLSv1.3"


@pytest.mark.parametrize("what", BAD)
def test_a_connection_without_a_good_header_ends_without_a_word(
    pooler: Started, entry: TenantEntry, files: TlsFiles, what: str
) -> None:
    process = start(pooler, entry, files)
    with dial(process) as sock:
        sock.sendall(BAD[what])
        assert to_end(sock) == b""
    process.wait_for(lambda: len(refusals(process, "proxy refused")) == 1, "in the log")
    assert refusals(process, "proxy refused")[0]["code"] == "ProxyHeaderInvalid"
    assert process.metrics()['pgweir_errors_total{code="ProxyHeaderInvalid"}'] == 1


def test_nobody_else_may_connect(pooler: Started, entry: TenantEntry, files: TlsFiles) -> None:
    process = start(pooler, entry, files, "10.0.0.0/8", "2001:db8::/32", "127.0.0.2/32")
    with dial(process) as sock:
        assert to_end(sock) == b""
    process.wait_for(lambda: len(refusals(process, "proxy refused")) == 1, "in the log")
    assert (
        refusals(process, "proxy refused")[0] | {"code": "ProxyNotTrusted", "proxy": "127.0.0.1"}
        == refusals(process, "proxy refused")[0]
    )
    with socket.socket() as sock:
        sock.settimeout(20)
        sock.bind(("127.0.0.2", 0))
        sock.connect(("127.0.0.1", process.port()))
        sock.sendall(ip4() + messages.startup({"user": "nobody"}))
        assert to_end(sock)[:1] == b"E"


def test_a_crowd_that_is_not_trusted_does_not_fill_the_log(
    pooler: Started, entry: TenantEntry, files: TlsFiles
) -> None:
    process = start(pooler, entry, files, "10.0.0.0/8")
    for _ in range(20):
        with dial(process) as sock:
            assert to_end(sock) == b""
    assert process.metrics()['pgweir_errors_total{code="ProxyNotTrusted"}'] == 20
    assert len(refusals(process, "proxy refused")) == 1


def test_a_silent_proxy_has_no_more_time_than_a_login(pooler: Started, entry: TenantEntry, files: TlsFiles) -> None:
    process = start(pooler, entry, files, login_timeout=0.5)
    for sent in (b"", b"PROXY", ip4()[:20], ip4(), ip4() + hello()[:10]):
        with dial(process) as sock:
            sock.sendall(sent)
            assert to_end(sock)[:1] in (b"", b"E")
    process.wait_for(lambda: process.metrics()["pgweir_logins_in_progress"] == 0, "all gone")


def test_a_crowd_without_headers_is_bounded(pooler: Started, entry: TenantEntry, files: TlsFiles) -> None:
    process = start(pooler, entry, files, max_half_open_logins=20)
    crowd = [dial(process) for _ in range(60)]
    try:
        process.wait_for(lambda: process.metrics()["pgweir_logins_in_progress"] == 20, "bounded", 4)
    finally:
        for sock in crowd:
            sock.close()


def test_other_listeners_take_no_header(pooler: Started, entry: TenantEntry, files: TlsFiles) -> None:
    process = start(pooler, entry, files)
    with socket.create_connection(("127.0.0.1", process.port("session")), timeout=20) as sock:
        sock.sendall(GOOD["v1 TCP4"][0])
        assert to_end(sock)[:1] == b"E"
