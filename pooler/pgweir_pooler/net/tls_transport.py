"""TLS over a client's connection: a transport to those above it, a protocol to the socket below.

Not the event loop's own: `start_tls` cannot take bytes that were read before, sends no alert when a handshake fails,
and keeps a buffer of 256 KiB for each connection (docs/decisions.md has the figures). Here OpenSSL works between two
buffers in memory, and nothing waits: what is written is encrypted and handed on at once, so the socket's transport does
all the counting for back-pressure, and what was received is decrypted at once and handed on in one piece.

Each write becomes records of at most RECORD_BYTES: a libpq that reads asynchronously takes one record from the socket
at a time and waits for the socket again while more of a larger one lies decrypted in OpenSSL.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

from pgweir_pooler.errors import TlsFailed
from pgweir_pooler.wire.client_hello import HELLO_MAX_BYTES, ClientHello, NotClientHelloError, read_client_hello

RECORD_BYTES = 8192
_READ_BYTES = 16_384  # the largest record
_HELLO_BUFFER_BYTES = HELLO_MAX_BYTES + 1024  # with the headers of its records

_HELLO, _HANDSHAKE, _OPEN, _CLOSED = range(4)


class HandshakeRefused(Exception):
    """We end the handshake with an alert before TLS has begun."""

    def __init__(self, alert: int, why: str) -> None:
        super().__init__(why)
        self.alert = alert


ChooseContext = Callable[[ClientHello | None], ssl.SSLContext]
"""From the ClientHello (None: it cannot be understood, and OpenSSL will say why) to the context; may raise
HandshakeRefused."""


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """One client's TLS, from before its ClientHello to the end.

    `on_handshake` is called once, with what went wrong or None; not when the connection ends before that. The protocol
    hears of the end in any case.
    """

    __slots__ = (
        "_choose",
        "_hello",
        "_incoming",
        "_inner",
        "_on_handshake",
        "_outgoing",
        "_protocol",
        "_state",
        "ssl_object",
    )

    def __init__(
        self,
        inner: asyncio.Transport,
        protocol: asyncio.Protocol,
        choose: ChooseContext,
        on_handshake: Callable[[TlsFailed | None], None],
    ) -> None:
        super().__init__()
        self._inner = inner
        self._protocol: asyncio.Protocol = protocol
        self._choose: ChooseContext | None = choose  # these three until the handshake has ended
        self._on_handshake: Callable[[TlsFailed | None], None] | None = on_handshake
        self._hello: bytearray | None = bytearray()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.ssl_object: ssl.SSLObject  # from the ClientHello on
        self._state = _HELLO
        inner.set_protocol(self)

    # --- the protocol of the socket's transport

    def data_received(self, data: bytes) -> None:
        """Ciphertext."""
        state = self._state
        if state == _OPEN:
            self._read(data)
        elif state == _HANDSHAKE:
            self._incoming.write(data)
            self._shake()
        elif state == _HELLO:
            self._collect_hello(data)

    def eof_received(self) -> bool:
        """The peer has closed its side, with or without saying so by TLS: the same as for a plain connection."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._state = _CLOSED
        self._forget_handshake()
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """The socket does not take what was written."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Undoes `pause_writing`."""
        self._protocol.resume_writing()

    # --- the handshake

    def _collect_hello(self, data: bytes) -> None:
        hello = self._hello
        assert hello is not None
        assert self._choose is not None
        hello += data
        try:
            found = read_client_hello(bytes(hello))
            if found is None and len(hello) <= _HELLO_BUFFER_BYTES:
                return
        except NotClientHelloError:
            found = None
        try:
            context = self._choose(found)
        except HandshakeRefused as refused:
            self._inner.write(b"\x15\x03\x03\x00\x02\x02" + bytes([refused.alert]))
            self._fail(str(refused))
            return
        self.ssl_object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._incoming.write(hello)
        self._state = _HANDSHAKE
        self._shake()

    def _shake(self) -> None:
        try:
            self.ssl_object.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # the alert
            self._fail(_reason(error))
            return
        self._flush()
        self._state = _OPEN
        done = self._on_handshake
        self._forget_handshake()
        assert done is not None
        done(None)
        if self._state == _OPEN:  # not closed by whom we told
            self._read(b"")

    def _fail(self, why: str) -> None:
        self._state = _CLOSED
        done = self._on_handshake
        self._forget_handshake()
        self._inner.close()
        if done is not None:
            done(TlsFailed(why))

    def _forget_handshake(self) -> None:
        self._choose = self._on_handshake = self._hello = None

    # --- reading

    def _read(self, data: bytes) -> None:
        chunks: list[bytes] = []
        if len(data) <= _READ_BYTES:
            self._incoming.write(data)
            is_over = self._decrypt(chunks)
        else:  # in pieces: a buffer of OpenSSL never gets smaller again
            view = memoryview(data)
            for at in range(0, len(view), _READ_BYTES):
                self._incoming.write(view[at : at + _READ_BYTES])
                is_over = self._decrypt(chunks)
                if is_over:
                    break
        if self._outgoing.pending:  # an alert, or the answer to a change of keys
            self._flush()
        if chunks:
            self._protocol.data_received(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        if is_over:
            self.close()

    def _decrypt(self, chunks: list[bytes]) -> bool:
        """Appends what can be read; whether nothing more will come."""
        read, pending, incoming = self.ssl_object.read, self.ssl_object.pending, self._incoming
        try:
            while incoming.pending or pending():
                chunk = read(_READ_BYTES)
                if not chunk:  # close_notify
                    return True
                chunks.append(chunk)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            return True  # a record that is none, or an alert: nothing that follows can be trusted
        return False

    def pause_reading(self) -> None:
        """Nothing is decrypted ahead, so it is enough to stop the socket."""
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        """Undoes `pause_reading`."""
        self._inner.resume_reading()

    # --- writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypts and hands on; silently nothing before the handshake has ended and after `close`."""
        if self._state != _OPEN or not data:
            return
        write, encrypted = self.ssl_object.write, self._outgoing.read
        if len(data) <= RECORD_BYTES:
            write(data)
            self._flush()
            return
        view = memoryview(data)
        records = []
        for at in range(0, len(view), RECORD_BYTES):
            write(view[at : at + RECORD_BYTES])
            records.append(encrypted())  # one by one: a buffer of OpenSSL never gets smaller again
        if not self._inner.is_closing():
            self._inner.write(b"".join(records))

    def get_write_buffer_size(self) -> int:
        """What the socket has not taken yet, encrypted."""
        return self._inner.get_write_buffer_size()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and not self._inner.is_closing():
            self._inner.write(data)

    # --- the end

    def close(self) -> None:
        """What was written goes out, then close_notify; nothing is waited for, as in PostgreSQL."""
        if self._state == _OPEN:
            try:
                self.ssl_object.unwrap()
            except ssl.SSLError:
                pass  # it waits for the peer's close_notify, or TLS has failed
            self._flush()
        self._state = _CLOSED
        self._forget_handshake()
        self._inner.close()

    def abort(self) -> None:
        """Closes at once; what was not sent is lost."""
        self._state = _CLOSED
        self._forget_handshake()
        self._inner.abort()

    def is_closing(self) -> bool:
        """Whether the end has come or is under way."""
        return self._inner.is_closing()

    # --- the rest of a transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`ssl_object`, and what the socket's transport knows."""
        if name == "ssl_object":
            return self.ssl_object if self._state == _OPEN else default
        return self._inner.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Who gets what is decrypted from now on."""
        self._protocol = protocol  # type: ignore[assignment]  # ours are all of them asyncio.Protocol


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's words without its file and line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate is not accepted: {error.verify_message}"
    return (error.reason or "TLS failed").replace("_", " ").lower()
