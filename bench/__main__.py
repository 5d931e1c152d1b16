"""`python -m bench`: measures pgweir and PgBouncer in turns, prints a Markdown table, leaves a JSON file."""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import pstats
import resource
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench import ROOT, proxies
from bench.idle import idle_kib_per_client
from bench.measurement import PREPARES_SINCE, Report, Round, can_prepare
from bench.programs import MissingProgramError, find_or_install
from bench.rounds import MIN_SECONDS, PgbenchError, prepare, run_round
from harness.databases import Database, create_database
from pgweir_operator.local_postgres import LocalPostgresError, PostgresServer

_PROFILE_SECONDS = 10


def main() -> int:
    """Runs the bench; 0, or 1 after a one-line error."""
    options = _options()
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # the proxies inherit it
    try:
        bin_dir, pgbouncer = find_or_install()
        settings = {"shared_buffers": "128MB", "max_connections": "100"}
        with PostgresServer(bin_dir, settings=settings) as server:
            database = create_database(server, prefix="bench")
            prepare(bin_dir / "pgbench", database.address.environment)
            if options.profile:
                _profile(bin_dir / "pgbench", database, options)
                return 0
            report = _measure(bin_dir / "pgbench", pgbouncer, database, options)
    except (MissingProgramError, LocalPostgresError, PgbenchError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    _publish(report, options.output)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").strip())
    parser.add_argument("--clients", type=_numbers, default=[16, 64], help="default: 16,64")
    parser.add_argument(
        "--modes", type=lambda text: text.split(","), default=["simple"], help="simple,extended,prepared"
    )
    parser.add_argument("--rounds", type=int, default=8, help="pairs for each client count (default: 8)")
    parser.add_argument("--seconds", type=int, default=5, help="of each round, the first is warm-up (default: 5)")
    parser.add_argument("--idle-clients", type=int, default=2_000, help="0: do not measure memory")
    parser.add_argument("--quick", action="store_true", help="a smoke run: two rounds of 3 s, 200 idle clients")
    parser.add_argument("--profile", action="store_true", help="pgweir alone under cProfile, for 10 s")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "latest.json")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.idle_clients = 2, 3, 200
    if options.seconds < MIN_SECONDS:
        parser.error(f"--seconds must be at least {MIN_SECONDS}")
    return options


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _measure(pgbench: Path, pgbouncer: Path, database: Database, options: argparse.Namespace) -> Report:
    versions = _versions(pgbouncer, database)
    peer_prepares = can_prepare(versions["PgBouncer"])
    if "prepared" in options.modes and not peer_prepares:
        versions["PgBouncer"] += (
            f" (before {'.'.join(map(str, PREPARES_SINCE))}, so simple protocol in the rows of prepared)"
        )
    rounds: list[Round] = []
    idle_kib: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(proxies.pgweir(database))
        theirs = stack.enter_context(proxies.pgbouncer(pgbouncer, database))
        if options.idle_clients:  # first, while no load has made the processes' heaps larger
            for proxy in (ours, theirs):
                _say(f"memory of {options.idle_clients} idle clients: {proxy.name}")
                idle_kib[proxy.name] = asyncio.run(idle_kib_per_client(proxy, options.idle_clients))
        for mode in options.modes:
            for clients in options.clients:
                for number in range(1, options.rounds + 1):
                    _say(f"{mode}, {clients} clients: round {number} of {options.rounds}")
                    rounds += (
                        run_round(
                            pgbench,
                            proxy,
                            clients=clients,
                            mode=mode,
                            seconds=options.seconds,
                            protocol="simple" if proxy is theirs and mode == "prepared" and not peer_prepares else None,
                        )
                        for proxy in (ours, theirs)
                    )
    return Report(tuple(rounds), idle_kib, versions, ours.name, theirs.name)


def _versions(pgbouncer: Path, database: Database) -> dict[str, str]:
    words = subprocess.run([pgbouncer, "--version"], capture_output=True, text=True, check=False).stdout.split()
    try:
        own = version("pgweir")
    except PackageNotFoundError:
        own = "source tree"
    return {
        "pgweir": own,
        "PgBouncer": words[1] if len(words) > 1 else "unknown",
        "PostgreSQL": database.server.sql("show server_version"),
        "Python": platform.python_version(),
        "cores": str(os.cpu_count()),
    }


def _profile(pgbench: Path, database: Database, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="pgweir-bench-") as folder:
        path = Path(folder) / "profile"
        program = ("-m", "cProfile", "-o", str(path), "-m", "pgweir_pooler")
        with proxies.pgweir(database, program) as proxy:
            done = run_round(
                pgbench,
                proxy,
                clients=options.clients[0],
                mode=options.modes[0],
                seconds=_PROFILE_SECONDS,
            )
        print(f"under the profiler: {done.queries_per_s:.0f} queries/s, {done.cpu_us:.1f} us/query")
        pstats.Stats(str(path)).sort_stats("tottime").print_stats(40)


def _publish(report: Report, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    print(report.markdown())
    print("\n" + ", ".join(f"{name} {text}" for name, text in report.versions.items()))
    print("median (lowest–highest); ratio below 1 means pgweir needs less, except for throughput")


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _end_in_order(number: int, _: object) -> None:
    sys.exit(128 + number)  # through every `finally`: no process and no folder stays


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end_in_order)
    sys.exit(main())
