"""The rows of every SHOW but clients and servers. Pure; each function yields rows that fit COLUMNS.

A database is shown as `database.tenant` and a user as `user.tenant`, as clients log in: both are unique, for no tenant
id has a dot. The console itself is the database `pgweir`, as PgBouncer's is `pgbouncer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pgweir_contract.durations import render_duration
from pgweir_contract.models import ClusterLimits
from pgweir_contract.tenant import pool_settings
from pgweir_pooler.console.census import (
    LentServers,
    all_pools,
    by_key,
    clients_of,
    counters_by_database,
    database_of,
    servers_of,
)
from pgweir_pooler.console.columns import TOTALS_NAMES
from pgweir_pooler.console.commands import SESSION_SETTINGS
from pgweir_pooler.console.connections import client_rows, server_rows
from pgweir_pooler.console.stats import NOTHING, STATS_PERIOD_S, stats_of, total
from pgweir_pooler.orders import DatabaseKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pgweir_contract.models import Database
    from pgweir_pooler.console.census import Stepwise
    from pgweir_pooler.console.encoding import Row, Rows
    from pgweir_pooler.console.scene import Scene
    from pgweir_pooler.console.stats import Stats
    from pgweir_pooler.directory import Tenant
    from pgweir_pooler.login import Login
    from pgweir_pooler.pool.pool import Pool
    from pgweir_pooler.telemetry import PoolCounters

_US: Final = 1_000_000


def pool_mode(scene: Scene) -> str:
    """A pool serves the clients of all listeners; the first one's mode stands for it where PgBouncer has one mode."""
    return scene.process.cluster.listeners[0].mode.lower()


def pool_rows(scene: Scene) -> Rows:
    mode = pool_mode(scene)
    orders = scene.process.directory.orders
    for key, pools in (yield from by_key(all_pools(scene.process.directory))):
        lent = LentServers(pools)
        waiting = sum(pool.waiting for pool in pools)
        wait_us = int(max(pool.oldest_wait_s() for pool in pools) * _US)
        database = database_of(key)
        yield (
            *(str(database), f"{key.user}.{key.tenant}"),
            *(max(0, clients_of(pools) - waiting), waiting, 0, 0),
            *(lent.active, lent.cancels, lent.being_canceled),
            *(sum(pool.idle for pool in pools), 0, lent.tested, sum(pool.opening for pool in pools)),
            *(wait_us // _US, wait_us % _US, mode, None),
            *(key.tenant, sum(pool.closing for pool in pools), int(orders.is_paused(database))),
            next((error.code for pool in pools if (error := pool.ledger.backoff.error) is not None), None),
        )
    name = scene.console_database
    yield (name, name, len(scene.admins), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "statement", None, None, 0, 0, None)


def database_rows(scene: Scene) -> Rows:
    for _, tenant in sorted(scene.process.directory.tenants.items()):
        for database in tenant.databases.values():
            yield _database(scene, tenant, database)
    name = scene.console_database
    port = scene.process.cluster.listeners[0].port
    yield (name, None, port, name, name, 0, 0, 0, 0, "statement", None, 0, 0, 0, len(scene.admins), 0, 0, None, 0)


def _database(scene: Scene, tenant: Tenant, database: Database) -> Row:
    directory, entry = scene.process.directory, tenant.entry
    key = DatabaseKey(database.name, entry.tenant_id)
    pools = [held.pool for (name, _), held in tenant.pools.items() if name == database.name]
    settings = pool_settings(entry.pool, database.pool)
    instance = directory.instances.get(entry.upstream.instance)
    return (
        *(str(key), entry.upstream.host, entry.upstream.port, database.server_name, None),
        *(settings.size, settings.min_idle, settings.reserve_size, int(settings.server_lifetime)),
        *(pool_mode(scene), None),
        *(instance.ledger.limit if instance is not None else entry.upstream.max_connections, servers_of(pools)),
        *(entry.pool.max_clients, clients_of(pools), int(directory.orders.is_paused(key))),
        *(int(key in directory.orders.disabled), entry.tenant_id, settings.reserve_size),
    )


def user_rows(scene: Scene) -> Rows:
    for tenant_id, tenant in sorted(scene.process.directory.tenants.items()):
        for name, login in tenant.logins.items():
            yield _user(tenant_id, name, login, [held.pool for (_, x), held in tenant.pools.items() if x == name])
    for user in scene.process.cluster.admin.users:
        here = sum(admin.user == user.name for admin in scene.admins)
        yield (user.name, "", "", None, 0, 0, 0, here, None, user.role)


def _user(tenant_id: str, name: str, login: Login, pools: list[Pool]) -> Row:
    entry = login.entry
    size = entry.pool.size if entry.pool else None
    return (
        *(f"{name}.{tenant_id}", "" if size is None else str(size), "", None),
        *(0, servers_of(pools), entry.max_clients or 0, clients_of(pools), tenant_id, None),
    )


def _stats(scene: Scene) -> Iterator[tuple[str, str | None, Stats, Stats] | None]:
    """Database, tenant, totals and averages."""
    averages = scene.averages
    for key, counters in (yield from counters_by_database(all_pools(scene.process.directory))):
        sums = total(map(stats_of, counters))
        yield str(key), key.tenant, sums, averages.average(sums, total(map(averages.before, counters)), scene.now)
    yield scene.console_database, None, NOTHING, NOTHING


def stats_rows(scene: Scene) -> Rows:
    for found in _stats(scene):
        if found is None:
            yield None
            continue
        name, tenant, sums, averages = found
        yield (name, *sums, *averages, tenant, sums[2])


def stats_totals_rows(scene: Scene) -> Rows:
    for found in _stats(scene):
        yield None if found is None else (found[0], *found[2], found[1])


def stats_averages_rows(scene: Scene) -> Rows:
    for found in _stats(scene):
        yield None if found is None else (found[0], *found[3], found[1])


def totals_rows(scene: Scene) -> Rows:
    sums, before = yield from _sums(scene, {pool.counters: None for pool in all_pools(scene.process.directory)})
    averages = scene.averages.average(sums, before, scene.now)
    yield from ((f"total_{name}", value) for name, value in zip(TOTALS_NAMES, sums, strict=True))
    yield from ((f"avg_{name}", value) for name, value in zip(TOTALS_NAMES, averages, strict=True))


def _sums(scene: Scene, counters: Iterable[PoolCounters]) -> Stepwise[tuple[Stats, Stats]]:
    """What pools have done by now, and by the reading that averages begin at."""
    sums = before = NOTHING
    for one in counters:
        sums, before = total((sums, stats_of(one))), total((before, scene.averages.before(one)))
        yield
    return sums, before


def list_rows(scene: Scene) -> Rows:
    process = scene.process
    directory = process.directory
    tenants = directory.tenants.values()
    pools = all_pools(directory)
    servers = 0
    for pool in pools:
        servers += servers_of((pool,))
        yield None
    groups = yield from by_key(pools)
    clients = sum(1 for _ in process.client_sessions()) + len(scene.admins)
    yield "databases", sum(len(tenant.databases) for tenant in tenants) + 1
    yield "users", sum(len(tenant.logins) for tenant in tenants) + len(process.cluster.admin.users)
    yield "peers", 0
    yield "pools", len(groups) + 1
    yield "peer_pools", 0
    yield "free_clients", 0  # memory that is kept for clients to come
    yield "used_clients", clients + process.logins_in_progress
    yield "login_clients", process.logins_in_progress
    yield "free_servers", 0
    yield "used_servers", servers
    yield from (("dns_names", 0), ("dns_zones", 0), ("dns_queries", 0), ("dns_pending", 0))
    # ours
    yield "tenants", len(tenants)
    yield "instances", len(directory.instances)
    yield "paused_databases", len(directory.orders.paused)
    yield "disabled_databases", len(directory.orders.disabled)
    yield "admins", len(scene.admins)


def config_rows(scene: Scene) -> Rows:
    """What holds for the whole process, PgBouncer's names first; what tenants have is in DATABASES and USERS."""
    cluster = scene.process.cluster
    limits, usual = cluster.limits, ClusterLimits()
    first = cluster.listeners[0]
    by_role = {role: ",".join(x.name for x in cluster.admin.users if x.role == role) for role in ("Admin", "Stats")}
    yield "listen_port", str(first.port), "6543", "no"
    yield "pool_mode", pool_mode(scene), "transaction", "no"
    yield "max_client_conn", str(limits.max_clients), str(usual.max_clients), "yes"
    yield "max_db_connections", "0", "0", "no"  # an instance has a limit: `max_connections` of SHOW DATABASES
    yield "max_user_connections", "0", "0", "no"
    yield "client_login_timeout", f"{limits.login_timeout:g}", f"{usual.login_timeout:g}", "yes"
    yield "admin_users", by_role["Admin"], "", "yes"
    yield "stats_users", by_role["Stats"], "", "yes"
    yield "stats_period", f"{STATS_PERIOD_S:g}", f"{STATS_PERIOD_S:g}", "no"
    # ours, as in cluster.json
    yield "cluster", cluster.cluster, "", "no"
    yield "member", scene.process.member, "", "no"
    yield "defaultTenant", cluster.default_tenant or "", "", "yes"
    for listener in cluster.listeners:
        yield f"listeners.{listener.name}", f"{listener.port} {listener.mode}", "", "no"
    yield "limits.maxClients", str(limits.max_clients), str(usual.max_clients), "yes"
    yield "limits.maxHalfOpenLogins", str(limits.max_half_open_logins), str(usual.max_half_open_logins), "yes"
    yield "limits.maxClientsPerAddress", str(limits.max_clients_per_address or 0), "0", "yes"
    yield "limits.maxHalfOpenLoginsPerAddress", str(limits.max_half_open_logins_per_address or 0), "0", "yes"
    rate = limits.login_rate_per_address
    yield "limits.loginRatePerAddress", f"{rate.per_second} {rate.burst}" if rate else "", "", "yes"
    yield "limits.failedLogins.max", str(limits.failed_logins.max), str(usual.failed_logins.max), "yes"
    for name, value, default in (
        ("failedLogins.window", limits.failed_logins.window, usual.failed_logins.window),
        ("failedLogins.block", limits.failed_logins.block, usual.failed_logins.block),
        ("failedLogins.maxBlock", limits.failed_logins.max_block, usual.failed_logins.max_block),
        ("loginTimeout", limits.login_timeout, usual.login_timeout),
        ("clientStallTimeout", limits.client_stall_timeout, usual.client_stall_timeout),
        ("drainTimeout", limits.drain_timeout, usual.drain_timeout),
    ):
        yield f"limits.{name}", render_duration(value), render_duration(default), "yes"


def memory_rows(scene: Scene) -> Rows:
    """Python has no slabs as PgBouncer: the process's memory by kind, in pages."""
    for name, pages in scene.memory.items():
        yield name, scene.page_size, pages, 0, pages * scene.page_size


def state_rows(scene: Scene) -> Rows:
    is_paused = scene.process.directory.orders.is_all_paused
    yield "active", "no" if is_paused else "yes"
    yield "paused", "yes" if is_paused else "no"
    yield "suspended", "no"
    yield "process", scene.process.state  # ours


def version_rows(scene: Scene) -> Rows:
    yield (f"pgweir {scene.process.version}",)


TABLES: Final[dict[str, Callable[[Scene], Rows]]] = {
    "clients": client_rows,
    "config": config_rows,
    "databases": database_rows,
    "lists": list_rows,
    "mem": memory_rows,
    "pools": pool_rows,
    "servers": server_rows,
    "state": state_rows,
    "stats": stats_rows,
    "stats_averages": stats_averages_rows,
    "stats_totals": stats_totals_rows,
    "totals": totals_rows,
    "users": user_rows,
    "version": version_rows,
}


def setting_rows(name: str) -> Rows:
    """One of SESSION_SETTINGS."""
    yield (SESSION_SETTINGS[name],)
