"""Somebody between pooler and PostgreSQL: what he may change, and what he may not."""

import asyncio
from typing import Any

import psycopg
import pytest

from harness.certificates import pair
from harness.databases import Database
from harness.raw_client import RawClient
from harness.tls_postgres import SSL_REQUEST, TlsPostgres
from harness.waiting import until
from net.poolers import NewPooler
from pgweir_contract.models import TenantEntry
from server_tls.tenants import NAME, PEMS, role, secured
from server_tls.test_modes import refusal, rows
from server_tls.tls_relay import CANCEL_CODE, Relay

# Made by the CA that the tenant trusts, for a host of the attacker's own.
ATTACKER = pair("attacker.test")


def through(relay: Relay, database: Database, tenant_id: str, mode: str, **tls: Any) -> TenantEntry:
    entry = secured(database, tenant_id, mode, **tls)
    return entry.model_copy(update={"upstream": entry.upstream.model_copy(update={"port": relay.port})})


async def test_a_man_in_the_middle_reads_along_unless_the_name_is_checked(
    pooler: NewPooler, tls_postgres: TlsPostgres
) -> None:
    database = role(tls_postgres, "md5users")
    async with Relay(tls_postgres.port, ATTACKER) as relay:
        by_ca = through(relay, database, "byca", "VerifyCA", channel_binding="Disable")
        by_name = through(relay, database, "byname", "VerifyFull", server_name=NAME)
        process = pooler(by_ca, by_name, pems=PEMS)
        assert await refusal(process, by_name) == (
            "08006",
            "(ServerTlsFailed) no TLS with the database server: its certificate is for another host name",
        )
        assert database.user.encode() not in relay.seen
        await rows(process, by_ca)
        assert database.user.encode() in relay.seen


async def test_bytes_behind_the_answer_to_the_question_for_tls_end_the_connection(
    pooler: NewPooler, tls_postgres: TlsPostgres
) -> None:
    """CVE-2021-23222: they would be taken for what the server says under TLS."""
    database = role(tls_postgres)
    async with Relay(tls_postgres.port, behind_s=b"R\0\0\0\x08\0\0\0\0") as relay:
        entries = [through(relay, database, mode.lower(), mode) for mode in ("Prefer", "Require", "VerifyFull")]
        process = pooler(*entries, pems=PEMS)
        for entry in entries:
            sqlstate, text = await refusal(process, entry)
            assert sqlstate == "08006"
            assert "bytes came in clear before the TLS handshake" in text
        assert not relay.seen


@pytest.mark.parametrize("negotiation", ["Postgres", "Direct"])
async def test_a_cancel_goes_the_way_its_query_went(pooler: NewPooler, tls18: TlsPostgres, negotiation: str) -> None:
    database = role(tls18)
    async with Relay(tls18.port) as relay:
        entry = through(relay, database, "acme", "VerifyFull", negotiation=negotiation)
        process = pooler(entry, pems=PEMS)
        await _cancels(process, entry, database)
        assert len(relay.first) == 2
        if negotiation == "Postgres":
            assert relay.first == [SSL_REQUEST] * 2
        else:
            assert [packet[0] for packet in relay.first] == [0x16] * 2  # a TLS record, nothing before it
        for text in (CANCEL_CODE, database.user.encode()):
            assert text not in relay.seen


async def test_a_server_that_takes_tls_only_cancels(pooler: NewPooler, tls_postgres: TlsPostgres) -> None:
    database = role(tls_postgres)
    entry = secured(database, "acme", "Prefer")
    await _cancels(pooler(entry, pems=PEMS), entry, database)


async def _cancels(process: Any, entry: TenantEntry, database: Database) -> None:
    connection = await psycopg.AsyncConnection.connect(process.dsn(entry), autocommit=True)
    sleeping = asyncio.create_task(connection.execute("select pg_sleep(30)"))
    await until(lambda: "active" in [state for _, state in database.backends()], "the query runs")
    await connection.cancel_safe()
    with pytest.raises(psycopg.errors.QueryCanceled):
        await sleeping
    assert await (await connection.execute("select 1")).fetchall() == [(1,)]
    await connection.close()


async def test_a_cancel_is_never_sent_in_clear_when_its_query_was_under_tls(
    pooler: NewPooler, tls18: TlsPostgres
) -> None:
    """`Prefer` took TLS; whoever says N afterwards wants the key."""
    database = role(tls18)
    async with Relay(tls18.port) as relay:
        entry = through(relay, database, "acme", "Prefer")
        process = pooler(entry, pems=PEMS)
        client = await RawClient.connect(process.address(entry))
        client.send(b"Q" + (4 + 20).to_bytes(4, "big") + b"select pg_sleep(.5)\0")
        await until(lambda: "active" in [state for _, state in database.backends()], "the query runs")
        relay.says_no = True
        other = await RawClient.open("127.0.0.1", process.port())
        other.send((16).to_bytes(4, "big"), CANCEL_CODE, client.pid.to_bytes(4, "big"), client.secret)
        await other.wait_closed()
        assert b"E" not in [message.tag for message in await client.receive_until(b"Z")]
        assert len(relay.first) == 2
        assert CANCEL_CODE not in relay.seen
        client.close()
