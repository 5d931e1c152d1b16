"""The demo's PostgreSQL: one server that stands in for all tenants' upstreams, with their roles and databases."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pgweir_contract.models import TenantEntry
from pgweir_operator.local_demo_manifests import with_one_server
from pgweir_operator.local_postgres import PostgresServer, embedded_bin_dir
from pgweir_operator.resources import Manifests

MAX_SERVERS: Final = 400  # what all tenants together may open
_SPARE_CONNECTIONS: Final = 20  # PostgreSQL's own reserve, and our questions


@dataclass(frozen=True, slots=True)
class ServerCount:
    """Server connections of tenants, as PostgreSQL counts them."""

    now: int
    ever: int  # sessions since the start; of those that run, only what they have reported (after about a second)


# The server is the demo's own: every other database than the superuser's is a tenant's.
_COUNT_SERVERS: Final = """
select (select count(*) from pg_stat_activity where backend_type = 'client backend' and usename <> current_user),
       (select sum(sessions)::bigint from pg_stat_database where datname <> current_database());
"""


class DemoPostgres:
    """A PostgreSQL 18 with a role and a database for each of the tenants'. Starting and SQL block."""

    def __init__(self, servers_per_pool: int | None = None) -> None:
        self._servers_per_pool = servers_per_pool
        settings = {"max_connections": str(MAX_SERVERS + _SPARE_CONNECTIONS)}
        self._server = PostgresServer(embedded_bin_dir(), settings=settings)
        self._roles: dict[str, str] = {}  # name -> password, as created
        self._databases: set[str] = set()
        self._own_sessions = 0  # that we have had in the tenants' databases

    def start(self) -> None:
        """Raises LocalPostgresError."""
        self._server.start()

    def stop(self) -> None:
        """Ends the server and removes its data."""
        self._server.stop()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.port

    @property
    def version(self) -> str:
        """As in `18.1`."""
        return self._server.sql("show server_version")

    def adapt(self, manifests: Manifests) -> Manifests:
        """The same manifests with this server, which must run, as everybody's upstream."""
        return with_one_server(manifests, self._server.host, self.port, MAX_SERVERS, self._servers_per_pool)

    # --- roles and databases

    async def ensure(self, entries: list[TenantEntry]) -> None:
        """Creates what is missing; a changed password is set."""
        await asyncio.to_thread(self._ensure, entries)

    def _ensure(self, entries: list[TenantEntry]) -> None:
        for entry in entries:
            self._server.sql("\n".join(self._roles_script(entry)))
            users = ", ".join(_identifier(user.name) for user in entry.users) or "public"
            for name in (database.server_name for database in entry.databases):
                if name not in self._databases and name != "postgres":
                    self._server.sql(f"create database {_identifier(name)} strategy wal_log;")
                    self._databases.add(name)
                self._server.sql(f"grant all on schema public to {users};", name)
                self._own_sessions += 1

    def _roles_script(self, entry: TenantEntry) -> Iterable[str]:
        for user in entry.users:
            password = (user.passwords or user.verifiers)[0].get_secret_value()
            if user.name == self._server.user or self._roles.get(user.name) == password:
                continue
            verb = "alter" if user.name in self._roles else "create"
            yield f"{verb} role {_identifier(user.name)} login password {_literal(password)};"
            self._roles[user.name] = password
        role = entry.auth.user
        if role and role != self._server.user and role not in self._roles:  # it looks users up
            self._roles[role] = entry.auth.passwords[0].get_secret_value()
            yield f"create role {_identifier(role)} superuser login password {_literal(self._roles[role])};"

    # --- PostgreSQL's own word

    async def count_servers(self) -> ServerCount:
        """Sessions of the tenants' roles."""
        now, ever = (await asyncio.to_thread(self._server.sql, _COUNT_SERVERS)).split("|")
        return ServerCount(int(now), int(ever) - self._own_sessions)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
