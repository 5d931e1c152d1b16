"""`pgweir local` as its user meets it: real processes, a real PostgreSQL, real clients."""

import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.address import Address
from harness.certificates import Pair, ca_pem
from harness.databases import Database
from harness.raw_client import RawClient
from harness.tls import served
from operator_side import manifest_values as values
from operator_side.local_run import LocalRun, command_line

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"

Start = Callable[..., LocalRun]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts it; whatever still runs after the test is killed."""
    runs: list[LocalRun] = []

    def start(*arguments: object) -> LocalRun:
        runs.append(LocalRun(tmp_path, [str(argument) for argument in arguments]))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


def _documents(database: Database, name: str = "acme", **pool: Any) -> list[dict[str, Any]]:
    """A tenant of that name with the database, and its Secret."""
    tenant = values.tenant(
        name,
        upstream={"host": "127.0.0.1", "port": database.server.port},
        databases=[{"name": database.name}],
        users=[{"name": database.user, "passwordSecretRef": {"name": name}}],
        pool={"size": 2} | pool,
    )
    return [tenant, values.secret(name, stringData={"password": database.password})]


def _cluster(port: int) -> dict[str, Any]:
    listeners = [{"name": "transaction", "port": port, "mode": "Transaction"}]
    return values.cluster(listeners=listeners, drain={"timeout": "1s"})


@pytest.fixture
def busy_port() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def manifests(tmp_path: Path, database18: Database, busy_port: int) -> Path:
    """A file with one cluster and the tenant `acme`."""
    path = tmp_path / "manifests.yaml"
    path.write_text(values.text(_cluster(busy_port), *_documents(database18)))
    return path


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _port(run: LocalRun) -> int:
    return int(run.wait_for(r"@127\.0\.0\.1:(\d+)/")[1])


async def _database_seen(run: LocalRun, database: Database, tenant: str) -> bytes | None:
    address = Address(_port(run), f"{database.user}.{tenant}", database.name, database.password)
    client = await RawClient.connect(address)
    try:
        return (await client.values("select current_database()"))[0][0]
    finally:
        client.close()


async def test_a_client_reaches_its_database_and_a_signal_ends_it_with_0(
    start: Start, manifests: Path, database18: Database
) -> None:
    run = start("-f", manifests)
    run.wait_for("metrics: ")
    assert await _database_seen(run, database18, "acme") == database18.name.encode()
    assert run.stop(signal.SIGINT) == 0
    assert run.errors == ""


def test_a_port_in_use_is_replaced_and_named(start: Start, manifests: Path, busy_port: int) -> None:
    run = start("-f", manifests, "--once")
    assert run.wait_end() == 0
    assert f"note: port {busy_port} (transaction) is in use here" in run.output
    assert run.found(r"@127\.0\.0\.1:(\d+)/")[1] != str(busy_port)


def test_no_password_is_shown_or_left_behind(start: Start, manifests: Path, database18: Database) -> None:
    run = start("-f", manifests)
    run.wait_for("metrics: ")
    pooler = command_line(run.child_pid("pgweir_pooler"))
    assert database18.password not in " ".join([run.output, run.errors, *command_line(run.pid), *pooler])
    assert "PGPASSWORD=… psql" in run.output
    config = Path(pooler[pooler.index("--config-dir") + 1])
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [config.parent, *config.parent.rglob("*")]}
    assert len(modes) > 30 and not [path for path, mode in modes.items() if mode & 0o077]
    assert run.stop() == 0
    assert not config.parent.exists()


def test_a_secrets_certificate_is_served_and_replaced_live(start: Start, manifests: Path, database18: Database) -> None:
    secured = _cluster(_free_port()) | {}
    secured["spec"]["tls"] = {"client": {"mode": "Require", "certSecretRef": {"name": "cert"}}}

    def written(pair: Pair) -> str:
        cert = values.secret("cert", stringData={"tls.crt": pair.certificate, "tls.key": pair.key})
        return values.text(secured, *_documents(database18), cert)

    _write(manifests, written(served()))
    run = start("-f", manifests)
    run.wait_for("metrics: ")
    root = manifests.with_name("root.crt")
    root.write_text(ca_pem())

    def connect(**more: str) -> "psycopg.Connection[tuple[str]]":
        where = {
            "host": "127.0.0.1",
            "port": str(_port(run)),
            "user": f"{database18.user}.acme",
            "sslmode": "verify-full",
        }
        who = {"dbname": database18.name, "password": database18.password, "sslrootcert": str(root)}
        return psycopg.connect(psycopg.conninfo.make_conninfo(**where | who | more), autocommit=True)

    with connect() as lasting:
        with pytest.raises(psycopg.OperationalError, match="the connection must use TLS"):
            connect(sslmode="disable")
        _write(manifests, written(served(ca="theirs")))
        root.write_text(ca_pem("theirs"))
        deadline = time.monotonic() + 20
        while True:
            try:
                connect().close()
                break
            except psycopg.OperationalError:
                assert time.monotonic() < deadline
        assert lasting.execute("select 'in'").fetchone() == ("in",)
    assert "PRIVATE KEY" not in run.output + run.errors
    assert run.stop() == 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


async def test_a_good_change_is_applied_and_a_bad_one_refused(
    start: Start, manifests: Path, database18: Database
) -> None:
    run = start("-f", manifests)
    run.wait_for("metrics: ")
    good = values.text(_cluster(_port(run)), *_documents(database18), *_documents(database18, "globex"))
    _write(manifests, good)
    run.wait_for("applied: 2 tenants")
    assert await _database_seen(run, database18, "globex") == database18.name.encode()
    _write(manifests, good.replace("size: 2", "size: many"))
    run.wait_for("the last good configuration stays")
    run.wait_for(rf"{manifests}: document 2: spec\.pool\.size: ")
    assert await _database_seen(run, database18, "acme") == database18.name.encode()
    _write(manifests, good)
    run.wait_for("the manifests are good again; nothing else has changed")
    _write(manifests, values.text(_cluster(_port(run)), *_documents(database18, "globex")))
    run.wait_for("applied: 1 tenants")
    assert run.stop() == 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"replicas": 3}, "document 1: spec.replicas: not supported yet"),
        ({"replicas": 0}, "document 1: spec.replicas: nothing would run"),
        ({"colour": "blue"}, "document 1: spec.colour: unknown field"),
    ],
)
def test_bad_manifests_are_one_line_each_and_exit_code_2(
    start: Start, tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(values.text(values.cluster(**change)))
    run = start("-f", path)
    assert run.wait_end() == 2
    assert run.errors.startswith(f"{path}: {problem}") and run.errors.count("\n") == 1
    assert run.output == ""


def test_a_file_that_is_not_there_is_named(start: Start, tmp_path: Path) -> None:
    run = start("-f", tmp_path / "none.yaml")
    assert run.wait_end() == 2
    assert run.errors == f"{tmp_path / 'none.yaml'}: cannot be read: No such file or directory\n"


def test_the_end_of_the_pooler_is_reported_with_its_log(start: Start, manifests: Path) -> None:
    run = start("-f", manifests)
    run.wait_for("metrics: ")
    os.kill(run.child_pid("pgweir_pooler"), signal.SIGKILL)
    assert run.wait_end() == 1
    assert "the pooler ended with exit code -9; its log:" in run.errors
    assert '"serving"' in run.errors and "Traceback" not in run.errors


def test_the_demo_serves_its_clients_by_few_servers(start: Start) -> None:
    run = start("-f", QUICKSTART, "--demo", "--once", "--clients", 30, "--servers-per-tenant", 2, "--duration", 1.5)
    assert run.wait_end() == 0, run.output + run.errors
    summary = run.found(r"(\d+) clients served by (\d+) servers, (\d+) queries, (\d+) errors")
    clients, servers, queries, errors = (int(number) for number in summary.groups())
    assert (clients, errors) == (30, 0)
    assert 2 <= servers <= 4
    assert queries > 60
    assert "acme: clients 15, servers" in run.output
    assert "\x1b" not in run.output and run.errors == ""


def test_the_demo_refuses_more_clients_than_the_manifests_take(start: Start) -> None:
    run = start("-f", QUICKSTART, "--demo", "--once", "--clients", 3000)
    assert run.wait_end() == 2
    assert run.errors == "--clients 3000: that is 1500 per tenant, acme takes 1000\n"
