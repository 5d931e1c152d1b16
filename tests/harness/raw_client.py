"""A client that shows every byte: it sends what a test wants and hands back messages one by one.

Every wait for the server has a timeout, so that a lost reply fails a test and does not hang it.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Self, cast

from harness import messages
from harness.address import Address
from harness.messages import Message, error_fields
from harness.scram_client import ScramClient

DEFAULT_TIMEOUT_S = 30.0


class ServerClosedError(ConnectionError):
    """The server ended the connection; `rest` holds what it had sent of an unfinished message."""

    def __init__(self, rest: bytes) -> None:
        super().__init__(f"connection closed by the server, {len(rest)} bytes of a message left")
        self.rest = rest


class ServerRefusedError(Exception):
    """An ErrorResponse where the caller expected none; `fields` has its parts."""

    def __init__(self, body: bytes) -> None:
        self.fields = error_fields(body)
        super().__init__(f"{self.sqlstate}: {self.fields.get('M')}")

    @property
    def sqlstate(self) -> str:
        return self.fields.get("C", "")


class RawClient(asyncio.Protocol):
    """One connection. `open` connects, `connect` logs in, too."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.timeout_s = DEFAULT_TIMEOUT_S  # of every single wait in `receive`
        self.parameters: dict[str, str] = {}  # ParameterStatus, kept up by `receive`
        self.pid = 0
        self.secret = b""
        self.negotiated: list[bytes] = []  # NegotiateProtocolVersion bodies; each has come before authentication ended
        self.closed = False
        self._buffer = bytearray()  # received and not yet handed out, from _at
        self._at = 0
        self._waiter: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> Self:
        """Connects; nothing is sent."""
        _, client = await asyncio.get_running_loop().create_connection(cls, host, port)
        return client

    @classmethod
    async def connect(
        cls,
        address: Address,
        parameters: Mapping[str, str] | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        *,
        minor: int = 0,
    ) -> Self:
        """Connects and logs in by protocol 3.`minor`; ServerRefusedError when the server says no."""
        client = await cls.open(address.host, address.port)
        client.timeout_s = timeout_s
        try:
            await client.login(address, parameters or {}, minor=minor)
        except BaseException:
            client.abort()
            raise
        return client

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        if self._at == len(self._buffer):
            self._buffer = bytearray(data)
            self._at = 0
        else:
            self._buffer += data
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._wake()

    # --- reading

    async def receive(self) -> Message:
        """The next message. TimeoutError after `timeout_s` of silence, ServerClosedError at the end."""
        while True:
            message = self._next_message()
            if message is not None:
                return message
            await self._more()

    async def receive_until(self, tag: bytes) -> list[Message]:
        """All messages up to and with the first of that type."""
        received = [await self.receive()]
        while received[-1].tag != tag:
            received.append(await self.receive())
        return received

    async def receive_bytes(self, count: int) -> bytes:
        """The next bytes as they are: the answer to an SSLRequest is no message."""
        while len(self._buffer) - self._at < count:
            await self._more()
        self._at += count
        return bytes(self._buffer[self._at - count : self._at])

    async def wait_closed(self) -> bytes:
        """Waits until the server ends the connection; what it had sent and nobody has read."""
        try:
            while True:
                await self._more()
        except ServerClosedError as end:
            return end.rest

    # --- writing

    def send(self, *parts: bytes) -> None:
        """Writes at once; the transport keeps what the socket does not take.

        After the end nothing happens here: `receive` still hands out what came before it, then raises.
        """
        if not self.transport.is_closing():  # uvloop would raise RuntimeError
            self.transport.write(b"".join(parts))

    async def query(self, sql: str) -> list[Message]:
        """A simple query and all messages up to ReadyForQuery, errors among them."""
        self.send(messages.query(sql))
        return await self.receive_until(b"Z")

    async def values(self, sql: str) -> list[list[bytes | None]]:
        """The rows of a simple query; ServerRefusedError when it fails."""
        received = await self.query(sql)
        for tag, body in received:
            if tag == b"E":
                raise ServerRefusedError(body)
        return messages.rows(received)

    def close(self) -> None:
        """Terminate, then close: the polite end."""
        if not self.transport.is_closing():
            self.send(messages.TERMINATE)
            self.transport.close()

    def abort(self) -> None:
        """Closes without a word, as a killed process does."""
        self.transport.abort()

    # --- login

    async def login(self, address: Address, parameters: Mapping[str, str], *, minor: int = 0) -> None:
        """StartupMessage to the first ReadyForQuery."""
        wanted = {"user": address.user, "database": address.database, **parameters}
        self.send(messages.startup(wanted, messages.PROTOCOL_3_0 | minor))
        scram = ScramClient(address.password)
        while True:
            tag, body = await self.receive()
            if tag == b"E":
                raise ServerRefusedError(body)
            if tag == b"R":
                self._answer_authentication(body, address, scram)
            elif tag == b"K":
                self.pid, self.secret = int.from_bytes(body[:4], "big"), body[4:]
            elif tag == b"v":
                self.negotiated.append(body)
            elif tag == b"Z":
                return
            elif tag not in (b"S", b"N"):
                raise ValueError(f"message {tag!r} during login")

    def _answer_authentication(self, body: bytes, address: Address, scram: ScramClient) -> None:
        kind, data = int.from_bytes(body[:4], "big"), body[4:]
        if kind == 3:
            self.send(messages.password(messages.text(address.password)))
        elif kind == 5:
            inner = hashlib.md5((address.password + address.user).encode()).hexdigest()
            digest = hashlib.md5(inner.encode() + data).hexdigest()
            self.send(messages.password(messages.text("md5" + digest)))
        elif kind == 10:
            first = scram.first()
            mechanism = messages.text("SCRAM-SHA-256")
            self.send(messages.password(mechanism + len(first).to_bytes(4, "big") + first))
        elif kind == 11:
            self.send(messages.password(scram.final(data)))
        elif kind == 12:
            scram.verify(data)
        elif kind != 0:
            raise ValueError(f"authentication request {kind} is not known here")

    # --- inside

    def _next_message(self) -> Message | None:
        buffer, at = self._buffer, self._at
        if len(buffer) - at < 5:
            return None
        end = at + 1 + int.from_bytes(buffer[at + 1 : at + 5], "big")
        if len(buffer) < end:
            return None
        message = Message(bytes(buffer[at : at + 1]), bytes(buffer[at + 5 : end]))
        self._at = end
        if message.tag == b"S":
            name, value, _ = message.body.split(b"\0")
            self.parameters[name.decode()] = value.decode()
        return message

    async def _more(self) -> None:
        if self.closed:
            raise ServerClosedError(bytes(self._buffer[self._at :]))
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = loop.call_later(self.timeout_s, self._time_out, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _time_out(self, waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_exception(TimeoutError(f"no message within {self.timeout_s} s"))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def cancel(host: str, port: int, pid: int, secret: bytes) -> None:
    """Sends a CancelRequest and waits until the server has closed that connection."""
    client = await RawClient.open(host, port)
    client.send(messages.cancel_request(pid, secret))
    await client.wait_closed()
    client.abort()
