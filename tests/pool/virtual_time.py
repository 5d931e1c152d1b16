"""An event loop whose clock jumps to the next timer instead of waiting for it: exact times, and no test sleeps."""

from __future__ import annotations

import asyncio
import functools
import selectors
from typing import TYPE_CHECKING, ParamSpec, TypeVarTuple, Unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

P = ParamSpec("P")
Ts = TypeVarTuple("Ts")


class _Jumping(selectors.DefaultSelector):
    """Passes the time that the loop wants to wait on its own clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("the test waits for something that nothing will ever do")
        self.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at 0.0; counts the timers that were set, for tests that want none."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        self.timers_set = 0
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self.timers_set += 1
        return super().call_at(when, callback, *args, context=context)


def in_virtual_time(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """Runs an async test on a loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


async def pass_time(seconds: float) -> None:
    """Lets everything happen that is due within that time; 0 lets what is ready happen."""
    for _ in range(5):
        await asyncio.sleep(0)
    await asyncio.sleep(seconds)
    for _ in range(5):
        await asyncio.sleep(0)
