"""Totals come from the counters, averages from the readings of one to two periods ago."""

from pgweir_pooler.console.columns import STAT_NAMES
from pgweir_pooler.console.stats import NOTHING, Averages, Stats, stats_of, total
from pgweir_pooler.telemetry import PoolCounters


def worked(queries: int, query_s: float) -> PoolCounters:
    counters = PoolCounters()
    for _ in range(queries):
        counters.alone_time.observe(query_s)
        counters.checkouts += 1
    counters.bytes_from_clients = 1200
    return counters


def named(stats: Stats) -> dict[str, int]:
    return dict(zip(STAT_NAMES, stats, strict=True))


def test_totals_are_in_microseconds_and_count_a_query_that_stands_alone_as_a_transaction() -> None:
    counters = worked(3, 0.002)
    counters.queries_ended(2, 1, 0.5, 0.75)
    counters.wait_time.observe(0.25)
    counters.logins = 4
    stats = named(stats_of(counters))
    assert (stats["xact_count"], stats["query_count"], stats["server_assignment_count"]) == (4, 5, 3)
    assert (stats["xact_time"], stats["query_time"], stats["wait_time"]) == (756_000, 506_000, 250_000)
    assert stats["client_login_count"] == 4


def test_averages_are_per_second_and_times_per_piece() -> None:
    counters = worked(120, 0.001)
    sums = stats_of(counters)
    averages = named(Averages(now=100.0).average(sums, NOTHING, 160.0))
    assert (averages["xact_count"], averages["received"]) == (2, 20)
    assert averages["query_time"] == 1000
    assert averages["wait_time"] == 0


def test_averages_begin_at_the_reading_before_last() -> None:
    counters = worked(60, 0.001)
    averages = Averages(now=0.0)
    averages.refresh({counters: stats_of(counters)}, 60.0)
    averages.refresh({counters: stats_of(counters)}, 120.0)
    for _ in range(60):
        counters.alone_time.observe(0.003)
    shown = named(averages.average(stats_of(counters), averages.before(counters), 180.0))
    assert (shown["query_count"], shown["query_time"]) == (0, 3000)
    assert named(averages.average(stats_of(counters), averages.before(counters), 90.0))["query_count"] == 2


def test_a_pool_that_is_gone_takes_its_numbers_along_and_nothing_is_negative() -> None:
    gone, stays = worked(50, 0.001), worked(10, 0.001)
    averages = Averages(now=0.0)
    averages.refresh({gone: stats_of(gone), stays: stats_of(stays)}, 1.0)
    averages.refresh({stays: stats_of(stays)}, 2.0)
    assert min(averages.average(stats_of(stays), total(map(averages.before, (gone, stays))), 10.0)) == 0
