"""Tenants and logins for the tests of credentials: what a client hears, in one call."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from pydantic import SecretStr

from harness.address import Address
from harness.config import tenant
from harness.databases import Database
from harness.pooler import Pooler
from pgweir_contract.models import Auth, TenantEntry, User

WRONG = "password authentication failed for user"


def secrets(*texts: str) -> tuple[SecretStr, ...]:
    return tuple(SecretStr(text) for text in texts)


def with_user(
    database: Database, *, auth: Auth | None = None, pool: dict[str, Any] | None = None, **user: Any
) -> TenantEntry:
    """A tenant whose one user has other credentials than the plain one's."""
    entry = tenant(database, **(pool or {}))
    changed = User(**({"name": database.user} | user))
    return entry.model_copy(update={"users": (changed,), "auth": auth or Auth()})


def at(seconds: float) -> datetime:
    """A moment, so many seconds from now."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


def through(process: Pooler, database: Database, password: str, *, user: str = "", tenant_id: str = "acme") -> Address:
    """The way of one user; the tenant is named by a dot."""
    return Address(process.port(), f"{user or database.user}.{tenant_id}", database.name, password)


def query(address: Address, sql: str = "select current_user") -> str:
    """The one value of a query after a login of its own; an error's text when there is none."""
    try:
        with psycopg.connect(address.dsn, autocommit=True) as connection:
            row = connection.execute(sql).fetchone()
            assert row is not None
            return str(row[0])
    except psycopg.Error as error:
        return f"{error.sqlstate or ''} {error}"


def stored(database: Database, role: str = "") -> str:
    """What PostgreSQL keeps of a role's password."""
    return database.server.sql(f"select rolpassword from pg_authid where rolname = '{role or database.user}'").strip()


def set_password(database: Database, password: str, *, role: str = "", method: str = "scram-sha-256") -> None:
    """Changes a role's password at PostgreSQL."""
    database.server.sql(
        f"set password_encryption = '{method}'; alter role {role or database.user} password '{password}'"
    )


def pool_error(process: Pooler, user: str, tenant_id: str = "acme") -> str | None:
    """Why the user's pool opens no server, as `/status` says."""
    for found in process.status()["tenants"]:
        for pool in found["pools"]:
            if (found["tenantId"], pool["user"]) == (tenant_id, user):
                error: str | None = pool.get("error")
                return error
    return "no pool"
