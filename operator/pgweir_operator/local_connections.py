"""How clients connect: one connection string and one psql line per tenant and listener."""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from pgweir_contract.models import Database, Listener, PoolSettings, TenantEntry, User
from pgweir_operator.local_pooler import ADDRESS

TENANTS_SHOWN = 20  # two lines for each listener: more would scroll everything else away


@dataclass(frozen=True, slots=True)
class Login:
    """One user of one database of a tenant, and the settings of the pool that serves them."""

    tenant: str
    user: str  # as the client writes it: `user.tenant`
    database: str
    password: str = field(repr=False)  # empty when only a verifier is known
    pool: PoolSettings


def logins_of(entry: TenantEntry) -> list[Login]:
    """Every pair of user and database of a tenant that may connect, in the order of the manifest."""
    return [
        _login(entry, user, database)
        for user in entry.users
        for database in entry.databases
        if user.databases is None or database.name in user.databases
    ]


def _login(entry: TenantEntry, user: User, database: Database) -> Login:
    return Login(
        tenant=entry.tenant_id,
        user=f"{user.login_name}.{entry.tenant_id}",
        database=database.name,
        password=user.passwords[0].get_secret_value() if user.passwords else "",
        pool=entry.pool_settings(database, user),
    )


def connection_lines(
    entries: Iterable[TenantEntry],
    listeners: Iterable[Listener],
    ports: Mapping[str, int],
    *,
    shows_passwords: bool,
    psql: str = "psql",
) -> Iterator[str]:
    """The lines to print; without `shows_passwords` no password is in them."""
    listeners = list(listeners)
    entries = list(entries)
    for entry in entries[:TENANTS_SHOWN]:
        if not entry.users:
            yield f"tenant {entry.tenant_id}: its users are looked up in its database; log in as USER.{entry.tenant_id}"
        for login in logins_of(entry)[:1]:
            yield f"tenant {login.tenant}:"
            for listener in listeners:
                port = ports[listener.name]
                yield f"  {listener.mode.lower():<12} {_url(login, port, shows_passwords=shows_passwords)}"
                yield f"  {'':<12} {_psql(login, port, psql, shows_passwords=shows_passwords)}"
    if len(entries) > TENANTS_SHOWN:
        yield f"and {len(entries) - TENANTS_SHOWN} tenants more"


def _url(login: Login, port: int, *, shows_passwords: bool) -> str:
    password = f":{quote(login.password, safe='')}" if shows_passwords and login.password else ""
    return f"postgresql://{quote(login.user, safe='')}{password}@{ADDRESS}:{port}/{quote(login.database, safe='')}"


def _psql(login: Login, port: int, psql: str, *, shows_passwords: bool) -> str:
    password = shlex.quote(login.password) if shows_passwords and login.password else "…"
    words = f"host={ADDRESS} port={port} user={_value(login.user)} dbname={_value(login.database)}"
    return f"PGPASSWORD={password} {shlex.quote(psql)} {shlex.quote(words)}"


def _value(text: str) -> str:
    """A value in a libpq connection string."""
    if text and not any(c in " '\\" for c in text):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
