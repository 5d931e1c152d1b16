"""`python -m pgweir_operator.local`: manifests as a real pooler process on this machine, without Kubernetes.

The same manifests and the same rendering as in the operator; only what acts differs. Exit code 0 after an orderly
end, 1 when something failed while it ran (or a demo's summary is not good), 2 for manifests that cannot be run.
"""

import asyncio
import contextlib
import resource
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import uvloop

from pgweir_operator.local_cluster import LocalCluster
from pgweir_operator.local_connections import connection_lines
from pgweir_operator.local_demo import Demo, plan_load
from pgweir_operator.local_demo_postgres import DemoPostgres
from pgweir_operator.local_manifests import BadManifests, render_paths
from pgweir_operator.local_pooler import ADDRESS, PoolerFailed
from pgweir_operator.local_postgres import LocalPostgresError, embedded_bin_dir
from pgweir_operator.local_screen import PlainScreen, Screen, screen_for_demo

ONCE_DURATION_S: Final = 15.0
_SPARE_FILES: Final = 1024  # descriptors for everything that is not a demo client


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    files: tuple[Path, ...]
    demo: bool
    once: bool
    clients: int
    servers_per_tenant: int | None
    duration: float | None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Manifests: a YAML file, or a directory of them. May be given several times.",
)
@click.option("--demo", is_flag=True, help="Bring a PostgreSQL in place of the tenants' own, and drive load.")
@click.option("--once", is_flag=True, help="End by itself: after the demo's summary, or as soon as all is ready.")
@click.option("--clients", type=click.IntRange(1, 20_000), default=1000, show_default=True, help="Of the demo.")
@click.option(
    "--servers-per-tenant",
    type=click.IntRange(1, 100),
    help="Pool size of the demo's tenants, in place of the manifests'.",
)
@click.option(
    "--duration",
    type=click.FloatRange(0.5, 86_400),
    help=f"Seconds of load; {ONCE_DURATION_S:.0f} with --once, else without end.",
)
def main(**values: object) -> None:
    """Runs manifests as a pooler process on loopback, until Ctrl-C."""
    options = Options(**values)  # type: ignore[arg-type]
    try:
        code = uvloop.run(_run(options))
    except BadManifests as error:
        click.echo("\n".join(error.problems), err=True)
        code = 2
    except (LocalPostgresError, PoolerFailed, OSError) as error:
        click.echo(f"pgweir local: {error}", err=True)
        code = 1
    sys.exit(code)


async def _run(options: Options) -> int:
    stop = asyncio.Event()
    clusters: list[LocalCluster] = []

    def stop_asked() -> None:
        if stop.is_set():
            for cluster in clusters:
                cluster.pooler.terminate()  # the second time: no more patience with clients
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop_asked)
    rendered = render_paths(options.files)  # before anything is started
    async with contextlib.AsyncExitStack() as stack:
        postgres = None
        screen: Screen = PlainScreen()
        if options.demo:
            plan_load(rendered, options.clients)
            screen = screen_for_demo()
            stack.callback(screen.close)
            _raise_file_limit(options.clients + _SPARE_FILES)
            postgres = DemoPostgres(options.servers_per_tenant)
            stack.callback(postgres.stop)
            postgres.start()
            screen.say(f"PostgreSQL {postgres.version} for the demo: {ADDRESS} port {postgres.port}")
        cluster = LocalCluster(
            options.files,
            screen.say,
            adapt=postgres.adapt if postgres else None,
            before_write=postgres.ensure if postgres else None,
        )
        clusters.append(cluster)
        stack.callback(cluster.close)
        stack.push_async_callback(cluster.pooler.stop)
        await cluster.start()
        _greet(cluster, screen, options)
        is_good = await _serve(cluster, postgres, screen, options, stop)
        screen.close()
        if not options.once:
            screen.say("stopping (again: at once)")
        code = await cluster.pooler.stop()
        return 0 if is_good and code == 0 else 1


async def _serve(
    cluster: LocalCluster, postgres: DemoPostgres | None, screen: Screen, options: Options, stop: asyncio.Event
) -> bool:
    """Until the end is asked for, or the work is done; whether all went well. Raises PoolerFailed."""
    following = asyncio.create_task(cluster.follow(), name="follow the manifests")
    watching = asyncio.create_task(cluster.pooler.watch(), name="watch the pooler")
    working = asyncio.create_task(_work(cluster, postgres, screen, options, stop), name="drive the demo")
    tasks = (following, watching, working)
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # following and watching end by an error only
        return working.result() if working.done() else False
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _work(
    cluster: LocalCluster, postgres: DemoPostgres | None, screen: Screen, options: Options, stop: asyncio.Event
) -> bool:
    is_good = True
    if postgres is not None:
        duration_s = options.duration or (ONCE_DURATION_S if options.once else None)
        demo = Demo(cluster, postgres, screen, options.clients)
        await demo.run(duration_s, stop)
        lines, is_good = demo.summary()
        for line in lines:
            screen.say(line)
    if not options.once:
        if not stop.is_set():
            screen.say("Ctrl-C ends it")
        await stop.wait()
        return True  # whoever ends a demo has seen its numbers
    return is_good


def _greet(cluster: LocalCluster, screen: Screen, options: Options) -> None:
    psql = "psql"
    if options.demo and shutil.which(psql) is None:
        psql = str(embedded_bin_dir() / psql)
    ports = cluster.pooler.ports
    for line in connection_lines(
        cluster.rendered.entries.values(),
        cluster.rendered.cluster.spec.listeners,
        ports,
        shows_passwords=options.demo,
        psql=psql,
    ):
        screen.say(line)
    screen.say(
        f"metrics: http://{ADDRESS}:{ports['http']}/metrics   status: http://{ADDRESS}:{ports['control']}/status"
    )


def _raise_file_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))


if __name__ == "__main__":
    main()
