"""PostgreSQL dies, restarts or hangs, and clients stop reading, all under load: the pooler goes on and says why.

What crashes a whole PostgreSQL has one of its own. The pooler's fixture checks at the end that the process is alive,
ends with exit code 0, and has logged no traceback.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from harness import messages
from harness.address import Address
from harness.config import cluster, tenant
from harness.databases import Database
from harness.load import LoadResult, running_load
from harness.pooler import Pooler
from harness.raw_client import RawClient, ServerClosedError
from harness.waiting import until
from integration.quiet import until_quiet
from pgweir_contract.models import ClusterLimits
from pgweir_operator.local_postgres import PostgresServer

POOL_SIZE = 8
CLIENTS = 30
# What a client may read when PostgreSQL goes away under it: shut down, crashed, not there yet, connection lost.
# Nobody is cut off without a word: `harness.load.LOST` is not among them.
CLEAR_ERRORS = {"57P01", "57P02", "57P03", "08006"}
BACK_IN_SERVICE_S = 15.0

NewPostgres = Callable[..., PostgresServer]
NewDatabase = Callable[[PostgresServer], Database]
NewPooler = Callable[..., Pooler]


def check_errors(result: LoadResult) -> None:
    """Errors of the expected kinds alone; none at all when every server happened to be between two clients."""
    print(f"{result.queries} queries, errors {dict(result.errors)}, longest gap {result.longest_gap_s:.2f} s")
    assert result.errors.keys() <= CLEAR_ERRORS, (result.errors, result.texts)


async def pids(database: Database) -> set[int]:
    """The process ids of the pooler's servers."""
    return {pid for pid, _ in await asyncio.to_thread(database.backends)}


def _are_gone(database: Database, before: set[int]) -> bool:
    return not before & {pid for pid, _ in database.backends()}


async def test_killed_backends_come_back(
    pooler: NewPooler, new_postgres: NewPostgres, new_database: NewDatabase
) -> None:
    """SIGKILL to backends makes PostgreSQL end all others and recover: the whole instance is away for a moment."""
    server = new_postgres()
    database = new_database(server)
    entry = tenant(database, size=POOL_SIZE)
    process = pooler(entry)
    async with running_load(process.address(entry), clients=CLIENTS) as load:
        for _ in range(4):
            await load.until(500, BACK_IN_SERVICE_S)
            before = await pids(database)
            for pid in before:
                with contextlib.suppress(ProcessLookupError):  # the first one's death ends the others
                    os.kill(pid, signal.SIGKILL)
            await load.until(500, BACK_IN_SERVICE_S)
            assert not before & await pids(database)
    check_errors(load.result)
    await until_quiet(process, database)


async def test_terminated_backends_are_replaced(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=POOL_SIZE)
    process = pooler(entry)
    async with running_load(process.address(entry), clients=CLIENTS) as load:
        for _ in range(10):
            await load.until(200)
            before = await pids(database18)
            await asyncio.to_thread(
                database18.sql,
                f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{database18.user}'",
            )
            await until(lambda before=before: _are_gone(database18, before), "the terminated gone")  # type: ignore[misc]
        await load.until(500)
    check_errors(load.result)
    assert load.result.errors.keys() <= {"57P01", "08006"}
    await until_quiet(process, database18)


@pytest.mark.parametrize("how", ["fast", "crash"])
async def test_postgresql_restarts_under_load(
    pooler: NewPooler, new_postgres: NewPostgres, new_database: NewDatabase, how: str
) -> None:
    server = new_postgres()
    database = new_database(server)
    entry = tenant(database, size=POOL_SIZE)
    process = pooler(entry)
    idle = await RawClient.connect(process.address(entry))
    assert await idle.values("select 1") == [[b"1"]]
    async with running_load(process.address(entry), clients=CLIENTS) as load:
        for _ in range(3):
            await load.until(500, BACK_IN_SERVICE_S)
            before = await pids(database)
            if how == "crash":
                await asyncio.to_thread(server.crash)
                await asyncio.to_thread(server.start)
            else:
                await asyncio.to_thread(server.restart)
            await load.until(500, BACK_IN_SERVICE_S)
            assert before
            assert not before & await pids(database)
    check_errors(load.result)
    # Who held no server has noticed nothing of all that.
    assert await idle.values("select 2") == [[b"2"]]
    idle.close()
    await until_quiet(process, database)


async def test_a_transaction_that_loses_its_server_fails_clearly(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=2)
    process = pooler(entry)
    for wait in ("idle in transaction", "active"):
        client = await RawClient.connect(process.address(entry))
        await client.values("begin; select 1")
        if wait == "active":
            client.send(messages.query("select pg_sleep(60)"))
        busy: list[int] = []

        def is_there(wanted: str = wait, busy: list[int] = busy) -> bool:
            busy[:] = [pid for pid, state in database18.backends() if state == wanted]
            return bool(busy)

        await until(is_there, f"a backend that is {wait}")
        await asyncio.to_thread(database18.sql, f"select pg_terminate_backend({busy[0]})")
        fields = messages.error_fields((await client.receive_until(b"E"))[-1].body)
        assert fields["S"] == "FATAL"
        assert fields["C"] == "57P01"
        with pytest.raises(ServerClosedError):
            await client.receive()
        client.abort()
    await until_quiet(process, database18)


async def test_a_backend_that_hangs_holds_up_only_its_own_client(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=4)
    process = pooler(entry)
    client = await RawClient.connect(process.address(entry))
    pid = int((await client.values("begin; select pg_backend_pid()"))[0][0] or 0)
    os.kill(pid, signal.SIGSTOP)
    try:
        client.send(messages.query("select 'late'"))
        async with running_load(process.address(entry), clients=10) as load:
            await load.until(1000)
        assert not load.result.errors
    finally:
        os.kill(pid, signal.SIGCONT)
    assert messages.rows(await client.receive_until(b"Z")) == [[b"late"]]
    await client.values("commit")
    client.close()
    await until_quiet(process, database18)


STALLED = 100
STALL_TIMEOUT_S = 3.0
RESULT_BYTES = 30_000_000  # more than the kernel's buffers on both sides take
# What the pooler may hold for a client that does not read: the transport's high-water mark, one read of uvloop's above
# it, and the part that is written already of the read before it, which is kept as a whole until its end is written.
HIGH_WATER_BYTES = 64 * 1024
ONE_READ_BYTES = 256 * 1024
SLACK_BYTES = 16 * 1024 * 1024  # of the allocator, and of the clients themselves


async def test_clients_that_stop_reading_cost_bounded_memory_and_are_cut_off(
    pooler: NewPooler, database18: Database
) -> None:
    limits = ClusterLimits(client_stall_timeout=STALL_TIMEOUT_S, drain_timeout=2.0)
    entry = tenant(database18, max_connections=STALLED + 10, size=STALLED + 10)
    process = pooler(entry, cluster_file=cluster(limits=limits))
    address = process.address(entry)
    async with running_load(address, clients=10, rate=200) as load, _stalled_clients(address) as stalled:
        before = process.rss()
        for client in stalled:
            client.send(messages.query(f"select repeat('x', 1000) from generate_series(1, {RESULT_BYTES // 1000})"))
            client.transport.pause_reading()
        most = before
        served = load.result.queries

        def all_cut() -> bool:
            nonlocal most
            most = max(most, process.rss())
            return process.metrics().get('pgweir_errors_total{code="ClientStalled"}', 0) >= STALLED

        await until(all_cut, "all stalled clients cut off", 60)
        assert load.result.queries > served, "nobody else was served meanwhile"
        for client in stalled:
            client.transport.resume_reading()
            await client.wait_closed()
    bound = STALLED * (HIGH_WATER_BYTES + 2 * ONE_READ_BYTES) + SLACK_BYTES
    print(f"RSS {before >> 20} MiB, then at most {most >> 20} MiB; longest gap {load.result.longest_gap_s:.2f} s")
    assert most - before < bound
    assert not load.result.errors, load.result.texts
    await until_quiet(process, database18)


@contextlib.asynccontextmanager
async def _stalled_clients(address: Address) -> AsyncIterator[list[RawClient]]:
    """Logged-in clients whose sockets take little."""
    loop = asyncio.get_running_loop()
    clients: list[RawClient] = []
    try:
        for _ in range(STALLED):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            await loop.sock_connect(sock, (address.host, address.port))
            _, client = await loop.create_connection(RawClient, sock=sock)
            clients.append(client)
            await client.login(address, {})
        yield clients
    finally:
        for client in clients:
            client.abort()


async def test_a_slow_reader_is_not_cut_off(pooler: NewPooler, database18: Database) -> None:
    """It takes a little now and then: that is slow, not stalled."""
    limits = ClusterLimits(client_stall_timeout=2.0, drain_timeout=2.0)
    entry = tenant(database18, size=2)
    process = pooler(entry, cluster_file=cluster(limits=limits))
    client = await RawClient.connect(process.address(entry))
    client.send(messages.query("select repeat('x', 1000) from generate_series(1, 20000)"))
    for _ in range(12):
        client.transport.pause_reading()
        await asyncio.sleep(0.5)  # the slowness itself
        client.transport.resume_reading()
        for _ in range(1000):
            await client.receive()
    rows = messages.rows(await client.receive_until(b"Z"))
    assert len(rows) >= 20000 - 12_000
    client.close()
    await until_quiet(process, database18)
