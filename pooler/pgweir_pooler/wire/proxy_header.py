"""The header of the PROXY protocol, versions 1 and 2 (haproxy.org/download/1.8/doc/proxy-protocol.txt).

A load balancer sends it ahead of the client's first byte and states whose connection it is. Bytes go in, in any pieces;
what follows the header is not ours to read.
"""

import ipaddress
import re
from dataclasses import dataclass, field

V1_MAX_BYTES = 107  # with its line end, says the specification
# Addresses, and what load balancers add (TLVs): a client's certificate among it has 2 KiB or so.
V2_MAX_BYTES = 16 + 8_192

_V1 = b"PROXY"
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_V1_LINE = re.compile(rb"PROXY (TCP4|TCP6) ([0-9a-fA-F.:]{2,45}) ([0-9a-fA-F.:]{2,45}) ([0-9]{1,5}) ([0-9]{1,5})")
_LOCAL, _PROXY = 0, 1
_UNSPECIFIED, _IPV4, _IPV6, _UNIX = range(4)
_STREAM = 1
_ADDRESS_BYTES = {_IPV4: 12, _IPV6: 36, _UNIX: 216}


class ProxyHeaderError(Exception):
    """The bytes are no header, or one that cannot be used; the text repeats none of them."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """Whose connection it is, and what came after the header."""

    address: str | None  # None: the connection's own, or one that cannot be said (LOCAL, UNKNOWN, a Unix socket)
    rest: bytes = field(repr=False)


class ProxyHeaderReader:
    """Reads one header."""

    __slots__ = ("_received",)

    def __init__(self) -> None:
        self._received = b""

    def receive(self, data: bytes) -> ProxyHeader | None:
        """The header once it is whole, None before. Raises ProxyHeaderError."""
        self._received += data
        received = self._received
        if received.startswith(_V2[: len(received)]):
            return _version_2(received)
        if received.startswith(_V1[: len(received)]):
            return _version_1(received)
        raise ProxyHeaderError("no PROXY protocol header")


def _version_1(received: bytes) -> ProxyHeader | None:
    line, end, rest = received.partition(b"\r\n")
    if not end and len(received) < V1_MAX_BYTES:
        return None
    if not end or len(line) + 2 > V1_MAX_BYTES:
        raise ProxyHeaderError("a PROXY line without an end")
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return ProxyHeader(None, rest)
    match = _V1_LINE.fullmatch(line)
    if match is None or int(match[4]) > 65_535 or int(match[5]) > 65_535:
        raise ProxyHeaderError("a malformed PROXY line")
    kind = ipaddress.IPv4Address if match[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        source, _ = kind(match[2].decode()), kind(match[3].decode())
    except ValueError:
        raise ProxyHeaderError("a malformed address in a PROXY line") from None
    return ProxyHeader(plain_address(str(source)), rest)


def _version_2(received: bytes) -> ProxyHeader | None:
    if len(received) < 16:
        return None
    version, command = divmod(received[12], 16)
    family, transport = divmod(received[13], 16)
    size = 16 + int.from_bytes(received[14:16], "big")
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise ProxyHeaderError("an unknown version or command in a PROXY header")
    if size > V2_MAX_BYTES:
        raise ProxyHeaderError("a PROXY header that is too long")
    if len(received) < size:
        return None
    body, rest = received[16:size], received[size:]
    if command == _LOCAL or (family == _UNSPECIFIED and transport == 0):
        return ProxyHeader(None, rest)
    if transport != _STREAM or family not in _ADDRESS_BYTES:
        raise ProxyHeaderError("a PROXY header of another kind of connection")
    if len(body) < _ADDRESS_BYTES[family]:
        raise ProxyHeaderError("a PROXY header without its addresses")
    if family == _UNIX:
        return ProxyHeader(None, rest)
    source = body[:4] if family == _IPV4 else body[:16]
    return ProxyHeader(plain_address(str(ipaddress.ip_address(source))), rest)


def plain_address(text: str) -> str:
    """An IP address in its usual spelling; an IPv4 address inside of IPv6 is the IPv4 address."""
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
