"""`python -m pgweir_pooler`: command line, logging, event loop."""

import asyncio
import sys
from pathlib import Path

import click
import uvloop

from pgweir_contract.names import CONFIG_DIR, CONTROL_PORT, HTTP_PORT
from pgweir_pooler import logs
from pgweir_pooler.server import Options, PoolerProcess, StartError


def _listen_fds(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    fds: dict[str, int] = {}
    for value in values:
        name, _, fd = value.partition("=")
        if not name or not fd.isdecimal():
            raise click.BadParameter(f"{value!r} is not NAME=FD")
        fds[name] = int(fd)
    return fds


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config-dir", type=click.Path(path_type=Path), default=Path(CONFIG_DIR), show_default=True)
@click.option("--listen-address", default="0.0.0.0", show_default=True, help="For clients and for HTTP.")
@click.option("--member", default="", help="This process's name in the cluster; the host name if not given.")
@click.option("--http-port", type=click.IntRange(0, 65535), default=HTTP_PORT, show_default=True)
@click.option("--control-port", type=click.IntRange(0, 65535), default=CONTROL_PORT, show_default=True)
@click.option("--listen-fd", "listen_fds", multiple=True, callback=_listen_fds, help="NAME=FD: a bound socket.")
@click.option("--http-fd", type=int, help="A bound socket, instead of --http-port.")
@click.option("--control-fd", type=int, help="A bound socket, instead of --control-port.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.option("--log-format", type=click.Choice(["json", "text"]), default="json")
def main(log_level: str, log_format: str, **options: object) -> None:
    """Runs one pooler over a directory of configuration files."""
    logs.configure(log_level, as_json=log_format == "json")
    try:
        uvloop.run(_run(Options(**options)))  # type: ignore[arg-type]
    except StartError as error:
        click.echo(f"pgweir pooler: {error}", err=True)
        sys.exit(1)


async def _run(options: Options) -> None:
    await PoolerProcess(options, asyncio.get_running_loop()).run()


if __name__ == "__main__":
    main()
