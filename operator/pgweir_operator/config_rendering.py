"""From manifests to the files that poolers mount: pure, the same input gives the same bytes.

What cannot be rendered is refused tenant by tenant, with reasons and without secrets. A refused tenant that
had a good entry before keeps it, so that a typing error in one manifest disconnects nobody. Older tenants go
first where two claim the same thing (an id, the last room in a shard).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final

from pydantic import SecretStr, TypeAdapter, ValidationError

from pgweir_contract.json_form import Password, TenantId, describe_errors, render
from pgweir_contract.models import (
    AdminConsole,
    AdminUser,
    Assignment,
    AssignmentsFile,
    ClusterFile,
    ClusterLimits,
    ClusterTls,
    Database,
    InstanceLimit,
    Listener,
    Member,
    PoolOverrides,
    TenantEntry,
    TenantsFile,
    User,
)
from pgweir_contract.names import (
    CLUSTER_FILE,
    SHARD_LIMIT_BYTES,
    SHARDS,
    assignments_file,
    shard_of,
    tenants_file,
)
from pgweir_contract.pems import pems_of
from pgweir_contract.support import locked_out, unsupported
from pgweir_contract.tenant import pool_settings
from pgweir_operator.client_tls_spec import HostNames, cluster_tls, tenant_tls
from pgweir_operator.credential_rendering import auth_entry, user_secrets, with_overlap
from pgweir_operator.credential_specs import SecretKeyRef, UserSpec
from pgweir_operator.objects import Secret
from pgweir_operator.resources import DatabaseSpec, PoolerCluster, Tenant
from pgweir_operator.secret_texts import PemCollector, Refused, secret_text
from pgweir_operator.upstream_spec import upstream_entry

# `{"pems":{…},"revision":"…","tenants":[…],"version":"…"}` around the entries and texts, with room to spare.
_FRAME_BYTES: Final = 128

_TENANT_ID: Final[TypeAdapter[str]] = TypeAdapter(TenantId)
_PASSWORD: Final[TypeAdapter[SecretStr]] = TypeAdapter(Password)

_NO_PREVIOUS: Final[Mapping[str, TenantEntry]] = {}
_NO_PEMS: Final[Mapping[str, SecretStr]] = {}


@dataclass(slots=True)
class RenderResult:
    """The files by name, and what is not in them."""

    files: dict[str, bytes] = field(default_factory=dict)
    rejected: dict[str, list[str]] = field(default_factory=dict)  # `namespace/name` of a Tenant -> problems
    problems: list[str] = field(default_factory=list)  # of the PoolerCluster: what it asks for in vain
    notes: list[str] = field(default_factory=list)  # worth a condition, wrong for nobody
    entries: dict[str, TenantEntry] = field(default_factory=dict)  # by tenant id, as in the files
    pems: dict[str, SecretStr] = field(default_factory=dict)  # by digest: what the entries name


def render_config(
    cluster: PoolerCluster,
    tenants: Iterable[Tenant],
    secrets: Iterable[Secret],
    *,
    members: Sequence[Member] = (),
    assignments: Iterable[Assignment] = (),
    previous: Mapping[str, TenantEntry] = _NO_PREVIOUS,
    previous_pems: Mapping[str, SecretStr] = _NO_PEMS,
    now: datetime | None = None,
    mock_key: SecretStr | None = None,
) -> RenderResult:
    """All files of a cluster. Tenants of other clusters are passed over; `previous` is by tenant id.

    `previous_pems` has the PEM texts that the previous entries name. Without usable certificates for TLS there is no
    cluster.json among the files, and poolers must keep the one that they have. With `now`, passwords of `previous` stay
    for an overlap when they change. `mock_key` is made once per cluster and must stay the same
    (`ClusterFile.mock_key`).
    """
    result = RenderResult(problems=unsupported_spec(cluster))
    by_key = {secret.key: secret for secret in secrets}
    mine = [t for t in tenants if t.cluster_key == cluster.key]
    mine.sort(key=lambda t: (t.tenant_id not in previous, t.metadata.creation_timestamp or "", t.key))
    shards: list[dict[str, TenantEntry]] = [{} for _ in range(SHARDS)]
    owner_of: dict[str, Tenant] = {}  # tenant id -> the manifest that has it
    texts = dict(previous_pems)
    hosts = HostNames(cluster.spec.tls.client.sni_domains)
    for tenant in mine:
        pems = PemCollector(tenant.metadata.namespace, by_key)
        try:
            _admit(cluster, tenant, owner_of)
            entry: TenantEntry | None = _entry(cluster, tenant, by_key, pems)
            hosts.claim(tenant.tenant_id, tenant.spec.sni_hostnames)
            if now is not None and entry is not None:
                before = previous.get(tenant.tenant_id)
                entry = with_overlap(entry, before, now, cluster.spec.password_overlap)
        except Refused as refused:
            result.rejected[tenant.key] = refused.problems
            is_owner = owner_of.get(tenant.tenant_id) is tenant
            entry = previous.get(tenant.tenant_id) if is_owner else None
        texts |= pems.texts
        if entry is not None:
            shards[shard_of(entry.tenant_id)][entry.tenant_id] = entry
    for number, shard in enumerate(shards):
        data, too_many = _tenants_shard(shard, texts)
        result.files[tenants_file(number)] = data
        for tenant_id in too_many:
            problem = f"ShardFull: shard {number:02d} would grow over {SHARD_LIMIT_BYTES} bytes"
            result.rejected.setdefault(owner_of[tenant_id].key, []).append(problem)
            del shard[tenant_id]
        result.entries |= shard
        result.pems |= _pems_of(shard.values(), texts)
    _render_assignments(result, assignments)
    try:
        tls, files = cluster_tls(cluster.spec.tls.client, cluster.metadata.namespace, by_key)
    except Refused as refused:  # no cluster.json then: a rendered one would switch TLS off
        result.problems += refused.problems
    else:
        result.files |= files
        problems = {tenant_id: locked_out(entry, tls) for tenant_id, entry in result.entries.items()}
        result.notes += [f"tenant {tenant_id}: {problem}" for tenant_id, problem in problems.items() if problem]
        admin = _admin(result, cluster, by_key)
        _render_cluster(result, cluster, members, admin, ClusterTls(client=tls), mock_key)
    return result


def unsupported_spec(cluster: PoolerCluster) -> list[str]:
    """One sentence for each thing that the PoolerCluster asks for and that is not built."""
    spec = cluster.spec
    found = []
    if spec.replicas > 1:
        found.append("spec.replicas: not supported yet: poolers do not share servers; use 1")
    if spec.parameters:
        found.append("spec.parameters: not supported yet: server parameters are not set; leave the map empty")
    if spec.paused:
        found.append("spec.paused: not supported yet: a cluster cannot be paused; use false")
    return found


def revision_of(data: bytes) -> str:
    """A short hash of a file's content: equal content, equal revision."""
    return hashlib.blake2b(data, digest_size=6).hexdigest()


def _admit(cluster: PoolerCluster, tenant: Tenant, owner_of: dict[str, Tenant]) -> None:
    """Notes who has the tenant id; raises when the tenant may not join or somebody else has its id."""
    same = tenant.metadata.namespace == cluster.metadata.namespace
    if cluster.spec.tenants.namespaces.from_ == "Same" and not same:
        raise Refused("spec.clusterRef: NotAllowedByCluster: the cluster takes Tenants of its namespace only")
    try:
        _TENANT_ID.validate_python(tenant.tenant_id)
    except ValidationError:
        raise Refused("spec.tenantId: metadata.name is no tenant id (a DNS label), so give one") from None
    owner = owner_of.setdefault(tenant.tenant_id, tenant)
    if owner is not tenant:
        raise Refused(f"spec.tenantId: TenantIdConflict: Tenant {owner.key} has the same")


def _entry(cluster: PoolerCluster, tenant: Tenant, secrets: Mapping[str, Secret], pems: PemCollector) -> TenantEntry:
    """The tenant as the pooler reads it; Refused with all that is wrong with it."""
    spec = tenant.spec
    problems: list[str] = []
    users = []
    text_of = partial(_text, tenant.metadata.namespace, secrets)
    password_of = partial(_password_text, tenant.metadata.namespace, secrets)
    for i, user in enumerate(spec.users):
        try:
            users.append(_user(user, user_secrets(user, text_of, password_of)))
        except Refused as refused:
            problems += [f"spec.users[{i}].{problem}" for problem in refused.problems]
        except ValidationError as error:
            problems += [f"spec.users[{i}].{problem}" for problem in describe_errors(error)]
    try:
        auth = auth_entry(spec.auth, text_of, password_of)
    except Refused as refused:
        problems += [f"spec.{problem}" for problem in refused.problems]
    except ValidationError as error:
        problems += [f"spec.auth.userSecretRef: {problem}" for problem in describe_errors(error)]
    if problems:
        raise Refused(*problems)
    try:
        pool = pool_settings(cluster.spec.defaults.pool, spec.pool)
    except ValueError as error:
        raise Refused(f"spec.pool: {error}") from None
    try:
        entry = TenantEntry(
            tenant_id=tenant.tenant_id,
            upstream=upstream_entry(spec.upstream, cluster.spec.defaults.connect_timeout, pems),
            databases=tuple(_database(d) for d in spec.databases),
            users=tuple(users),
            pool=pool,
            replicas=spec.replicas,
            require_tls=spec.require_tls,
            sni_hostnames=spec.sni_hostnames,
            client_tls=tenant_tls(spec.client_tls, pems),
            allowed_cidrs=spec.allowed_cidrs,
            denied_cidrs=spec.denied_cidrs,
            paused=spec.paused,
            access=spec.access,
            auth=auth,
            listen=spec.listen,
            parameters=spec.parameters,
        )
    except ValidationError as error:
        raise Refused(*(f"spec: {problem}" for problem in describe_errors(error))) from None
    problem = cluster.spec.upstreams.host_problem(entry.upstream.host)
    if problem is not None:
        raise Refused(f"spec.upstream.host: UpstreamNotAllowed: {problem}")
    in_vain = unsupported(entry)
    if in_vain:
        raise Refused(*(f"spec.{problem}" for problem in in_vain))
    return entry


def _database(spec: DatabaseSpec) -> Database:
    return Database(name=spec.name, upstream_name=spec.upstream_name, pool=spec.pool)


def _user(spec: UserSpec, secrets: dict[str, Any]) -> User:
    pool, max_clients = spec.pool, None
    if pool is not None:
        # The manifest limits a user's clients in the user's pool; the file has a field of its own for it.
        max_clients = pool.max_clients
        pool = pool.model_copy(update={"max_clients": None})
        pool = None if pool == PoolOverrides() else pool
    return User(
        name=spec.name,
        alias=spec.alias,
        **secrets,
        max_clients=max_clients,
        databases=spec.databases,
        pool=pool,
    )


def _text(namespace: str, secrets: Mapping[str, Secret], field: str, name: str, key: str) -> SecretStr:
    return secret_text(field, namespace, name, key, secrets)


def _password_text(namespace: str, secrets: Mapping[str, Secret], field: str, name: str, key: str) -> SecretStr:
    """The password under a key of a Secret that the field names; raises Refused."""
    value = secret_text(field, namespace, name, key, secrets)
    try:
        return _PASSWORD.validate_python(value)
    except ValidationError as error:
        what = _password_problem(error)
        raise Refused(f"{field}: Secret {namespace}/{name}: the value of key {key!r} {what}") from None


def _password(namespace: str, ref: SecretKeyRef, secrets: Mapping[str, Secret]) -> SecretStr:
    return _password_text(namespace, secrets, "passwordSecretRef", ref.name, ref.key)


def _password_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "too_short":
        return "is empty"
    if first["type"] == "too_long":
        return f"has more than {first['ctx']['max_length']} characters"
    return f"is no password: {describe_errors(error)[0]}"


def _pems_of(entries: Iterable[TenantEntry], texts: Mapping[str, SecretStr]) -> dict[str, SecretStr]:
    return pems_of((ref for entry in entries for ref in entry.pem_refs()), texts)


def _tenants_shard(shard: Mapping[str, TenantEntry], texts: Mapping[str, SecretStr]) -> tuple[bytes, list[str]]:
    """The file of a shard, and the ids of the tenants that did not fit; earlier ones have precedence."""
    data = _with_revision(_tenants_of(shard, texts))
    if len(data) <= SHARD_LIMIT_BYTES:
        return data, []
    kept: dict[str, TenantEntry] = {}
    pems: dict[str, SecretStr] = {}
    size_bytes = _FRAME_BYTES
    for tenant_id, entry in shard.items():
        new = {digest: text for digest, text in _pems_of([entry], texts).items() if digest not in pems}
        # Its final newline stands for the comma; so do the braces around each text.
        entry_bytes = len(render(entry)) + sum(_pem_bytes(digest, text) for digest, text in new.items())
        if size_bytes + entry_bytes <= SHARD_LIMIT_BYTES:
            size_bytes += entry_bytes
            kept[tenant_id] = entry
            pems |= new
    return _with_revision(_tenants_of(kept, texts)), [x for x in shard if x not in kept]


def _tenants_of(shard: Mapping[str, TenantEntry], texts: Mapping[str, SecretStr]) -> TenantsFile:
    return TenantsFile(tenants=_in_order(shard), pems=_pems_of(shard.values(), texts))


def _pem_bytes(digest: str, text: SecretStr) -> int:
    return len(json.dumps({digest: text.get_secret_value()}, ensure_ascii=False).encode())


def _in_order(shard: Mapping[str, TenantEntry]) -> tuple[TenantEntry, ...]:
    return tuple(shard[tenant_id] for tenant_id in sorted(shard))


def _with_revision(file: TenantsFile | AssignmentsFile | ClusterFile) -> bytes:
    return render(file.model_copy(update={"revision": revision_of(render(file))}))


def _render_assignments(result: RenderResult, assignments: Iterable[Assignment]) -> None:
    shards: list[list[Assignment]] = [[] for _ in range(SHARDS)]
    for assignment in sorted(assignments, key=lambda a: a.instance):
        shards[shard_of(assignment.instance)].append(assignment)
    for number, shard in enumerate(shards):
        result.files[assignments_file(number)] = _with_revision(AssignmentsFile(assignments=tuple(shard)))


def _admin(result: RenderResult, cluster: PoolerCluster, secrets: Mapping[str, Secret]) -> AdminConsole:
    """The console's users. One whose password cannot be had is left out, with a problem: the others still get in."""
    users = []
    for i, user in enumerate(cluster.spec.admin.users):
        try:
            password = _password(cluster.metadata.namespace, user.password_secret_ref, secrets)
        except Refused as refused:
            result.problems += [f"spec.admin.users[{i}].{problem}" for problem in refused.problems]
        else:
            users.append(AdminUser(name=user.name, role=user.role, passwords=(password,)))
    return AdminConsole(users=tuple(users))


def _render_cluster(
    result: RenderResult,
    cluster: PoolerCluster,
    members: Sequence[Member],
    admin: AdminConsole,
    tls: ClusterTls,
    mock_key: SecretStr | None,
) -> None:
    spec = cluster.spec
    limits = spec.limits
    file = ClusterFile(
        cluster=cluster.key,
        listeners=tuple(Listener(**{name: getattr(x, name) for name in Listener.model_fields}) for x in spec.listeners),
        limits=ClusterLimits(
            max_clients=limits.max_clients_per_pod,
            max_clients_per_address=limits.max_clients_per_address,
            max_half_open_logins=limits.max_half_open_logins,
            max_half_open_logins_per_address=limits.max_half_open_logins_per_address,
            login_rate_per_address=limits.login_rate_per_address,
            failed_logins=limits.failed_logins,
            login_timeout=limits.login_timeout,
            client_stall_timeout=limits.client_stall_timeout,
            drain_timeout=spec.drain.timeout,
        ),
        tls=tls,
        default_tenant=spec.default_tenant,
        mock_key=mock_key,
        admin=admin,
        upstreams=spec.upstreams,
        instances=_instances(result, cluster),
        members=tuple(sorted(members, key=lambda m: m.ordinal)),
    )
    result.files[CLUSTER_FILE] = _with_revision(file)


def _instances(result: RenderResult, cluster: PoolerCluster) -> tuple[InstanceLimit, ...]:
    """The limit of every instance: the cluster's word, else the smallest among the instance's tenants."""
    limits = {limit.instance: limit for limit in cluster.spec.instances}
    wanted: dict[str, list[TenantEntry]] = {}
    for entry in result.entries.values():
        wanted.setdefault(entry.upstream.instance, []).append(entry)
    for instance, entries in wanted.items():
        if instance in limits:
            continue
        numbers = sorted({entry.upstream.max_connections for entry in entries})
        if len(numbers) > 1:
            result.notes.append(
                f"instance {instance}: its Tenants ask for {numbers[0]} to {numbers[-1]} maxConnections; "
                f"{numbers[0]} counts unless spec.instances says otherwise"
            )
        upstream = entries[0].upstream
        limits[instance] = InstanceLimit(host=upstream.host, port=upstream.port, max_connections=numbers[0])
    return tuple(limits[instance] for instance in sorted(limits))
