"""What the schema takes but this version cannot do yet.

The contract has the fields of later features from the start, so that files need not change. Until a feature
is built, asking for it is an error: nothing that somebody wrote down is silently ignored. The pooler refuses
such a tenant and `pgweir check` shows the same sentences.
"""

from collections.abc import Iterator

from pgweir_contract.client_tls import ClientTls
from pgweir_contract.models import ClusterFile, PoolOverrides, PoolSettings, TenantEntry, User


def unsupported(tenant: TenantEntry) -> list[str]:
    """One sentence per feature that the tenant asks for and that is not built; empty when all is well."""
    return [f"{path}: not supported yet: {why}" for path, why in _asked_in_vain(tenant)]


def unsupported_cluster(cluster: ClusterFile) -> list[str]:
    """The same for `cluster.json`."""
    found = []
    if len(cluster.members) > 1:
        found.append("members: not supported yet: one pooler process per cluster; use one member")
    return found


def locked_out(tenant: TenantEntry, tls: ClientTls) -> str | None:
    """Why nobody can log in to the tenant while the cluster's `tls.client` is this; None when somebody can."""
    if tls.effective_mode == "Disable" and tenant.require_tls:
        return "requireTLS: nobody can log in, the cluster has no tls.client"
    if tenant.auth.client_method == "Certificate" and (tls.effective_mode == "Disable" or tls.ca_file is None):
        return "auth.clientMethod: nobody can log in, the cluster's tls.client has no CA to ask for certificates of"
    return None


def _asked_in_vain(tenant: TenantEntry) -> Iterator[tuple[str, str]]:
    if tenant.replicas:
        yield "replicas", "read routing does not exist; leave the list empty"
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
        yield from _address_limit(f"databases[{i}].pool", database.pool)
    for i, user in enumerate(tenant.users):
        yield from _user(f"users[{i}]", user)


def _pool(path: str, pool: PoolSettings | PoolOverrides | None) -> Iterator[tuple[str, str]]:
    if pool is None:
        return
    if pool.reserve_size:
        yield f"{path}.reserveSize", "pools have no reserve; use 0"


def _address_limit(path: str, pool: PoolOverrides | None) -> Iterator[tuple[str, str]]:
    if pool and pool.max_clients_per_address is not None:
        yield f"{path}.maxClientsPerAddress", "clients of an address are limited for a whole tenant; set it in its pool"


def _user(path: str, user: User) -> Iterator[tuple[str, str]]:
    yield from _pool(f"{path}.pool", user.pool)
    yield from _address_limit(f"{path}.pool", user.pool)
    if user.pool and user.pool.max_clients is not None:
        yield f"{path}.pool.maxClients", f"write {path}.maxClients instead"
