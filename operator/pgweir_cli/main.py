"""The command `pgweir`. It becomes `python -m` of the side that does the work, so that it needs neither to
import.

Arguments go through as they are. Secrets come from files, never from arguments, which every user of a machine
can see.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

import click

from pgweir_contract.names import CONTRACT_VERSION

_PASS_THROUGH = {"ignore_unknown_options": True, "help_option_names": []}

CONFIG_CHECK = "pgweir_contract.check"
MANIFEST_CHECK = "pgweir_operator.check"


def command_line(module: str, arguments: Sequence[str]) -> list[str]:
    """How a module is started: with -P, for the current directory is no place to import from."""
    return [sys.executable, "-P", "-m", module, *arguments]


def become(module: str, arguments: Sequence[str]) -> NoReturn:
    """Replaces this process: signals and the exit code are then the module's own."""
    sys.stdout.flush()
    os.execv(sys.executable, command_line(module, arguments))  # noqa: S606 - no shell is meant


@click.group(help="Multi-tenant PostgreSQL connection pooling.")
def main() -> None:
    """The group that the subcommands below join."""


@main.command(context_settings=_PASS_THROUGH, short_help="Run one pooler process.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def pooler(arguments: tuple[str, ...]) -> None:
    """Runs one pooler process."""
    become("pgweir_pooler", arguments)


@main.command(context_settings=_PASS_THROUGH, short_help="Run manifests as processes on this machine.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def local(arguments: tuple[str, ...]) -> None:
    """Runs manifests as processes on this machine."""
    become("pgweir_operator.local", arguments)


@main.command(short_help="Check configuration files or manifests.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
def check(paths: tuple[str, ...]) -> None:
    """Check configuration files (*.json, or their directory) or manifests (*.yaml, or their directory).

    Prints one line for each problem and exits with 2, or prints one line with counts and exits with 0.
    """
    by_module: dict[str, list[str]] = {}
    for path in paths:
        by_module.setdefault(checker_of(Path(path)), []).append(path)
    if len(by_module) == 1:
        become(*by_module.popitem())
    sys.exit(_check_both(by_module))


def _check_both(by_module: dict[str, list[str]]) -> int:
    """Runs several checkers; the exit code of the worst, whose output alone is shown."""
    results = [
        subprocess.run(command_line(*item), stdout=subprocess.PIPE, check=False)  # noqa: S603 - our own module
        for item in by_module.items()
    ]
    worst = max(result.returncode for result in results)
    for result in results:
        if bool(result.returncode) == bool(worst):
            sys.stdout.buffer.write(result.stdout)
    return worst


@main.command("version", short_help="Show the version.")
def show_version() -> None:
    """Show the version."""
    try:
        number = version("pgweir")
    except PackageNotFoundError:
        number = "(not installed)"
    click.echo(f"pgweir {number}, contract {CONTRACT_VERSION}")


def checker_of(path: Path) -> str:
    """The module that checks a path: JSON is configuration, YAML manifests, a directory what it holds."""
    names = [p.name for p in path.iterdir()] if path.is_dir() else [path.name]
    is_yaml = any(name.endswith((".yaml", ".yml")) for name in names)
    is_json = any(name.endswith(".json") for name in names)
    return MANIFEST_CHECK if is_yaml and not is_json else CONFIG_CHECK


if __name__ == "__main__":
    main()
