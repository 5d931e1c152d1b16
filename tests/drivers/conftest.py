"""Each scenario runs everywhere: direct, session mode, transaction mode; PostgreSQL 18 and 15."""

from collections.abc import Callable

import pytest

from drivers.target import WHERES, Target, pool_entry
from harness.databases import Database
from harness.pooler import Pooler


@pytest.fixture(params=WHERES)
def where(request: pytest.FixtureRequest) -> str:
    """The way to PostgreSQL; a pooler's listeners are named after their mode."""
    name: str = request.param
    return name


@pytest.fixture
def target(where: str, database: Database, pooler: Callable[..., Pooler]) -> Target:
    """One way to a new database."""
    if where == "direct":
        return Target(where, database.address, database)
    entry = pool_entry(database)
    process = pooler(entry)
    return Target(where, process.address(entry, listener=where), database, process)
