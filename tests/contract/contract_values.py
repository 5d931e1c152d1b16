"""Values of the contract for tests: one plain tenant, and strategies for any tenant and cluster."""

from datetime import UTC
from typing import Any, TypeVar

from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from pgweir_contract.models import (
    Access,
    Assignment,
    Auth,
    Database,
    Listen,
    PoolOverrides,
    PoolSettings,
    Replica,
    TenantEntry,
    Upstream,
    UpstreamTls,
    User,
)

_M = TypeVar("_M", bound=BaseModel)

PASSWORD = "open-sesame-4711"
VERIFIER = "SCRAM-SHA-256$4096:c2FsdHNhbHQ=$" + "A" * 43 + "=:" + "B" * 43 + "="


def tenant(tenant_id: str = "acme", **changes: Any) -> TenantEntry:
    """A tenant with one database and one user."""
    values: dict[str, Any] = {
        "upstream": Upstream(host="db.example"),
        "databases": (Database(name="shop"),),
        "users": (User(name="app", passwords=(SecretStr(PASSWORD),)),),
    }
    return TenantEntry(tenant_id=tenant_id, **(values | changes))


_names = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=15)
_labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
_ms = st.integers(0, 10_000_000).map(lambda ms: ms / 1000)
_positive_ms = st.integers(1, 10_000_000).map(lambda ms: ms / 1000)
_secrets = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40).map(SecretStr)


def _of(model: type[_M], **values: st.SearchStrategy[Any]) -> st.SearchStrategy[_M]:
    # st.builds reads a model's signature, which has the names of the files.
    return st.fixed_dictionaries(values).map(lambda given: model(**given))


pools = _of(
    PoolSettings,
    size=st.integers(50, 10_000),
    min_idle=st.integers(0, 50),
    reserve_size=st.integers(0, 10),
    max_clients=st.integers(1, 1_000_000),
    queue_timeout=_positive_ms,
    server_idle_timeout=_ms,
    server_lifetime=_ms,
    client_idle_timeout=_ms,
    idle_transaction_timeout=_ms,
    query_timeout=_ms,
    transaction_timeout=_ms,
    query_wait_notify=_ms,
)
_overrides = st.none() | _of(
    PoolOverrides,
    size=st.integers(50, 10_000) | st.none(),
    queue_timeout=_positive_ms | st.none(),
    query_timeout=_ms | st.none(),
)
_users = _of(
    User,
    name=_names,
    passwords=st.lists(_secrets, min_size=1, max_size=4).map(tuple),
    verifiers=st.lists(st.sampled_from([SecretStr(VERIFIER), SecretStr("md5" + "0" * 32)]), max_size=2).map(tuple),
    overlap_until=st.none() | st.datetimes(timezones=st.just(UTC)),
    valid_until=st.none() | st.datetimes(timezones=st.just(UTC)),
    max_clients=st.none() | st.integers(1, 9),
    databases=st.none() | st.just(("shop",)),
    pool=_overrides,
)

tenants = _of(
    TenantEntry,
    tenant_id=_labels,
    upstream=_of(
        Upstream,
        host=st.sampled_from(["db.example", "::1", "10.0.0.1"]),
        port=st.integers(1, 65535),
        max_connections=st.integers(1, 10_000),
        connect_timeout=_positive_ms,
        tls=_of(UpstreamTls, mode=st.sampled_from(["Disable", "Prefer", "Require"]), system_cas=st.just(False)),
    ),
    databases=st.tuples(_of(Database, name=st.just("shop"), upstream_name=st.none() | _names, pool=_overrides)),
    users=st.lists(_users, min_size=1, max_size=4, unique_by=lambda u: u.name).map(tuple),
    pool=pools,
    replicas=st.lists(_of(Replica, name=_names, host=st.just("r.example")), max_size=2, unique_by=lambda r: r.name).map(
        tuple
    ),
    require_tls=st.booleans(),
    allowed_cidrs=st.just(()) | st.just(("10.0.0.0/8",)),
    paused=st.booleans(),
    access=_of(Access, mode=st.sampled_from(["Open", "Reject"])),
    auth=_of(Auth, client_method=st.sampled_from(["ScramSHA256", "MD5", "Cleartext"]), cache_ttl=_positive_ms)
    | _of(
        Auth,
        mode=st.just("AuthQuery"),
        user=_names,
        passwords=st.lists(_secrets, min_size=1, max_size=4).map(tuple),
        query=st.none() | st.just("select a, b from c where a = $1"),
    ),
    listen=_of(Listen, on_gap=st.sampled_from(["Disconnect", "Notice"])),
    parameters=st.dictionaries(_names, st.text(max_size=20), max_size=3),
)

assignments = _of(
    Assignment,
    instance=st.integers(1, 65535).map(lambda port: f"db.example:{port}"),
    owner=_labels,
    deputy=st.none() | _labels,
    epoch=st.integers(0, 2**63 - 1),
)
