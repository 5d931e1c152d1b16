"""Fixtures for every test: real PostgreSQL (one per version and worker) and databases of their own."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.config import files
from harness.databases import Database, create_database
from harness.pooler import Pooler
from harness.secret_watch import WATCH
from pgweir_contract.models import ClusterFile, TenantEntry
from pgweir_operator.local_postgres import (
    LocalPostgresError,
    PostgresServer,
    debian_bin_dir,
    embedded_bin_dir,
)

# For `bench`, at the root. At the end of the path: the folder `operator` there must hide nothing.
sys.path.append(str(Path(__file__).resolve().parent.parent))

# Room for several poolers of several tests on one server, and for tests that fill a pool.
_SETTINGS = {"max_connections": "200"}
# SCRAM for roles that have a SCRAM verifier, md5 for those that have an md5 hash.
_AUTH = "md5"


@pytest.fixture(autouse=True)
def no_secret_is_told() -> Iterator[None]:
    """No error message that a test's clients read holds a secret of its poolers; `Pooler.stop` looks at the rest."""
    WATCH.begin()
    yield
    WATCH.check()


@pytest.fixture(scope="session")
def postgres18() -> Iterator[PostgresServer]:
    """PostgreSQL 18, from the wheel that `pgweir[demo]` brings."""
    with PostgresServer(embedded_bin_dir(), settings=_SETTINGS, auth=_AUTH) as server:
        yield server


@pytest.fixture(scope="session")
def postgres15() -> Iterator[PostgresServer]:
    """PostgreSQL 15 as Debian 12 packages it; the skip names the command that installs it."""
    try:
        bin_dir = debian_bin_dir(15)
    except LocalPostgresError as error:
        pytest.skip(str(error))
    with PostgresServer(bin_dir, settings=_SETTINGS, auth=_AUTH) as server:
        yield server


@pytest.fixture(params=["postgres18", "postgres15"])
def postgres(request: pytest.FixtureRequest) -> PostgresServer:
    """Each supported PostgreSQL in turn."""
    server: PostgresServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def new_postgres() -> Iterator[Callable[..., PostgresServer]]:
    """Starts servers of this test's own, PostgreSQL 18 by default, for tests that crash, restart or fill one."""
    servers: list[PostgresServer] = []

    def start(bin_dir: Path | None = None, **options: object) -> PostgresServer:
        server = PostgresServer(bin_dir or embedded_bin_dir(), **options)  # type: ignore[arg-type]
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def database(postgres: PostgresServer) -> Database:
    """A role and database of this test's own on each supported PostgreSQL."""
    return create_database(postgres)


@pytest.fixture
def database18(postgres18: PostgresServer) -> Database:
    """A role and database of this test's own on PostgreSQL 18 alone."""
    return create_database(postgres18)


@pytest.fixture
def new_database() -> Callable[[PostgresServer], Database]:
    """Creates further roles and databases."""
    return partial(create_database)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder that PostgreSQL's own user may enter (pytest's tmp_path is closed to others)."""
    folder = Path(tempfile.mkdtemp(prefix="pgweir-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def pooler() -> Iterator[Callable[..., Pooler]]:
    """Starts pooler processes: `pooler(tenant(database), …)`; all are stopped and checked after it."""
    poolers: list[Pooler] = []

    def start(
        *tenants: TenantEntry, cluster_file: ClusterFile | None = None, pems: Sequence[str] = (), **options: Any
    ) -> Pooler:
        process = Pooler(files(tenants, cluster_file, pems), **options)
        poolers.append(process)
        process.start()
        return process

    yield start
    with contextlib.ExitStack() as stack:  # all are stopped, even when one of them ended badly
        for process in poolers:
            stack.callback(process.stop)
