"""`/status`: the contract's Status as JSON, built a pool at a time.

The rows of tenants, instances and problems are rendered one by one and put into the rendered rest, because rendering
5,000 tenants at once would hold the loop for longer than a slice.
"""

from __future__ import annotations

import json
import os
from datetime import UTC
from typing import TYPE_CHECKING

from pgweir_contract.json_form import render
from pgweir_contract.status import InstanceStatus, PoolStatus, Problem, Status, TenantStatus
from pgweir_pooler.slices import Slices

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel

    from pgweir_pooler.admin_http.view import DirectoryView, PoolView, ProcessView
    from pgweir_pooler.telemetry import PoolCounters


async def status_text(view: ProcessView) -> bytes:
    """The whole answer."""
    slices = Slices()
    pools_by_tenant = await _by_tenant(view.directory, slices)
    clients = sum(pool.clients for pools in pools_by_tenant.values() for pool in pools)
    lists: dict[str, Iterable[BaseModel]] = {
        "problems": (Problem(where=where, problem=problem) for where, problem in list(view.problems)),
        "tenants": (
            TenantStatus(tenant_id=tenant, pools=tuple(pools)) for tenant, pools in sorted(pools_by_tenant.items())
        ),
        "instances": (
            InstanceStatus(instance=key, limit=x.ledger.limit, connections=x.ledger.servers)
            for key, x in sorted(view.directory.instances.items())
        ),
    }
    head = json.loads(render(_head(view, clients)))
    parts = []
    for name, rows in lists.items():
        del head[name]
        parts.append(b'"%s":[%s]' % (name.encode(), await _join(rows, slices)))
    parts.append(json.dumps(head, sort_keys=True, ensure_ascii=False)[1:-1].encode())
    return b"{" + b",".join(parts) + b"}\n"


def _head(view: ProcessView, clients: int) -> Status:
    return Status(
        version=view.version,
        boot_id=view.boot_id,
        member=view.member,
        pid=os.getpid(),
        started_at=view.started_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        state=view.state,
        warnings=tuple(Problem(where=where, problem=problem) for where, problem in view.warnings),
        revisions=dict(view.revisions),
        clients=clients,
    )


async def _join(rows: Iterable[BaseModel], slices: Slices) -> bytes:
    texts = []
    for row in rows:
        texts.append(render(row).rstrip())
        if slices.is_over:
            await slices.rest()
    return b",".join(texts)


async def _by_tenant(directory: DirectoryView, slices: Slices) -> dict[str, list[PoolStatus]]:
    """Every tenant, those without pools too, and those that are removed while their pools drain."""
    by_tenant: dict[str, list[PoolStatus]] = {tenant: [] for tenant in directory.tenants}
    counted: set[PoolCounters] = set()  # a pool that moved shares its counters with the one that drains
    for pool in [*directory.pools(), *directory.departed]:
        clients = 0 if pool.counters in counted else pool.counters.clients
        counted.add(pool.counters)
        by_tenant.setdefault(pool.key.tenant, []).append(_pool(pool, clients))
        if slices.is_over:
            await slices.rest()
    return by_tenant


def _pool(pool: PoolView, clients: int) -> PoolStatus:
    error = pool.ledger.backoff.error
    return PoolStatus(
        database=pool.key.database,
        user=pool.key.user,
        clients=clients,
        waiting=pool.waiting,
        servers_active=pool.active,
        servers_idle=pool.idle,
        servers_opening=pool.opening,
        servers_closing=pool.closing,
        servers_listening=pool.listening,
        size=pool.ledger.limits.size,
        error=error.code if error is not None else None,
        pinned={reason: count for reason, count in pool.counters.pinned.items() if count},
    )
