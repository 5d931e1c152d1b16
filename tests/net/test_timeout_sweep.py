"""How the sessions are gone through: in slices, each for itself, and soon enough for the shortest timeout."""

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from pgweir_pooler.net import timeouts
from pgweir_pooler.net.timeouts import TimeoutSweep
from pgweir_pooler.session.timeouts import Timeouts

if TYPE_CHECKING:
    from pgweir_pooler.net.client_session import ClientSession


class Client:
    """What the sweep sees of a session without a server."""

    def __init__(self, **given: float) -> None:
        self.held = SimpleNamespace(timeouts=Timeouts(**given))
        self.server = None
        self.is_waiting = False
        self.is_closing = False
        self.ready_at = 1.0
        self.closed: list[str] = []
        self.left = asyncio.Event()

    def close(self, error: Any) -> None:
        self.closed.append(error.code)
        self.is_closing = True
        self.left.set()


def sweep_of(*clients: Client) -> TimeoutSweep:
    return TimeoutSweep(cast("dict[int, ClientSession]", dict(enumerate(clients))))


async def test_it_gives_the_loop_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_000_000))
    monkeypatch.setattr(timeouts, "perf_counter", lambda: next(clock))  # each look at the clock is a second later
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await sweep_of(*(Client() for _ in range(1600))).sweep()
    counting.cancel()
    assert turns >= 99


async def test_each_client_has_the_timeouts_of_its_pool() -> None:
    idle, patient, closing = Client(client_idle_s=0.5), Client(), Client(client_idle_s=0.5)
    closing.is_closing = True
    sweep = sweep_of(idle, patient, closing)
    await sweep.sweep()
    await sweep.sweep()
    assert (idle.closed, patient.closed, closing.closed) == (["ClientIdleTimeout"], [], [])


async def test_what_is_wrong_with_one_client_keeps_no_other_waiting() -> None:
    broken, idle = Client(client_idle_s=0.5), Client(client_idle_s=0.5)
    broken.close = None  # type: ignore[method-assign,assignment]
    await sweep_of(broken, idle).sweep()
    assert idle.closed == ["ClientIdleTimeout"]


async def test_a_client_with_short_timeouts_is_not_kept_waiting() -> None:
    clients: dict[int, Any] = {}
    sweep = TimeoutSweep(clients)
    running = asyncio.create_task(sweep.run())
    await asyncio.sleep(0)  # nobody is here: the next look would be in a second
    clients[0] = Client(client_idle_s=0.01)
    sweep.joined(clients[0])
    async with asyncio.timeout(0.9):
        await clients[0].left.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
