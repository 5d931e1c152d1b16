"""Tenants whose PostgreSQL speaks TLS."""

import datetime
from typing import Any

from harness.certificates import Pair, ca_pem, pair, self_signed
from harness.config import tenant
from harness.databases import Database, create_database
from pgweir_contract.models import TenantEntry, UpstreamTls
from pgweir_contract.pems import pem_digest
from pgweir_operator.local_postgres import PostgresServer

NAME = "db.pgweir.test"
SERVER = pair("127.0.0.1", "localhost", NAME)
EXPIRED = pair("127.0.0.1", NAME, not_after=datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC), common_name="expired")
UNKNOWN_CA = pair("127.0.0.1", NAME, ca="somebody else")
SELF_SIGNED = self_signed()

PEMS = [ca_pem(), ca_pem("somebody else"), SELF_SIGNED.certificate]


def secured(database: Database, tenant_id: str, mode: Any, **tls: Any) -> TenantEntry:
    """A tenant that connects in this way; the CA is the tests' own unless `ca` says otherwise."""
    if mode.startswith("Verify"):
        tls["ca"] = pem_digest(tls.get("ca", ca_pem()))
    client: Pair | None = tls.pop("client", None)
    if client is not None:
        tls |= {"client_cert": pem_digest(client.certificate), "client_key": pem_digest(client.key)}
    plain = tenant(database, tenant_id, size=2)
    return plain.model_copy(
        update={"upstream": plain.upstream.model_copy(update={"tls": UpstreamTls(mode=mode, **tls)})}
    )


def role(server: PostgresServer, group: str = "") -> Database:
    """A role and a database; the group says how it logs in."""
    database = create_database(server)
    if group:
        server.sql(f"grant {group} to {database.user}")
    return database


def client_pair(database: Database, ca: str = "tests") -> Pair:
    """A certificate for the role."""
    return pair("unused.test", common_name=database.user, ca=ca)
