"""The arithmetic of the bench, without a process or a clock: what pgbench and /proc say, and what to make of it."""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_PROGRESS = re.compile(r"progress: [0-9.]+ s, ([0-9.]+) tps, .* ([0-9]+) failed")
_PROGRESS_WITHOUT_FAILED = re.compile(r"progress: [0-9.]+ s, ([0-9.]+) tps")


# The first PgBouncer that keeps prepared statements in transaction mode.
PREPARES_SINCE = (1, 21)


def can_prepare(pgbouncer_version: str) -> bool:
    """Whether this PgBouncer keeps prepared statements in transaction mode; not one of an unknown version."""
    numbers = re.match(r"(\d+)\.(\d+)", pgbouncer_version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= PREPARES_SINCE


@dataclass(frozen=True)
class Round:
    """One pgbench run through one proxy."""

    proxy: str
    mode: str  # pgbench's: simple, extended
    clients: int
    cpu_us: float  # CPU time of the proxy process per query, user and system
    queries_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Spread:
    """The median of some values, and their extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int) -> str:
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}–{self.high:.{digits}f})"


def progress_tps(line: str) -> float | None:
    """Transactions per second of one of pgbench's progress lines; None for another line.

    ValueError when the line tells of failed transactions: such a round measures nothing.
    """
    match = _PROGRESS_WITHOUT_FAILED.search(line)
    if match is None:
        return None
    failed = _PROGRESS.search(line)
    if failed is not None and failed[2] != "0":
        raise ValueError(f"pgbench had failed transactions: {line.strip()}")
    return float(match[1])


def log_latencies_ms(lines: Iterable[str]) -> list[float]:
    """Latencies of pgbench's per-transaction log: the third column holds microseconds."""
    return [int(line.split(" ", 3)[2]) / 1000 for line in lines if line.strip()]


def percentile(values: Sequence[float], q: float) -> float:
    """The q-quantile (0..1) by rank; 0.0 of nothing."""
    ordered = sorted(values)
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def cpu_ticks(stat: str) -> int:
    """utime + stime of a /proc/PID/stat line, in clock ticks; the process's name may hold blanks and brackets."""
    fields = stat[stat.rindex(")") + 2 :].split()
    return int(fields[11]) + int(fields[12])


def ratios(rounds: Sequence[Round], field: str, ours: str, theirs: str) -> Spread:
    """`field` of our i-th round through theirs, over all pairs of one mode and client count."""
    mine = [getattr(r, field) for r in rounds if r.proxy == ours]
    other = [getattr(r, field) for r in rounds if r.proxy == theirs]
    return Spread.of([a / b for a, b in zip(mine, other, strict=True)])


@dataclass(frozen=True)
class Report:
    """Everything a run has measured."""

    rounds: tuple[Round, ...]
    idle_kib: dict[str, float]  # proxy -> RSS per idle client, in KiB
    versions: dict[str, str]
    ours: str
    theirs: str

    def groups(self) -> list[tuple[str, int]]:
        """(mode, clients) in the order of the run."""
        return list(dict.fromkeys((r.mode, r.clients) for r in self.rounds))

    def of(self, mode: str, clients: int) -> list[Round]:
        return [r for r in self.rounds if (r.mode, r.clients) == (mode, clients)]

    def markdown(self) -> str:
        """The table: one line per mode, client count and quantity; medians with (lowest–highest)."""
        lines = [
            f"| mode | clients | quantity | {self.ours} | {self.theirs} | ratio |",
            "|---|---|---|---|---|---|",
        ]
        quantities = [
            ("CPU of the proxy, µs/query", "cpu_us", 1),
            ("throughput, queries/s", "queries_per_s", 0),
            ("latency p50, ms", "p50_ms", 2),
            ("latency p99, ms", "p99_ms", 2),
        ]
        for mode, clients in self.groups():
            rounds = self.of(mode, clients)
            for title, field, digits in quantities:
                cells = [
                    Spread.of([getattr(r, field) for r in rounds if r.proxy == proxy]).text(digits)
                    for proxy in (self.ours, self.theirs)
                ]
                ratio = ratios(rounds, field, self.ours, self.theirs).text(2)
                lines.append(f"| {mode} | {clients} | {title} | {cells[0]} | {cells[1]} | {ratio} |")
        if self.idle_kib:
            mine, other = self.idle_kib[self.ours], self.idle_kib[self.theirs]
            ratio = f"{mine / other:.2f}" if other else "–"
            lines.append(f"| – | idle | RSS per client, KiB | {mine:.2f} | {other:.2f} | {ratio} |")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """All rounds, and the ratios that the table shows."""
        summary = []
        for mode, clients in self.groups():
            rounds = self.of(mode, clients)
            fields = ("cpu_us", "queries_per_s", "p50_ms", "p99_ms")
            found = {f: asdict(ratios(rounds, f, self.ours, self.theirs)) for f in fields}
            summary.append({"mode": mode, "clients": clients, "ratios": found})
        return {
            "ours": self.ours,
            "theirs": self.theirs,
            "versions": self.versions,
            "idle_kib_per_client": self.idle_kib,
            "summary": summary,
            "rounds": [asdict(r) for r in self.rounds],
        }
