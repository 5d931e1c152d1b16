"""What the pooler itself says about its tenants: `/metrics`, read twice and subtracted."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families


@dataclass(slots=True)
class TenantSample:
    """One tenant at one moment; counters since the pooler's start."""

    clients: int = 0  # logged in, whatever they do
    waiting: int = 0  # of these, waiting for a server
    servers: int = 0
    queries: float = 0.0
    buckets: dict[float, float] = field(default_factory=dict)  # upper bound in seconds -> queries at most that long


@dataclass(frozen=True, slots=True)
class TenantRate:
    """One tenant over the time between two samples."""

    tenant: str
    clients: int
    servers: int
    waiting: int
    queries_per_s: float
    p50_s: float
    p99_s: float


def read_samples(text: str) -> dict[str, TenantSample]:
    """By tenant. ValueError when it is not Prometheus' format."""
    samples: dict[str, TenantSample] = {}
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            if "tenant" not in labels:
                continue
            sample = samples.setdefault(labels["tenant"], TenantSample())
            if name == "pgweir_clients":
                sample.clients += int(value)
                sample.waiting += int(value) if labels["state"] == "waiting" else 0
            elif name == "pgweir_servers":
                sample.servers += int(value)
            elif name == "pgweir_queries_total":
                sample.queries = value
            elif name == "pgweir_query_seconds_bucket":
                sample.buckets[float(labels["le"])] = value
    return samples


def rates(before: Mapping[str, TenantSample], after: Mapping[str, TenantSample], seconds: float) -> list[TenantRate]:
    """What happened in between, for tenants that have clients or had queries."""
    found = []
    for tenant, sample in after.items():
        old = before.get(tenant, TenantSample())
        queries = max(0.0, sample.queries - old.queries)
        buckets = {bound: count - old.buckets.get(bound, 0.0) for bound, count in sample.buckets.items()}
        if sample.clients or queries:
            p50_s, p99_s = quantile(buckets, 0.5), quantile(buckets, 0.99)
            rate = queries / seconds if seconds > 0 else 0.0
            found.append(TenantRate(tenant, sample.clients, sample.servers, sample.waiting, rate, p50_s, p99_s))
    return found


def quantile(buckets: Mapping[float, float], q: float) -> float:
    """The q-quantile in seconds of cumulative buckets, interpolated inside its bucket; 0.0 when they are empty."""
    bounds = sorted(buckets)
    rank = q * buckets[bounds[-1]] if bounds else 0.0
    if rank <= 0:
        return 0.0
    low = below = 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= rank and count > below:
            return low if bound == float("inf") else low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, count
    return low
