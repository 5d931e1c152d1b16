"""One tenant as the pooler reads it: where its PostgreSQL is, who may log in, and how its pools behave.

Pool settings come resolved: `TenantEntry.pool` has the cluster's defaults in it. A database or a user may
override single settings; `pool_settings` puts the three together, the user's word last.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pgweir_contract.access import Access
from pgweir_contract.auth import Auth, Passwords, Verifiers
from pgweir_contract.client_tls import DnsName, TenantTls
from pgweir_contract.durations import Duration, PositiveDuration
from pgweir_contract.json_form import ContractModel, Host, Listed, PgName, Port, TenantId, unique
from pgweir_contract.names import instance_key
from pgweir_contract.networks import Cidr
from pgweir_contract.pems import PemRef
from pgweir_contract.timestamps import Timestamp
from pgweir_contract.upstream_tls import UpstreamTls

PoolSize = Annotated[int, Field(ge=1, le=10_000)]
Count = Annotated[int, Field(ge=0, le=10_000)]
Clients = Annotated[int, Field(ge=1, le=1_000_000)]


Prepared = Annotated[int, Field(ge=1, le=10_000)]
ResetMode = Literal["Auto", "Always"]


class PoolSettings(ContractModel):
    """How a pool behaves. A pool: the servers of one tenant, database, user and listener mode."""

    size: PoolSize = 20
    min_idle: Count = 0
    reserve_size: Count = 0
    max_clients: Clients = 1000  # of the whole tenant
    max_clients_per_address: Clients | None = None  # of the whole tenant from one address; None: as many as may come
    queue_timeout: PositiveDuration = 60.0
    query_wait_notify: Duration = 5.0  # "0s": a client that waits for a server is told nothing
    server_idle_timeout: Duration = 300.0  # "0s": idle servers stay
    server_lifetime: Duration = 3600.0  # "0s": servers live for ever
    client_idle_timeout: Duration = 0.0  # "0s": clients may idle for ever
    idle_transaction_timeout: Duration = 0.0  # "0s": transactions may idle for ever
    query_timeout: Duration = 0.0  # "0s": queries may run for ever
    transaction_timeout: Duration = 0.0  # "0s": transactions may last for ever
    # Statements that one server keeps prepared for clients in transaction and statement mode.
    max_prepared_statements: Prepared = 200
    # What is left in a session after a transaction: Auto finds out what the client's statements left there; Always has
    # the server forget everything (DISCARD ALL), whatever was run.
    reset: ResetMode = "Auto"

    @model_validator(mode="after")
    def _min_idle_fits(self) -> Self:
        if self.min_idle > self.size:
            raise ValueError("minIdle must not be larger than size")
        return self


class PoolOverrides(ContractModel):
    """What a database or a user changes of its tenant's pool settings; None leaves a setting as it is."""

    size: PoolSize | None = None
    min_idle: Count | None = None
    reserve_size: Count | None = None
    max_clients: Clients | None = None
    max_clients_per_address: Clients | None = None
    queue_timeout: PositiveDuration | None = None
    query_wait_notify: Duration | None = None
    server_idle_timeout: Duration | None = None
    server_lifetime: Duration | None = None
    client_idle_timeout: Duration | None = None
    idle_transaction_timeout: Duration | None = None
    query_timeout: Duration | None = None
    transaction_timeout: Duration | None = None
    max_prepared_statements: Prepared | None = None
    reset: ResetMode | None = None


class Upstream(ContractModel):
    """The tenant's PostgreSQL."""

    host: Host
    port: Port = 5432
    max_connections: PoolSize = 60
    connect_timeout: PositiveDuration = 10.0
    tls: UpstreamTls = UpstreamTls()

    @property
    def instance(self) -> str:
        """The key of the database instance, which tenants may share."""
        return instance_key(self.host, self.port)


class Replica(ContractModel):
    """A read replica of the upstream."""

    name: PgName
    host: Host
    port: Port = 5432
    weight: Annotated[int, Field(ge=0, le=1000)] = 100


class Database(ContractModel):
    """A database that clients may ask for, and what PostgreSQL calls it."""

    name: PgName
    upstream_name: PgName | None = None  # None: the same as name
    pool: PoolOverrides | None = None

    @property
    def server_name(self) -> str:
        """The database's name at PostgreSQL."""
        return self.upstream_name or self.name


class User(ContractModel):
    """Who may log in, and with what; a password is also used upstream, a verifier lets the client's own proof in."""

    name: PgName
    alias: PgName | None = None  # the name that clients log in with; None: the same as name
    passwords: Passwords = ()  # the newest first, as the verifiers
    verifiers: Verifiers = ()
    overlap_until: Timestamp | None = None  # from then on only the first password, or verifier, counts
    valid_until: Timestamp | None = None  # no login after it
    max_clients: Clients | None = None
    databases: Annotated[Listed[PgName], Field(max_length=128)] | None = None  # None: all of the tenant's
    pool: PoolOverrides | None = None

    @property
    def login_name(self) -> str:
        """The name that clients log in with."""
        return self.alias or self.name

    @model_validator(mode="after")
    def _has_credentials(self) -> Self:
        if not self.passwords and not self.verifiers:
            raise ValueError("a user needs a password or a verifier")
        return self


class Listen(ContractModel):
    """What LISTEN means for clients that share servers."""

    # When notifications may have been lost: the sessions that listen end, or get a warning, which drivers ignore.
    on_gap: Literal["Disconnect", "Notice"] = "Disconnect"


Parameters = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=63)], Annotated[str, Field(max_length=1024)]],
    Field(max_length=32),
]


class TenantEntry(ContractModel):
    """Everything the pooler knows about one tenant."""

    tenant_id: TenantId
    upstream: Upstream
    databases: Annotated[Listed[Database], Field(min_length=1, max_length=128)]
    users: Annotated[Listed[User], Field(max_length=64)] = ()
    pool: PoolSettings = PoolSettings()
    replicas: Annotated[Listed[Replica], Field(max_length=16)] = ()
    require_tls: Annotated[bool, Field(alias="requireTLS")] = False
    # Clients that say one of these by SNI are this tenant's, unless they name another.
    sni_hostnames: Annotated[Listed[DnsName], Field(max_length=8)] = ()
    client_tls: TenantTls | None = None  # None: the cluster's certificate
    allowed_cidrs: Annotated[Listed[Cidr], Field(alias="allowedCIDRs", max_length=64)] = ()  # empty: from anywhere
    denied_cidrs: Annotated[Listed[Cidr], Field(alias="deniedCIDRs", max_length=64)] = ()  # counts before allowedCIDRs
    paused: bool = False
    access: Access = Access()
    auth: Auth = Auth()
    listen: Listen = Listen()
    parameters: Parameters = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        unique("database", [d.name for d in self.databases])
        unique("user", [u.name for u in self.users])
        unique("login name", [u.login_name for u in self.users])
        unique("replica", [r.name for r in self.replicas])
        unique("SNI host name", list(self.sni_hostnames))
        if not self.users and self.auth.mode == "Users":
            raise ValueError("at least one user is needed when auth.mode is Users")
        if self.auth.client_method == "Certificate":
            for user in self.users:
                if not user.passwords:
                    raise ValueError(
                        f"user {user.name!r} needs a password: with clientMethod Certificate clients bring none"
                    )
        listed = {d.name for d in self.databases}
        for user in self.users:
            for name in user.databases or ():
                if name not in listed:
                    raise ValueError(f"user {user.name!r} names the database {name!r}, which is not listed")
        for database in self.databases:
            for override in [None, *(u.pool for u in self.users)]:
                pool_settings(self.pool, database.pool, override)
        return self

    def pem_refs(self) -> Iterator[PemRef]:
        """Every PEM text that the entry names."""
        yield from self.upstream.tls.pem_refs("upstream.tls")
        if self.client_tls is not None:
            yield from self.client_tls.pem_refs("clientTls")

    def pool_settings(self, database: Database, user: User) -> PoolSettings:
        """The settings of the pool of one database and user."""
        return pool_settings(self.pool, database.pool, user.pool)


def pool_settings(base: PoolSettings, *overrides: PoolOverrides | None) -> PoolSettings:
    """The base with each override's settings laid over it, the last one's word counting.

    ValueError when the sum does not fit together (minIdle over size).
    """
    changes: dict[str, object] = {}
    for override in overrides:
        if override is not None:
            changes.update(override.model_dump(exclude_none=True))
    if not changes:
        return base
    settings = base.model_copy(update=changes)  # each value has been validated on its own
    if settings.min_idle > settings.size:
        raise ValueError("minIdle must not be larger than size once databases' and users' pools are applied")
    return settings
