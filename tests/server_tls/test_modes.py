"""What each `upstream.tls.mode` does with real PostgreSQL: with TLS, without, and with wrong certificates."""

import json
from typing import Any

import pytest

from harness.certificates import Pair
from harness.config import files
from harness.raw_client import RawClient, ServerClosedError, ServerRefusedError
from harness.tls_postgres import TlsPostgres
from harness.waiting import until
from net.poolers import NewPooler
from pgweir_contract.models import TenantEntry
from pgweir_operator.local_postgres import PostgresServer
from server_tls.tenants import (
    EXPIRED,
    NAME,
    PEMS,
    SELF_SIGNED,
    SERVER,
    UNKNOWN_CA,
    client_pair,
    role,
    secured,
)

MODES = ("Disable", "Prefer", "Require", "VerifyCA", "VerifyFull")
OVER_TLS = "select ssl, version, client_dn from pg_stat_ssl where pid = pg_backend_pid()"


async def refusal(process: Any, entry: Any) -> tuple[str, str]:
    """SQLSTATE and text of a login that fails."""
    with pytest.raises(ServerRefusedError) as caught:
        await RawClient.connect(process.address(entry))
    return caught.value.sqlstate, caught.value.fields["M"]


def revisions(content: dict[str, bytes]) -> dict[str, str]:
    return {name: json.loads(data)["revision"] for name, data in content.items()}


async def rows(process: Any, entry: Any, sql: str = OVER_TLS) -> list[list[bytes | None]]:
    client = await RawClient.connect(process.address(entry))
    found = await client.values(sql)
    client.close()
    return found


async def test_all_modes_but_disable_get_in_where_tls_is_demanded(pooler: NewPooler, tls_postgres: TlsPostgres) -> None:
    database = role(tls_postgres)
    entries = {mode: secured(database, mode.lower(), mode) for mode in MODES}
    process = pooler(*entries.values(), pems=PEMS)
    for mode in MODES[1:]:
        assert await rows(process, entries[mode]) == [[b"t", b"TLSv1.3", None]]
    sqlstate, text = await refusal(process, entries["Disable"])
    assert sqlstate == "28000"
    assert "pg_hba.conf rejects connection" in text


async def test_where_there_is_no_tls_only_disable_and_prefer_get_in(
    pooler: NewPooler, postgres: PostgresServer
) -> None:
    database = role(postgres)
    entries = {mode: secured(database, mode.lower(), mode) for mode in MODES}
    process = pooler(*entries.values(), pems=PEMS)
    for mode in ("Disable", "Prefer"):
        assert await rows(process, entries[mode]) == [[b"f", None, None]]
    for mode in ("Require", "VerifyCA", "VerifyFull"):
        sqlstate, text = await refusal(process, entries[mode])
        assert (sqlstate, text) == (
            "08006",
            "(ServerTlsFailed) the database server does not support TLS, which upstream.tls demands",
        )
    assert "ServerTlsFailed" in process.log_text()


@pytest.mark.parametrize(
    ("shown", "ca", "reason"),
    [
        (EXPIRED, 0, "its certificate has expired"),
        (UNKNOWN_CA, 0, "its certificate comes from an unknown CA"),
        (SELF_SIGNED, 0, "its certificate is self-signed and not among the trusted ones"),
    ],
    ids=["expired", "unknown CA", "self-signed"],
)
async def test_a_bad_certificate_is_refused_by_the_modes_that_look(
    pooler: NewPooler, tls_postgres: TlsPostgres, shown: Pair, ca: int, reason: str
) -> None:
    database = role(tls_postgres)
    entries = {mode: secured(database, mode.lower(), mode) for mode in MODES[1:]}
    with tls_postgres.serving(shown, SERVER):
        process = pooler(*entries.values(), pems=PEMS)
        for mode in ("Prefer", "Require"):
            assert (await rows(process, entries[mode]))[0][0] == b"t"
        for mode in ("VerifyCA", "VerifyFull"):
            assert await refusal(process, entries[mode]) == (
                "08006",
                f"(ServerTlsFailed) no TLS with the database server: {reason}",
            )
        assert "127.0.0.1" not in reason


async def test_only_verify_full_looks_at_the_name(pooler: NewPooler, tls_postgres: TlsPostgres) -> None:
    database = role(tls_postgres)
    of_mode = {mode: secured(database, mode.lower(), mode, server_name="wrong.test") for mode in MODES[1:]}
    right = secured(database, "right", "VerifyFull", server_name=NAME)
    dotted = secured(database, "dotted", "VerifyFull", server_name=f"{NAME}.")
    process = pooler(*of_mode.values(), right, dotted, pems=PEMS)
    for entry in (*list(of_mode.values())[:-1], right, dotted):
        assert (await rows(process, entry))[0][0] == b"t"
    assert await refusal(process, of_mode["VerifyFull"]) == (
        "08006",
        "(ServerTlsFailed) no TLS with the database server: its certificate is for another host name",
    )


async def test_a_self_signed_certificate_is_trusted_once_it_is_the_ca(
    pooler: NewPooler, tls_postgres: TlsPostgres
) -> None:
    database = role(tls_postgres)
    entry = secured(database, "acme", "VerifyCA", ca=SELF_SIGNED.certificate)
    with tls_postgres.serving(SELF_SIGNED, SERVER):
        assert (await rows(pooler(entry, pems=PEMS), entry))[0][0] == b"t"


async def test_a_client_certificate_logs_in(pooler: NewPooler, tls_postgres: TlsPostgres) -> None:
    alone, both, without, foreign = (role(tls_postgres, group) for group in ("certs", "doubles", "certs", "doubles"))
    pairs = [client_pair(alone), client_pair(both), client_pair(foreign, ca="somebody else")]
    entries = [
        secured(alone, "alone", "VerifyFull", client=pairs[0]),
        secured(both, "both", "Require", client=pairs[1]),
        secured(without, "without", "Require"),
        secured(foreign, "foreign", "Require", client=pairs[2]),
    ]
    process = pooler(*entries, pems=[*PEMS, *(text for pair in pairs for text in pair)])
    for database, entry in zip((alone, both), entries, strict=False):
        dn = (await rows(process, entry))[0][2]
        assert dn is not None
        assert f"CN={database.user}".encode().startswith(dn[dn.index(b"CN=") :])  # dn is cut at 63 bytes
    sqlstate, text = await refusal(process, entries[2])
    assert (sqlstate, "valid client certificate" in text) == ("28000", True)
    sqlstate, text = await refusal(process, entries[3])
    assert sqlstate == "08006"
    assert "it refuses our certificate" in text
    assert "BEGIN" not in process.log_text()


async def test_direct_tls_needs_postgresql_17(
    pooler: NewPooler, tls18: TlsPostgres, tls15: TlsPostgres, postgres18: PostgresServer
) -> None:
    new, old = (
        secured(role(server), name, "VerifyFull", negotiation="Direct")
        for server, name in ((tls18, "new"), (tls15, "old"))
    )
    none = secured(role(postgres18), "none", "Require", negotiation="Direct")
    process = pooler(new, old, none, pems=PEMS)
    assert (await rows(process, new))[0][0] == b"t"
    for entry in (old, none):
        sqlstate, text = await refusal(process, entry)
        assert sqlstate == "08006"
        assert "(negotiation Direct needs PostgreSQL 17 or later)" in text


async def test_a_changed_setting_brings_new_servers(pooler: NewPooler, tls18: TlsPostgres) -> None:
    database = role(tls18)
    entry = secured(database, "acme", "Require")
    process = pooler(entry, pems=PEMS)
    client = await RawClient.connect(process.address(entry))

    async def pid_under(changed: TenantEntry) -> bytes | None:
        content = files([changed], pems=PEMS)
        process.write(content)
        await until(lambda: process.status()["revisions"] == revisions(content), "the new settings are applied")
        [[pid]] = await client.values("select pg_backend_pid()")
        return pid

    first = await pid_under(entry)
    assert await pid_under(secured(database, "acme", "Require", channel_binding="Disable")) != first
    second = await pid_under(secured(database, "acme", "VerifyFull"))
    assert second != first
    assert await pid_under(secured(database, "acme", "VerifyFull")) == second
    with pytest.raises(ServerClosedError):
        await pid_under(secured(database, "acme", "VerifyFull", ca=PEMS[1]))
    assert "unknown CA" in process.log_text()


async def test_a_replaced_certificate_is_seen_by_new_servers_only(pooler: NewPooler, tls18: TlsPostgres) -> None:
    entry = secured(role(tls18), "acme", "VerifyFull")
    process = pooler(entry, pems=PEMS)
    first = await RawClient.connect(process.address(entry))
    first.send()
    await first.values("begin")
    with tls18.serving(UNKNOWN_CA, SERVER):
        assert await first.values("select 1") == [[b"1"]]
        second = await RawClient.connect(process.address(entry), timeout_s=3)  # its parameters are known
        with pytest.raises((ServerRefusedError, TimeoutError)):
            await second.values("select 2")
    await first.values("commit")
    first.close()
    second.abort()
