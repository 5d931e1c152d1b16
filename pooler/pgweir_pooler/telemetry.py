"""Counters that the hot path adds to: plain ints in slotted objects, read when somebody scrapes.

Nothing here knows Prometheus; `admin_http` turns these into metrics. One `PoolCounters` lives as long as its tenant's
pool, one `ProcessCounters` as long as the process. Durations go into histograms by powers of two of a microsecond: one
bisection of 26 bounds and the count cost 55 ns; finer bounds would cost little more, but make each scrape larger.
"""

from bisect import bisect_left
from typing import Final

# Upper bounds in seconds, inclusive; the last one is 33.6 s. What took longer is in one more bucket.
HISTOGRAM_BOUNDS: Final = [2.0**i / 1e6 for i in range(26)]
HISTOGRAM_BUCKETS: Final = len(HISTOGRAM_BOUNDS) + 1


class Histogram:
    """Counts of durations by power-of-two bucket, and their sum in seconds."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * HISTOGRAM_BUCKETS
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Counts one duration."""
        self.counts[bisect_left(HISTOGRAM_BOUNDS, seconds)] += 1
        self.sum_s += seconds

    def quantile(self, q: float) -> float:
        """The q-quantile in seconds, interpolated inside its bucket; 0.0 when nothing was counted."""
        return quantile(self.counts, q)


def quantile(counts: list[int], q: float) -> float:
    """The q-quantile (0..1) in seconds of power-of-two bucket counts, interpolated inside its bucket."""
    rank = q * sum(counts)
    if rank <= 0:
        return 0.0
    below = 0
    for i, count in enumerate(counts):
        if count and below + count >= rank:
            low = 0.0 if i == 0 else 2.0 ** (i - 1)
            return (low + (2.0**i - low) * (rank - below) / count) / 1e6
        below += count
    return 2.0 ** (len(counts) - 1) / 1e6


class PoolCounters:
    """What one pool has done since the process started, and how many clients it has now."""

    __slots__ = (
        "alone_time",
        "binds",
        "bytes_from_clients",
        "bytes_from_servers",
        "checkouts",
        "client_parses",
        "clients",
        "logins",
        "pinned",
        "queries",
        "query_time",
        "server_closes",
        "server_errors",
        "server_opens",
        "server_parses",
        "transaction_time",
        "transactions",
        "wait_time",
        "waits",
    )

    def __init__(self) -> None:
        self.clients = 0  # logged in now, whatever they do
        self.pinned: dict[str, int] = {}  # why clients keep their servers between transactions -> how many do now
        self.logins = 0  # clients that finished their login
        # In transaction and statement mode; counted at the end of each loan.
        self.client_parses = 0  # Parse messages of clients
        self.server_parses = 0  # of these and of our own, the ones that went to a server
        self.binds = 0
        self.bytes_from_clients = 0
        self.bytes_from_servers = 0
        self.checkouts = 0  # servers lent, waited for or not
        self.waits = 0  # checkouts that had to wait
        # A query that is a transaction of its own is in `alone_time` and nowhere else: one count instead of four.
        self.alone_time = Histogram()
        self.queries = 0  # other ReadyForQuery messages received for clients
        self.transactions = 0  # of these, the ones that ended a transaction
        self.server_opens = 0
        self.server_closes: dict[str, int] = {}  # CloseReason value -> count
        self.server_errors = 0  # ErrorResponse messages from the server
        self.wait_time = Histogram()
        self.query_time = Histogram()
        self.transaction_time = Histogram()

    def queries_ended(self, queries: int, transactions: int, query_s: float, transaction_s: float) -> None:
        """Counts what ended with the last ReadyForQuery messages, and times the last query and transaction."""
        self.queries += queries
        self.query_time.observe(query_s)
        if transactions:
            self.transactions += transactions
            self.transaction_time.observe(transaction_s)


class ProcessCounters:
    """What the whole process has done since it started."""

    __slots__ = (
        "clients_accepted",
        "errors",
        "login_blocks",
        "login_failures",
        "logins",
        "reload_failures",
        "reloads",
        "tls_handshakes",
    )

    def __init__(self) -> None:
        self.clients_accepted = 0
        self.tls_handshakes = 0  # of clients, those that succeeded
        self.logins = 0
        self.login_failures: dict[str, int] = {}  # 28P01, by the reason that the client is not told
        self.login_blocks = 0  # how often an address was blocked at a tenant
        self.errors: dict[str, int] = {}  # PoolerError.code -> how many were sent to clients
        self.reloads = 0
        self.reload_failures = 0

    def error(self, code: str) -> None:
        """Counts one error sent to a client."""
        self.errors[code] = self.errors.get(code, 0) + 1
