"""What scenarios in other languages need: node with its packages, a JVM with compiled classes, PostgreSQL's programs.

What is built goes to `.cache/`, under a name that says from what. It is built once: parallel workers wait for it.
"""

import asyncio
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from drivers.target import Target

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache" / "drivers"
JDBC_JAR = Path("/usr/share/java/postgresql.jar")
BUILD_TIMEOUT_S = 100
SCENARIO_TIMEOUT_S = 60


def missing(what: str, packages: str) -> None:
    """Skips, and says how to get it; in CI nothing may be missing."""
    text = f"{what} is missing: apt-get install {packages}"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


def built(kind: str, sources: Sequence[Path], build: Callable[[Path], None]) -> Path:
    """The folder that `build` fills from these sources."""
    digest = hashlib.blake2b(b"".join(source.read_bytes() for source in sources), digest_size=6).hexdigest()
    folder = CACHE / f"{kind}-{digest}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = CACHE / f"{kind}-unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            build(unfinished)
            unfinished.rename(folder)
    return folder


def node_modules() -> Path:
    """The packages of node/package-lock.json."""
    return npm_packages("node", HERE / "node")


def npm_packages(kind: str, lock_dir: Path, finish: Callable[[Path], None] | None = None) -> Path:
    """The packages of the folder's package-lock.json, installed once; `finish` gets them before they count as there."""
    if not (shutil.which("node") and shutil.which("npm")):
        missing("node with npm", "nodejs npm")
    sources = [lock_dir / name for name in ("package.json", "package-lock.json")]

    def build(folder: Path) -> None:
        for source in sources:
            shutil.copy(source, folder)
        _build(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"], folder)
        if finish is not None:
            finish(folder / "node_modules")

    return built(kind, sources, build) / "node_modules"


def java_classes() -> Path:
    """The classes of java/*.java; Debian's pgjdbc is on the class path."""
    if not (shutil.which("java") and shutil.which("javac")):
        missing("a JDK", "openjdk-17-jdk-headless")
    if not JDBC_JAR.exists():
        missing("pgjdbc", "libpostgresql-jdbc-java")
    sources = sorted((HERE / "java").glob("*.java"))

    def build(folder: Path) -> None:
        _build(["javac", "-Xlint:all", "-Werror", "-cp", str(JDBC_JAR), "-d", str(folder), *map(str, sources)], folder)

    return built("java", sources, build)


def _build(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    if done.returncode != 0:
        pytest.fail(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-4000:]}")


async def run_scenario(target: Target, command: Sequence[str | Path], **environment: str) -> None:
    """A scenario that is a program: it must end well and print `ok` as its last line."""
    out, _ = await run_program(target, command, **environment)
    assert out.splitlines()[-1:] == ["ok"], out


async def run_program(
    target: Target, command: Sequence[str | Path], stdin: str = "", **environment: str
) -> tuple[str, str]:
    """What a program printed, to its output and to its errors; it must end with 0."""
    done = await asyncio.to_thread(
        subprocess.run,
        [str(part) for part in command],
        input=stdin,
        env={**os.environ, **target.environment, "LC_ALL": "C.UTF-8", **environment},
        capture_output=True,
        text=True,
        timeout=SCENARIO_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout, done.stderr
