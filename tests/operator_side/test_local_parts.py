"""The parts of `pgweir local` that need no process: the directory, the lines, the numbers, the clients' check."""

import asyncio
import math
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from harness.waiting import until
from operator_side import manifest_values as values
from pgweir_operator.config_rendering import render_config
from pgweir_operator.demo_client import Tally, Target
from pgweir_operator.demo_load import DemoLoad
from pgweir_operator.demo_metrics import quantile, rates, read_samples
from pgweir_operator.local_config_dir import ConfigDirectory
from pgweir_operator.local_connections import connection_lines
from pgweir_operator.local_demo_manifests import with_one_server
from pgweir_operator.local_manifests import with_loopback
from pgweir_operator.local_postgres import free_port

# --- the directory


def test_all_files_change_in_one_step_and_old_ones_disappear(tmp_path: Path) -> None:
    config = ConfigDirectory(tmp_path / "config")
    config.write({"a.json": b"1", "b.json": b"1"})
    first = (config.path / "..data").resolve()
    config.write({"a.json": b"2", "c.json": b"2"})
    assert {p.name: p.read_bytes() for p in config.path.glob("*.json")} == {"a.json": b"2", "c.json": b"2"}
    assert not first.exists()
    assert (config.path / "a.json").resolve().parent == (config.path / "..data").resolve()


def test_nobody_else_may_read_the_files(tmp_path: Path) -> None:
    config = ConfigDirectory(tmp_path / "config")
    config.write({"a.json": b"secret"})
    folders = [config.path, (config.path / "..data").resolve()]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700, 0o700]
    assert stat.S_IMODE((config.path / "a.json").stat().st_mode) == 0o600


def test_a_change_that_fails_leaves_the_old_files(tmp_path: Path) -> None:
    config = ConfigDirectory(tmp_path / "config")
    config.write({"a.json": b"1"})
    with pytest.raises(OSError, match="No such file"):
        config.write({"a.json": b"2", "no/such.json": b"2"})
    assert (config.path / "a.json").read_bytes() == b"1"
    assert len([p for p in config.path.iterdir() if p.is_dir() and not p.is_symlink()]) == 1


# --- connection lines


def _lines(password: str, *, shows_passwords: bool) -> list[str]:
    manifests = values.load(values.cluster(), values.tenant(), values.secret(stringData={"password": password}))
    cluster = manifests.clusters[0]
    entries = render_config(cluster, manifests.tenants, manifests.secrets).entries.values()
    ports = {"transaction": 6543, "session": 5432}
    return list(connection_lines(entries, cluster.spec.listeners, ports, shows_passwords=shows_passwords))


def test_each_listener_has_a_url_and_a_psql_line() -> None:
    assert [line.strip() for line in _lines("a b/c'", shows_passwords=True)] == [
        "tenant acme:",
        "transaction  postgresql://app.acme:a%20b%2Fc%27@127.0.0.1:6543/shop",
        """PGPASSWORD='a b/c'"'"'' psql 'host=127.0.0.1 port=6543 user=app.acme dbname=shop'""",
        "session      postgresql://app.acme:a%20b%2Fc%27@127.0.0.1:5432/shop",
        """PGPASSWORD='a b/c'"'"'' psql 'host=127.0.0.1 port=5432 user=app.acme dbname=shop'""",
    ]


def test_passwords_are_left_out_unless_asked_for() -> None:
    text = "\n".join(_lines("hush", shows_passwords=False))
    assert "hush" not in text
    assert "postgresql://app.acme@127.0.0.1:6543/shop" in text


# --- the demo's manifests


def test_the_demo_keeps_names_apart_that_two_tenants_share() -> None:
    manifests = values.load(
        values.cluster(),
        values.tenant("acme", databases=[{"name": "shop"}, {"name": "books"}]),
        values.tenant("globex"),
        values.secret(),
    )
    adapted = with_one_server(manifests, "127.0.0.1", 5433, 100)
    cluster = with_loopback(adapted.clusters[0])
    entries = render_config(cluster, adapted.tenants, adapted.secrets).entries
    names = {name: [d.server_name for d in entry.databases] for name, entry in entries.items()}
    assert names == {"acme": ["acme_shop", "books"], "globex": ["globex_shop"]}
    assert {(e.users[0].login_name, e.users[0].name) for e in entries.values()} == {
        ("app", "acme_app"),
        ("app", "globex_app"),
    }
    assert {entry.upstream.instance for entry in entries.values()} == {"127.0.0.1:5433"}
    assert entries["acme"].upstream.max_connections == 60  # both were on db.example


# --- numbers


def test_rates_are_the_difference_of_two_readings() -> None:
    def text(queries: int, fast: int) -> str:
        return (
            f'# TYPE pgweir_clients gauge\npgweir_clients{{tenant="a",state="idle"}} 7\n'
            f'pgweir_clients{{tenant="a",state="waiting"}} 2\n'
            f'# TYPE pgweir_servers gauge\npgweir_servers{{tenant="a",state="active"}} 3\n'
            f'# TYPE pgweir_queries_total counter\npgweir_queries_total{{tenant="a"}} {queries}\n'
            f"# TYPE pgweir_query_seconds histogram\n"
            f'pgweir_query_seconds_bucket{{tenant="a",le="0.001"}} {fast}\n'
            f'pgweir_query_seconds_bucket{{tenant="a",le="+Inf"}} {queries}\n'
        )

    (row,) = rates(read_samples(text(100, 100)), read_samples(text(300, 300)), 2.0)
    assert (row.tenant, row.clients, row.waiting, row.servers, row.queries_per_s) == ("a", 9, 2, 3, 100.0)
    assert row.p50_s == pytest.approx(0.0005)


def test_quantiles_are_interpolated_and_stay_finite() -> None:
    buckets = {0.1: 50.0, 0.2: 100.0, math.inf: 100.0}
    assert quantile(buckets, 0.75) == pytest.approx(0.15)
    assert quantile({0.1: 0.0, math.inf: 10.0}, 0.5) == 0.1
    assert quantile({}, 0.5) == 0.0


def test_a_tallys_quantile_is_close() -> None:
    tally = Tally()
    for i in range(1, 1001):
        tally.answered(i / 1000)
    assert tally.quantile(0.5) == pytest.approx(0.5, rel=0.05)
    assert tally.quantile(0.99) == pytest.approx(0.99, rel=0.05)


# --- the clients' check, against a server that lies


def _message(tag: bytes, body: bytes) -> bytes:
    return tag + (len(body) + 4).to_bytes(4, "big") + body


READY = _message(b"Z", b"I")


def _row(value: bytes) -> bytes:
    return _message(b"D", b"\0\1" + len(value).to_bytes(4, "big") + value)


Answer = Callable[[bytes], bytes]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Answer], Any]]:
    """Starts a server without passwords whose answer to a query is `answer(tag)`."""
    servers = []

    async def serve(answer: Answer) -> Target:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4)
            writer.write(_message(b"R", bytes(4)) + READY)
            while await reader.read(1) == b"Q":
                query = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4)
                writer.write(answer(query.split(b"'")[1]))
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        servers.append(server)
        return Target("127.0.0.1", server.sockets[0].getsockname()[1], "app.acme", "shop", "")

    yield serve
    for server in servers:
        server.close()
        await server.wait_closed()


async def _run(target: Target) -> Tally:
    load = DemoLoad({"acme": [target]}, clients=3, think_s=0.01)
    await load.connect(lambda _: None)
    assert load.connected == 3
    load.start()
    await until(lambda: load.total().queries + load.total().errors >= 3, "three answers")
    await load.stop()
    return load.total()


async def test_right_answers_are_counted(serve: Callable[[Answer], Any]) -> None:
    tally = await _run(await serve(lambda tag: _row(tag) + READY))
    assert tally.queries >= 3 and tally.errors == 0


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda tag: _row(tag + b"0") + READY, "an answer that is not this client's"),
        (lambda tag: READY, "an answer without a row"),
        (lambda tag: _message(b"E", b"SERROR\0C53300\0Mtoo many\0\0") + READY, "53300: too many"),
    ],
)
async def test_every_wrong_answer_is_an_error(serve: Callable[[Answer], Any], answer: Answer, text: str) -> None:
    tally = await _run(await serve(answer))
    assert (tally.queries, tally.errors, set(tally.examples)) == (0, 3, {text})


async def test_a_refused_connection_is_an_error(unused_port: int) -> None:
    load = DemoLoad({"acme": [Target("127.0.0.1", unused_port, "app.acme", "shop", "")]}, clients=2)
    await load.connect(lambda _: None)
    assert load.connected == 0 and load.total().errors == 2


@pytest.fixture
def unused_port() -> int:
    """A port that was free a moment ago."""
    return free_port()
