"""From paths of manifests to the files that one pooler process reads; everything that is wrong stops it.

The same YAML that the operator takes. `adapt` may change the objects on the way: the demo puts its own PostgreSQL
in place of the tenants' upstreams.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pgweir_contract.models import TenantEntry
from pgweir_operator.check import check, read_texts
from pgweir_operator.config_rendering import render_config
from pgweir_operator.resources import Manifests, PoolerCluster, load_manifests

LOOPBACK = ("127.0.0.0/8", "::1/128")

Adapt = Callable[[Manifests], Manifests]


class BadManifests(Exception):
    """The manifests cannot be run; `problems` has one line each, `file: document N: path: what`, without values."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Rendered:
    """What one pooler process runs."""

    cluster: PoolerCluster
    entries: Mapping[str, TenantEntry]  # by tenant id
    files: Mapping[str, bytes]  # the contract's files by name
    notes: tuple[str, ...] = ()

    @property
    def revisions(self) -> dict[str, str]:
        """By file name, what a pooler that has applied these files reports."""
        return {name: json.loads(data)["revision"] for name, data in self.files.items() if name.endswith(".json")}


def render_paths(paths: Iterable[Path], adapt: Adapt | None = None) -> Rendered:
    """Reads and renders; raises BadManifests, and then nothing of it is usable."""
    texts, problems = read_texts(paths)
    if texts:
        problems += check(texts, with_loopback)[0]
    if problems:
        raise BadManifests(problems)
    manifests = load_manifests(texts)
    cluster = with_loopback(_the_cluster(manifests, texts))
    if adapt is not None:
        manifests = adapt(manifests)
    result = render_config(cluster, manifests.tenants, manifests.secrets)
    rejected = [f"Tenant {key}: {reason}" for key, reasons in result.rejected.items() for reason in reasons]
    if rejected:
        raise BadManifests(rejected)
    return Rendered(cluster, result.entries, result.files, (*manifests.notes, *result.notes))


def with_loopback(cluster: PoolerCluster) -> PoolerCluster:
    """The cluster as it runs here: its tenants may point to this machine, too."""
    given = cluster.spec.upstreams
    networks = (*(given.allowed_cidrs or ("0.0.0.0/0", "::/0")), *LOOPBACK)
    upstreams = given.model_copy(update={"allowed_cidrs": networks})
    return cluster.model_copy(update={"spec": cluster.spec.model_copy(update={"upstreams": upstreams})})


def _the_cluster(manifests: Manifests, texts: Mapping[str, str]) -> PoolerCluster:
    clusters = manifests.clusters
    if len(clusters) != 1:
        found = ", ".join(cluster.key for cluster in clusters) or "none"
        raise BadManifests([f"{', '.join(texts)}: exactly one PoolerCluster can be run here, found: {found}"])
    cluster = clusters[0]
    if cluster.spec.replicas == 0:
        place = manifests.places["PoolerCluster", cluster.key]
        raise BadManifests([f"{place}: spec.replicas: nothing would run; use 1"])
    return cluster
