"""Where a tenant's server may be: judged at each connection, and never at the pooler itself."""

import asyncio
import socket
from typing import Any

import pytest

from harness.config import ANYWHERE, cluster, files, tenant
from harness.databases import Database
from harness.pooler import Pooler
from harness.raw_client import RawClient, ServerClosedError, ServerRefusedError
from harness.waiting import until
from net.fake_postgres import FakePostgres, sound
from net.listeners import Place
from net.poolers import NewPooler
from pgweir_contract.models import ClusterFile, Member, TenantEntry, Upstreams
from pgweir_pooler.errors import ListenFailed, UpstreamNotAllowed
from pgweir_pooler.net.upstream_guard import UpstreamGuard

LOOPBACK = "127.0.0.0/8"


def pointing(database: Database, host: str, port: int, tenant_id: str = "acme") -> TenantEntry:
    entry = tenant(database, tenant_id, size=2)
    return entry.model_copy(update={"upstream": entry.upstream.model_copy(update={"host": host, "port": port})})


async def refusal(process: Pooler, entry: TenantEntry) -> tuple[str, str]:
    with pytest.raises(ServerRefusedError) as caught:
        await RawClient.connect(process.address(entry))
    return caught.value.sqlstate, caught.value.fields["M"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "0x7f000001", "::ffff:127.0.0.1", "::1"])
async def test_loopback_is_refused_however_it_is_written(pooler: NewPooler, database18: Database, host: str) -> None:
    entry = pointing(database18, host, database18.server.port)
    process = pooler(entry, cluster_file=cluster(upstreams=Upstreams()))
    sqlstate, text = await refusal(process, entry)
    assert sqlstate == "08001"
    assert text.startswith("(UpstreamNotAllowed) the database server's address is loopback, which the cluster's ")
    assert database18.backends() == []
    assert "UpstreamNotAllowed" in process.log_text()
    assert process.metrics()['pgweir_errors_total{code="UpstreamNotAllowed"}'] == 1


async def test_the_host_must_be_named_and_so_must_its_address(pooler: NewPooler, database18: Database) -> None:
    port = database18.server.port
    named, other = pointing(database18, "localhost", port, "named"), pointing(database18, "127.0.0.1", port, "other")
    upstreams = Upstreams(allowed_hosts=("localhost",), allowed_cidrs=("127.0.0.9/32", "::1/128"))
    process = pooler(named, other, cluster_file=cluster(upstreams=upstreams))
    sqlstate, text = await refusal(process, other)
    assert (sqlstate, "address is not among the cluster's upstreams.allowedHosts" in text) == ("08001", True)
    upstreams = Upstreams(allowed_hosts=("localhost",), allowed_cidrs=(LOOPBACK, "::1/128"))
    process.write(files([named, other], cluster(upstreams=upstreams)))
    await until(lambda: _gets_in(process, named), "the cluster names it now")


def _gets_in(process: Pooler, entry: TenantEntry) -> bool:
    async def tries() -> bool:
        try:
            client = await RawClient.connect(process.address(entry))
        except ServerRefusedError:
            return False
        client.close()
        return True

    return asyncio.run(tries())


async def test_a_rule_that_changes_counts_at_the_next_connection(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=2)
    process = pooler(entry)
    first = await RawClient.connect(process.address(entry))
    await first.values("begin")
    content = files([entry], cluster(upstreams=Upstreams()))
    process.write(content)
    await until(lambda: process.status()["revisions"]["cluster.json"] in content["cluster.json"].decode(), "it is read")
    assert await first.values("select 1") == [[b"1"]]
    second = await RawClient.connect(process.address(entry), timeout_s=5)
    with pytest.raises((ServerClosedError, TimeoutError)):
        await second.values("select 2")
    second.abort()
    first.close()


@pytest.mark.parametrize("listener", ["transaction", "session", "http", "control"])
async def test_a_tenant_cannot_point_to_the_pooler(pooler: NewPooler, database18: Database, listener: str) -> None:
    process = pooler(tenant(database18, "other"))
    entry = pointing(database18, "localhost", process.port(listener))
    process.write(files([entry]))
    await until(lambda: "acme" in str(process.status()["tenants"]), "the tenant is there")
    assert await refusal(process, entry) == (
        "08001",
        "(UpstreamNotAllowed) the database server's address is that of the pooler itself",
    )


class _Proxy:
    """Passes bytes on, as a Service or a load balancer does."""

    def __init__(self) -> None:
        self.target = 0
        self.connections = 0

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def stop(self) -> None:
        self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except ConnectionError:
        pass
    finally:
        writer.close()


async def test_a_way_back_through_a_proxy_is_noticed(pooler: NewPooler, database18: Database) -> None:
    proxy = _Proxy()
    entry = pointing(database18, "127.0.0.1", await proxy.start())
    process = pooler(entry, cluster_file=cluster(default_tenant="acme"))
    proxy.target = process.port()
    assert await refusal(process, entry) == (
        "08001",
        "(UpstreamNotAllowed) the database server's address leads back to the pooler itself",
    )
    assert proxy.connections == 1
    proxy.stop()


async def test_a_server_that_shows_a_cancel_key_of_ours_is_ourselves() -> None:
    fake = FakePostgres(sound)
    await fake.start()
    asked: list[tuple[int, bytes]] = []

    def is_own_session(process_id: int, secret: bytes) -> bool:
        asked.append((process_id, secret))
        return True

    place = Place()
    place.guard.is_own_session = is_own_session
    place.put(_fake_tenant(fake.port))
    held = place.held()
    client = place.client(held)
    with pytest.raises(ListenFailed, match="leads back"):
        await client.listen("x")
    assert asked[0] == (7, b"key!")
    await place.end()
    await fake.stop()


def _fake_tenant(port: int) -> TenantEntry:
    values: dict[str, Any] = {
        "tenantId": "acme",
        "upstream": {"host": "127.0.0.1", "port": port, "tls": {"mode": "Disable"}},
        "databases": [{"name": "shop"}],
        "users": [{"name": "user", "passwords": ["password"]}],
    }
    return TenantEntry.model_validate(values)


def test_a_nonce_is_ours_only_if_we_made_it() -> None:
    guard, other = UpstreamGuard(), UpstreamGuard()
    nonce = guard.new_nonce().encode()
    assert guard.is_own_nonce(nonce)
    assert nonce != guard.new_nonce().encode()
    changed = (b"B" if nonce[:1] == b"A" else b"A") + nonce[1:]
    for foreign in (other.new_nonce().encode(), changed, nonce[:-1], b"", b"3rfcNHYJY1ZVvWVs7j"):
        assert not guard.is_own_nonce(foreign)


def test_other_members_are_out_of_bounds() -> None:
    guard = UpstreamGuard()
    members = (
        Member(name="demo-0", ordinal=0, address="10.0.0.1:6544"),
        Member(name="d", ordinal=1, address="[fd00::2]:6544"),
    )
    guard.learn(ClusterFile(cluster="c", members=members, upstreams=ANYWHERE))
    for address, port in (("10.0.0.1", 6543), ("10.0.0.1", 5432), ("10.0.0.1", 6544), ("fd00::2", 6543)):
        with pytest.raises(UpstreamNotAllowed, match="that of the pooler itself"):
            guard.judge("db.example", address, port)
    guard.judge("db.example", "10.0.0.1", 5433)
    guard.judge("db.example", "10.0.0.2", 5432)


def test_all_of_this_hosts_addresses_are_ours_when_we_listen_everywhere() -> None:
    guard = UpstreamGuard()
    guard.rules = ANYWHERE
    with socket.socket() as everywhere, socket.socket() as one:
        everywhere.bind(("0.0.0.0", 0))
        one.bind(("127.0.0.1", 0))
        guard.listen([everywhere, one])
        ports = [sock.getsockname()[1] for sock in (everywhere, one)]
    for address in ("127.0.0.1", "127.0.0.7", "::ffff:127.0.0.1"):
        with pytest.raises(UpstreamNotAllowed, match="that of the pooler itself"):
            guard.judge("db.example", address, ports[0])
    with pytest.raises(UpstreamNotAllowed, match="that of the pooler itself"):
        guard.judge("db.example", "127.0.0.1", ports[1])
    guard.judge("db.example", "127.0.0.7", ports[1])  # somebody else's
    guard.judge("db.example", "192.0.2.1", ports[0])
