"""The programs that the bench needs: found, or installed when we are root on Debian, or named in one line."""

import os
import shutil
import subprocess
from pathlib import Path

from pgweir_operator.local_postgres import LocalPostgresError, debian_bin_dir

POSTGRES_MAJOR = 15
_PACKAGES = {"pgbouncer": "pgbouncer", "postgresql": f"postgresql-{POSTGRES_MAJOR}"}


class MissingProgramError(RuntimeError):
    """Something is not installed, and we cannot install it; the text says what to run."""


def find_or_install() -> tuple[Path, Path]:
    """PostgreSQL's bin directory (pgbench is in it) and PgBouncer's program."""
    missing = [name for name in _PACKAGES if not _is_there(name)]
    if missing:
        _install([_PACKAGES[name] for name in missing])
    pgbouncer = _pgbouncer()
    if pgbouncer is None:
        raise MissingProgramError("pgbouncer was installed but is not in /usr/sbin or PATH")
    return debian_bin_dir(POSTGRES_MAJOR), pgbouncer


def _pgbouncer() -> Path | None:
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/sbin")
    return Path(found) if found else None


def _is_there(name: str) -> bool:
    if name == "pgbouncer":
        return _pgbouncer() is not None
    try:
        return (debian_bin_dir(POSTGRES_MAJOR) / "pgbench").is_file()
    except LocalPostgresError:
        return False


def _install(packages: list[str]) -> None:
    command = f"apt-get install -y --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MissingProgramError(f"the bench needs {' and '.join(packages)}; as root: {command}")
    # A package's own cluster must not start: we run PostgreSQL and PgBouncer ourselves.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for step in (["apt-get", "update"], command.split()):
        done = subprocess.run(step, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            tail = " ".join((done.stderr or done.stdout).strip().splitlines()[-2:])
            raise MissingProgramError(f"{' '.join(step)} failed: {tail}")
