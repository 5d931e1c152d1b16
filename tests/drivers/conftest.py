"""Each scenario runs everywhere: direct, session mode, transaction mode; PostgreSQL 18 and 15."""

from collections.abc import Callable

import pytest

from drivers.expected import FAILS_IN_TRANSACTION_MODE
from drivers.target import WHERES, Target, pool_entry
from harness.databases import Database
from harness.pooler import Pooler


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        mark = item.get_closest_marker("driver")
        callspec = getattr(item, "callspec", None)
        if mark is None or callspec is None or callspec.params.get("where") != "transaction":
            continue
        if mark.args[0] in FAILS_IN_TRANSACTION_MODE:
            item.add_marker(pytest.mark.xfail(reason=f"{mark.args[0]} in transaction mode", strict=True))


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
