"""Fixtures of the integration tests: what a driver needs to find its way."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from harness.address import Address
from harness.config import tenant
from harness.databases import Database
from harness.pooler import Pooler
from pgweir_contract.models import TenantEntry

POOL_SIZE = 5


@dataclass(frozen=True)
class Route:
    """A way to a database through one listener of a pooler, whose pool has POOL_SIZE servers."""

    process: Pooler
    entry: TenantEntry
    database: Database
    mode: str

    @property
    def address(self) -> Address:
        return self.process.address(self.entry, listener=self.mode)

    @property
    def is_session(self) -> bool:
        return self.mode == "session"


@pytest.fixture(params=["transaction", "session"])
def mode(request: pytest.FixtureRequest) -> str:
    """Each listener in turn; they are named after their mode."""
    name: str = request.param
    return name


@pytest.fixture
def route(pooler: Callable[..., Pooler], database: Database, mode: str) -> Route:
    """Through each mode to each supported PostgreSQL."""
    entry = tenant(database, size=POOL_SIZE)
    return Route(pooler(entry), entry, database, mode)
