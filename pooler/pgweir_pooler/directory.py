"""The tenants that this process serves: who they are, their pools, and the instances these share.

`put` and `remove` change it in place while clients are served: a pool whose settings changed is resized, one whose
endpoint or password changed retires its servers, one that nobody may use any more drains. Clients hold on to their
pool, so a lookup happens once per login.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from pgweir_contract.models import Database, InstanceLimit, PoolSettings, TenantEntry, Upstream
from pgweir_contract.pems import pems_of
from pgweir_pooler.admission.addresses import Networks
from pgweir_pooler.credentials import Credentials, Stored
from pgweir_pooler.errors import Terminated, TooManyUsers
from pgweir_pooler.login import Login
from pgweir_pooler.orders import DatabaseKey, Orders
from pgweir_pooler.pool.keys import PoolKey, PoolLimits
from pgweir_pooler.pool.pool import Instance, Pool
from pgweir_pooler.pool.slot import Connection, Slot
from pgweir_pooler.session.statements import StatementTable
from pgweir_pooler.session.steps import Identity, Settings
from pgweir_pooler.session.timeouts import Timeouts
from pgweir_pooler.sni_names import SniNames
from pgweir_pooler.telemetry import PoolCounters
from pgweir_pooler.user_cache import Found, UserCache

if TYPE_CHECKING:
    from pydantic import SecretStr

# Parameters that were rendered for a login are kept per pool; a tenant whose clients all send other settings than each
# other must not fill memory.
PARAMETER_SETS_PER_POOL = 256
LOOKUP_IDLE_S = 60.0  # a connection that users are looked up on stays for so long when nobody is


class Endpoint:
    """Where and as whom a pool logs in. Compared to see whether a pool's servers are still the right ones."""

    __slots__ = (
        "always_resets",
        "connect_timeout_s",
        "credentials",
        "database",
        "host",
        "max_prepared",
        "pems",
        "port",
        "tls",
        "user",
    )

    def __init__(
        self,
        upstream: Upstream,
        database: Database,
        login: "Login",
        settings: PoolSettings,
        pems: Mapping[str, "SecretStr"],
    ) -> None:
        self.host = upstream.host
        self.port = upstream.port
        self.database = database.server_name
        self.user = login.entry.name
        self.credentials = login.credentials
        self.connect_timeout_s = upstream.connect_timeout
        self.tls = upstream.tls
        self.pems = pems_of(upstream.tls.pem_refs("upstream.tls"), pems)  # `tls` names them by digest
        self.always_resets = settings.reset == "Always"
        self.max_prepared = settings.max_prepared_statements

    def leads_to_the_same_servers(self, other: "Endpoint") -> bool:
        """Whether servers that were opened for the other endpoint may be kept."""
        is_alike = all(getattr(self, x) == getattr(other, x) for x in self.__slots__ if x not in _NOT_COMPARED)
        return is_alike and self.credentials.is_akin(other.credentials)


# The first two are for new servers, the last compares by itself.
_NOT_COMPARED = ("connect_timeout_s", "pems", "credentials")


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
        "is_for_lookups",
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
        self.is_for_lookups = False  # its one server looks users up; no client has anything to do with it
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


class Tenant:
    """One tenant: its users, databases and pools."""

    def __init__(self, entry: TenantEntry) -> None:
        self.entry = entry
        self.logins: dict[str, Login] = {}  # by the name that clients log in with
        self.databases: dict[str, Database] = {}
        self.networks = Networks()
        self.pools: dict[tuple[str, str], TenantPool] = {}  # by database and login name; made at the first login
        self.users: UserCache | None = None  # of those that are not listed; None where nobody is looked up
        self.lookups: TenantPool | None = None  # made when somebody is looked up first
        self.lookup_problem = ""  # why the last lookup failed, if it did
        self.learn(entry)

    def learn(self, entry: TenantEntry) -> None:
        """Takes over users and databases; verifiers that are still right, and what was proved of them, are kept."""
        self._learn_auth(self.entry, entry)
        self.entry = entry
        logins = {u.login_name: Login(u, Credentials.of(u)) for u in entry.users}
        for name, login in logins.items():
            known = self.logins.get(name)
            if known is not None and known.credentials.is_same(login.credentials):
                known.entry = login.entry
                logins[name] = known
            elif known is not None:
                login.credentials.take_over(known.credentials)
        self.logins = logins
        self.databases = {d.name: d for d in entry.databases}
        self.networks = Networks.of(entry)

    def login_of(self, name: str) -> Login | None:
        """The user that clients call so: a listed one, or one that was looked up."""
        login = self.logins.get(name)
        return login if login is not None or self.users is None else self.users.login(name)

    def users_failed(self, name: str, now: float) -> None:
        """The user could not be looked up."""
        if self.users is not None:
            self.users.failed(name, now)

    def _learn_auth(self, before: TenantEntry, entry: TenantEntry) -> None:
        if entry.auth.mode != "AuthQuery":
            self.users = None
        elif self.users is None:
            self.users = UserCache(entry.auth.cache_ttl)
        else:
            self.users.ttl_s = entry.auth.cache_ttl
            if _lookup(before) != _lookup(entry):
                self.users.outdate()

    def usual_secret(self) -> Stored | None:
        """What users of the tenant have who have no password here, so that those who are not there look alike."""
        for login in self.logins.values():
            for secret in login.credentials.stored(0.0):
                return secret
        return self.users.usual if self.users is not None else None

    def retry_pools(self, name: str) -> None:
        """Servers of the user can be opened that could not be before."""
        for (_, user), held in self.pools.items():
            if user == name:
                held.pool.retry()

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
        # Told about each tenant that is changed while it rejects its clients; set likewise.
        self.on_rejected: Callable[[Tenant], None] = lambda _tenant: None
        self.departed: set[Pool] = set()  # pools that drain; each removes itself when its last server is gone
        self.departed_lookups: set[Pool] = set()  # those of lookups

    def pools(self) -> Iterator[Pool]:
        """All pools that serve, in no order."""
        for tenant in self.tenants.values():
            for entry in tenant.pools.values():
                yield entry.pool

    def lookup_pools(self) -> Iterator[Pool]:
        """The pools of lookups, those that drain too; they are not the clients' and so not in `pools`."""
        for tenant in self.tenants.values():
            if tenant.lookups is not None:
                yield tenant.lookups.pool
        yield from self.departed_lookups

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
        is_pause_news = self.orders.pause_tenant(entry.tenant_id, is_paused=entry.paused)
        if tenant is None:
            self.tenants[entry.tenant_id] = Tenant(entry)
            return
        tenant.learn(entry)
        if entry.access.mode == "Reject":
            self.on_rejected(tenant)
        for key, held in list(tenant.pools.items()):
            self._refit(tenant, key, held)
        self._refit_lookups(tenant)
        if is_pause_news:
            for held in tenant.pools.values():
                self._pause_or_resume(held)

    def _pause_or_resume(self, held: TenantPool) -> None:
        if self.orders.is_paused(DatabaseKey(held.identity.database, held.identity.tenant)):
            held.pool.pause()
        else:
            held.pool.resume()

    def remove(self, tenant_id: str) -> None:
        """Forgets a tenant; its pools drain."""
        tenant = self.tenants.pop(tenant_id, None)
        if tenant is None:
            return
        for held in tenant.pools.values():
            self._dismiss(held, "the tenant was removed")
        self._end_lookups(tenant)
        self._leave_instance(tenant)
        self.sni.remove(tenant_id)
        self.orders.forget_tenant(tenant_id)

    def forget_pems(self) -> None:
        """Drops the PEM texts that no tenant names."""
        if self.pems:
            self.pems = pems_of((ref for t in self.tenants.values() for ref in t.entry.pem_refs()), self.pems)

    def pool_for(self, tenant: Tenant, database: Database, login: Login) -> TenantPool:
        """The pool of an authenticated client; made when it is the first. Raises TooManyUsers."""
        key = (database.name, login.entry.login_name)
        held = tenant.pools.get(key)
        if held is None:
            if not login.is_listed:
                self._make_room(tenant, login)
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
        held = TenantPool(tenant, identity, Endpoint(tenant.entry.upstream, database, login, settings, self.pems))
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
        login = tenant.login_of(login_name)
        database = tenant.database_for(login, database_name) if login else None
        if login is None or database is None:
            del tenant.pools[key]
            self._dismiss(held, "the user or the database was removed")
            return
        before = held.endpoint
        settings = tenant.entry.pool_settings(database, login.entry)
        held.endpoint = endpoint = Endpoint(tenant.entry.upstream, database, login, settings, self.pems)
        held.timeouts = _timeouts(settings)
        if (endpoint.host, endpoint.port) != (before.host, before.port):
            # Another instance has a budget of its own: a new pool there, and the old one drains. Clients follow at
            # their next transaction.
            held.parameters.clear()
            departing = held.pool
            self._give_pool(held, settings)
            self._drain(departing, "the tenant moved to another database server", self.departed)
            return
        if not endpoint.leads_to_the_same_servers(before):
            held.parameters.clear()
            held.pool.retire()
        elif endpoint.credentials is not before.credentials:
            held.pool.retry()
        held.pool.resize(_limits(settings, endpoint))

    # --- users that are not listed

    def lookup_pool(self, tenant: Tenant) -> TenantPool | None:
        """Where the tenant's users are looked up; None when they are not, or no longer."""
        entry = tenant.entry
        if entry.auth.mode != "AuthQuery" or self.tenants.get(entry.tenant_id) is not tenant:
            return None
        if tenant.lookups is None:
            identity = Identity(entry.tenant_id, entry.auth.user or "", entry.auth.database or "")
            tenant.lookups = held = TenantPool(tenant, identity, _lookup_endpoint(entry, self.pems))
            held.is_for_lookups = True
            self._give_pool(held, _lookup_settings(entry))
        return tenant.lookups

    def user_found(self, tenant: Tenant, name: str, found: Found | None, now: float) -> None:
        """A user was looked up. The clients of one that is no more leave at their next transaction boundary."""
        if tenant.users is None:
            return
        if found is not None:
            tenant.users.found(name, Login.looked_up(name), found, now)
            tenant.users.trim({user for _, user in tenant.pools})
        elif tenant.users.nobody(name, now) and name not in tenant.logins:
            for key in [key for key in tenant.pools if key[1] == name]:
                self._dismiss(tenant.pools.pop(key), "the user was removed")

    def _make_room(self, tenant: Tenant, login: Login) -> None:
        """At most `auth.maxUsers` have pools; those without clients and servers give theirs up."""
        limit = tenant.entry.auth.max_users
        users = {user for _, user in tenant.pools if user not in tenant.logins}
        if login.entry.login_name in users or len(users) < limit:
            return
        for key, held in list(tenant.pools.items()):
            if key[1] in users and not held.counters.clients and held.pool.ledger.is_empty:
                self._dismiss(tenant.pools.pop(key), "nobody uses it")
        if len({user for _, user in tenant.pools if user not in tenant.logins}) >= limit:
            raise TooManyUsers(f"too many users: {limit} have clients or servers", hint="The tenant's auth.maxUsers.")

    def _refit_lookups(self, tenant: Tenant) -> None:
        held = tenant.lookups
        if held is None:
            return
        before, entry = held.endpoint, tenant.entry
        after = _lookup_endpoint(entry, self.pems)
        if entry.auth.mode != "AuthQuery" or (after.host, after.port) != (before.host, before.port):
            self._end_lookups(tenant)  # the next one is made when it is needed
            return
        held.endpoint = after
        if not after.leads_to_the_same_servers(before):
            held.pool.retire()
        elif not after.credentials.is_same(before.credentials):
            held.pool.retry()
        held.pool.resize(_limits(_lookup_settings(entry), after))

    def _end_lookups(self, tenant: Tenant) -> None:
        held, tenant.lookups = tenant.lookups, None
        if held is not None:
            self._drain(held.pool, "users are no longer looked up here", self.departed_lookups)

    def _dismiss(self, held: TenantPool, why: str) -> None:
        self._drain(held.pool, why, self.departed)
        self.on_removed(held, why)

    def _drain(self, pool: Pool, why: str, departed: set[Pool]) -> None:
        departed.add(pool)
        pool.closed.add_done_callback(lambda _: departed.discard(pool))
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


def _lookup(entry: TenantEntry) -> tuple[object, ...]:
    """What the answer about a user depends on."""
    return entry.auth.query, _lookup_database(entry), entry.auth.user, entry.upstream.host, entry.upstream.port


def _lookup_database(entry: TenantEntry) -> str:
    return entry.auth.database or entry.databases[0].server_name


def _lookup_endpoint(entry: TenantEntry, pems: Mapping[str, "SecretStr"]) -> Endpoint:
    role = Login.looked_up(entry.auth.user or "")
    role.credentials = Credentials(tuple(secret.get_secret_value() for secret in entry.auth.passwords))
    return Endpoint(entry.upstream, Database(name=_lookup_database(entry)), role, _lookup_settings(entry), pems)


def _lookup_settings(entry: TenantEntry) -> PoolSettings:
    return PoolSettings(size=1, queue_timeout=entry.upstream.connect_timeout, server_idle_timeout=LOOKUP_IDLE_S)


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
