"""`/metrics` as Prometheus reads it, for a handful of tenants and for 5,000."""

import asyncio
import gc
import math
from time import thread_time

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from admin_http.process import Ports, Process, Waiter, entry, started
from pgweir_pooler.admin_http.books import NAMED_TENANTS, OTHERS
from pgweir_pooler.admin_http.exposition import PLAIN
from pgweir_pooler.admin_http.metrics import Metrics
from pgweir_pooler.telemetry import HISTOGRAM_BUCKETS


def _parse(text: str) -> dict[str, Metric]:
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "the lines of a family belong together"
    return {family.name: family for family in families}


async def _families(ports: Ports) -> dict[str, Metric]:
    return _parse(await ports.metrics())


def _values(family: Metric, sample: str = "") -> dict[tuple[str, ...], float]:
    """Value by labels: the tenant, then the state."""
    name = sample or family.samples[0].name
    by_labels = {}
    for one in family.samples:
        if one.name == name:
            by_labels[tuple(value for _, value in sorted(one.labels.items(), reverse=True))] = one.value
    return by_labels


async def test_clients_and_servers_are_counted_by_state() -> None:
    process = Process()
    pool = process.pool("acme", clients=9)
    holders = [Waiter() for _ in range(5)]
    for holder in holders:
        pool.ask(holder)
    servers = [await holder.told for holder in holders]
    pool.give_back(servers[0])
    async with started(process) as ports:
        families = await _families(ports)
        assert families["pgweir_pool_wait_oldest_seconds"].samples[0].value == 0
        for _ in range(3):
            pool.ask(Waiter())
        await asyncio.sleep(0.01)
        waiting = await _families(ports)
    clients, servers_by_state = _values(families["pgweir_clients"]), _values(families["pgweir_servers"])
    assert clients["acme", "active"] == 4
    assert clients["acme", "idle"] == 5
    assert clients["acme", "waiting"] == 0
    assert servers_by_state["acme", "active"] == 4
    assert servers_by_state["acme", "idle"] == 1
    assert servers_by_state["acme", "opening"] == servers_by_state["acme", "closing"] == 0
    assert _values(waiting["pgweir_clients"])["acme", "waiting"] == 2
    oldest = {s.labels["tenant"]: s.value for s in waiting["pgweir_pool_wait_oldest_seconds"].samples}
    assert 0.01 <= oldest["acme"] < 60
    assert oldest[OTHERS] == 0


async def test_pool_counters_have_their_names() -> None:
    process = Process()
    counters = process.pool("acme").counters
    counters.checkouts, counters.waits, counters.transactions, counters.queries = 11, 12, 13, 14
    counters.bytes_from_clients, counters.bytes_from_servers = 2**40 + 1, 16
    counters.server_opens, counters.server_errors = 17, 18
    counters.server_closes = {"evicted": 3}
    async with started(process) as ports:
        families = await _families(ports)
    expected = {
        "checkouts": 11,
        "waits": 12,
        "transactions": 13,
        "queries": 14,
        "client_received_bytes": 2**40 + 1,
        "client_sent_bytes": 16,
        "server_opens": 17,
        "server_errors": 18,
    }
    for name, value in expected.items():
        family = families[f"pgweir_{name}"]
        assert family.type == "counter"
        assert family.samples[0].name == f"pgweir_{name}_total"
        assert _values(family) == {("acme",): value, (OTHERS,): 0}, name
    (closes,) = families["pgweir_server_closes"].samples
    assert (closes.name, closes.labels, closes.value) == (
        "pgweir_server_closes_total",
        {"tenant": "acme", "reason": "evicted"},
        3,
    )


async def test_histograms_are_cumulative_in_seconds() -> None:
    process = Process()
    durations = process.pool("acme").counters.query_time
    for seconds in (0.000_000_5, 0.000_003, 0.000_003, 0.001, 100.0):
        durations.observe(seconds)
    async with started(process) as ports:
        family = (await _families(ports))["pgweir_query_seconds"]
    buckets = {
        float(s.labels["le"]): s.value for s in family.samples if "le" in s.labels and s.labels["tenant"] == "acme"
    }
    assert list(buckets) == [2**i / 1e6 for i in range(HISTOGRAM_BUCKETS - 1)] + [math.inf]
    for bound, count in {1e-6: 1, 2e-6: 1, 4e-6: 3, 0.000_512: 3, 0.001_024: 4, 33.554432: 4, math.inf: 5}.items():
        assert buckets[bound] == count, bound
    assert _values(family, "pgweir_query_seconds_count")["acme",] == 5
    assert _values(family, "pgweir_query_seconds_sum")["acme",] == pytest.approx(100.001_006_5, abs=1e-8)


async def test_process_wide_metrics_have_their_names() -> None:
    process = Process()
    process.counters.clients_accepted, process.counters.logins = 21, 20
    process.counters.reloads, process.counters.reload_failures = 4, 2
    process.counters.error("QueueTimeout")
    process.counters.error("QueueTimeout")
    async with started(process) as ports:
        families = await _families(ports)
    assert _values(families["pgweir_errors"]) == {("QueueTimeout",): 2}
    for name, value in {
        "connections_accepted": 21,
        "logins": 20,
        "logins_in_progress": 3,
        "config_reloads": 4,
        "config_reload_failures": 2,
        "config_problems": 1,
    }.items():
        assert _values(families[f"pgweir_{name}"]) == {(): value}, name
    assert _values(families["pgweir_info"]) == {("1.2.3",): 1}
    assert "process_resident_memory_bytes" in families
    assert "python_info" in families


async def test_instances_are_summed_and_no_host_is_named() -> None:
    process = Process()
    process.directory.limit_instances(())
    pool = process.pool("acme")
    process.pool("globex")
    holder = Waiter()
    pool.ask(holder)
    await holder.told
    async with started(process) as ports:
        text = await ports.metrics()
        pool.instance.resize(1)
        full = await _families(ports)
    families = _parse(text)
    assert families["pgweir_instances"].samples[0].value == 1
    assert families["pgweir_instances_full"].samples[0].value == 0
    assert families["pgweir_instance_connections"].samples[0].value == 1
    assert families["pgweir_instance_connections_limit"].samples[0].value == 60
    assert full["pgweir_instances_full"].samples[0].value == 1
    for secret in ("example", "hunter2", "alice", "b00t"):
        assert secret not in text


async def test_openmetrics_is_written_for_those_who_ask() -> None:
    process = Process()
    process.pool("acme", queries=3)
    process.counters.error("NoTenant")
    async with started(process) as ports:
        asked = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
        async with ports.client.get(f"{ports.http}/metrics", headers=asked) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
            text = await answer.text()
        async with ports.client.get(f"{ports.http}/metrics") as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
    assert _values(families["pgweir_queries"])["acme",] == 3
    assert text.count("# EOF\n") == 1


async def test_scrapes_at_the_same_time_share_one_text() -> None:
    process = Process()
    process.pool("acme", queries=1)
    metrics = Metrics(process)
    first, second = asyncio.create_task(metrics.text(PLAIN)), asyncio.create_task(metrics.text(PLAIN))
    third = asyncio.create_task(metrics.text(PLAIN))
    await asyncio.sleep(0)
    third.cancel()  # a scraper that goes away takes nothing from the others
    assert await first is await second
    assert await metrics.text(PLAIN) is not await first
    await metrics.close()


async def test_closing_ends_a_text_that_is_being_written() -> None:
    metrics = Metrics(Process())
    scrape = asyncio.create_task(metrics.text(PLAIN))
    await asyncio.sleep(0)
    await metrics.close()
    await asyncio.wait([scrape], timeout=5)
    assert scrape.cancelled()


async def _longest_gap(stop: asyncio.Event) -> float:
    """The longest time that the loop kept a task that is always ready from running; in seconds of this thread's CPU,
    for what a busy machine does to the clock is not the code's fault."""
    longest = 0.0
    last = thread_time()
    while not stop.is_set():
        await asyncio.sleep(0)
        now = thread_time()
        longest = max(longest, now - last)
        last = now
    return longest


def _five_thousand() -> Process:
    process = Process()
    for i in range(5000):
        process.directory.put(entry(f"t{i:04}"))
    for i in range(5000):
        counters = process.pool(f"t{i:04}", clients=i % 7, queries=i).counters
        counters.bytes_from_clients = 1000 * i
        counters.server_closes = {"lifetime": i, "evicted": 1}
        for histogram in (counters.wait_time, counters.query_time, counters.transaction_time):
            histogram.counts = list(range(1, HISTOGRAM_BUCKETS + 1))
            histogram.sum_s = i / 8
    return process


async def test_5000_tenants_are_written_in_slices_and_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    process = _five_thousand()
    gc.collect()
    gc.freeze()  # what the test made is not the rendering's to collect
    stop = asyncio.Event()
    try:
        async with started(process) as ports:
            probe = asyncio.create_task(_longest_gap(stop))
            text = await ports.metrics()
            after_first = await ports.metrics()
            async with ports.client.get(f"{ports.control}/status") as answer:
                status = await answer.read()
            stop.set()
            longest_s = await probe
    finally:
        gc.unfreeze()
    with capsys.disabled():
        print(f"\n5,000 tenants: {len(text)} + {len(status)} bytes, longest gap of the loop {longest_s * 1000:.1f} ms")
    assert longest_s < 0.05
    families = _parse(text)
    queries = _values(families["pgweir_queries"])
    assert len(queries) == NAMED_TENANTS + 1
    assert queries["t4999",] == 4999
    assert sum(queries.values()) == sum(range(5000))
    assert sum(_values(families["pgweir_client_received_bytes"]).values()) == 1000 * sum(range(5000))
    assert sum(_values(families["pgweir_clients"]).values()) == sum(i % 7 for i in range(5000))
    closes = families["pgweir_server_closes"].samples
    assert sum(s.value for s in closes if s.labels["reason"] == "evicted") == 5000
    per_pool = sum(range(1, HISTOGRAM_BUCKETS + 1))
    for name in ("pgweir_wait_seconds", "pgweir_query_seconds", "pgweir_transaction_seconds"):
        assert sum(_values(families[name], f"{name}_count").values()) == 5000 * per_pool
        assert sum(_values(families[name], f"{name}_sum").values()) == pytest.approx(sum(range(5000)) / 8)
    assert _values(_parse(after_first)["pgweir_queries"]) == queries
