"""A role and a database of one test, on a server that tests share: unique names, nothing is dropped."""

import secrets
from dataclasses import dataclass, field

from harness.address import Address
from pgweir_operator.local_postgres import PostgresServer


@dataclass(frozen=True)
class Database:
    """A database and the role that owns it."""

    server: PostgresServer
    name: str
    user: str
    password: str = field(repr=False)

    @property
    def address(self) -> Address:
        """Straight to PostgreSQL, past any pooler, as the role."""
        return Address(self.server.port, self.user, self.name, self.password)

    @property
    def admin_address(self) -> Address:
        """Straight to PostgreSQL as the superuser."""
        return Address(self.server.port, self.server.user, self.name, self.server.password)

    def sql(self, script: str) -> str:
        """Runs a script in this database as the superuser."""
        return self.server.sql(script, self.name)

    def backends(self) -> list[tuple[int, str]]:
        """(pid, state) of every session of this role: what a pooler holds, as PostgreSQL sees it."""
        rows = self.sql(
            "select pid, coalesce(state, '') from pg_stat_activity"
            f" where usename = '{self.user}' and backend_type = 'client backend' order by pid"
        )
        return [(int(pid), state) for pid, state in (row.split("|") for row in rows.splitlines())]


def create_database(server: PostgresServer, *, prefix: str = "t", connection_limit: int = -1) -> Database:
    """A new role with a random password, and a database of its own."""
    name = f"{prefix}_{secrets.token_hex(6)}"
    password = secrets.token_urlsafe(12)
    server.sql(
        f"create role {name} login password '{password}' connection limit {connection_limit};\n"
        f"create database {name} owner {name} strategy wal_log;"
    )
    return Database(server, name, name, password)
