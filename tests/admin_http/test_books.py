"""Who has a name, and that no counter is lost, counted twice, or goes back."""

import asyncio
import random

from admin_http.process import Process, Waiter, entry
from pgweir_pooler.admin_http.books import IDLE_S, OTHERS, Rows, TenantBooks
from pgweir_pooler.admin_http.tally import counter_of
from pgweir_pooler.slices import Slices


async def _read(books: TenantBooks, now: float) -> Rows:
    return await books.read(now, Slices())


def _queries(rows: Rows) -> dict[str, int]:
    return {tenant: counter_of(row.counts, "queries") for tenant, row in rows.items()}


async def test_all_tenants_have_names_while_there_are_enough() -> None:
    process = Process()
    books = TenantBooks(process.directory, named_tenants=3)
    process.pool("b", queries=5)
    process.pool("a")
    assert _queries(await _read(books, 0)) == {"a": 0, "b": 5, OTHERS: 0}
    assert list(await _read(books, 1)) == ["a", "b", OTHERS]


async def test_the_busiest_get_the_names_and_the_others_are_summed() -> None:
    process = Process()
    books = TenantBooks(process.directory, named_tenants=2)
    for tenant, clients, queries in (("a", 1, 10), ("b", 50, 0), ("c", 0, 30), ("d", 2, 3)):
        process.pool(tenant, clients=clients, queries=queries)
    rows = await _read(books, 0)
    assert _queries(rows) == {"b": 0, "c": 30, OTHERS: 13}
    assert rows[OTHERS].present.clients == 3


async def test_a_name_is_kept_though_others_become_busier() -> None:
    process = Process()
    books = TenantBooks(process.directory, named_tenants=1)
    process.pool("a", queries=5)
    await _read(books, 0)
    process.pool("b", queries=1000)
    assert _queries(await _read(books, IDLE_S - 1)) == {"a": 5, OTHERS: 1000}


async def test_an_idle_tenant_loses_its_name_to_a_busy_one_and_no_counter_goes_back() -> None:
    process = Process()
    books = TenantBooks(process.directory, named_tenants=1)
    process.pool("a", queries=5)
    await _read(books, 0)
    process.pool("b", queries=1000)
    await _read(books, 1)
    process.pool("b", queries=10)
    # What b did before it had a name stays where it was shown; a's counts join it.
    assert _queries(await _read(books, IDLE_S + 1)) == {"b": 0, OTHERS: 1015}
    process.pool("b", queries=7)
    process.pool("a", queries=3)
    assert _queries(await _read(books, IDLE_S + 2)) == {"b": 7, OTHERS: 1018}


async def test_an_idle_tenant_keeps_its_name_while_nobody_needs_it() -> None:
    process = Process()
    books = TenantBooks(process.directory, named_tenants=1)
    process.pool("a", queries=5)
    await _read(books, 0)
    process.pool("b")
    assert _queries(await _read(books, 10 * IDLE_S)) == {"a": 5, OTHERS: 0}


async def test_a_client_keeps_its_tenants_name() -> None:
    process = Process()
    books = TenantBooks(process.directory, named_tenants=1)
    process.pool("a", clients=1)
    await _read(books, 0)
    process.pool("b", queries=9)
    assert list(await _read(books, 10 * IDLE_S)) == ["a", OTHERS]


async def test_the_counts_of_a_removed_tenant_join_the_others() -> None:
    process = Process()
    books = TenantBooks(process.directory, named_tenants=1)
    pool = process.pool("a", queries=5)
    process.pool("b", queries=2)
    await _read(books, 0)
    pool.counters.queries += 4  # after the last reading that saw it
    await process.remove("a")
    assert _queries(await _read(books, 1)) == {"b": 0, OTHERS: 11}
    await process.remove("b")
    assert _queries(await _read(books, 2)) == {OTHERS: 11}


async def test_a_tenant_keeps_name_and_counts_when_its_only_pool_goes() -> None:
    process = Process()
    books = TenantBooks(process.directory)
    process.pool("a", queries=5)
    await _read(books, 0)
    await process.remove("a")
    process.directory.put(entry("a"))
    assert _queries(await _read(books, 1)) == {"a": 5, OTHERS: 0}
    process.pool("a", queries=2)
    assert _queries(await _read(books, 2)) == {"a": 7, OTHERS: 0}


async def test_counters_that_two_pools_share_count_once() -> None:
    process = Process()
    books = TenantBooks(process.directory)
    old = process.pool("a", clients=3, queries=5)
    holder = Waiter()
    old.ask(holder)
    server = await holder.told
    process.directory.put(entry("a", host="other.internal.example"))
    new = process.pool("a", clients=3)
    assert new is not old
    assert new.counters is old.counters
    rows = await _read(books, 0)
    assert _queries(rows) == {"a": 5, OTHERS: 0}
    assert rows["a"].present.clients == 3
    assert rows["a"].present.servers_active == 1
    old.lost(server)
    await old.closed
    await asyncio.sleep(0)
    assert _queries(await _read(books, 1)) == {"a": 5, OTHERS: 0}


async def test_a_cancelled_reading_changes_nothing() -> None:
    process = Process()
    books = TenantBooks(process.directory, named_tenants=2)
    process.pool("a", queries=5)
    await _read(books, 0)
    for i in range(200):
        process.pool(f"t{i}", queries=i)
    slices = Slices()
    slices._ends_at = 0.0  # the first step rests
    reading = asyncio.create_task(books.read(1, slices))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    assert reading.cancelled()
    assert _queries(await _read(books, 2)) == {"a": 5, "t199": 199, OTHERS: sum(range(199))}


async def test_rows_always_add_up_and_never_go_back() -> None:
    chance = random.Random(7)
    process = Process()
    books = TenantBooks(process.directory, named_tenants=4)
    before: dict[str, int] = {}
    total, now = 0, 0.0
    renamed = 0
    for _ in range(300):
        now += chance.choice((1.0, IDLE_S / 2))
        for _ in range(chance.randrange(4)):
            count = chance.randrange(20)
            process.pool(f"t{chance.randrange(9)}", clients=chance.choice((0, 0, 2)), queries=count)
            total += count
        rows = _queries(await _read(books, now))
        assert sum(rows.values()) == total
        assert len(rows) <= 5
        assert all(count >= before.get(tenant, 0) for tenant, count in rows.items())
        renamed += rows.keys() != before.keys()
        before = rows
        if chance.random() < 0.2 and process.directory.tenants:
            await process.remove(chance.choice(list(process.directory.tenants)))
            before = _queries(await _read(books, now))  # a tenant that comes back under its name begins anew
            assert sum(before.values()) == total
    assert renamed > 20
