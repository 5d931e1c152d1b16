"""The host name that a client says by SNI: whose tenant it is, and which certificate it gets."""

from collections.abc import Callable

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr

from harness.certificates import Pair, ca_pem
from harness.config import cluster, tenant
from harness.config import files as config_files
from harness.databases import Database
from harness.pooler import Pooler
from harness.tls import TlsFiles, issued, self_signed
from pgweir_contract.client_tls import TenantTls
from pgweir_contract.json_form import render
from pgweir_contract.models import TenantEntry, TenantsFile
from pgweir_contract.names import shard_of, tenants_file
from pgweir_contract.pems import pem_digest
from tls.conftest import Door, psql

DOMAIN = "pooler.test"


def with_own(entry: TenantEntry, pair: Pair) -> TenantEntry:
    return entry.model_copy(
        update={"client_tls": TenantTls(cert=pem_digest(pair.certificate), key=pem_digest(pair.key))}
    )


def content(
    door_files: TlsFiles, *tenants: TenantEntry, pairs: tuple[Pair, ...] = (), **tls: object
) -> dict[str, bytes]:
    """A configuration whose tenants have certificates of their own."""
    found = config_files(tenants, cluster(tls=door_files.cluster_tls("Prefer", sni_domains=(DOMAIN,))))
    pems = {pem_digest(text): SecretStr(text) for pair in pairs for text in pair}
    for entry in tenants:
        found[tenants_file(shard_of(entry.tenant_id))] = render(TenantsFile(tenants=(entry,), pems=pems, revision="r"))
    return found


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_a_host_name_names_the_tenant(door: Callable[..., Door], database18: Database, negotiation: str) -> None:
    entry = tenant(database18).model_copy(update={"sni_hostnames": ("db.shop.test",)})
    target = door("Prefer", entry=entry, sni_domains=(DOMAIN,))
    user = entry.users[0].login_name
    where = {"hostaddr": "127.0.0.1", "sslnegotiation": negotiation}
    for host in ("acme.pooler.test", "db.shop.test"):
        with target.connect(host=host, user=user, **where) as connection:
            assert connection.execute("select current_user").fetchone() == (user,)
        with target.connect(host=host, **where) as connection:  # the suffix may be there all the same
            assert connection.execute("select current_user").fetchone() == (user,)
    code, said = psql(
        target.parameters(host="acme.pooler.test", hostaddr="127.0.0.1", user=user),
        "select 1",
    )
    assert (code, said) == (0, "1")


def test_a_name_of_nobody_names_no_tenant(door: Callable[..., Door]) -> None:
    target = door("Prefer", sni_domains=(DOMAIN,))
    user = target.entry.users[0].login_name
    for host in ("elsewhere.test", "a.b.pooler.test", "pooler.test", "127.0.0.1"):
        with pytest.raises(psycopg.OperationalError, match="names no tenant"):
            target.connect(host=host, hostaddr="127.0.0.1", user=user)
    # A tenant that does not exist looks like a wrong password.
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        target.connect(host="nobody.pooler.test", hostaddr="127.0.0.1", user=user)


def test_the_startup_message_counts_before_the_host_name(
    pooler: Callable[..., Pooler], files: TlsFiles, database18: Database, new_database: Callable[..., Database]
) -> None:
    other_database = new_database(database18.server)
    first, second = tenant(database18), tenant(other_database, "other")
    process = pooler(first, second, cluster_file=cluster(tls=files.cluster_tls("Prefer", sni_domains=(DOMAIN,))))
    target = Door(process, second, files)
    with target.connect(host="acme.pooler.test", hostaddr="127.0.0.1") as connection:
        assert connection.execute("select current_database()").fetchone() == (other_database.name,)
    user = second.users[0].login_name
    with target.connect(
        host="acme.pooler.test", hostaddr="127.0.0.1", user=user, options="-c pgweir.tenant=other"
    ) as connection:
        assert connection.execute("select current_database()").fetchone() == (other_database.name,)


def test_a_tenant_shows_its_own_certificate_under_its_names(door: Callable[..., Door], database18: Database) -> None:
    own, newer = issued("db.shop.test", ca="shop"), issued("db.shop.test", ca="shop", serial=1)
    entry = with_own(tenant(database18), own).model_copy(update={"sni_hostnames": ("db.shop.test",)})
    target = door("Prefer", entry=tenant(database18))
    files = target.files
    user = entry.users[0].login_name
    shop, ours = files.write("shop.crt", ca_pem("shop")), files.write("ours.crt", ca_pem())
    target.process.write(content(files, entry, pairs=(own,)))
    target.process.wait_for(lambda: target.process.metrics()["pgweir_config_reloads_total"] >= 2, "applied")
    assert target.process.status()["problems"] == []

    def connect(root: str, host: str = "db.shop.test", who: str = user) -> "psycopg.Connection[tuple[int]]":
        # By channel binding both sides show that they mean the same certificate.
        return target.connect(
            host=host,
            hostaddr="127.0.0.1",
            user=who,
            sslmode="verify-full",
            sslrootcert=root,
            channel_binding="require",
        )

    with connect(shop) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
            connect(ours)
        with connect(ours, "pooler.test", f"{user}.acme") as other:  # the cluster's own for everything else
            assert other.execute("select 1").fetchone() == (1,)
        # A new certificate of the tenant, live.
        target.process.write(content(files, with_own(entry, newer), pairs=(newer,)))
        target.process.wait_for(lambda: target.process.metrics()["pgweir_config_reloads_total"] >= 3, "applied")
        with connect(shop) as again:
            assert again.execute("select 1").fetchone() == (1,)
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_tenants_weak_key_is_told_of_once_and_the_clusters_serves(
    door: Callable[..., Door], database18: Database
) -> None:
    weak = self_signed("db.shop.test", rsa.generate_private_key(65537, 1024))  # Debian's OpenSSL wants 2048 bits
    entry = with_own(tenant(database18), weak).model_copy(update={"sni_hostnames": ("db.shop.test",)})
    target = door("Prefer", entry=tenant(database18))
    target.process.write(content(target.files, entry, pairs=(weak,)))
    target.process.wait_for(lambda: target.process.metrics()["pgweir_config_reloads_total"] >= 2, "applied")
    for _ in range(3):
        with target.connect(host="db.shop.test", hostaddr="127.0.0.1", user=entry.users[0].login_name) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
    assert target.process.log_text().count("a tenant's certificate cannot be served") == 1


def test_the_cluster_demands_client_certificates_under_every_name(
    door: Callable[..., Door], database18: Database
) -> None:
    own = issued("db.shop.test", ca="shop")
    entry = with_own(tenant(database18), own).model_copy(update={"sni_hostnames": ("db.shop.test",)})
    target = door("VerifyCA", entry=tenant(database18))
    files = target.files
    made = content(files, entry, pairs=(own,)) | config_files([], cluster(tls=files.cluster_tls("VerifyCA")))
    target.process.write(made)
    target.process.wait_for(lambda: target.process.metrics()["pgweir_config_reloads_total"] >= 2, "applied")
    user = entry.users[0].login_name
    with pytest.raises(psycopg.OperationalError, match="alert"):
        target.connect(host="db.shop.test", hostaddr="127.0.0.1", user=user)
    with target.connect(
        host="db.shop.test", hostaddr="127.0.0.1", user=user, **files.of_client(issued("client.test"))
    ) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
