"""The manifests that people write: `PoolerCluster` and `Tenant` (pgweir.dev/v1alpha1), and the Secrets they
name.

Strict: a field that nobody knows is an error with its path, and so is one whose feature is not built yet,
because a setting that is silently ignored is worse than none. Only what can have no meaning outside
Kubernetes is passed over. No error text repeats a value, and Secrets never show theirs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from pgweir_contract.admin import ADMIN_USERS_MAX, AdminName, AdminRole
from pgweir_contract.client_tls import DnsName
from pgweir_contract.durations import Duration, PositiveDuration
from pgweir_contract.json_form import ContractModel, Listed, PgName, TenantId, unique
from pgweir_contract.models import (
    DEFAULT_LISTENERS,
    Access,
    Auth,
    InstanceLimit,
    Listen,
    Listener,
    PoolOverrides,
    PoolSettings,
    Replica,
    Upstreams,
)
from pgweir_contract.names import (
    API_GROUP,
    API_GROUP_VERSION,
    POOLER_CLUSTER_KIND,
    TENANT_KIND,
)
from pgweir_contract.reading import ContractError, validate
from pgweir_contract.tenant import Clients, Parameters
from pgweir_operator.client_tls_spec import ClusterTlsSpec, TenantTlsSpec
from pgweir_operator.objects import Namespace, ObjectName, Resource, Secret
from pgweir_operator.strict_yaml import NotYaml, read_documents
from pgweir_operator.upstream_spec import UpstreamSpec

# They shape pods, Services and policies around the pooler, never what it does.
_KUBERNETES_ONLY: Final = frozenset(
    {
        "affinity",
        "disruptionBudget",
        "image",
        "imagePullPolicy",
        "imagePullSecrets",
        "monitoring",
        "networkPolicy",
        "nodeSelector",
        "podTemplate",
        "priorityClassName",
        "resources",
        "service",
        "serviceAccountName",
        "tolerations",
        "topologySpreadConstraints",
        "update",
    }
)

# Fields that the API will have and that nothing reads yet. They are refused like all unknown fields,
# only with a better sentence.
NOT_YET: Final = frozenset(
    {
        "spec.autoscaling",
        "spec.auth.cacheTTL",
        "spec.auth.database",
        "spec.auth.query",
        "spec.auth.userSecretRef",
        "spec.access.reason",
        "spec.access.until",
        "spec.databases[].ownerOrdinal",
        "spec.databases[].weight",
        "spec.defaults.mode",
        "spec.drain.policy",
        "spec.instances[].minimumPerPool",
        "spec.limits.maxServerConnectionsPerDatabase",
        "spec.limits.maxServerConnectionsPerPod",
        "spec.listeners[].protocol",
        "spec.logging",
        "spec.ownership",
        "spec.pool.mode",
        "spec.tenants.selector",
        "spec.tenants.namespaces.selector",
        "spec.tls.peer",
        "spec.upstream.ipFamily",
        "spec.upstream.options",
    }
)


class SecretKeyRef(ContractModel):
    """One value of a Secret in the namespace of the object that names it."""

    name: ObjectName
    key: Annotated[str, Field(min_length=1, max_length=253)] = "password"


# --- PoolerCluster


class ClusterLimitsSpec(ContractModel):
    """Limits of each pooler process."""

    max_clients_per_pod: Clients = 10_000
    max_half_open_logins: Clients = 1_000
    login_timeout: PositiveDuration = 60.0
    client_stall_timeout: PositiveDuration = 60.0


class Drain(ContractModel):
    """How long a pooler that is told to end lets its clients finish."""

    timeout: Duration = 60.0


class TenantNamespaces(ContractModel):
    """The namespaces whose Tenants may join."""

    from_: Annotated[Literal["Same", "All"], Field(alias="from")] = "Same"


class TenantsSpec(ContractModel):
    """Which Tenants may join the cluster."""

    namespaces: TenantNamespaces = TenantNamespaces()


class AdminUserSpec(ContractModel):
    """Someone who may log in to the admin console."""

    name: AdminName
    role: AdminRole
    password_secret_ref: SecretKeyRef


class AdminSpec(ContractModel):
    """The admin console; without users there is none."""

    users: Annotated[Listed[AdminUserSpec], Field(max_length=ADMIN_USERS_MAX)] = ()


ListenerPort = Annotated[int, Field(ge=1024, le=65535)]


class ListenerSpec(Listener):
    """A listener; ports under 1024 would need a privilege that the pods do not have."""

    port: ListenerPort


class Defaults(PoolSettings):
    """What Tenants inherit that say nothing: settings of pools, and of their upstream."""

    connect_timeout: PositiveDuration = 10.0

    @property
    def pool(self) -> PoolSettings:
        """The settings of pools alone."""
        return PoolSettings(**self.model_dump(exclude={"connect_timeout"}))


class PoolerClusterSpec(ContractModel):
    """The infrastructure: listeners, defaults and limits that all tenants of a cluster share."""

    replicas: Annotated[int, Field(ge=0, le=256)] = 2
    tenants: TenantsSpec = TenantsSpec()
    listeners: Annotated[Listed[ListenerSpec], Field(min_length=1, max_length=8)] = tuple(
        ListenerSpec(name=x.name, port=x.port, mode=x.mode) for x in DEFAULT_LISTENERS
    )
    defaults: Defaults = Defaults()
    limits: ClusterLimitsSpec = ClusterLimitsSpec()
    tls: ClusterTlsSpec = ClusterTlsSpec()
    default_tenant: TenantId | None = None
    admin: AdminSpec = AdminSpec()
    instances: Annotated[Listed[InstanceLimit], Field(max_length=1000)] = ()
    upstreams: Upstreams = Upstreams()
    parameters: Parameters = Field(default_factory=dict)
    paused: bool = False
    drain: Drain = Drain()

    @model_validator(mode="before")
    @classmethod
    def _pass_over_kubernetes(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: v for k, v in value.items() if k not in _KUBERNETES_ONLY}
        return value

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        unique("listener", [x.name for x in self.listeners])
        unique("listener port", [str(x.port) for x in self.listeners])
        unique("instance", [x.instance for x in self.instances])
        unique("admin user", [x.name for x in self.admin.users])
        return self


class PoolerCluster(Resource):
    """A set of pooler processes that share listeners, defaults and limits."""

    api_version: Literal["pgweir.dev/v1alpha1"] = "pgweir.dev/v1alpha1"
    kind: Literal["PoolerCluster"] = "PoolerCluster"
    spec: PoolerClusterSpec = PoolerClusterSpec()
    status: Any = None  # the operator's own words

    @model_validator(mode="after")
    def _name_fits_labels(self) -> Self:
        # An ordinal and a revision hash are appended to it, and the sum must fit a label's 63 characters.
        if len(self.metadata.name) > 40:
            raise ValueError("metadata.name has at most 40 characters")
        return self


# --- Tenant


class ClusterRef(ContractModel):
    """The PoolerCluster that a Tenant joins."""

    name: ObjectName
    namespace: Namespace | None = None  # None: the Tenant's own


class DatabaseSpec(ContractModel):
    """A database that clients may ask for."""

    name: PgName
    upstream_name: PgName | None = None
    pool: PoolOverrides | None = None


class UserSpec(ContractModel):
    """Someone who may log in."""

    name: PgName
    alias: PgName | None = None
    password_secret_ref: SecretKeyRef
    databases: Annotated[Listed[PgName], Field(max_length=128)] | None = None
    pool: PoolOverrides | None = None


class TenantSpec(ContractModel):
    """Where a tenant's PostgreSQL is, who may log in, and how its pools behave."""

    cluster_ref: ClusterRef
    tenant_id: TenantId | None = None  # None: metadata.name
    upstream: UpstreamSpec
    databases: Annotated[Listed[DatabaseSpec], Field(min_length=1, max_length=128)]
    users: Annotated[Listed[UserSpec], Field(max_length=64)] = ()
    pool: PoolOverrides = PoolOverrides()
    replicas: Annotated[Listed[Replica], Field(max_length=16)] = ()
    auth: Auth = Auth()
    listen: Listen = Listen()
    require_tls: Annotated[bool, Field(alias="requireTLS")] = False
    sni_hostnames: Annotated[Listed[DnsName], Field(max_length=8)] = ()
    client_tls: TenantTlsSpec | None = None
    allowed_cidrs: Annotated[Listed[str], Field(alias="allowedCIDRs", max_length=64)] = ()
    paused: bool = False
    access: Access = Access()
    deletion_policy: Literal["Drain"] = "Drain"
    parameters: Parameters = Field(default_factory=dict)


class Tenant(Resource):
    """One tenant of a PoolerCluster."""

    api_version: Literal["pgweir.dev/v1alpha1"] = "pgweir.dev/v1alpha1"
    kind: Literal["Tenant"] = "Tenant"
    spec: TenantSpec
    status: Any = None  # the operator's own words

    @property
    def tenant_id(self) -> str:
        """The id that clients name; not yet checked when it comes from metadata.name."""
        return self.spec.tenant_id or self.metadata.name

    @property
    def cluster_key(self) -> str:
        """`namespace/name` of its PoolerCluster."""
        ref = self.spec.cluster_ref
        return f"{ref.namespace or self.metadata.namespace}/{ref.name}"


# --- reading YAML

_MODELS: Final[Mapping[tuple[str, str], type[PoolerCluster | Tenant | Secret]]] = {
    (API_GROUP_VERSION, POOLER_CLUSTER_KIND): PoolerCluster,
    (API_GROUP_VERSION, TENANT_KIND): Tenant,
    ("v1", "Secret"): Secret,
}


class ManifestError(Exception):
    """Manifests cannot be used; `problems` has lines `file: document N: path: what`, without values."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Manifests:
    """The objects of some YAML files, and notes about documents that were passed over."""

    clusters: tuple[PoolerCluster, ...] = ()
    tenants: tuple[Tenant, ...] = ()
    secrets: tuple[Secret, ...] = ()
    notes: tuple[str, ...] = ()
    places: Mapping[tuple[str, str], str] = field(default_factory=dict)  # kind, key -> `file: document N`


def load_manifests(texts: Mapping[str, str]) -> Manifests:
    """The objects in YAML texts by file name; ManifestError with everything that is wrong in any of them."""
    found: list[PoolerCluster | Tenant | Secret] = []
    notes: list[str] = []
    problems: list[str] = []
    homes: dict[tuple[str, str], str] = {}
    for name, text in texts.items():
        try:
            documents = read_documents(text)
        except NotYaml as error:
            problems.append(f"{name}: {error}")
            continue
        for number, document in enumerate(documents, start=1):
            if document is None:
                continue
            where = f"{name}: document {number}"
            try:
                resource = _resource(document)
            except ContractError as error:
                problems += [f"{where}: {_friendly(problem)}" for problem in error.problems]
                continue
            if isinstance(resource, str):
                notes.append(f"{where}: {resource}")
                continue
            identity = (resource.kind, resource.key)
            if identity in homes:
                problems.append(f"{where}: {resource.kind} {resource.key} is already in {homes[identity]}")
            homes.setdefault(identity, where)
            found.append(resource)
    if problems:
        raise ManifestError(problems)
    return Manifests(
        clusters=tuple(x for x in found if isinstance(x, PoolerCluster)),
        tenants=tuple(x for x in found if isinstance(x, Tenant)),
        secrets=tuple(x for x in found if isinstance(x, Secret)),
        notes=tuple(notes),
        places=homes,
    )


def _resource(document: object) -> PoolerCluster | Tenant | Secret | str:
    """The object of a document, or a note on why it is passed over."""
    if not isinstance(document, dict):
        raise ContractError("must be a mapping with apiVersion and kind")
    api_version, kind = document.get("apiVersion"), document.get("kind")
    if not isinstance(api_version, str) or not isinstance(kind, str):
        raise ContractError("apiVersion and kind: required fields are missing")
    model = _MODELS.get((api_version, kind))
    if model is not None:
        return validate(model, document)
    if api_version.partition("/")[0] == API_GROUP:
        raise ContractError(f"kind: unknown, {API_GROUP_VERSION} has PoolerCluster and Tenant")
    return f"passed over: {kind} is not ours"


def _friendly(problem: str) -> str:
    path, _, message = problem.partition(": ")
    if message == "unknown field" and re.sub(r"\[\d+\]", "[]", path) in NOT_YET:
        return f"{path}: not supported yet"
    return problem
