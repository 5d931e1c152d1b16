"""A PostgreSQL that misbehaves on purpose: it logs clients in and then does what its script says."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from harness.messages import message

Behaviour: TypeAlias = Callable[["Backend"], Awaitable[None]]

AUTHENTICATED = message(b"R", b"\0\0\0\0")
KEY = message(b"K", b"\0\0\0\7key!")
READY = message(b"Z", b"I")
ANSWER = message(b"T", b"\0\1n\0" + b"\0" * 18) + message(b"D", b"\0\1\0\0\0\1x") + message(b"C", b"SELECT 1\0") + READY


def refusal(sqlstate: str, text: str = "no") -> bytes:
    """A FATAL error."""
    return message(b"E", f"SFATAL\0VFATAL\0C{sqlstate}\0M{text}\0\0".encode())


class Backend:
    """One connection from the pooler, its startup message read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.has_ended = False  # the pooler closed its side

    def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    def log_in(self) -> None:
        """All that PostgreSQL says to a client that needs no password."""
        self.send(AUTHENTICATED, message(b"S", b"server_version\x0018.0\0"), KEY, READY)

    async def receive(self) -> tuple[bytes, bytes]:
        """The pooler's next message; IncompleteReadError when it left."""
        tag = await self.reader.readexactly(1)
        length = int.from_bytes(await self.reader.readexactly(4), "big")
        return tag, await self.reader.readexactly(length - 4)

    async def serve(self) -> None:
        """Answers every query with one row, the pooler's own with what they ask for."""
        while True:
            tag, body = await self.receive()
            if tag == b"X":
                return
            self.answer(body)

    def answer(self, body: bytes) -> None:
        """Answers one Query."""
        if body.startswith((b"RESET ALL", b"DISCARD ALL", b"ROLLBACK")):
            self.send(message(b"C", body.split(b"\0")[0] + b"\0"), READY)
        else:
            self.send(ANSWER)


class FakePostgres:
    """Listens on `port`; the n-th connection gets the n-th behaviour, all further ones the last."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self._behaviours = list(behaviours)
        self.backends: list[Backend] = []
        self.cancel_keys: list[bytes] = []
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for backend in self.backends:
            backend.writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            length = int.from_bytes(await reader.readexactly(4), "big")
            startup = await reader.readexactly(length - 4)
            if startup[:4] == b"\x04\xd2\x16\x2e":  # CancelRequest
                self.cancel_keys.append(startup[4:])
                return
            backend = Backend(reader, writer)
            self.backends.append(backend)
            behaviour = self._behaviours[min(len(self.backends), len(self._behaviours)) - 1]
            try:
                await behaviour(backend)
            finally:
                backend.has_ended = True
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def sound(backend: Backend) -> None:
    """Logs in and answers."""
    backend.log_in()
    await backend.serve()
