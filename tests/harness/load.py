"""Steady load for tests of faults and reloads: what was served, what failed and how, how long it took.

Each client logs in, repeats one statement, and logs in again after it lost its connection: as applications do.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from harness import messages
from harness.address import Address
from harness.messages import error_fields, row_values
from harness.raw_client import RawClient, ServerClosedError, ServerRefusedError

LOST = "lost"  # the connection ended without an error message
TIMED_OUT = "timeout"
WRONG_REPLY = "wrong reply"
_RETRY_S = 0.05
_FATAL = ("FATAL", "PANIC")


@dataclass
class LoadResult:
    """What has happened so far; it grows while the load runs."""

    queries: int = 0
    logins: int = 0
    errors: Counter[str] = field(default_factory=Counter)  # by SQLSTATE, or one of the words above
    texts: dict[str, str] = field(default_factory=dict)  # the latest text of each kind of error
    latencies_s: list[float] = field(default_factory=list)
    longest_gap_s: float = 0.0  # between two replies to anybody
    last_reply_at: float = 0.0  # time.monotonic()

    def percentile(self, q: float) -> float:
        """The q-quantile (0..1) of the latencies, in seconds; 0.0 when there is none."""
        ordered = sorted(self.latencies_s)
        return ordered[min(int(q * len(ordered)), len(ordered) - 1)] if ordered else 0.0

    def failed(self, sqlstate: str, text: str) -> None:
        """Counts one error."""
        self.errors[sqlstate] += 1
        self.texts[sqlstate] = text

    def served(self, started: float) -> None:
        """Counts one correct reply to what was sent at `started`."""
        now = time.monotonic()
        self.queries += 1
        self.latencies_s.append(now - started)
        if self.last_reply_at:
            self.longest_gap_s = max(self.longest_gap_s, now - self.last_reply_at)
        self.last_reply_at = now


class Load:
    """`clients` connections; `rate` is queries a second of all together, None: as fast as replies come."""

    def __init__(
        self, address: Address, *, clients: int = 20, rate: float | None = None, timeout_s: float = 30.0
    ) -> None:
        self.result = LoadResult()
        self._address = address
        self._clients = clients
        self._pause_s = clients / rate if rate else 0.0
        self._timeout_s = timeout_s
        self._stopping = False

    async def work(self, index: int) -> None:
        """One client, logging in anew as often as it must, until the load stops."""
        while not self._stopping:
            client = await self._login(index)
            if client is None:
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                while not self._stopping and await self._one_query(client, index):  # noqa: ASYNC110
                    await asyncio.sleep(self._pause_s)
            finally:
                client.close()

    async def until(self, queries: int, timeout_s: float = 30.0) -> None:
        """Waits for so many more replies; TimeoutError when they do not come."""
        wanted = self.result.queries + queries
        async with asyncio.timeout(timeout_s):
            while self.result.queries < wanted:  # noqa: ASYNC110 - a test polls
                await asyncio.sleep(0.01)

    async def _login(self, index: int) -> RawClient | None:
        try:
            client = await RawClient.connect(
                self._address, {"application_name": f"load-{index}"}, timeout_s=self._timeout_s
            )
        except ServerRefusedError as error:
            self.result.failed(error.sqlstate, str(error))
        except TimeoutError as error:
            self.result.failed(TIMED_OUT, str(error))
        except OSError as error:
            self.result.failed(LOST, str(error))
        else:
            self.result.logins += 1
            return client
        return None

    async def _one_query(self, client: RawClient, index: int) -> bool:
        """False when the connection is of no more use."""
        marker = f"{index}/{self.result.queries}"
        started = time.monotonic()
        row = None
        error: dict[str, str] = {}
        try:
            client.send(messages.query(f"select '{marker}'"))
            while (received := await client.receive()).tag != b"Z":
                if received.tag == b"D":
                    row = row_values(received.body)
                elif received.tag == b"E":
                    error = error_fields(received.body)
                    self.result.failed(error["C"], error["M"])
                    if error["S"] in _FATAL:
                        return False
        except ServerClosedError as end:
            self.result.failed(LOST, str(end))
            return False
        except TimeoutError as end:
            self.result.failed(TIMED_OUT, str(end))
            return False
        if row == [marker.encode()]:
            self.result.served(started)
        elif not error:
            self.result.failed(WRONG_REPLY, f"{row} instead of {marker}")
        return True

    def stop(self) -> None:
        """Lets each client finish the query it has sent."""
        self._stopping = True


@contextlib.asynccontextmanager
async def running_load(address: Address, **options: float | None) -> AsyncIterator[Load]:
    """Load in the background of the block; the options are those of `Load`. `load.result` stays readable."""
    load = Load(address, **options)  # type: ignore[arg-type]
    clients = int(options.get("clients") or 20)
    tasks = [asyncio.create_task(load.work(i), name=f"load client {i}") for i in range(clients)]
    try:
        yield load
    finally:  # no TaskGroup: a test's own failure should arrive as it is
        load.stop()
        await asyncio.gather(*tasks)
