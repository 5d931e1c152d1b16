"""A cancel hits the query it was meant for, and nothing else."""

import asyncio

import psycopg
import pytest

from harness.config import tenant
from harness.databases import Database
from harness.messages import error_fields, query
from harness.raw_client import RawClient, cancel
from harness.waiting import until
from net.fake_postgres import Backend, FakePostgres
from net.poolers import NewPooler, is_at_rest


async def test_psycopg_cancels_its_own_query_only(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=2)
    process = pooler(entry)
    other = await RawClient.connect(process.address(entry))
    other.send(query("select pg_sleep(1.5), 'mine'"))
    connection = await psycopg.AsyncConnection.connect(process.dsn(entry), autocommit=True, prepare_threshold=None)
    sleeping = asyncio.create_task(_sleep(connection))
    await until(lambda: len([s for _, s in database18.backends() if s == "active"]) == 2, "both queries run")
    await connection.cancel_safe()
    with pytest.raises(psycopg.errors.QueryCanceled):
        await sleeping
    assert (await (await connection.execute("select 1")).fetchall()) == [(1,)]
    assert [m.tag for m in await other.receive_until(b"Z")] == [b"T", b"D", b"C", b"Z"]
    await connection.close()
    other.close()


async def _sleep(connection: "psycopg.AsyncConnection[psycopg.rows.TupleRow]") -> None:
    await connection.execute("select pg_sleep(30)")


async def test_cancels_with_wrong_keys_and_of_idle_clients_do_nothing(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=1)
    process = pooler(entry)
    port = process.port()
    busy = await RawClient.connect(process.address(entry))
    idle = await RawClient.connect(process.address(entry))
    busy.send(query("select pg_sleep(1), 'done'"))
    await until(lambda: "active" in [state for _, state in database18.backends()], "the query runs")
    wrong = bytes([busy.secret[0] ^ 1]) + busy.secret[1:]
    for pid, secret in (
        (busy.pid, wrong),
        (busy.pid ^ 2, busy.secret),
        (idle.pid, idle.secret),
        (busy.pid, b"long" * 8),
    ):
        await cancel("127.0.0.1", port, pid, secret)
    received = await busy.receive_until(b"Z")
    assert b"E" not in [m.tag for m in received]
    assert await idle.values("select 7") == [[b"7"]]
    busy.close()
    idle.close()


async def test_cancels_that_race_with_the_end_of_their_query_never_hit_the_next(
    pooler: NewPooler, database18: Database
) -> None:
    entry = tenant(database18, size=1)
    process = pooler(entry)
    victim = await RawClient.connect(process.address(entry))
    racer = await RawClient.connect(process.address(entry))

    async def live() -> int:
        for number in range(150):
            received = await victim.query(f"select pg_sleep(0.002), {number}")
            assert b"E" not in [m.tag for m in received], error_fields(received[0].body)
        return 150

    task = asyncio.create_task(live())
    while not task.done():
        racer.send(query("select pg_sleep(0.001)"))
        await asyncio.gather(cancel("127.0.0.1", process.port(), racer.pid, racer.secret), racer.receive_until(b"Z"))
    assert task.result() == 150
    victim.close()
    racer.close()


async def test_servers_with_one_process_id_on_two_instances_are_told_apart_by_the_secret(
    pooler: NewPooler, database18: Database
) -> None:
    """Session mode shows a server's process id, which is unique on its own instance only."""

    asleep: list[Backend] = []

    async def sleep_if_told(backend: Backend) -> None:
        backend.log_in()
        while True:
            _, body = await backend.receive()
            if body == b"sleep\0":
                asleep.append(backend)
            else:
                backend.answer(body)

    instances = [FakePostgres(sleep_if_told), FakePostgres(sleep_if_told)]
    entries = []
    for name, instance in zip(("one", "two"), instances, strict=True):
        await instance.start()
        entry = tenant(database18, name, size=1)
        upstream = entry.upstream.model_copy(update={"port": instance.port})
        entries.append(entry.model_copy(update={"upstream": upstream}))
    process = pooler(*entries)
    clients = [await RawClient.connect(process.address(entry, listener="session")) for entry in entries]
    assert [client.pid for client in clients] == [7, 7]
    for client in clients:
        client.send(query("sleep"))
    await until(lambda: len(asleep) == 2, "both work")
    for client, instance in zip(clients, instances, strict=True):
        await cancel("127.0.0.1", process.port(), client.pid, client.secret)
        assert instance.cancel_keys == [b"\0\0\0\7key!"]
    for client in clients:
        client.abort()
    await until(lambda: all(is_at_rest(process, entry) for entry in entries), "all at rest")
    for instance in instances:
        await instance.stop()
