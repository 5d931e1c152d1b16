"""What clients send and get when their servers are behind TLS."""

import asyncio

import psycopg

from harness.tls_postgres import TlsPostgres
from net.poolers import NewPooler
from server_tls.tenants import PEMS, role, secured


async def test_large_values_pass_both_ways_for_many_clients(pooler: NewPooler, tls_postgres: TlsPostgres) -> None:
    database = role(tls_postgres)
    entry = secured(database, "acme", "VerifyFull")
    process = pooler(entry, pems=PEMS)

    async def client(number: int) -> None:
        async with await psycopg.AsyncConnection.connect(process.dsn(entry), autocommit=True) as connection:
            for size in (1, 9_000, 70_000, 1_500_000):
                text = chr(ord("a") + number) * size
                row = await (await connection.execute("select %s::text, repeat('x', %s)", (text, size))).fetchone()
                assert row == (text, "x" * size)
            async with connection.pipeline():
                cursors = [await connection.execute("select %s::int", (i,)) for i in range(50)]
            assert [(await cursor.fetchone()) for cursor in cursors] == [(i,) for i in range(50)]

    await asyncio.gather(*(client(number) for number in range(6)))
    assert len(database.backends()) <= 2


async def test_listeners_are_reached_under_tls(pooler: NewPooler, tls_postgres: TlsPostgres) -> None:
    database = role(tls_postgres)
    entry = secured(database, "acme", "VerifyFull", channel_binding="Require")
    process = pooler(entry, pems=PEMS)
    async with (
        await psycopg.AsyncConnection.connect(process.dsn(entry), autocommit=True) as hearing,
        await psycopg.AsyncConnection.connect(process.dsn(entry), autocommit=True) as telling,
    ):
        await hearing.execute("listen news")
        await telling.execute("notify news, 'hello'")
        async for notification in hearing.notifies(timeout=10, stop_after=1):
            assert notification.payload == "hello"
    encrypted = tls_postgres.sql(
        "select bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid) where application_name like 'pgweir%'"
    )
    assert encrypted in ("t", "")
