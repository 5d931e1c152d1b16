"""`/metrics`: what every number is called. docs/metrics.md explains them to those who read dashboards.

No host name, address or secret is here, for the port has no lock: instances are summed, and `/status` has them by name.
"""

from __future__ import annotations

import asyncio
import resource
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client import PlatformCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

from pgweir_pooler.admin_http.books import TenantBooks
from pgweir_pooler.admin_http.exposition import Format, write
from pgweir_pooler.admin_http.tally import closes_of, counter_of, histogram_of
from pgweir_pooler.slices import Slices
from pgweir_pooler.telemetry import HISTOGRAM_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from pgweir_pooler.admin_http.books import Row, Rows
    from pgweir_pooler.admin_http.view import ProcessView

# Tenants whose samples are written in one go: about 200 samples, which is 1 ms.
_COUNTER_TENANTS: Final = 100
_STATE_TENANTS: Final = 50
_HISTOGRAM_TENANTS: Final = 7

# Metric, counter of the pool, help.
_COUNTERS: Final = (
    ("pgweir_checkouts", "checkouts", "Servers lent to clients, waited for or not."),
    ("pgweir_waits", "waits", "Checkouts that had to wait."),
    ("pgweir_transactions", "transactions", "Transactions that ended."),
    ("pgweir_queries", "queries", "ReadyForQuery messages received for clients."),
    ("pgweir_client_received_bytes", "bytes_from_clients", "Bytes received from clients for servers."),
    ("pgweir_client_sent_bytes", "bytes_from_servers", "Bytes of servers sent to clients."),
    ("pgweir_server_opens", "server_opens", "Server connections that finished their login."),
    ("pgweir_server_errors", "server_errors", "ErrorResponse messages from servers."),
)
_HISTOGRAMS: Final = (
    ("pgweir_wait_seconds", "wait_time", "How long clients waited for a server, those who got one after a wait."),
    ("pgweir_query_seconds", "query_time", "From a query's arrival at the pooler to its ReadyForQuery."),
    ("pgweir_transaction_seconds", "transaction_time", "How long transactions took."),
)
_BOUNDS: Final = [repr(2**i / 1e6) for i in range(HISTOGRAM_BUCKETS - 1)] + ["+Inf"]


class Metrics:
    """Answers scrapes. Those that come while one of the same format is being written get the same answer."""

    def __init__(self, view: ProcessView) -> None:
        self._view = view
        self._books = TenantBooks(view.directory)
        self._one_at_a_time = asyncio.Lock()
        self._writing: dict[Format, asyncio.Task[bytes]] = {}  # removed when done
        self._platform = PlatformCollector(registry=None)
        self.longest_slice_s = 0.0  # of the last rendering

    async def text(self, form: Format) -> bytes:
        """The answer in a format. A client that goes away leaves the others theirs."""
        task = self._writing.get(form)
        if task is None:
            task = asyncio.create_task(self._write(form), name="write the metrics")
            self._writing[form] = task
            task.add_done_callback(lambda _: self._writing.pop(form))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Ends what is being written; whoever waits for it is cancelled."""
        tasks = list(self._writing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, form: Format) -> bytes:
        async with self._one_at_a_time:
            slices = Slices()
            rows = await self._books.read(asyncio.get_running_loop().time(), slices)
            ours = chain(_tenants(rows), _whole_process(self._view), _pins(self._view), _instances(self._view))
            text = await write(chain(ours, _process(self._view), self._platform.collect()), form, slices)
            self.longest_slice_s = slices.longest_s
            return text


def _chunks(rows: Rows, size: int) -> Iterator[list[tuple[str, Row]]]:
    items = iter(rows.items())
    while chunk := list(islice(items, size)):
        yield chunk


def _tenants(rows: Rows) -> Iterator[Metric]:
    yield from _states(rows)
    for name, counter, text in _COUNTERS:
        for chunk in _chunks(rows, _COUNTER_TENANTS):
            family = CounterMetricFamily(name, text, labels=["tenant"])
            for tenant, row in chunk:
                family.add_metric([tenant], counter_of(row.counts, counter))
            yield family
    yield from _closes(rows)
    for name, histogram, text in _HISTOGRAMS:
        for chunk in _chunks(rows, _HISTOGRAM_TENANTS):
            yield _histogram(name, histogram, text, chunk)


def _process(view: ProcessView) -> Iterator[Metric]:
    """prometheus-client's process metrics but for the open files: listing them takes 5-11 ms at 10,000 connections.

    Not from a thread either: a second thread makes each system call of the hot path dearer (about 6 % of a query).
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    yield CounterMetricFamily(
        "process_cpu_seconds", "User and system CPU time spent in seconds.", usage.ru_utime + usage.ru_stime
    )
    yield GaugeMetricFamily(
        "process_resident_memory_bytes", "Resident memory size in bytes.", pages * resource.getpagesize()
    )
    yield GaugeMetricFamily(
        "process_start_time_seconds", "Start time since the Unix epoch in seconds.", view.started_at.timestamp()
    )
    yield GaugeMetricFamily(
        "process_max_fds", "Most open file descriptors.", resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    )


def _states(rows: Rows) -> Iterator[Metric]:
    for chunk in _chunks(rows, _STATE_TENANTS):
        clients = GaugeMetricFamily("pgweir_clients", "Clients that are logged in.", labels=["tenant", "state"])
        for tenant, row in chunk:
            clients.add_metric([tenant, "active"], row.present.clients_active)
            clients.add_metric([tenant, "waiting"], row.present.clients_waiting)
            clients.add_metric([tenant, "idle"], row.present.clients_idle)
        yield clients
    for chunk in _chunks(rows, _STATE_TENANTS):
        servers = GaugeMetricFamily("pgweir_servers", "Server connections.", labels=["tenant", "state"])
        for tenant, row in chunk:
            servers.add_metric([tenant, "active"], row.present.servers_active)
            servers.add_metric([tenant, "idle"], row.present.servers_idle)
            servers.add_metric([tenant, "opening"], row.present.servers_opening)
            servers.add_metric([tenant, "closing"], row.present.servers_closing)
            servers.add_metric([tenant, "listening"], row.present.servers_listening)
        yield servers
    text = "How long the client that waits longest has waited for a server; 0 when nobody waits."
    for chunk in _chunks(rows, _COUNTER_TENANTS):
        oldest = GaugeMetricFamily("pgweir_pool_wait_oldest_seconds", text, labels=["tenant"])
        for tenant, row in chunk:
            oldest.add_metric([tenant], row.oldest_wait_s)
        yield oldest


def _closes(rows: Rows) -> Iterator[Metric]:
    text = "Server connections that ended, by reason."
    for chunk in _chunks(rows, _STATE_TENANTS):
        closes = CounterMetricFamily("pgweir_server_closes", text, labels=["tenant", "reason"])
        for tenant, row in chunk:
            for reason, count in closes_of(row.counts):
                closes.add_metric([tenant, reason], count)
        yield closes


def _histogram(name: str, histogram: str, text: str, chunk: list[tuple[str, Row]]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=["tenant"])
    for tenant, row in chunk:
        counts, sum_s = histogram_of(row.counts, histogram)
        family.add_metric([tenant], list(zip(_BOUNDS, accumulate(counts), strict=True)), sum_s)
    return family


def _whole_process(view: ProcessView) -> Iterator[Metric]:
    counters = view.counters
    errors = CounterMetricFamily("pgweir_errors", "Errors that pgweir sent to clients.", labels=["code"])
    for code, count in sorted(counters.errors.items()):
        errors.add_metric([code], count)
    yield errors
    yield CounterMetricFamily(
        "pgweir_connections_accepted", "Connections accepted from clients.", counters.clients_accepted
    )
    yield CounterMetricFamily("pgweir_logins", "Clients that finished their login.", counters.logins)
    failures = CounterMetricFamily(
        "pgweir_login_failures", "Logins that failed as with a wrong password, by the true reason.", labels=["reason"]
    )
    for reason, count in sorted(counters.login_failures.items()):
        failures.add_metric([reason], count)
    yield failures
    yield CounterMetricFamily(
        "pgweir_login_blocks", "Addresses that were blocked at a tenant for failed logins.", counters.login_blocks
    )
    yield GaugeMetricFamily("pgweir_logins_blocked", "Pairs of address and tenant blocked now.", view.logins_blocked)
    yield GaugeMetricFamily(
        "pgweir_logins_in_progress", "Connections whose login is not finished.", view.logins_in_progress
    )
    yield CounterMetricFamily("pgweir_config_reloads", "Configurations that were applied.", counters.reloads)
    yield CounterMetricFamily(
        "pgweir_config_reload_failures", "Configurations with something that was refused.", counters.reload_failures
    )
    yield GaugeMetricFamily(
        "pgweir_config_problems", "What is wrong with the configuration now; /status says what.", len(view.problems)
    )
    yield from _tls(view)
    yield InfoMetricFamily("pgweir", "The pooler.", {"version": view.version})


def _tls(view: ProcessView) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "pgweir_tls_handshakes", "TLS handshakes of clients that succeeded.", view.counters.tls_handshakes
    )
    tls = view.client_tls
    yield CounterMetricFamily(
        "pgweir_tls_certificate_reloads", "Changes of the clients' certificate or CA that were applied.", tls.reloads
    )
    yield CounterMetricFamily(
        "pgweir_tls_certificate_reload_failures", "Changes of them that could not be used.", tls.reload_failures
    )
    if tls.not_after is not None:
        yield GaugeMetricFamily(
            "pgweir_tls_certificate_expiry_timestamp_seconds",
            "When the certificate that clients see expires.",
            tls.not_after.timestamp(),
        )


def _pins(view: ProcessView) -> Iterator[Metric]:
    """Sums, in one go: hardly any pool has any."""
    counts: dict[str, int] = {}
    for counters in {pool.counters for pool in view.directory.pools() if pool.counters.pinned}:
        for reason, count in counters.pinned.items():
            counts[reason] = counts.get(reason, 0) + count
    family = GaugeMetricFamily(
        "pgweir_clients_pinned", "Clients that keep their server between transactions.", labels=["reason"]
    )
    for reason, count in sorted(counts.items()):
        family.add_metric([reason], count)
    yield family


def _instances(view: ProcessView) -> Iterator[Metric]:
    """Sums, in one go: 5,000 instances cost 1 ms."""
    connections = limits = full = 0
    ledgers = [instance.ledger for instance in view.directory.instances.values()]
    for ledger in ledgers:
        connections += ledger.servers
        limits += ledger.limit
        full += ledger.servers >= ledger.limit
    yield GaugeMetricFamily("pgweir_instances", "Database instances.", len(ledgers))
    yield GaugeMetricFamily(
        "pgweir_instances_full", "Database instances whose maxConnections is used up by this process.", full
    )
    yield GaugeMetricFamily(
        "pgweir_instance_connections", "Server connections to all instances, opening and closing ones too.", connections
    )
    yield GaugeMetricFamily("pgweir_instance_connections_limit", "The sum of the instances' maxConnections.", limits)
