"""One pool's counters as a list of integers."""

from pgweir_pooler.admin_http import tally
from pgweir_pooler.telemetry import PoolCounters


def test_every_counter_comes_back_under_its_name() -> None:
    counters = PoolCounters()
    for i, name in enumerate(tally.COUNTERS):
        setattr(counters, name, 10 + i)
    counters.server_closes = {"evicted": 2, "broken": 1}
    counters.wait_time.observe(0.000_003)
    counters.query_time.observe(0.5)
    counters.transaction_time.observe(100.0)
    total = tally.tally(counters)
    assert len(total) == tally.LENGTH == len(tally.nothing())
    assert [tally.counter_of(total, name) for name in tally.COUNTERS] == [10 + i for i in range(len(tally.COUNTERS))]
    assert sorted(tally.closes_of(total)) == [("broken", 1), ("evicted", 2)]
    for name in tally.HISTOGRAMS:
        histogram = getattr(counters, name)
        assert tally.histogram_of(total, name) == (histogram.counts, histogram.sum_s)


def test_a_pool_without_closed_servers_has_no_reasons() -> None:
    assert tally.closes_of(tally.tally(PoolCounters())) == []


def test_what_was_added_can_be_taken_away() -> None:
    one, other = PoolCounters(), PoolCounters()
    one.queries, other.queries = 5, 7
    total = tally.tally(one)
    tally.add_to(total, tally.tally(other))
    assert tally.counter_of(total, "queries") == 12
    tally.take_from(total, tally.tally(one))
    assert total == tally.tally(other)


def test_sums_do_not_depend_on_the_order() -> None:
    pools = [PoolCounters() for _ in range(50)]
    for i, pool in enumerate(pools):
        pool.query_time.observe(0.1 * i + 1e-7)
    forth, back = tally.nothing(), tally.nothing()
    for pool in pools:
        tally.add_to(forth, tally.tally(pool))
    for pool in reversed(pools):
        tally.add_to(back, tally.tally(pool))
    assert forth == back


def test_each_client_has_one_state() -> None:
    def states(clients: int, waiting: int, lent: int) -> tuple[int, int, int]:
        present = tally.NOBODY._replace(clients=clients, clients_waiting=waiting, servers_active=lent)
        return present.clients_active, present.clients_waiting, present.clients_idle

    assert states(10, 3, 4) == (4, 3, 3)
    assert states(3, 0, 5) == (3, 0, 0)  # servers whose client is gone
    assert states(0, 2, 0) == (0, 2, 0)  # clients that wait before they are counted
