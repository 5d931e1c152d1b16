"""PostgreSQL 18 and 15 that let nobody in without TLS."""

from collections.abc import Iterator

import pytest

from harness.tls_postgres import TlsPostgres
from pgweir_operator.local_postgres import LocalPostgresError, debian_bin_dir
from server_tls.programs import tls_bin_dir
from server_tls.tenants import SERVER

_SETTINGS = {"max_connections": "100"}


@pytest.fixture(scope="session")
def tls18() -> Iterator[TlsPostgres]:
    """PostgreSQL 18."""
    with TlsPostgres(tls_bin_dir(), SERVER, _SETTINGS) as server:
        yield server


@pytest.fixture(scope="session")
def tls15() -> Iterator[TlsPostgres]:
    """PostgreSQL 15 of Debian."""
    try:
        bin_dir = debian_bin_dir(15)
    except LocalPostgresError as error:
        pytest.skip(str(error))
    with TlsPostgres(bin_dir, SERVER, _SETTINGS) as server:
        yield server


@pytest.fixture(params=["tls18", "tls15"])
def tls_postgres(request: pytest.FixtureRequest) -> TlsPostgres:
    """Each in turn."""
    server: TlsPostgres = request.getfixturevalue(request.param)
    return server
