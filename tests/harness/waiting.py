"""Waiting for a fact that nobody announces: polled, bounded, with a text that says what did not happen."""

import asyncio
import time
from collections.abc import Callable

POLL_S = 0.02


async def until(fact: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Returns when `fact()` is true; AssertionError naming `what` after `timeout_s`.

    `fact` runs in a thread, so that it may block (psql, HTTP) while the test's own sockets go on.
    """
    deadline = time.monotonic() + timeout_s
    while not await asyncio.to_thread(fact):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        await asyncio.sleep(POLL_S)
