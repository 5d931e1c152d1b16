"""The tenants that this process serves: who they are, their pools, and the instances these share.

`put` and `remove` change it in place while clients are served: a pool whose settings changed is resized, one whose
endpoint or password changed retires its servers, one that nobody may use any more drains. Clients hold on to their
pool, so a lookup happens once per login.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from pgweir_contract.models import Database, InstanceLimit, PoolSettings, TenantEntry, Upstream, User
from pgweir_contract.pems import pems_of
from pgweir_pooler.errors import Terminated
from pgweir_pooler.orders import DatabaseKey, Orders
from pgweir_pooler.pool.keys import PoolKey, PoolLimits
from pgweir_pooler.pool.pool import Instance, Pool
from pgweir_pooler.pool.slot import Connection, Slot
from pgweir_pooler.session.statements import StatementTable
from pgweir_pooler.session.steps import Identity, Settings
from pgweir_pooler.session.timeouts import Timeouts
from pgweir_pooler.sni_names import SniNames
from pgweir_pooler.telemetry import PoolCounters
from pgweir_pooler.wire.scram import Verifier

if TYPE_CHECKING:
    from pydantic import SecretStr

_SALT_BYTES = 16
# Parameters that were rendered for a login are kept per pool; a tenant whose clients all send other settings than each
# other must not fill memory.
PARAMETER_SETS_PER_POOL = 256


class Endpoint:
    """Where and as whom a pool logs in. Compared to see whether a pool's servers are still the right ones."""

    __slots__ = (
        "always_resets",
        "connect_timeout_s",
        "database",
        "host",
        "max_prepared",
        "passwords",
        "pems",
        "port",
        "tls",
        "user",
    )

    def __init__(
        self,
        upstream: Upstream,
        database: Database,
        user: User,
        settings: PoolSettings,
        pems: Mapping[str, "SecretStr"],
    ) -> None:
        self.host = upstream.host
        self.port = upstream.port
        self.database = database.server_name
        self.user = user.name
        self.passwords = tuple(p.get_secret_value() for p in user.passwords)
        self.connect_timeout_s = upstream.connect_timeout
        self.tls = upstream.tls
        self.pems = pems_of(upstream.tls.pem_refs("upstream.tls"), pems)  # `tls` names them by digest
        self.always_resets = settings.reset == "Always"
        self.max_prepared = settings.max_prepared_statements

    def leads_to_the_same_servers(self, other: "Endpoint") -> bool:
        """Whether servers that were opened for the other endpoint may be kept."""
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__ if name not in _ONLY_FOR_NEW)


_ONLY_FOR_NEW = ("connect_timeout_s", "pems")


# The pool is the one that the slot belongs to: when the tenant has moved, no longer that of the TenantPool.
Connect = Callable[["TenantPool", Pool, Slot], Awaitable[Connection]]


class TenantPool:
    """What the clients of one tenant, database and user share: their pool, and what it takes to fill it.

    Clients hold on to this object. `pool` changes under them when the tenant moves to another database server.
    """

    __slots__ = (
        "counters",
        "endpoint",
        "identity",
        "parameters",
        "pool",
        "server_parameters",
        "statements",
        "tenant",
        "timeouts",
    )

    def __init__(self, tenant: "Tenant", identity: Identity, endpoint: Endpoint) -> None:
        self.tenant = tenant
        self.identity = identity
        self.endpoint = endpoint
        self.counters = PoolCounters()  # of all its pools, one after the other
        self.statements = StatementTable()
        self.pool: Pool  # set by the directory as soon as this object exists, as the next one
        self.timeouts: Timeouts  # of the clients, replaced when they change
        # What the newest server reported at its own login, and ParameterStatus by the settings they were taken under.
        self.server_parameters: dict[bytes, bytes] = {}
        self.parameters: dict[Settings, dict[bytes, bytes]] = {}

    def server_reported(self, parameters: dict[bytes, bytes]) -> None:
        """A server logged in; if it is another one than before (an upgrade, a failover), nothing cached holds."""
        if parameters != self.server_parameters:
            self.server_parameters = dict(parameters)
            self.parameters.clear()

    def remember(self, settings: Settings, parameters: dict[bytes, bytes]) -> None:
        """Keeps what a server reported under these settings."""
        if len(self.parameters) >= PARAMETER_SETS_PER_POOL:
            self.parameters.pop(next(iter(self.parameters)))
        self.parameters[settings] = dict(parameters)


class Login:
    """A user of a tenant, as far as logging in goes."""

    __slots__ = ("_verifier", "entry")

    def __init__(self, entry: User) -> None:
        self.entry = entry
        self._verifier: Verifier | None = None

    def verifier(self) -> Verifier:
        """The user's SCRAM verifier; made from the password at the first login (1-2 ms) and kept."""
        if self._verifier is None:
            password = self.entry.passwords[0].get_secret_value()  # `support` lets no user in without one
            self._verifier = Verifier.from_password(password, secrets.token_bytes(_SALT_BYTES))
        return self._verifier


class Tenant:
    """One tenant: its users, databases and pools."""

    def __init__(self, entry: TenantEntry) -> None:
        self.entry = entry
        self.logins: dict[str, Login] = {}  # by the name that clients log in with
        self.databases: dict[str, Database] = {}
        self.pools: dict[tuple[str, str], TenantPool] = {}  # by database and login name; made at the first login
        self.learn(entry)

    def learn(self, entry: TenantEntry) -> None:
        """Takes over users and databases; verifiers that are still right are kept."""
        self.entry = entry
        logins = {u.login_name: Login(u) for u in entry.users}
        for name, login in logins.items():
            known = self.logins.get(name)
            if known is not None and _same_credentials(known.entry, login.entry):
                known.entry = login.entry
                logins[name] = known
        self.logins = logins
        self.databases = {d.name: d for d in entry.databases}

    def database_for(self, login: Login, name: str) -> Database | None:
        """The database if the tenant has it and the user may connect to it."""
        allowed = login.entry.databases
        if allowed is not None and name not in allowed:
            return None
        return self.databases.get(name)


class Directory:
    """All tenants and instances of this process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connect: Connect) -> None:
        self._loop = loop
        self._connect = connect
        self._random = random.Random()
        self.tenants: dict[str, Tenant] = {}
        self.instances: dict[str, Instance] = {}  # by host:port; kept as long as the process
        # By digest: the PEM texts that the entries in `tenants` name, of which some may have left the files.
        self.pems: dict[str, SecretStr] = {}
        self.sni = SniNames()
        self._limits: dict[str, int] = {}  # of cluster.json, by host:port
        self._tenants_on: dict[str, dict[str, int]] = {}  # by host:port: each tenant's `maxConnections`
        self.orders = Orders()
        # Told about each TenantPool that nobody may use any more; set by the composition root.
        self.on_removed: Callable[[TenantPool, str], None] = lambda _held, _why: None
        self.departed: set[Pool] = set()  # pools that drain; each removes itself when its last server is gone

    def pools(self) -> Iterator[Pool]:
        """All pools that serve, in no order."""
        for tenant in self.tenants.values():
            for entry in tenant.pools.values():
                yield entry.pool

    def limit_instances(self, limits: tuple[InstanceLimit, ...]) -> None:
        """Takes over the instances' limits of cluster.json."""
        self._limits = {x.instance: x.max_connections for x in limits}
        for key in self._tenants_on:
            self._resize_instance(key)

    def put(self, entry: TenantEntry) -> None:
        """Adds a tenant, or changes it in place."""
        tenant = self.tenants.get(entry.tenant_id)
        if tenant is not None and tenant.entry == entry:
            return
        instance = entry.upstream.instance
        if tenant is not None and tenant.entry.upstream.instance != instance:
            self._leave_instance(tenant)
        self.sni.put(entry.tenant_id, entry.sni_hostnames)
        self._tenants_on.setdefault(instance, {})[entry.tenant_id] = entry.upstream.max_connections
        self._resize_instance(instance)
        if tenant is None:
            self.tenants[entry.tenant_id] = Tenant(entry)
            return
        tenant.learn(entry)
        for key, held in list(tenant.pools.items()):
            self._refit(tenant, key, held)

    def remove(self, tenant_id: str) -> None:
        """Forgets a tenant; its pools drain."""
        tenant = self.tenants.pop(tenant_id, None)
        if tenant is None:
            return
        for held in tenant.pools.values():
            self._dismiss(held, "the tenant was removed")
        self._leave_instance(tenant)
        self.sni.remove(tenant_id)
        self.orders.forget_tenant(tenant_id)

    def forget_pems(self) -> None:
        """Drops the PEM texts that no tenant names."""
        if self.pems:
            self.pems = pems_of((ref for t in self.tenants.values() for ref in t.entry.pem_refs()), self.pems)

    def pool_for(self, tenant: Tenant, database: Database, login: Login) -> TenantPool:
        """The pool of an authenticated client; made when it is the first."""
        key = (database.name, login.entry.login_name)
        held = tenant.pools.get(key)
        if held is None:
            held = self._make(tenant, database, login)
            tenant.pools[key] = held
        return held

    def warm(self, tenant: Tenant) -> None:
        """Makes the pools that keep idle servers (`minIdle`) before a client asks for them."""
        for login in tenant.logins.values():
            for database in tenant.databases.values():
                is_allowed = tenant.database_for(login, database.name) is not None
                if is_allowed and tenant.entry.pool_settings(database, login.entry).min_idle:
                    self.pool_for(tenant, database, login)

    def _make(self, tenant: Tenant, database: Database, login: Login) -> TenantPool:
        identity = Identity(tenant.entry.tenant_id, login.entry.login_name, database.name)
        settings = tenant.entry.pool_settings(database, login.entry)
        held = TenantPool(tenant, identity, Endpoint(tenant.entry.upstream, database, login.entry, settings, self.pems))
        held.timeouts = _timeouts(settings)
        self._give_pool(held, settings)
        return held

    def _give_pool(self, held: TenantPool, settings: PoolSettings) -> None:
        who = held.identity
        held.pool = Pool(
            PoolKey(who.tenant, who.database, who.user),
            _limits(settings, held.endpoint),
            self._instance(held.tenant.entry.upstream),
            lambda pool, slot: self._connect(held, pool, slot),
            held.counters,
        )
        if self.orders.is_paused(DatabaseKey(who.database, who.tenant)):
            held.pool.pause()

    def _refit(self, tenant: Tenant, key: tuple[str, str], held: TenantPool) -> None:
        """Brings one pool to its tenant's new entry."""
        database_name, login_name = key
        login = tenant.logins.get(login_name)
        database = tenant.database_for(login, database_name) if login else None
        if login is None or database is None:
            del tenant.pools[key]
            self._dismiss(held, "the user or the database was removed")
            return
        before = held.endpoint
        settings = tenant.entry.pool_settings(database, login.entry)
        held.endpoint = endpoint = Endpoint(tenant.entry.upstream, database, login.entry, settings, self.pems)
        held.timeouts = _timeouts(settings)
        if (endpoint.host, endpoint.port) != (before.host, before.port):
            # Another instance has a budget of its own: a new pool there, and the old one drains. Clients follow at
            # their next transaction.
            held.parameters.clear()
            departing = held.pool
            self._give_pool(held, settings)
            self._drain(departing, "the tenant moved to another database server")
            return
        if not endpoint.leads_to_the_same_servers(before):
            held.parameters.clear()
            held.pool.retire()
        held.pool.resize(_limits(settings, endpoint))

    def _dismiss(self, held: TenantPool, why: str) -> None:
        self._drain(held.pool, why)
        self.on_removed(held, why)

    def _drain(self, pool: Pool, why: str) -> None:
        self.departed.add(pool)
        pool.closed.add_done_callback(lambda _: self.departed.discard(pool))
        pool.drain(Terminated(why))

    def _instance(self, upstream: Upstream) -> Instance:
        key = upstream.instance
        instance = self.instances.get(key)
        if instance is None:
            instance = Instance(key, self._limit_of(key), self._loop, self._random, time.monotonic)
            self.instances[key] = instance
        return instance

    def _limit_of(self, key: str) -> int:
        """cluster.json's word for the instance, else the smallest `maxConnections` among its tenants."""
        limit = self._limits.get(key)
        if limit is not None:
            return limit
        return min(self._tenants_on.get(key, {}).values(), default=1)

    def _leave_instance(self, tenant: Tenant) -> None:
        key = tenant.entry.upstream.instance
        there = self._tenants_on[key]
        del there[tenant.entry.tenant_id]
        if there:
            self._resize_instance(key)
        else:
            del self._tenants_on[key]  # its servers drain under the limit that they had

    def _resize_instance(self, key: str) -> None:
        instance = self.instances.get(key)
        if instance is not None and instance.ledger.limit != self._limit_of(key):
            instance.resize(self._limit_of(key))


def _same_credentials(one: User, other: User) -> bool:
    return one.passwords == other.passwords


def _timeouts(settings: PoolSettings) -> Timeouts:
    return Timeouts(
        query_s=settings.query_timeout,
        transaction_s=settings.transaction_timeout,
        idle_transaction_s=settings.idle_transaction_timeout,
        client_idle_s=settings.client_idle_timeout,
        wait_notify_s=settings.query_wait_notify,
    )


def _limits(settings: PoolSettings, endpoint: Endpoint) -> PoolLimits:
    return PoolLimits(
        size=settings.size,
        min_idle=settings.min_idle,
        queue_timeout_s=settings.queue_timeout,
        server_idle_timeout_s=settings.server_idle_timeout,
        server_lifetime_s=settings.server_lifetime,
        connect_timeout_s=endpoint.connect_timeout_s,
    )
