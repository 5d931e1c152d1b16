"""Back-pressure: pausing what is read, and noticing who does not read."""

import asyncio
from collections.abc import Callable


class PausableProtocol(asyncio.Protocol):
    """A protocol whose reading can be paused by whoever its bytes go to."""

    __slots__ = ("is_reading_paused", "transport")

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.is_reading_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's transports derive from no asyncio class

    def pause_reading(self) -> None:
        """Reads no more until `resume_reading`."""
        if not self.is_reading_paused and not self.transport.is_closing():
            self.is_reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Undoes `pause_reading`."""
        if self.is_reading_paused:
            self.is_reading_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()


class StallWatch:
    """Calls `on_stall` when a peer took nothing of what is buffered for it for a whole `timeout_s`."""

    __slots__ = ("_buffered", "_loop", "_on_stall", "_timeout_s", "_timer", "_transport")

    def __init__(
        self,
        transport: asyncio.Transport,
        timeout_s: float,
        loop: asyncio.AbstractEventLoop,
        on_stall: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._timeout_s = timeout_s
        self._loop = loop
        self._on_stall = on_stall
        self._buffered = transport.get_write_buffer_size()
        self._timer = loop.call_later(timeout_s, self._check)

    def cancel(self) -> None:
        """Ends the watch."""
        self._timer.cancel()

    def _check(self) -> None:
        buffered = self._transport.get_write_buffer_size()
        if buffered >= self._buffered:
            self._on_stall()
            return
        self._buffered = buffered
        self._timer = self._loop.call_later(self._timeout_s, self._check)
