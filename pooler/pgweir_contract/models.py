"""The files of the contract: `cluster.json`, `tenants-NN.json`, `assignments-NN.json`.

Each carries the version of the format and a revision: a short hash of its content, by which a pooler reports
what it has applied. Any mix of old and new files must be harmless: an instance without an assignment waits,
an assignment without a tenant does nothing.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from pgweir_contract.admin import AdminConsole, AdminUser
from pgweir_contract.client_tls import ClientTls, ClusterTls, ProxyProtocol
from pgweir_contract.durations import Duration, PositiveDuration
from pgweir_contract.json_form import (
    ContractModel,
    Host,
    InstanceKey,
    Listed,
    MemberName,
    Port,
    TenantId,
    unique,
)
from pgweir_contract.names import CONTRACT_VERSION, SESSION_PORT, TRANSACTION_PORT, instance_key
from pgweir_contract.pems import PemDigest
from pgweir_contract.tenant import (
    Access,
    Auth,
    Clients,
    Database,
    Listen,
    PoolOverrides,
    PoolSettings,
    PoolSize,
    Replica,
    TenantEntry,
    Upstream,
    User,
)
from pgweir_contract.upstream_tls import UpstreamTls
from pgweir_contract.upstreams import Upstreams

__all__ = [
    "Access",
    "AdminConsole",
    "AdminUser",
    "Assignment",
    "AssignmentsFile",
    "Auth",
    "ClientTls",
    "ClusterFile",
    "ClusterLimits",
    "ClusterTls",
    "Database",
    "InstanceLimit",
    "Listen",
    "Listener",
    "ListenerMode",
    "Member",
    "PoolOverrides",
    "PoolSettings",
    "ProxyProtocol",
    "Replica",
    "TenantEntry",
    "TenantsFile",
    "Upstream",
    "UpstreamTls",
    "Upstreams",
    "User",
]

FormatVersion = Annotated[str, Field(pattern=r"^[0-9]{1,4}\.[0-9]{1,4}$")]
Revision = Annotated[str, Field(max_length=64, pattern=r"^[0-9A-Za-z._-]*$")]

ListenerMode = Literal["Transaction", "Session", "Statement"]


class Listener(ContractModel):
    """A port that clients connect to, and when a server goes back to its pool there."""

    name: Annotated[str, Field(min_length=1, max_length=15, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    port: Annotated[int, Field(ge=0, le=65535)]  # 0: any free port, for tests
    mode: ListenerMode = "Transaction"
    proxy_protocol: ProxyProtocol = ProxyProtocol()


class ClusterLimits(ContractModel):
    """Limits of one pooler process."""

    max_clients: Clients = 10_000
    max_half_open_logins: Clients = 1_000  # connections that have not finished their login
    login_timeout: PositiveDuration = 60.0
    client_stall_timeout: PositiveDuration = 60.0  # a client that holds a server and does not read
    drain_timeout: Duration = 60.0


class InstanceLimit(ContractModel):
    """How many server connections the whole cluster may hold to one database instance."""

    host: Host
    port: Port = 5432
    max_connections: PoolSize

    @property
    def instance(self) -> str:
        """The instance's key."""
        return instance_key(self.host, self.port)


class Member(ContractModel):
    """One pooler process."""

    name: MemberName
    ordinal: Annotated[int, Field(ge=0, le=255)]
    uid: Annotated[str, Field(max_length=64)] = ""  # the pod's UID
    # Where its peer link listens: `address:port`, by IP so that a failover waits for no DNS lookup.
    address: InstanceKey


DEFAULT_LISTENERS = (
    Listener(name="transaction", port=TRANSACTION_PORT, mode="Transaction"),
    Listener(name="session", port=SESSION_PORT, mode="Session"),
)


class ClusterFile(ContractModel):
    """`cluster.json`: what all tenants share."""

    version: FormatVersion = CONTRACT_VERSION
    revision: Revision = ""
    cluster: Annotated[str, Field(min_length=1, max_length=253)]
    listeners: Annotated[Listed[Listener], Field(min_length=1, max_length=8)] = DEFAULT_LISTENERS
    limits: ClusterLimits = ClusterLimits()
    tls: ClusterTls = ClusterTls()
    default_tenant: TenantId | None = None  # for clients that name none
    admin: AdminConsole = AdminConsole()
    upstreams: Upstreams = Upstreams()
    instances: Annotated[Listed[InstanceLimit], Field(max_length=10_000)] = ()
    members: Annotated[Listed[Member], Field(max_length=256)] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        unique("listener", [x.name for x in self.listeners])
        unique("listener port", [str(x.port) for x in self.listeners if x.port])
        unique("instance", [x.instance for x in self.instances])
        unique("member", [x.name for x in self.members])
        unique("member ordinal", [str(x.ordinal) for x in self.members])
        return self


class TenantsFile(ContractModel):
    """`tenants-NN.json`: the tenants of one shard."""

    version: FormatVersion = CONTRACT_VERSION
    revision: Revision = ""
    tenants: Annotated[Listed[TenantEntry], Field(max_length=100_000)] = ()
    pems: dict[PemDigest, SecretStr] = Field(default_factory=dict)  # what the tenants name by digest

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        unique("tenantId", [x.tenant_id for x in self.tenants])
        return self


class Assignment(ContractModel):
    """Which member owns an instance, who takes over when it is gone, and the age of this word."""

    instance: InstanceKey
    owner: MemberName
    deputy: MemberName | None = None
    epoch: Annotated[int, Field(ge=0, le=2**63 - 1)]


class AssignmentsFile(ContractModel):
    """`assignments-NN.json`: the assignments of one shard."""

    version: FormatVersion = CONTRACT_VERSION
    revision: Revision = ""
    assignments: Annotated[Listed[Assignment], Field(max_length=100_000)] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        unique("instance", [x.instance for x in self.assignments])
        return self
