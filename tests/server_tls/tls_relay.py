"""Stands between a pooler and PostgreSQL: watches what passes, or plays the man in the middle."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Self

from harness.certificates import Pair
from harness.tls_postgres import SSL_REQUEST
from pgweir_pooler.net.tls_contexts import load_key_pair

CANCEL_CODE = (80877102).to_bytes(4, "big")


class Relay:
    """Listens on `port` and passes on to a server; `first` has what came first on each connection."""

    def __init__(self, server_port: int, pair: Pair | None = None, *, behind_s: bytes = b"") -> None:
        self._server_port = server_port
        self._pair = pair  # whoever has it ends TLS here and begins it again towards the server
        self._behind_s = behind_s  # put behind the server's S, in clear
        self.first: list[bytes] = []
        self.seen = bytearray()  # what the pooler sent, as it was on the wire, or in clear with a pair
        self.rewrite = _unchanged  # what the server says
        self.says_no = False  # to every question for TLS
        self.port = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._transports: list[asyncio.WriteTransport] = []  # below any TLS
        self._is_over = False

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        self._listener.close()
        await _turns()  # in which what was accepted begins, and ends
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections)
        for transport in self._transports:
            transport.abort()  # one whose TLS waits for the other side's goodbye would outlive the test
        await _turns()

    def _see(self, data: bytes) -> bytes:
        self.seen += data
        return data

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        server_writer: asyncio.StreamWriter | None = None
        if self._is_over:  # it was accepted with the listener's last breath
            writer.transport.abort()
            return
        self._transports.append(writer.transport)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            self._transports.append(server_writer.transport)
            packet = await reader.readexactly(8)
            self.first.append(packet)
            if packet == SSL_REQUEST and self.says_no:
                writer.write(b"N")
                self.seen += await reader.read(65536)
                return
            server_writer.write(packet)
            if packet == SSL_REQUEST:
                answer = await server_reader.readexactly(1)
                if self._pair is not None:
                    await server_writer.start_tls(_client_context())
                    reader._transport.pause_reading()  # type: ignore[attr-defined]  # what comes next is for TLS
                writer.write(answer + self._behind_s)
                if self._pair is not None:
                    await writer.start_tls(_server_context(self._pair))
            await asyncio.gather(_pump(reader, server_writer, self._see), _pump(server_reader, writer, self.rewrite))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the test is over, or its end is what it is about
        finally:
            writer.close()
            if server_writer is not None:
                server_writer.close()
            self._connections.discard(task)


async def _turns() -> None:
    """Some turns of the event loop."""
    for _ in range(10):
        await asyncio.sleep(0)


def _unchanged(data: bytes) -> bytes:
    return data


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Callable[[bytes], bytes]) -> None:
    while data := await reader.read(65536):
        writer.write(change(data))
    writer.close()


def _client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _server_context(pair: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_key_pair(context, pair.certificate, pair.key)
    return context
