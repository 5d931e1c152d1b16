"""The demo's load: clients over the tenants, a live table from the pooler's metrics, a summary that is checked.

How many servers there were is PostgreSQL's own word, asked every second while the clients run.
"""

import asyncio
import contextlib
import http.client
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pgweir_contract.models import TenantEntry
from pgweir_operator.demo_client import Target
from pgweir_operator.demo_load import DemoLoad
from pgweir_operator.demo_metrics import TenantRate, TenantSample, rates, read_samples
from pgweir_operator.local_cluster import LocalCluster
from pgweir_operator.local_connections import Login, logins_of
from pgweir_operator.local_demo_postgres import DemoPostgres
from pgweir_operator.local_manifests import BadManifests, Rendered
from pgweir_operator.local_pooler import ADDRESS
from pgweir_operator.local_screen import Screen

TICK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Which listener and logins the clients use, and how many servers that may take."""

    listener: str
    logins: Mapping[str, Sequence[Login]]  # by tenant
    most_servers: int


def plan_load(rendered: Rendered, clients: int) -> Plan:
    """Raises BadManifests when the manifests do not allow so many clients."""
    listeners = [x.name for x in rendered.cluster.spec.listeners if x.mode != "Session"]
    if not listeners:
        raise BadManifests(["the demo needs a listener in Transaction mode"])
    logins = {name: [x for x in logins_of(entry) if x.password][:clients] for name, entry in rendered.entries.items()}
    logins = {name: found for name, found in logins.items() if found}
    if not logins:
        raise BadManifests(["the demo needs a Tenant with a user that has a password"])
    _check_limits(rendered, clients, len(logins))
    used = _used(logins, clients)
    limit = min(rendered.entries[login.tenant].upstream.max_connections for login in used)
    return Plan(listeners[0], logins, min(limit, sum(login.pool.size for login in used)))


def _used(logins: Mapping[str, Sequence[Login]], clients: int) -> list[Login]:
    """The logins that get a client when `clients` are dealt out."""
    used: list[Login] = []
    for i, found in enumerate(logins.values()):
        share = (clients - i + len(logins) - 1) // len(logins)
        used += found[:share]
    return used


def _check_limits(rendered: Rendered, clients: int, tenants: int) -> None:
    most = rendered.cluster.spec.limits.max_clients_per_pod
    if clients > most:
        raise BadManifests([f"--clients {clients}: the PoolerCluster takes {most} (spec.limits.maxClientsPerPod)"])
    share = -(-clients // tenants)
    for entry in rendered.entries.values():
        most = min([entry.pool.max_clients, *_user_limits(entry)])
        if share > most:
            raise BadManifests([f"--clients {clients}: that is {share} per tenant, {entry.tenant_id} takes {most}"])


def _user_limits(entry: TenantEntry) -> list[int]:
    return [user.max_clients for user in entry.users if user.max_clients is not None]


class Demo:
    """One run of the load."""

    def __init__(self, cluster: LocalCluster, postgres: DemoPostgres, screen: Screen, clients: int) -> None:
        self._cluster = cluster
        self._postgres = postgres
        self._screen = screen
        plan = plan_load(cluster.rendered, clients)
        self._most_servers = plan.most_servers  # that the pools have allowed at any time
        port = cluster.pooler.ports[plan.listener]
        targets = {
            tenant: [Target(ADDRESS, port, login.user, login.database, login.password) for login in logins]
            for tenant, logins in plan.logins.items()
        }
        self._load = DemoLoad(targets, clients)
        self._peak_servers = 0
        self._opened_servers = 0

    async def run(self, duration_s: float | None, stop: asyncio.Event) -> None:
        """Connects the clients and lets them ask, for `duration_s` seconds (None: without end) or until `stop`."""
        connecting = asyncio.create_task(self._load.connect(self._show_connected), name="connect the demo's clients")
        stopping = asyncio.create_task(stop.wait(), name="wait for the end of the demo")
        try:
            await asyncio.wait((connecting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                await connecting
                self._load.start()
                await self._watch(duration_s, stopping)
        finally:
            self._screen.close()
            for task in (connecting, stopping):
                task.cancel()
            await asyncio.gather(connecting, stopping, return_exceptions=True)
            await self._load.stop()
        await self._count_servers()

    def summary(self) -> tuple[list[str], bool]:
        """The lines that sum it up, and whether all went well."""
        total = self._load.total()
        clients, peak, most = self._load.connected, self._peak_servers, self._most_servers
        lines = [
            f"{clients} clients served by {peak} servers, {total.queries} queries, {total.errors} errors",
            f"  clients saw p50 {total.quantile(0.5) * 1e3:.2f} ms, p99 {total.quantile(0.99) * 1e3:.2f} ms",
            f"  PostgreSQL saw {peak} servers at a time, {self._opened_servers} in all; {most} are allowed",
        ]
        lines += [f"  error: {text}" for text in dict.fromkeys(total.examples)]
        is_good = not total.errors and clients == self._load.wanted and 0 < peak <= most
        return lines, is_good and total.queries > 0

    # --- inside

    def _show_connected(self, count: int) -> None:
        self._screen.progress("clients connected", count, self._load.wanted)

    async def _watch(self, duration_s: float | None, stopping: asyncio.Task[bool]) -> None:
        began = sampled_at = time.monotonic()
        self._screen.progress("seconds of load", 0, duration_s)
        sample = await self._sample()
        while not stopping.done():
            now = time.monotonic()
            if duration_s is not None and now - began >= duration_s:
                return
            left_s = TICK_S if duration_s is None else min(TICK_S, began + duration_s - now)
            await asyncio.wait((stopping,), timeout=left_s)
            after, sampled_before, sampled_at = await self._sample(), sampled_at, time.monotonic()
            await self._count_servers()
            self._show(rates(sample, after, sampled_at - sampled_before))
            self._screen.progress("seconds of load", sampled_at - began, duration_s)
            sample = after

    def _show(self, rows: list[TenantRate]) -> None:
        total = self._load.total()
        self._screen.table(
            rows,
            f"{total.queries} queries, {total.errors} errors; clients see p50 {total.quantile(0.5) * 1e3:.2f} ms,"
            f" p99 {total.quantile(0.99) * 1e3:.2f} ms; PostgreSQL has seen {self._peak_servers} servers",
        )

    async def _count_servers(self) -> None:
        count = await self._postgres.count_servers()
        self._peak_servers = max(self._peak_servers, count.now)
        self._opened_servers = max(self._opened_servers, count.ever, self._peak_servers)
        with contextlib.suppress(BadManifests):  # somebody may edit the manifests meanwhile
            plan = plan_load(self._cluster.rendered, self._load.wanted)
            self._most_servers = max(self._most_servers, plan.most_servers)

    async def _sample(self) -> dict[str, TenantSample]:
        try:
            code, text = await asyncio.to_thread(self._cluster.pooler.get, "/metrics")
            return read_samples(text.decode()) if code == 200 else {}
        except (OSError, http.client.HTTPException, ValueError):
            return {}  # the table shows nothing for a second; whether the pooler lives is somebody else's watch
