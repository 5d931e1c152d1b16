"""The load generator: it counts what is served, names what fails, and comes back by itself."""

from dataclasses import replace

from harness.databases import Database
from harness.load import LOST, LoadResult, running_load
from harness.waiting import until


async def test_steady_load_keeps_its_rate(database18: Database) -> None:
    async with running_load(database18.address, clients=4, rate=200.0) as load:
        await load.until(100)
    assert not load.result.errors
    assert load.result.logins == 4
    assert 0 < load.result.percentile(0.5) <= load.result.percentile(0.99)
    assert database18.backends() == []


async def test_killed_backends_are_counted_and_clients_come_back(database18: Database) -> None:
    async with running_load(database18.address, clients=4) as load:
        await until(lambda: load.result.logins == 4, "four logins")
        for pid, _ in database18.backends():
            database18.sql(f"select pg_terminate_backend({pid})")
        await load.until(50)
        await until(lambda: load.result.logins == 8, "four more logins")
    assert load.result.errors.keys() <= {"57P01", LOST}
    assert load.result.errors.total() == 4


async def test_a_refused_login_is_named(database18: Database) -> None:
    address = replace(database18.address, password="wrong")
    async with running_load(address, clients=1) as load:
        await until(lambda: load.result.errors["28P01"] > 1, "two refused logins")
    assert load.result.queries == 0


def test_percentiles_and_gaps() -> None:
    result = LoadResult(latencies_s=[i / 100 for i in range(100)])
    assert (result.percentile(0.5), result.percentile(1.0), LoadResult().percentile(0.5)) == (0.5, 0.99, 0.0)
