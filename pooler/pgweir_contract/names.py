"""Every name that the operator and the pooler must spell alike: ports, paths, file names, labels, API kinds.

A name stands here as soon as two of the packages use it, and nowhere else.
"""

import contextlib
import hashlib
import ipaddress
from typing import Final

# --- the format of the files

CONTRACT_VERSION: Final = "1.0"

CONFIG_DIR: Final = "/etc/pgweir/config"
CLUSTER_FILE: Final = "cluster.json"

# Beside it when they come from Secrets that a manifest names; cluster.json may name others.
CLIENT_CERT_FILE: Final = "client-tls.crt"
CLIENT_KEY_FILE: Final = "client-tls.key"
CLIENT_CA_FILE: Final = "client-ca.crt"

# A Secret holds 1 MiB, so tenants and assignments are spread over this many files of each kind. The number is
# part of the contract: changing it moves nearly every tenant to another file.
SHARDS: Final = 16
SHARD_LIMIT_BYTES: Final = 900 * 1024

# --- the admin console

CONSOLE_DATABASE: Final = "pgweir"
CONSOLE_ALIAS: Final = "pgbouncer"  # for tools that were made for PgBouncer

# --- ports

TRANSACTION_PORT: Final = 6543
SESSION_PORT: Final = 5432
PEER_PORT: Final = 6544
HTTP_PORT: Final = 9127
CONTROL_PORT: Final = 9128

# --- Kubernetes

API_GROUP: Final = "pgweir.dev"
API_VERSION: Final = "v1alpha1"
API_GROUP_VERSION: Final = f"{API_GROUP}/{API_VERSION}"
POOLER_CLUSTER_KIND: Final = "PoolerCluster"
TENANT_KIND: Final = "Tenant"

CONFIG_REVISION_ANNOTATION: Final = f"{API_GROUP}/config-revision"
RECONCILE_ANNOTATION: Final = f"{API_GROUP}/reconcile"
CREDENTIALS_LABEL: Final = f"{API_GROUP}/credentials"
CLUSTER_LABEL: Final = f"{API_GROUP}/cluster"
MEMBER_LABEL: Final = f"{API_GROUP}/member"
DRAIN_FINALIZER: Final = f"{API_GROUP}/drain"
MANAGED_BY: Final = "pgweir-operator"


def shard_of(key: str) -> int:
    """The shard (0..15) of a tenant id or an instance key: stable over processes, versions and machines."""
    return hashlib.blake2b(key.encode(), digest_size=8).digest()[0] % SHARDS


def tenants_file(shard: int) -> str:
    """The name of the file that holds the tenants of a shard."""
    return f"tenants-{shard:02d}.json"


def assignments_file(shard: int) -> str:
    """The name of the file that holds the assignments of a shard."""
    return f"assignments-{shard:02d}.json"


def instance_key(host: str, port: int) -> str:
    """The key of a database instance: `host:port` with the host in lower case, IPv6 addresses in brackets.

    A name's last dot does not count, and of an IPv6 address all spellings are one.
    """
    host = host.lower()
    if ":" in host:
        with contextlib.suppress(ValueError):
            host = str(ipaddress.ip_address(host))
    elif host != ".":
        host = host.removesuffix(".")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
