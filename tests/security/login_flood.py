"""What 10,000 bad logins from one address do to another tenant's clients.

`PYTHONPATH=tests python -m security.login_flood [LOGINS]` starts PostgreSQL 18 and a pooler on loopback, measures
`select 1` of another tenant's clients before and during the flood, with the breaker and without it, and ends. It takes
about two minutes. Exit code 1 when the breaker did not open or a client of the other tenant saw an error.
"""

import asyncio
import itertools
import subprocess
import sys
from dataclasses import dataclass
from time import perf_counter

from harness import messages
from harness.address import Address
from harness.config import cluster, files, tenant
from harness.databases import create_database
from harness.pooler import Pooler
from harness.raw_client import RawClient, ServerClosedError
from harness.scram_client import ScramClient
from pgweir_contract.models import ClusterLimits, FailedLogins
from pgweir_operator.local_postgres import PostgresServer, embedded_bin_dir
from security.places import HERE, THERE, connect_from, log_lines, open_from

LOGINS = 10_000
AT_ONCE = 200
CLIENTS = 8
CALM_S = 10.0
PAUSE_S = 0.005  # of each client between two queries: it is latency that is measured, not throughput


@dataclass
class Latencies:
    """Of all queries of one phase, in seconds."""

    times: list[float]

    def quantile(self, q: float) -> float:
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))]

    def row(self, name: str) -> str:
        p50, p99, p999 = (self.quantile(q) * 1e3 for q in (0.5, 0.99, 0.999))
        return f"{name:28} {len(self.times):7} queries   p50 {p50:6.2f}   p99 {p99:6.2f}   p99.9 {p999:6.2f} ms"


async def bad_login(port: int, user: str) -> None:
    """One failed login, walked as far as the pooler lets it."""
    client = await open_from(HERE, port)
    try:
        client.send(messages.startup({"user": user, "database": "shop"}))
        scram = ScramClient("wrong")
        if (await client.receive()).tag == b"R":
            first = scram.first()
            client.send(messages.password(b"SCRAM-SHA-256\0" + len(first).to_bytes(4, "big") + first))
            challenge = await client.receive()
            client.send(messages.password(scram.final(challenge.body[4:])))
            await client.receive()
    except ServerClosedError:
        pass
    finally:
        client.abort()


async def flood(port: int, user: str, logins: int) -> None:
    """All of them, AT_ONCE at a time."""
    numbers = itertools.count()

    async def one_after_the_other() -> None:
        while next(numbers) < logins:
            await bad_login(port, user)

    await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))


async def ask(client: RawClient, times: list[float], ended: asyncio.Event) -> None:
    """Queries until the phase ends."""
    while not ended.is_set():
        began = perf_counter()
        assert await client.values("select 1") == [[b"1"]]
        times.append(perf_counter() - began)
        await asyncio.sleep(PAUSE_S)


async def phase(clients: list[RawClient], work: asyncio.Future[None] | None) -> Latencies:
    """Latencies while the work lasts, or for CALM_S."""
    times: list[float] = []
    ended = asyncio.Event()
    asking = [asyncio.create_task(ask(client, times, ended)) for client in clients]
    await (asyncio.sleep(CALM_S) if work is None else work)
    ended.set()
    await asyncio.gather(*asking)
    return Latencies(times)


async def _run_flood(port: int, user: str, logins: int) -> None:
    """In a process of its own, so that its work does not delay the clients that are measured."""
    command = [sys.executable, "-m", "security.login_flood", "--flood", str(port), user, str(logins)]
    process = await asyncio.create_subprocess_exec(*command)
    if await process.wait():
        raise subprocess.CalledProcessError(process.returncode or 1, command)


async def measure(process: Pooler, quiet: Address, user: str, logins: int) -> tuple[Latencies, Latencies, float]:
    """Before and during the flood, and how long that took."""
    clients = [await connect_from(THERE, quiet) for _ in range(CLIENTS)]
    before = await phase(clients, None)
    began = perf_counter()
    during = await phase(clients, asyncio.ensure_future(_run_flood(process.port(), user, logins)))
    took_s = perf_counter() - began
    for client in clients:
        client.close()
    return before, during, took_s


def run(server: PostgresServer, logins: int, limits: FailedLogins) -> bool:
    """One measurement, printed; whether all was as it should be."""
    attacked, quiet = (tenant(create_database(server), name) for name in ("attacked", "quiet"))
    limits_of_all = ClusterLimits(drain_timeout=1.0, failed_logins=limits)
    process = Pooler(files([attacked, quiet], cluster(limits=limits_of_all)))
    process.start()
    try:
        user = f"{attacked.users[0].name}.attacked"
        before, during, took_s = asyncio.run(measure(process, process.address(quiet), user, logins))
        metrics = process.metrics()
        lines = sum(len(log_lines(process, event)) for event in ("login refused", "more logins refused"))
    finally:
        process.stop()
    blocks = metrics["pgweir_login_blocks_total"]
    failures = {k: int(v) for k, v in metrics.items() if k.startswith("pgweir_login_failures_total")}
    name = "breaker" if limits.max else "no breaker"
    print(before.row(f"{name}: before"), during.row(f"{name}: during"), sep="\n")
    print(f"{name}: {logins} logins in {took_s:.1f} s, {blocks:.0f} blocks, {failures}, {lines} lines of log")
    return bool(blocks) == bool(limits.max)


def main(arguments: list[str]) -> int:
    """Both measurements; the exit code."""
    if arguments[:1] == ["--flood"]:
        asyncio.run(flood(int(arguments[1]), arguments[2], int(arguments[3])))
        return 0
    logins = int(arguments[0]) if arguments else LOGINS
    with PostgresServer(embedded_bin_dir(), settings={"max_connections": "100"}) as server:
        results = [run(server, logins, limits) for limits in (FailedLogins(), FailedLogins(max=0))]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
