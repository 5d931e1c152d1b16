"""Every sslmode of clients against every mode of the pooler, with psql 15 and the libpq in psycopg."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from harness.certificates import ca_pem
from harness.config import cluster, tenant
from harness.config import files as config_files
from harness.databases import Database
from harness.pooler import Pooler
from harness.tls import HOST, TlsFiles, issued, self_signed, served
from pgweir_contract.models import Auth, TenantEntry
from tls.conftest import Door

SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SERVER_MODES = ("Disable", "Allow", "Prefer", "Require", "VerifyCA", "VerifyFull")


def expected(server: str, client: str) -> str:
    """`plain`, `tls`, or `refused`. The client has a good certificate."""
    if server == "Disable":
        return "plain" if client in ("disable", "allow", "prefer") else "refused"
    if server in ("Allow", "Prefer"):
        return "plain" if client in ("disable", "allow") else "tls"
    return "refused" if client == "disable" else "tls"


def is_encrypted(connection: "psycopg.Connection[Any]") -> bool:
    return bool(connection.pgconn.ssl_in_use)


@pytest.mark.parametrize("server", SERVER_MODES)
def test_each_sslmode_gets_what_it_should(door: Callable[..., Door], server: str) -> None:
    target = door(server)
    name = f"{target.entry.users[0].login_name}.{target.entry.tenant_id}"
    own = target.files.of_client(issued("client.test", common_name=name))
    root = target.files.write("root.crt", ca_pem())
    found = {}
    for client in SSLMODES:
        try:
            with target.connect(sslmode=client, sslrootcert=root, **own) as connection:
                assert connection.execute("select 1").fetchone() == (1,)
                found[client] = "tls" if is_encrypted(connection) else "plain"
        except psycopg.OperationalError:
            found[client] = "refused"
    assert found == {client: expected(server, client) for client in SSLMODES}
    for client in ("disable", "require", "verify-full"):
        code, said = target.psql(sslmode=client, sslrootcert=root, **own)
        assert (code == 0) == (expected(server, client) != "refused"), (client, said)


def test_a_plain_client_is_refused_before_its_password_is_asked_for(door: Callable[..., Door]) -> None:
    code, said = door("Require").psql(sslmode="disable", password="wrong")
    assert code
    assert "28000" in said or "TlsRequired" in said
    assert "the connection must use TLS" in said
    assert "sslmode=require" in said


def test_without_a_certificate_there_is_no_tls_and_with_one_there_is(door: Callable[..., Door]) -> None:
    with door(None).connect(sslmode="prefer") as connection:
        assert is_encrypted(connection)


def test_a_tenant_may_demand_tls_and_tells_only_those_who_know_the_password(
    door: Callable[..., Door], database18: Database
) -> None:
    target = door("Prefer", entry=tenant(database18).model_copy(update={"require_tls": True}))
    with target.connect(sslmode="prefer") as connection:
        assert is_encrypted(connection)
    code, said = target.psql(sslmode="disable")
    assert code
    assert "the connection must use TLS" in said
    code, said = target.psql(sslmode="disable", password="wrong")
    assert code
    assert "password authentication failed" in said


def test_a_tenant_that_demands_tls_cannot_be_used_where_there_is_none(
    pooler: Callable[..., Pooler], database18: Database
) -> None:
    entry = tenant(database18).model_copy(update={"require_tls": True})
    with pytest.raises(psycopg.OperationalError, match="the connection must use TLS"):
        psycopg.connect(pooler(entry).dsn(entry))


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
@pytest.mark.parametrize(
    ("served_pair", "host", "said"),
    [
        (issued("127.0.0.1", expired=True), None, "certificate verify failed"),
        (issued("elsewhere.test"), HOST, "does not match host name"),
        (self_signed(HOST), HOST, "certificate verify failed"),
        (issued(HOST, ca="theirs"), HOST, "certificate verify failed"),
    ],
    ids=["expired", "wrong-host", "self-signed", "another-ca"],
)
def test_clients_find_what_is_wrong_with_a_certificate(
    door: Callable[..., Door], files: TlsFiles, served_pair: Any, host: str | None, said: str, negotiation: str
) -> None:
    files.put(served_pair)
    target = door("Prefer")
    root = files.write("root.crt", ca_pem())
    where = {"host": host, "hostaddr": "127.0.0.1"} if host else {}
    with pytest.raises(psycopg.OperationalError, match=said):
        target.connect(sslmode="verify-full", sslrootcert=root, sslnegotiation=negotiation, **where)
    with target.connect(sslmode="require", sslnegotiation=negotiation, **where) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


# --- certificates of clients


@pytest.mark.parametrize("mode", ["VerifyCA", "VerifyFull"])
def test_a_certificate_is_demanded_and_looked_at(door: Callable[..., Door], database18: Database, mode: str) -> None:
    entry = tenant(database18)
    target = door(mode, entry=entry.model_copy(update={"users": (entry.users[0].model_copy(update={"alias": "bob"}),)}))
    name = f"bob.{target.entry.tenant_id}"
    for pair in (
        None,
        issued("client.test", common_name=name, ca="theirs"),
        issued("client.test", common_name=name, expired=True),
        self_signed(name),
    ):
        own = target.files.of_client(pair) if pair else {}
        with pytest.raises(psycopg.OperationalError) as caught:
            target.connect(**own)
        assert "alert" in str(caught.value), str(caught.value)  # TLS says what it is, the connection does not just end
    for pair in (issued("client.test", common_name=name), issued(name)):  # by CN, by SAN
        with target.connect(**target.files.of_client(pair)) as connection:
            assert connection.execute("select 1").fetchone() == (1,)


def test_a_certificate_is_good_for_its_user_alone(door: Callable[..., Door]) -> None:
    strange = issued("client.test", common_name="somebody.else")
    target = door("VerifyFull")
    own = target.files.of_client(strange)
    with pytest.raises(psycopg.OperationalError, match="certificate authentication failed for user"):
        target.connect(**own, password="wrong")


def test_any_certificate_of_the_ca_will_do_for_verify_ca(door: Callable[..., Door]) -> None:
    target = door("VerifyCA")
    with target.connect(**target.files.of_client(issued("client.test", common_name="somebody.else"))) as connection:
        assert is_encrypted(connection)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        target.connect(**target.files.of_client(issued("client.test")), password="wrong")


def test_a_certificate_that_is_asked_for_may_be_missing_but_not_bad(door: Callable[..., Door]) -> None:
    target = door("Require", asks=True)
    with target.connect() as connection:
        assert is_encrypted(connection)
    with pytest.raises(psycopg.OperationalError, match="alert"):
        target.connect(**target.files.of_client(issued("client.test", ca="theirs")))


# --- versions


def test_the_oldest_version_is_tls_1_2_or_what_the_cluster_says(door: Callable[..., Door]) -> None:
    target = door("Prefer")
    with target.connect(ssl_max_protocol_version="TLSv1.2") as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match=r"alert|version"):
        target.connect(ssl_min_protocol_version="TLSv1.1", ssl_max_protocol_version="TLSv1.1")
    newer = door("Prefer", min_version="TLS1.3")
    with pytest.raises(psycopg.OperationalError, match="protocol version"):
        newer.connect(ssl_max_protocol_version="TLSv1.2")
    with newer.connect() as connection:
        assert is_encrypted(connection)


def test_a_process_whose_certificate_cannot_be_used_does_not_start(database18: Database, files: TlsFiles) -> None:
    files.put(served()._replace(key=issued("other.test").key))
    process = Pooler(config_files([tenant(database18)], cluster(tls=files.cluster_tls("Prefer"))))
    try:
        with pytest.raises(AssertionError, match="the private key does not fit the certificate"):
            process.start()
        process.expects_failure = True
    finally:
        process.stop()


@pytest.mark.parametrize("mode", ["Prefer", "VerifyFull"])
def test_a_certificate_in_the_place_of_a_password(door: Callable[..., Door], database18: Database, mode: str) -> None:
    entry = tenant(database18)
    late = entry.users[0].model_copy(update={"name": "late", "valid_until": datetime(2020, 1, 1, tzinfo=UTC)})
    entry = entry.model_copy(
        update={"auth": Auth(client_method="Certificate"), "users": (*entry.users, late)},
    )
    target = door(mode, entry=entry, asks=True)
    user = f"{entry.users[0].login_name}.{entry.tenant_id}"
    own = target.files.of_client(issued("client.test", common_name=user))
    with target.connect(password="", **own) as connection:
        assert connection.execute("select current_user").fetchone() == (database18.user,)
    assert target.psql(password="", **own) == (0, "in")
    others = target.files.of_client(issued("other.test", common_name=f"other.{entry.tenant_id}"))
    of_late = target.files.of_client(issued("late.test", common_name=f"late.{entry.tenant_id}"))
    wrong: list[dict[str, str]] = [
        dict(others),
        {"sslmode": "disable"},
        {},
        {**of_late, "user": f"late.{entry.tenant_id}"},
        {**own, "user": f"late.{entry.tenant_id}"},
    ]
    for how in wrong:  # the right password does not help
        code, said = target.psql(**how)
        assert code
        assert "authentication failed for user" in said or mode == "VerifyFull", said


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"auth": {"mode": "AuthQuery", "user": "a", "passwords": ["secret"]}}, "is for mode Users"),
        ({"users": [{"name": "u", "verifiers": ["md5" + "0" * 32]}]}, "needs a password"),
    ],
)
def test_certificates_need_passwords_for_the_servers(
    database18: Database, change: dict[str, Any], problem: str
) -> None:
    base = tenant(database18).model_dump(by_alias=True)
    auth = {"clientMethod": "Certificate", **change.pop("auth", {})}
    with pytest.raises(ValueError, match=problem):
        TenantEntry.model_validate({**base, "auth": auth, **change})
