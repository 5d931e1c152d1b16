"""What a broken server does harms the client that holds it at most, never the next one, and its slot comes back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from pydantic import SecretStr

from harness import messages
from harness.messages import message
from harness.raw_client import RawClient, ServerClosedError, ServerRefusedError
from harness.waiting import until
from net.fake_postgres import ANSWER, READY, Backend, Behaviour, FakePostgres, refusal, sound
from net.poolers import NewPooler, is_at_rest
from pgweir_contract.models import Database, PoolSettings, TenantEntry, Upstream, UpstreamTls, User

if TYPE_CHECKING:
    from harness.pooler import Pooler


class Scene:
    """A fake PostgreSQL, a pooler with a pool of one in front of it."""

    def __init__(self, pooler: NewPooler) -> None:
        self._pooler = pooler
        self.fake = FakePostgres(sound)
        self.process: Pooler
        self.entry: TenantEntry

    async def start(self, *behaviours: Behaviour, queue_timeout: float = 5.0) -> "Scene":
        self.fake = FakePostgres(*behaviours)
        await self.fake.start()
        self.entry = TenantEntry(
            tenant_id="acme",
            upstream=Upstream(host="127.0.0.1", port=self.fake.port, tls=UpstreamTls(mode="Disable")),
            databases=(Database(name="db"),),
            users=(User(name="user", passwords=(SecretStr("of-no-server-4711"),)),),
            pool=PoolSettings(size=1, queue_timeout=queue_timeout),
        )
        self.process = self._pooler(self.entry)
        return self

    async def client(self) -> RawClient:
        return await RawClient.connect(self.process.address(self.entry), timeout_s=15)

    async def at_rest(self) -> None:
        await until(lambda: is_at_rest(self.process, self.entry), "all at rest", 20)


@pytest_asyncio.fixture
async def scene(pooler: NewPooler) -> AsyncIterator[Scene]:
    made = Scene(pooler)
    yield made
    await made.fake.stop()


async def _is_served(client: RawClient) -> None:
    received = await client.query("select 'x'")
    assert messages.tags(received) == b"TDCZ", received
    assert messages.rows(received) == [[b"x"]]


def says(*parts: bytes, behind: bytes = b"select 'odd'") -> Behaviour:
    """Sound, but answers the query that starts with `behind` by `parts`."""

    async def behave(backend: Backend) -> None:
        backend.log_in()
        while True:
            tag, body = await backend.receive()
            if tag == b"X":
                return
            if body.startswith(behind):
                backend.send(*parts)
            else:
                backend.answer(body)

    return behave


@pytest.mark.parametrize(
    "behind",
    [
        message(b"N", b"SNOTICE\0VNOTICE\0C00000\0Msecret of the first\0\0"),
        message(b"A", b"\0\0\0\1secret\0\0"),
        message(b"S", b"my.parameter\0secret\0"),
        message(b"D", b"\0\1\0\0\0\6secret"),
        message(b"D", b"\0\1\0\0\0\6secret")[:-3],
        message(b"E", b"SERROR\0VERROR\0C22012\0Msecret\0\0"),
        READY,
        ANSWER,
        b"?garbage secret" * 9,
        b"D\0\0\0\1",
    ],
)
async def test_what_follows_the_freeing_ready_for_query_reaches_nobody(scene: Scene, behind: bytes) -> None:
    await scene.start(says(ANSWER, behind), sound)
    first, second = await scene.client(), await scene.client()
    second.send(messages.query("select 'waits'"))  # lent at the very moment when the first one is done
    first.send(messages.query("select 'odd'"))
    assert messages.tags(await first.receive_until(b"Z")) == b"TDCZ"
    assert messages.tags(await second.receive_until(b"Z")) == b"TDCZ"
    for client in (first, second):
        await _is_served(client)
        await _is_served(client)
        client.close()
    await scene.at_rest()


@pytest.mark.parametrize("garbage", [b"?" * 50, ANSWER, b"Z\0\0\0\4", b"D\0\0\0\x20half", message(b"1"), READY])
async def test_a_server_that_talks_while_idle_is_replaced(scene: Scene, garbage: bytes) -> None:
    async def talks(backend: Backend) -> None:
        backend.log_in()
        backend.answer((await backend.receive())[1])
        await asyncio.sleep(0.2)
        backend.send(garbage)
        await backend.serve()

    await scene.start(talks, sound)
    client = await scene.client()
    await _ignore_first_server(scene)
    await _is_served(client)
    client.close()
    await scene.at_rest()


async def _ignore_first_server(scene: Scene) -> None:
    await until(lambda: scene.fake.backends[0].has_ended, "the pooler closed the first server")


@pytest.mark.parametrize(
    "parts",
    [
        (b"?" * 50,),
        (b"Z\0\0\0\4",),
        (b"C\xff\xff\xff\xff",),
        (message(b"1"), READY),
        (message(b"E", b"no fields"), READY),
        (ANSWER[:-3],),
    ],
)
async def test_garbage_in_an_answer_costs_that_client_only(scene: Scene, parts: tuple[bytes, ...]) -> None:
    await scene.start(says(*parts), sound)
    first, second = await scene.client(), await scene.client()
    first.send(messages.query("select 'odd'"))
    await asyncio.sleep(0.2)
    first.abort()
    await _is_served(second)
    second.close()
    await scene.at_rest()


async def _dies_busy(backend: Backend) -> None:
    backend.log_in()
    while (await backend.receive())[1][:6] != b"select":
        backend.answer(b"RESET ALL")


async def test_a_server_that_dies_under_a_query_is_told_and_replaced(scene: Scene) -> None:
    await scene.start(_dies_busy, sound)
    first, second = await scene.client(), await scene.client()
    first.send(messages.query("select 1"))
    tag, body = await first.receive()
    assert tag == b"E"
    assert messages.error_fields(body)["C"] == "08006"
    with pytest.raises(ServerClosedError):
        await first.receive()
    await _is_served(second)
    second.close()
    await scene.at_rest()


async def test_a_server_that_dies_in_an_errand_costs_no_client(scene: Scene) -> None:
    async def dies_in_reset(backend: Backend) -> None:
        backend.log_in()
        while True:
            _, body = await backend.receive()
            if body.startswith(b"DISCARD"):
                return
            if body.startswith(b"set"):
                backend.send(message(b"C", b"SET\0"), READY)
            else:
                backend.answer(body)

    await scene.start(dies_in_reset, sound)
    first, second = await scene.client(), await scene.client()
    first.send(messages.query("set a = 1"))
    first.close()  # so its session is reset
    await _is_served(second)
    await _is_served(second)
    assert len(scene.fake.backends) == 2
    second.close()
    await scene.at_rest()


@pytest.mark.parametrize("sqlstate", ["53300", "28P01", "3D000"])
async def test_after_a_refused_login_the_next_one_is_tried(scene: Scene, sqlstate: str) -> None:
    async def refuses(backend: Backend) -> None:
        backend.send(refusal(sqlstate))

    await scene.start(refuses, sound, queue_timeout=2.0)
    with contextlib.suppress(ServerRefusedError):  # a full PostgreSQL may be waited out within the queue's time
        (await scene.client()).close()
        assert sqlstate == "53300"

    async def comes_in() -> RawClient:
        while True:
            try:
                return await scene.client()
            except ServerRefusedError:
                await asyncio.sleep(0.2)

    async with asyncio.timeout(20):
        client = await comes_in()
    await _is_served(client)
    client.close()
    await scene.at_rest()


async def test_a_server_that_starts_up_is_waited_for(scene: Scene) -> None:
    async def starts(backend: Backend) -> None:
        backend.send(refusal("57P03", "the database system is starting up"))

    await scene.start(starts, starts, sound, queue_timeout=15.0)
    client = await scene.client()
    await _is_served(client)
    client.close()


async def _closes_at_once(backend: Backend) -> None:
    backend.log_in()


async def _stalls(backend: Backend) -> None:
    await backend.receive()


@pytest.mark.parametrize("fault", [_stalls, _closes_at_once])
async def test_logins_that_stall_or_end_at_once_keep_no_slot(scene: Scene, fault: Behaviour) -> None:
    await scene.start(fault, queue_timeout=1.0)
    with pytest.raises((ServerRefusedError, ServerClosedError)):
        await scene.client()
    assert len(scene.fake.backends) < 20
    scene.fake._behaviours = [sound]

    async def comes_in() -> RawClient:
        while True:
            try:
                return await scene.client()
            except (ServerRefusedError, ServerClosedError):
                await asyncio.sleep(0.2)

    async with asyncio.timeout(40):
        client = await comes_in()
    await _is_served(client)
    client.close()
    await scene.at_rest()
