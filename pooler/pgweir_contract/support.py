"""What the schema takes but this version cannot do yet.

The contract has the fields of later features from the start, so that files need not change. Until a feature
is built, asking for it is an error: nothing that somebody wrote down is silently ignored. The pooler refuses
such a tenant and `pgweir check` shows the same sentences.
"""

from collections.abc import Iterator

from pgweir_contract.models import ClusterFile, PoolOverrides, PoolSettings, TenantEntry, User


def unsupported(tenant: TenantEntry) -> list[str]:
    """One sentence per feature that the tenant asks for and that is not built; empty when all is well."""
    return [f"{path}: not supported yet: {why}" for path, why in _asked_in_vain(tenant)]


def unsupported_cluster(cluster: ClusterFile) -> list[str]:
    """The same for `cluster.json`."""
    found = []
    if len(cluster.members) > 1:
        found.append("members: not supported yet: one pooler process per cluster; use one member")
    for i, user in enumerate(cluster.admin.users):
        if len(user.passwords) + len(user.verifiers) > 1:
            found.append(f"admin.users[{i}]: not supported yet: give one password or one verifier")
    return found


def _asked_in_vain(tenant: TenantEntry) -> Iterator[tuple[str, str]]:
    if tenant.replicas:
        yield "replicas", "read routing does not exist; leave the list empty"
    if tenant.allowed_cidrs:
        yield "allowedCIDRs", "clients are not filtered by address; leave the list empty"
    if tenant.paused:
        yield "paused", "a tenant cannot be paused; use false"
    if tenant.access.mode != "Open":
        yield "access.mode", "a tenant cannot be closed; use Open"
    if tenant.auth.mode != "Users":
        yield "auth.mode", "users are not looked up in the database; list them and use Users"
    if tenant.parameters:
        yield "parameters", "server parameters are not set; leave the map empty"
    yield from _pool("pool", tenant.pool)
    for i, database in enumerate(tenant.databases):
        yield from _pool(f"databases[{i}].pool", database.pool)
        if database.pool and database.pool.max_clients is not None:
            yield (
                f"databases[{i}].pool.maxClients",
                "clients are limited per tenant and user, not per database",
            )
    for i, user in enumerate(tenant.users):
        yield from _user(f"users[{i}]", user)


def _pool(path: str, pool: PoolSettings | PoolOverrides | None) -> Iterator[tuple[str, str]]:
    if pool is None:
        return
    if pool.reserve_size:
        yield f"{path}.reserveSize", "pools have no reserve; use 0"


def _user(path: str, user: User) -> Iterator[tuple[str, str]]:
    yield from _pool(f"{path}.pool", user.pool)
    if user.pool and user.pool.max_clients is not None:
        yield f"{path}.pool.maxClients", f"write {path}.maxClients instead"
    if not user.passwords:
        yield f"{path}.passwords", "a verifier alone cannot log in to PostgreSQL; give the password"
    elif user.verifiers:
        yield f"{path}.verifiers", "clients are checked by the password; leave the list empty"
    if len(user.passwords) > 1:
        yield f"{path}.passwords", "only one password at a time is valid; list one"
