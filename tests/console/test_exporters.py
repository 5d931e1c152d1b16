"""Exporters that were made for PgBouncer scrape the console without a change.

Each listens on a port of the system's choice, which is read from the process. `.ci/run` installs both: Debian's
package, and PyPI's into a folder of its own, because it pins other versions of our dependencies.
"""

import contextlib
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import psycopg
import pytest

from console.admins import EYE, console, with_admins
from harness.config import tenant
from harness.databases import Database
from harness.pooler import Pooler
from pgweir_contract.models import TenantEntry

DEBIANS = "prometheus-pgbouncer-exporter"
PYPIS = Path(__file__).resolve().parents[2] / ".cache/pgbouncer-exporter/bin/pgbouncer-exporter"


@pytest.fixture
def entry(database18: Database) -> TenantEntry:
    return tenant(database18)


@pytest.fixture
def process(pooler: Callable[..., Pooler], entry: TenantEntry) -> Iterator[Pooler]:
    process = pooler(entry, cluster_file=with_admins())
    with psycopg.connect(process.dsn(entry), autocommit=True, prepare_threshold=None) as client:
        client.execute("select 1")
        yield process


def samples(process: Pooler, command: Sequence[str], environment: Mapping[str, str], log: Path) -> dict[str, float]:
    """What the exporter shows: each sample line's name with its labels to its value."""
    with log.open("wb") as output, contextlib.ExitStack() as stack:
        exporter = subprocess.Popen(
            command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        stack.callback(exporter.wait, 10)
        stack.callback(exporter.kill)
        found: list[int] = []

        def is_listening() -> bool:
            assert exporter.poll() is None, log.read_text()
            connections = psutil.Process(exporter.pid).net_connections("tcp")
            found[:] = [x.laddr.port for x in connections if x.status == psutil.CONN_LISTEN]
            return bool(found)

        process.wait_for(is_listening, "the exporter listening", 20)
        with urllib.request.urlopen(f"http://127.0.0.1:{found[0]}/metrics", timeout=20) as answer:
            text = answer.read().decode()
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_debians_exporter(process: Pooler, entry: TenantEntry, tmp_path: Path) -> None:
    program = shutil.which(DEBIANS, path=f"{os.environ.get('PATH', '')}:/usr/bin")
    if program is None:
        pytest.skip(f"apt-get install {DEBIANS}")
    where = console(process, "eye", database="pgbouncer")
    command = [program, "--host", "127.0.0.1", "--port", "0", "--pgbouncer-host", where.host]
    command += ["--pgbouncer-port", str(where.port), "--pgbouncer-user", where.user]
    environment = {**where.environment, "PYTHONPATH": "", "PYTHONHASHSEED": "0"}
    shown = samples(process, command, environment, tmp_path / "log")
    database = f"{entry.databases[0].name}.acme"
    user = f"{entry.users[0].name}.acme"
    assert shown[f'pgbouncer_requests_total{{database="{database}"}}'] == 1
    assert shown[f'pgbouncer_active_clients{{database="{database}",user="{user}"}}'] == 1
    assert shown[f'pgbouncer_pool_size{{database="{entry.databases[0].name}"}}'] == entry.pool.size
    assert shown["pgbouncer_databases"] == 2


def test_pypis_exporter(process: Pooler, entry: TenantEntry, tmp_path: Path) -> None:
    if not PYPIS.exists():
        pytest.skip(f"{PYPIS.parents[1]} is not there: .ci/run makes it")
    where = console(process, "eye", database="pgbouncer")
    config = tmp_path / "config.yml"
    config.write_text(
        "exporter_host: 127.0.0.1\nexporter_port: 0\npgbouncers:\n"
        f"  - dsn: postgresql://{where.user}:{EYE}@{where.host}:{where.port}/{where.database}?sslmode=disable\n"
    )
    config.chmod(0o600)
    shown = samples(process, [str(PYPIS), "--config", str(config)], {"PYTHONPATH": ""}, tmp_path / "log")
    database = f"{entry.databases[0].name}.acme"
    user = f"{entry.users[0].name}.acme"
    assert shown["pgbouncer_up"] == 1
    assert shown[f'pgbouncer_stats_queries_total{{database="{database}"}}'] == 1
    assert shown[f'pgbouncer_stats_queries_duration_microseconds_total{{database="{database}"}}'] > 0
    assert shown[f'pgbouncer_pools_client_active_connections{{database="{database}",user="{user}"}}'] == 1
    assert shown[f'pgbouncer_pools_client_maxwait_seconds{{database="{database}",user="{user}"}}'] == 0
    assert shown["pgbouncer_config_max_client_conn"] == 10_000
    backend = f'{{backend_database="{entry.databases[0].name}",database="{database}"}}'
    backend_too = f'{{database="{database}",backend_database="{entry.databases[0].name}"}}'
    sizes = [shown.get(f"pgbouncer_databases_database_pool_size{labels}") for labels in (backend, backend_too)]
    assert entry.pool.size in sizes
