"""Checks manifests: `python -m pgweir_operator.check PATH…`, each a YAML file or a directory of them.

All files are taken together, like one `kubectl apply`: Tenants must find their PoolerCluster and their
Secrets in them. Problems go to standard output, one line each (`file: document N: path: what is wrong`), and
make the exit code 2; else one line says what was found.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from pgweir_operator.config_rendering import render_config
from pgweir_operator.resources import ManifestError, Manifests, PoolerCluster, load_manifests


def _as_it_is(cluster: PoolerCluster) -> PoolerCluster:
    return cluster


def check(texts: dict[str, str], adapt: Callable[[PoolerCluster], PoolerCluster] = _as_it_is) -> tuple[list[str], str]:
    """The problems of YAML texts by file name, and a summary for when there are none.

    `adapt` makes of a PoolerCluster what will really be run.
    """
    try:
        manifests = load_manifests(texts)
    except ManifestError as error:
        return error.problems, ""
    problems = _cross_check(manifests, adapt)
    if not manifests.clusters and not manifests.tenants:
        problems.append(f"{', '.join(texts)}: no PoolerCluster and no Tenant is in it")
    counts = f"{len(manifests.clusters)} clusters, {len(manifests.tenants)} tenants"
    return problems, f"OK: {len(texts)} files, {counts}, {len(manifests.secrets)} secrets"


def _cross_check(manifests: Manifests, adapt: Callable[[PoolerCluster], PoolerCluster]) -> list[str]:
    problems = []
    for cluster in manifests.clusters:
        result = render_config(adapt(cluster), manifests.tenants, manifests.secrets)
        place = manifests.places["PoolerCluster", cluster.key]
        problems += [f"{place}: {problem}" for problem in result.problems]
        if cluster.spec.default_tenant not in (None, *result.entries):
            problems.append(f"{place}: spec.defaultTenant: there is no such tenant")
        for key, reasons in result.rejected.items():
            problems += [f"{manifests.places['Tenant', key]}: {reason}" for reason in reasons]
    known = {cluster.key for cluster in manifests.clusters}
    for tenant in manifests.tenants:
        if tenant.cluster_key not in known:
            what = f"spec.clusterRef: ClusterNotFound: there is no PoolerCluster {tenant.cluster_key}"
            problems.append(f"{manifests.places['Tenant', tenant.key]}: {what}")
    return problems


def read_texts(paths: Iterable[Path]) -> tuple[dict[str, str], list[str]]:
    """The texts of YAML files and of the directories' YAML files by path, and what could not be read."""
    texts: dict[str, str] = {}
    problems = []
    for path in paths:
        files = [path]
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml") and p.is_file())
        if not files:
            problems.append(f"{path}: holds no YAML files")
        for file in files:
            try:
                texts[str(file)] = file.read_text(encoding="utf-8")
            except OSError as error:
                problems.append(f"{file}: cannot be read: {error.strerror}")
            except UnicodeDecodeError:
                problems.append(f"{file}: is not UTF-8 text")
    return texts, problems


def main(arguments: list[str]) -> int:
    """The command; its exit code."""
    texts, unreadable = read_texts(Path(argument) for argument in arguments)
    problems, summary = check(texts) if texts else ([], "")
    lines = unreadable + problems
    print("\n".join(lines) if lines else summary)
    return 2 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
