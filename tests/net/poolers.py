"""What the tests of this folder share about real pooler processes."""

from collections.abc import Callable
from typing import TypeAlias

from harness.pooler import Pooler
from pgweir_contract.models import TenantEntry

NewPooler: TypeAlias = Callable[..., Pooler]
"""The `pooler` fixture."""


def pool_status(process: Pooler, entry: TenantEntry) -> dict[str, int]:
    """The numbers of the tenant's only pool."""
    tenants = {found["tenantId"]: found for found in process.status()["tenants"]}
    [pool] = tenants[entry.tenant_id]["pools"]
    return {name: value for name, value in pool.items() if isinstance(value, int)}


def is_at_rest(process: Pooler, entry: TenantEntry) -> bool:
    """No server is lent, opening or closing, nobody waits: every slot is accounted for."""
    numbers = pool_status(process, entry)
    return not any(numbers[name] for name in ("serversActive", "serversOpening", "serversClosing", "waiting"))
