"""What must hold after every storm: all servers idle, nobody waiting, nothing half done, by both sides' books."""

from typing import Any

from harness.databases import Database
from harness.pooler import Pooler
from harness.waiting import until

QUIET_TIMEOUT_S = 15.0


def pools(pooler: Pooler, tenant_id: str = "acme") -> list[dict[str, Any]]:
    """The pools of one tenant as `/status` shows them."""
    for tenant in pooler.status()["tenants"]:
        if tenant["tenantId"] == tenant_id:
            found: list[dict[str, Any]] = tenant["pools"]
            return found
    return []


def not_quiet(pooler: Pooler, *databases: Database, clients: int = 0) -> list[str]:
    """What is not at rest; empty when all is."""
    status = pooler.status()
    found = [] if status["clients"] == clients else [f"{status['clients']} clients"]
    for tenant in status["tenants"]:
        for pool in tenant["pools"]:
            busy = ("waiting", "serversActive", "serversOpening", "serversClosing")
            found += [f"{tenant['tenantId']}: {name} {pool[name]}" for name in busy if pool[name]]
    for database in databases:
        found += [f"PostgreSQL: {pid} is {state!r}" for pid, state in database.backends() if state != "idle"]
    held = sum(pool["serversIdle"] for tenant in status["tenants"] for pool in tenant["pools"])
    seen = sum(len(database.backends()) for database in databases)
    if databases and held != seen:
        found.append(f"the pooler counts {held} idle servers, PostgreSQL {seen}")
    return found


async def until_quiet(pooler: Pooler, *databases: Database, clients: int = 0) -> None:
    """Waits until everything is at rest: no client left (or so many), every server of `databases` idle."""
    found: list[str] = ["never looked"]

    def is_quiet() -> bool:
        found[:] = not_quiet(pooler, *databases, clients=clients)
        return not found

    try:
        await until(is_quiet, "all servers idle", QUIET_TIMEOUT_S)
    except AssertionError as error:
        raise AssertionError(f"{error}: {found}\n{pooler.log_tail()}") from None
