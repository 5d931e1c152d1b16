"""The manifests as the demo runs them: pure, one PostgreSQL in place of all tenants' upstreams.

Names that two tenants share are kept apart: each gets its tenant's id in front, in PostgreSQL only; clients keep
using the names of the manifests.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from pgweir_operator.resources import DatabaseSpec, Manifests, Tenant, UserSpec
from pgweir_operator.upstream_spec import UpstreamSpec, UpstreamTlsSpec


def with_one_server(
    manifests: Manifests, host: str, port: int, most_servers: int, servers_per_pool: int | None = None
) -> Manifests:
    """All tenants at `host:port`, which takes `most_servers` at most; `servers_per_pool` overrides their pool size."""
    tenants = manifests.tenants
    users = Counter(name for t in tenants for name in {user.name for user in t.spec.users})
    databases = Counter(name for t in tenants for name in {_server_name(d) for d in t.spec.databases})
    upstream = UpstreamSpec(
        host=host, port=port, max_connections=min(_limit(tenants), most_servers), tls=UpstreamTlsSpec(mode="Disable")
    )
    changed = []
    for tenant in tenants:
        spec = tenant.spec
        pool = spec.pool
        if servers_per_pool is not None:
            pool = pool.model_copy(update={"size": servers_per_pool})
        changes = {
            "upstream": upstream,
            "users": tuple(_user(tenant, user, users) for user in spec.users),
            "databases": tuple(_database(tenant, database, databases) for database in spec.databases),
            "pool": pool,
        }
        changed.append(tenant.model_copy(update={"spec": spec.model_copy(update=changes)}))
    return replace(manifests, tenants=tuple(changed))


def _limit(tenants: Iterable[Tenant]) -> int:
    """One server does for several: it gets their limits together."""
    limits: dict[str, int] = {}
    for tenant in tenants:
        upstream = tenant.spec.upstream
        most = upstream.max_connections
        limits[upstream.instance] = min(most, limits.get(upstream.instance, most))
    return max(1, sum(limits.values()))


def _user(tenant: Tenant, user: UserSpec, uses: Mapping[str, int]) -> UserSpec:
    name = _own(tenant, user.name, uses)
    return user.model_copy(update={"name": name, "alias": user.alias or user.name})


def _database(tenant: Tenant, database: DatabaseSpec, uses: Mapping[str, int]) -> DatabaseSpec:
    return database.model_copy(update={"upstream_name": _own(tenant, _server_name(database), uses)})


def _own(tenant: Tenant, name: str, uses: Mapping[str, int]) -> str:
    return f"{tenant.tenant_id}_{name}" if uses[name] > 1 else name


def _server_name(database: DatabaseSpec) -> str:
    return database.upstream_name or database.name
