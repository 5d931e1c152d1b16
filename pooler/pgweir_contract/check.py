"""Checks configuration files as a writer must: `python -m pgweir_contract.check PATH…`.

Each path is a file of the contract or a directory of them. Problems go to standard output, one line each
(`file: path: what is wrong`), and make the exit code 2; else one line says what was found.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pgweir_contract.names import CLUSTER_FILE, SHARDS, assignments_file, tenants_file
from pgweir_contract.reading import (
    ContractError,
    TenantsRead,
    merge_shards,
    parse_assignments,
    parse_cluster,
    parse_tenants,
)
from pgweir_contract.support import locked_out, unsupported, unsupported_cluster
from pgweir_contract.upstreams import Upstreams

if TYPE_CHECKING:
    from pgweir_contract.models import AssignmentsFile, ClusterFile

TENANTS_FILES: Final = frozenset(tenants_file(n) for n in range(SHARDS))
_PEM_SUFFIXES: Final = (".crt", ".key", ".pem")
ASSIGNMENTS_FILES: Final = frozenset(assignments_file(n) for n in range(SHARDS))


class Checked:
    """Everything that was read, and one line for everything that is wrong with it."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.files = 0
        self.clusters: dict[str, ClusterFile] = {}  # all by the file's path
        self.tenants: dict[str, TenantsRead] = {}
        self.assignments: dict[str, AssignmentsFile] = {}

    def read(self, path: Path) -> None:
        """Reads one file, which must have a name of the contract."""
        self.files += 1
        try:
            self._parse(path, path.read_bytes())
        except OSError as error:
            self.problems.append(f"{path}: cannot be read: {error.strerror}")
        except ContractError as error:
            self.problems += [f"{path}: {problem}" for problem in error.problems]

    def _parse(self, path: Path, data: bytes) -> None:
        if path.name == CLUSTER_FILE:
            cluster = self.clusters[str(path)] = parse_cluster(data, strict=True)
            self.problems += [f"{path}: {problem}" for problem in unsupported_cluster(cluster)]
        elif path.name in TENANTS_FILES:
            self.tenants[str(path)] = parse_tenants(data, strict=True)
        elif path.name in ASSIGNMENTS_FILES:
            self.assignments[str(path)] = parse_assignments(data, strict=True)
        else:
            raise ContractError(
                f"is no file of the contract: {CLUSTER_FILE}, tenants-NN.json or assignments-NN.json, "
                f"NN from 00 to {SHARDS - 1:02d}"
            )

    def compare(self) -> int:
        """Judges the tenants, and what one file says against the others; how many tenants are good."""
        merged = merge_shards(self.tenants)
        for path, read in self.tenants.items():
            for key, problems in read.rejected.items():
                self.problems += [f"{path}: {_place(key, problem)}" for problem in problems]
            for tenant_id, entry in read.tenants.items():
                doubled = merged.rejected.get(f"{path}: {tenant_id}", [])
                for problem in [*doubled, *unsupported(entry)]:
                    self.problems.append(f"{path}: {_place(tenant_id, problem)}")
        self._compare_assignments()
        return len(merged.tenants)

    def _compare_assignments(self) -> None:
        homes: dict[str, str] = {}
        for path, file in self.assignments.items():
            for i, assignment in enumerate(file.assignments):
                home = homes.setdefault(assignment.instance, path)
                if home != path:
                    self.problems.append(f"{path}: assignments[{i}].instance: is already listed in {home}")

    def compare_directory(self, folder: Path) -> None:
        """Judges what only a whole directory can show."""
        cluster = self.clusters.get(str(folder / CLUSTER_FILE))
        if not (folder / CLUSTER_FILE).exists():
            self.problems.append(f"{folder}: {CLUSTER_FILE} is missing")
        if cluster is None:
            return
        self._compare_upstreams(folder, cluster.upstreams)
        here = {path: read for path, read in self.tenants.items() if Path(path).parent == folder}
        for path, read in here.items():
            for tenant_id, entry in read.tenants.items():
                problem = locked_out(entry, cluster.tls.client)
                if problem is not None:
                    self.problems.append(f"{path}: {_place(tenant_id, problem)}")
        if cluster.default_tenant is None:
            return
        if not any(cluster.default_tenant in read.tenants for read in here.values()):
            self.problems.append(f"{folder / CLUSTER_FILE}: defaultTenant: there is no such tenant")

    def _compare_upstreams(self, folder: Path, upstreams: Upstreams) -> None:
        for path, read in self.tenants.items():
            if Path(path).parent != folder:
                continue
            for tenant_id, entry in read.tenants.items():
                problem = upstreams.host_problem(entry.upstream.host)
                if problem is not None:
                    self.problems.append(f"{path}: {_place(tenant_id, f'upstream.host: {problem}')}")


def _place(key: str, problem: str) -> str:
    place = key if key.startswith("tenants[") else f"tenants[{key}]"
    path, colon, _ = problem.partition(": ")
    joint = "." if colon and re.fullmatch(r"[A-Za-z][\w.\[\]-]*", path) else ": "
    return f"{place}{joint}{problem}"


def check(paths: Iterable[Path]) -> tuple[list[str], str]:
    """The problems of files and directories, and a summary for when there are none."""
    checked = Checked()
    folders = []
    for path in paths:
        if path.is_dir():
            # Dotted names are the links by which a kubelet swaps a mounted volume.
            # Certificates and keys are there when cluster.json names them.
            entries = (p for p in path.iterdir() if not p.name.startswith(".") and p.suffix not in _PEM_SUFFIXES)
            files = sorted(entries)
            if not any(file.suffix in (".json", ".yaml", ".yml") for file in files):
                checked.problems.append(f"{path}: holds neither configuration (*.json) nor manifests (*.yaml)")
                continue
            folders.append(path)
            for file in files:
                checked.read(file)
        else:
            checked.read(path)
    good = checked.compare()
    for folder in folders:
        checked.compare_directory(folder)
    return checked.problems, f"OK: {checked.files} files, {good} tenants"


def main(arguments: list[str]) -> int:
    """The command; its exit code."""
    problems, summary = check([Path(argument) for argument in arguments])
    print("\n".join(problems) if problems else summary)
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
