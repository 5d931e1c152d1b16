"""A client of a real PostgreSQL whose bytes go through both streams, cut anywhere, as in a pooler with one server.

It attaches and detaches as a transaction-mode client does, and can be asked at any free moment to prove with a query of
its own that PostgreSQL had nothing more to say.
"""

import asyncio
from random import Random
from typing import TYPE_CHECKING

from harness import messages
from harness.raw_client import RawClient
from pgweir_pooler.session.backend_stream import BackendStream
from pgweir_pooler.session.frontend_stream import FrontendStream
from pgweir_pooler.wire.framing import IDLE, QUERY
from wire.splits import cut

if TYPE_CHECKING:
    from harness.messages import Message

ASYNCHRONOUS = (b"N", b"S", b"A")


class TappedClient(RawClient):
    """One connection; call `tap` after the login. `is_attached` says whether the client holds the server."""

    _is_tapped = False

    def tap(self, random: Random) -> None:
        """From now on all bytes go through the streams, cut by `random`."""
        self._is_tapped = True
        self._random = random
        self._change = asyncio.Event()
        self.backend = BackendStream({})
        self.frontend = FrontendStream(None)
        self.is_attached = False
        self._is_release_due = False
        self.frees = 0  # how often the server became free
        self.current: list[Message] = []  # from the server since the last free moment, asynchronous ones excepted
        self.last: list[Message] = []  # the same between the two last free moments

    def data_received(self, data: bytes) -> None:
        if not self._is_tapped:
            super().data_received(data)
            return
        for piece in cut(data, [self._random.randrange(len(data)) for _ in range(self._random.randrange(4))]):
            self._from_server(piece)
        self._change.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._is_tapped:
            self._change.set()

    def _from_server(self, data: bytes) -> None:
        backend = self.backend
        super().data_received(backend.receive(data))
        while (message := self._next_message()) is not None:
            if message.tag not in ASYNCHRONOUS:
                self.current.append(message)
        if not backend.is_free:
            return
        self.frees += 1
        self.last, self.current = self.current, []
        if self.frontend.is_mid_message:
            self._is_release_due = True
        else:
            self.is_attached = False
        rest, backend.rest = backend.rest, b""
        if rest:
            self._from_server(rest)

    def speak(self, data: bytes) -> None:
        """The client sends these bytes; while it holds no server, it takes it."""
        frontend, pipeline = self.frontend, self.backend.pipeline
        if not self.is_attached:
            assert not self.current, f"not free, this came later: {self.current}"
            data = frontend.skim(data)
            if not data:
                return
            self.is_attached = True
        self.send(frontend.receive(data, pipeline))
        assert not frontend.has_news
        if self._is_release_due and not frontend.is_mid_message:
            self._is_release_due = False
            if pipeline.is_settled and pipeline.status == IDLE:
                self.is_attached = False

    async def pause(self, seconds: float) -> None:
        """Gives PostgreSQL time to answer: until something came, or `seconds` have passed."""
        self._change.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._change.wait()
        except TimeoutError:
            pass

    async def until_free(self, seconds: float = 5.0) -> None:
        """Waits until the client holds no server; AssertionError when the streams never free it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self.is_attached and not self.closed:
            pipeline = self.backend.pipeline
            assert loop.time() < deadline, f"stuck: owed {list(pipeline.owed)}, confused {pipeline.is_confused}"
            await self.pause(0.2)

    async def prove_free(self, marker: str) -> None:
        """A query of our own, as the pooler's errands are: its answer and nothing else must come."""
        assert not self.current, f"not free, this came later: {self.current}"
        self.is_attached = True
        self.backend.pipeline.sent(QUERY)
        self.send(messages.query(f"select '{marker}'"))
        await self.until_free()
        assert not self.closed, "PostgreSQL ended a connection that was called free"
        assert messages.tags(self.last) == b"TDCZ", self.last
        assert messages.rows(self.last) == [[marker.encode()]]
