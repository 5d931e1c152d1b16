"""The process as a whole: how it starts, says that it is ready, reloads on SIGHUP, drains, and ends."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import messages
from harness.config import ConfigDirectory, cluster, files, tenant
from harness.databases import Database
from harness.load import running_load
from harness.messages import error_fields
from harness.pooler import Pooler
from harness.raw_client import RawClient, ServerClosedError
from harness.waiting import until
from pgweir_contract import names
from pgweir_contract.models import ClusterFile, ClusterLimits, Listener, TenantEntry

NewPooler = Callable[..., Pooler]

LISTENERS_ANYWHERE = (
    Listener(name="transaction", port=0, mode="Transaction"),
    Listener(name="session", port=0, mode="Session"),
)


def with_drain_timeout(seconds: float) -> ClusterFile:
    return cluster(limits=ClusterLimits(drain_timeout=seconds))


async def ended(process: Pooler, timeout_s: float = 10.0) -> int:
    """The exit code, once the process has ended by itself."""
    await until(lambda: not process.is_running, "the process has ended", timeout_s)
    return await asyncio.to_thread(_exit_code, process)


def _exit_code(process: Pooler) -> int:
    assert process._process is not None
    return process._process.wait()


async def goodbye(client: RawClient) -> dict[str, str]:
    """The error that ends a session, after whatever came before it."""
    fields = error_fields((await client.receive_until(b"E"))[-1].body)
    with pytest.raises(ServerClosedError):
        await client.receive()
    client.abort()
    return fields


async def test_sigterm_lets_transactions_finish(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=4)
    process = pooler(entry, cluster_file=with_drain_timeout(60.0))
    idle, busy, running = [await RawClient.connect(process.address(entry)) for _ in range(3)]
    in_session = await RawClient.connect(process.address(entry, listener="session"))
    await in_session.values("select 1")
    await idle.values("select 1")
    await busy.values("create table t (n int)")
    await busy.values("begin; insert into t values (1)")
    running.send(messages.query("select pg_sleep(0.5), 'done'"))
    await until(lambda: "active" in [state for _, state in database18.backends()], "a running query")
    assert process.get("/readyz")[0] == 200
    process.send_signal(signal.SIGTERM)
    for client in (idle, in_session):
        fields = await goodbye(client)
        assert (fields["S"], fields["C"]) == ("FATAL", "57P01")
        assert fields["M"] == "terminating connection due to administrator command"
    assert process.get("/readyz")[0] == 503
    assert process.get("/livez")[0] == 200
    assert process.status()["state"] == "Draining"
    with pytest.raises((OSError, ServerClosedError)):
        await RawClient.connect(process.address(entry))
    received = await running.receive_until(b"C")
    assert messages.rows(received) == [[b"", b"done"]]
    assert (await goodbye(running))["C"] == "57P01"
    await busy.values("insert into t values (2)")
    busy.send(messages.query("commit"))
    assert messages.tags(await busy.receive_until(b"Z")) == b"CZ"
    assert (await goodbye(busy))["C"] == "57P01"
    assert await ended(process) == 0
    assert await asyncio.to_thread(database18.sql, "select count(*) from t") == "2"
    assert database18.backends() == []


async def test_the_drain_timeout_cuts_off_who_is_still_busy(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=4)
    process = pooler(entry, cluster_file=with_drain_timeout(1.0))
    busy = await RawClient.connect(process.address(entry))
    running = await RawClient.connect(process.address(entry))
    await busy.values("create table t (n int)")
    await busy.values("begin; insert into t values (1)")
    running.send(messages.query("select pg_sleep(600)"))
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    for client in (busy, running):
        fields = await goodbye(client)
        assert (fields["S"], fields["C"]) == ("FATAL", "57P01")
    assert 0.9 < time.monotonic() - started < 5
    assert await ended(process) == 0
    await until(lambda: database18.backends() == [], "no backend left")
    assert await asyncio.to_thread(database18.sql, "select count(*) from t") == "0"


async def test_a_second_sigterm_ends_it_at_once(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=4)
    process = pooler(entry, cluster_file=with_drain_timeout(600.0))
    busy = await RawClient.connect(process.address(entry))
    await busy.values("begin")
    process.send_signal(signal.SIGTERM)
    await until(lambda: process.get("/readyz")[0] == 503, "draining")
    assert process.is_running
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert (await goodbye(busy))["C"] == "57P01"
    assert await ended(process) == 0
    assert time.monotonic() - started < 5
    await until(lambda: database18.backends() == [], "no backend left")


async def test_sigterm_under_load_says_goodbye_to_everybody(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=4)
    process = pooler(entry, cluster_file=with_drain_timeout(20.0))
    async with running_load(process.address(entry), clients=40) as load:
        await load.until(500)
        before = load.result.logins
        process.send_signal(signal.SIGTERM)
        assert await ended(process, 20.0) == 0
        load.stop()
    # Each client was told once; whoever came back met a closed port.
    assert load.result.errors["57P01"] == before == 40
    assert load.result.errors.keys() <= {"57P01", "lost"}
    assert database18.backends() == []


async def test_sighup_reads_what_nobody_was_told_of(pooler: NewPooler, database18: Database) -> None:
    """A file changed in place, behind the link, raises no event in the watched folder."""
    entry = tenant(database18, size=4)
    process = pooler(entry)
    name = names.tenants_file(names.shard_of("acme"))
    for size in (5, 6, 7):
        data = files([tenant(database18, size=size)])[name]
        (process.config.path / "..data" / name).write_bytes(data)
        process.send_signal(signal.SIGHUP)
        wanted = json.loads(data)["revision"]
        await until(lambda wanted=wanted: process.status()["revisions"][name] == wanted, "applied", 2.0)  # type: ignore[misc]


def start_by_hand(config: Path, *options: str) -> tuple[int, list[str]]:
    """A pooler that cannot start: exit code, and the lines of its output that are no log entries."""
    done = subprocess.run(
        [sys.executable, "-m", "pgweir_pooler", "--config-dir", config, "--listen-address", "127.0.0.1", *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, [line for line in done.stderr.splitlines() if not line.startswith("{")]


@pytest.fixture
def config(tmp_path: Path, database18: Database) -> ConfigDirectory:
    """A good configuration that listens on any free port."""
    directory = ConfigDirectory(tmp_path / "config")
    directory.write(files([tenant(database18)], cluster(listeners=LISTENERS_ANYWHERE)))
    return directory


@pytest.mark.parametrize("taken", ["http", "control", "listener"])
def test_a_port_in_use_is_one_line_and_exit_code_1(config: ConfigDirectory, database18: Database, taken: str) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        options = {"http": "0", "control": "0", taken: str(port)}
        if taken == "listener":
            listeners = (Listener(name="transaction", port=port, mode="Transaction"),)
            config.write(files([tenant(database18)], cluster(listeners=listeners)))
        code, lines = start_by_hand(config.path, "--http-port", options["http"], "--control-port", options["control"])
    assert code == 1
    assert lines == [f"pgweir pooler: cannot listen on 127.0.0.1 port {port}: Address already in use"]


ANY_PORTS = ("--http-port", "0", "--control-port", "0")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "missing"),
        (b"", "empty"),
        (b'{"version": "1.0", "clus', "JSON"),
        (b'{"version": "2.0", "cluster": "c"}', "version"),
        (b'{"version": "1.0", "cluster": "c", "limitz": {}}', "limitz"),
    ],
)
def test_without_a_good_cluster_file_it_does_not_start(tmp_path: Path, content: bytes | None, word: str) -> None:
    if content is not None:
        (tmp_path / names.CLUSTER_FILE).write_bytes(content)
    code, lines = start_by_hand(tmp_path, *ANY_PORTS)
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("pgweir pooler: cluster.json: ")
    assert word.lower() in lines[0].lower()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    code, lines = start_by_hand(tmp_path / "nowhere", *ANY_PORTS)
    assert code == 1
    assert len(lines) == 1


async def test_a_bad_tenant_does_not_keep_the_others_from_starting(pooler: NewPooler, database18: Database) -> None:
    good = tenant(database18, "good")
    bad = TenantEntry.model_copy(tenant(database18, "bad"), update={"parameters": {"a": "b"}})
    process = pooler(good, bad)
    client = await RawClient.connect(process.address(good))
    assert await client.values("select 1") == [[b"1"]]
    client.close()
    assert [x["where"] for x in process.status()["problems"]] == ["tenant bad"]
