"""The ClientHello of TLS (RFC 8446 section 4.1.2), as far as it says whom the client wants to talk to.

Read ahead of the handshake, because the certificate and the tenant follow from the server name (RFC 6066), and because
PostgreSQL's clients that begin TLS by themselves must say `postgresql` by ALPN (RFC 7301). It comes in one or more
records, in any pieces. What is wrong with it beyond that is for the TLS library to find.
"""

import re
from dataclasses import dataclass

# Several times what clients with post-quantum key shares send; OpenSSL itself would read up to 128 KiB.
HELLO_MAX_BYTES = 16_384
_RECORDS_MAX = 16

_HANDSHAKE_RECORD = 22
_CLIENT_HELLO = 1
_SERVER_NAME, _ALPN = 0, 16
_HOST_NAME = re.compile(rb"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\.?")


@dataclass(frozen=True, slots=True)
class ClientHello:
    """Whom a client wants to talk to, and in what."""

    server_name: str = ""  # in lower case, without a final dot; empty when there is none that is a host name
    protocols: tuple[bytes, ...] | None = None  # ALPN; None when the client does not use it


class NotClientHelloError(ValueError):
    """The bytes are none, or more than are taken."""


def read_client_hello(data: bytes) -> ClientHello | None:
    """The hello that the bytes begin with, None while it is incomplete. Raises NotClientHelloError."""
    message = _handshake_message(data)
    if message is None:
        return None
    try:
        return _parse(_Reader(message))
    except IndexError:
        raise NotClientHelloError("a length in the ClientHello is wrong") from None


def _handshake_message(data: bytes) -> bytes | None:
    """The body of the first handshake message, put together from its records; None while it is incomplete."""
    found = b""
    at = 0
    for _ in range(_RECORDS_MAX):
        header = data[at : at + 5]
        if header[:1] not in (b"", b"\x16") or header[1:2] not in (b"", b"\x03"):
            raise NotClientHelloError("no TLS handshake record")
        if len(header) < 5:
            return None
        size = int.from_bytes(header[3:], "big")
        if not 0 < size <= HELLO_MAX_BYTES:
            raise NotClientHelloError("a TLS record has an impossible length")
        found += data[at + 5 : at + 5 + size]
        at += 5 + size
        if found[:1] not in (b"", b"\x01"):
            raise NotClientHelloError("the first TLS message is no ClientHello")
        if len(found) >= 4:
            length = int.from_bytes(found[1:4], "big")
            if length > HELLO_MAX_BYTES:
                raise NotClientHelloError("the ClientHello is too long")
            if len(found) >= 4 + length:
                return found[4 : 4 + length]
        if len(data) < at:
            return None
    raise NotClientHelloError("the ClientHello is in too many records")


class _Reader:
    """A place in the hello; IndexError when a field is not wholly there."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise IndexError
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_bytes: int) -> bytes:
        return self.take(self.number(length_bytes))


def _parse(body: _Reader) -> ClientHello:
    body.take(2 + 32)  # version, random
    body.vector(1)  # session id
    body.vector(2)  # cipher suites
    body.vector(1)  # compression methods
    server_name, protocols = "", None
    if body.at_end:
        return ClientHello()
    extensions = _Reader(body.vector(2))
    while not extensions.at_end:
        kind, content = extensions.number(2), _Reader(extensions.vector(2))
        if kind == _SERVER_NAME:
            server_name = _host_name(_Reader(content.vector(2)))
        elif kind == _ALPN:
            protocols = _protocols(_Reader(content.vector(2)))
    return ClientHello(server_name, protocols)


def _host_name(names: _Reader) -> str:
    while not names.at_end:
        kind, name = names.number(1), names.vector(2)
        if kind == 0:
            return name.decode("ascii").lower().rstrip(".") if _HOST_NAME.fullmatch(name) else ""
    return ""


def _protocols(names: _Reader) -> tuple[bytes, ...]:
    found = []
    while not names.at_end:
        found.append(names.vector(1))
    return tuple(found)
