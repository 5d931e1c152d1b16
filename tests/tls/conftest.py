"""Fixtures of the tests of clients' TLS."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.config import cluster, tenant
from harness.databases import Database
from harness.pooler import Pooler
from harness.tls import TlsFiles
from pgweir_contract.client_tls import ClientTlsMode
from pgweir_contract.models import TenantEntry

PSQL = shutil.which("psql") or "/usr/bin/psql"
TIMEOUT_S = 30


@dataclass
class Door:
    """A pooler with TLS, its only tenant, and the files."""

    process: Pooler
    entry: TenantEntry
    files: TlsFiles

    def parameters(self, listener: str = "transaction", **more: str) -> dict[str, str]:
        """libpq's, by default for a client that demands TLS and looks at no certificate."""
        address = self.process.address(self.entry, listener=listener)
        return {
            "host": address.host,
            "port": str(address.port),
            "user": address.user,
            "password": address.password,
            "dbname": address.database,
            "sslmode": "require",
            "gssencmode": "disable",
            "sslrootcert": str(self.files.folder / "nothing.crt"),
            "sslcert": str(self.files.folder / "nothing.crt"),
        } | more

    def connect(self, listener: str = "transaction", **more: str) -> "psycopg.Connection[Any]":
        """By the libpq in psycopg."""
        wanted = psycopg.conninfo.make_conninfo(**self.parameters(listener, **more), connect_timeout=TIMEOUT_S)
        return psycopg.connect(wanted, autocommit=True)

    def psql(self, sql: str = "select 'in'", **more: str) -> tuple[int, str]:
        """By Debian's psql 15: its exit code, and what it says."""
        return psql(self.parameters(**more), sql)


def psql(parameters: Mapping[str, str], sql: str) -> tuple[int, str]:
    conninfo = psycopg.conninfo.make_conninfo(**{k: v for k, v in parameters.items() if k != "password"})
    done = subprocess.run(
        [PSQL, "-X", "-A", "-t", "-q", "-v", "VERBOSITY=verbose", "-d", conninfo, "-c", sql],
        env={**os.environ, "PGPASSWORD": parameters["password"], "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).strip()


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    """The usual certificate, key and client CA."""
    return TlsFiles(tmp_path)


@pytest.fixture
def door(pooler: Callable[..., Pooler], database18: Database, files: TlsFiles) -> Callable[..., Door]:
    """Starts a pooler with TLS: `door("Require", requires_tls=True, sni_domains=(…))`."""

    def start(
        mode: ClientTlsMode | None = "Prefer", *, entry: TenantEntry | None = None, asks: bool = False, **tls: Any
    ) -> Door:
        mine = entry or tenant(database18)
        return Door(pooler(mine, cluster_file=cluster(tls=files.cluster_tls(mode, asks=asks, **tls))), mine, files)

    return start
