"""Manifests for tests, as YAML and as objects."""

from typing import Any

import yaml

from pgweir_operator.resources import Manifests, load_manifests

PASSWORD = "open-sesame-4711"


def cluster(name: str = "demo", **spec: Any) -> dict[str, Any]:
    """A PoolerCluster with one replica."""
    return {
        "apiVersion": "pgweir.dev/v1alpha1",
        "kind": "PoolerCluster",
        "metadata": {"name": name},
        "spec": {"replicas": 1} | spec,
    }


def tenant(name: str = "acme", *, metadata: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """A Tenant of `demo` whose user takes its password from the Secret `acme-app`."""
    plain = {
        "clusterRef": {"name": "demo"},
        "upstream": {"host": "db.example"},
        "databases": [{"name": "shop"}],
        "users": [{"name": "app", "passwordSecretRef": {"name": "acme-app"}}],
    }
    return {
        "apiVersion": "pgweir.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name} | (metadata or {}),
        "spec": plain | spec,
    }


def secret(name: str = "acme-app", **changes: Any) -> dict[str, Any]:
    """A Secret that Tenants may use."""
    plain = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": {"pgweir.dev/credentials": "true"}},
        "stringData": {"password": PASSWORD},
    }
    return plain | changes


def text(*documents: Any) -> str:
    """Documents as one YAML text."""
    return yaml.safe_dump_all(documents, allow_unicode=True)


def load(*documents: Any) -> Manifests:
    """Documents as objects."""
    return load_manifests({"all.yaml": text(*documents)})
