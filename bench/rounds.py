"""One round: pgbench's select-only script through one proxy for some seconds, and what the proxy paid for it.

CPU and queries are counted from pgbench's first progress line (after a second) to its last, so that logins,
whose SCRAM costs the two proxies differently, stay outside.
"""

import os
import subprocess
import tempfile
import time
from pathlib import Path

from bench.measurement import Round, log_latencies_ms, percentile, progress_tps
from bench.proxies import Proxy

# One in twenty transactions is logged: thousands of lines are plenty for a p99 and cost pgbench nothing.
_LOG_SAMPLING = 0.05
# pgbench prints no line for its last second when it ends a little early, and two lines are needed.
MIN_SECONDS = 3


class PgbenchError(RuntimeError):
    """pgbench failed; the text holds its words."""


def prepare(pgbench: Path, environment: dict[str, str]) -> None:
    """Makes pgbench's tables, scale 1, directly in PostgreSQL."""
    done = subprocess.run(
        [pgbench, "-i", "-q", "-s", "1"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise PgbenchError(f"pgbench -i failed: {done.stderr.strip()}")


def run_round(
    pgbench: Path, proxy: Proxy, *, clients: int, mode: str, seconds: int, protocol: str | None = None
) -> Round:
    """One run of `seconds` (whole ones, at least MIN_SECONDS); the first is warm-up.

    `mode` is the row it counts for; `protocol` what pgbench speaks, if that is another one.
    """
    with tempfile.TemporaryDirectory(prefix="pgweir-bench-") as folder:
        command = [str(pgbench), "-n", "-S", "-M", protocol or mode, "-c", str(clients), "-j", "1", "-T", str(seconds)]
        command += ["-P", "1", "--log", f"--sampling-rate={_LOG_SAMPLING}", f"--log-prefix={folder}/log"]
        with subprocess.Popen(
            command,
            env={**os.environ, **proxy.address.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                cpu_s, queries, elapsed_s = _follow(process, proxy)
            finally:
                process.kill()
        logs = [path.read_text().splitlines() for path in Path(folder).glob("log*")]
    latencies = log_latencies_ms(line for lines in logs for line in lines)
    return Round(
        proxy=proxy.name,
        mode=mode,
        clients=clients,
        cpu_us=cpu_s / queries * 1e6,
        queries_per_s=queries / elapsed_s,
        p50_ms=percentile(latencies, 0.5),
        p99_ms=percentile(latencies, 0.99),
    )


def _follow(process: "subprocess.Popen[str]", proxy: Proxy) -> tuple[float, float, float]:
    """(CPU seconds of the proxy, queries, seconds) between the first and the last progress line."""
    marks: list[tuple[float, float]] = []  # (when, CPU so far) at each line
    queries = 0.0
    said = []
    assert process.stderr is not None
    for line in process.stderr:
        tps = progress_tps(line)
        if tps is None:
            said.append(line)
            continue
        marks.append((time.monotonic(), proxy.cpu_s()))
        if len(marks) > 1:
            queries += tps * (marks[-1][0] - marks[-2][0])
    if process.wait() != 0 or len(marks) < 2 or not queries:
        raise PgbenchError(f"pgbench through {proxy.name} failed: {''.join(said).strip() or 'no progress'}")
    return marks[-1][1] - marks[0][1], queries, marks[-1][0] - marks[0][0]
