"""PROXY protocol headers: whole, in any pieces, with bytes behind them, and wrong in any place."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgweir_pooler.wire.proxy_header import (
    V1_MAX_BYTES,
    V2_MAX_BYTES,
    ProxyHeader,
    ProxyHeaderError,
    ProxyHeaderReader,
    plain_address,
)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
STARTUP = b"\0\0\0\x08\x04\xd2\x16\x2f"


def v2(command: int, family: int, body: bytes, *, version: int = 2) -> bytes:
    return SIGNATURE + bytes([version << 4 | command, family]) + len(body).to_bytes(2, "big") + body


def ip4(source: str = "203.0.113.7", tlvs: bytes = b"") -> bytes:
    return v2(1, 0x11, ipaddress.ip_address(source).packed + bytes([10, 0, 0, 1, 0xC0, 0, 0x19, 0x8E]) + tlvs)


def ip6(source: str = "2001:db8::7") -> bytes:
    return v2(1, 0x21, ipaddress.ip_address(source).packed + bytes(15) + b"\1" + bytes(4))


GOOD = {
    "v1 TCP4": (b"PROXY TCP4 203.0.113.7 10.0.0.1 49152 6543\r\n", "203.0.113.7"),
    "v1 TCP6": (b"PROXY TCP6 2001:DB8::7 ::1 49152 6543\r\n", "2001:db8::7"),
    "v1 mapped": (b"PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n", "203.0.113.7"),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", None),
    "v1 UNKNOWN with more": (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    "v2 TCP4": (ip4(), "203.0.113.7"),
    "v2 TCP4 with TLVs": (ip4(tlvs=b"\x04" + (4000).to_bytes(2, "big") + bytes(4000)), "203.0.113.7"),
    "v2 TCP6": (ip6(), "2001:db8::7"),
    "v2 mapped": (ip6("::ffff:203.0.113.7"), "203.0.113.7"),
    "v2 LOCAL": (v2(0, 0, b""), None),
    "v2 LOCAL with addresses": (v2(0, 0x11, bytes(12)), None),
    "v2 UNSPEC": (v2(1, 0, b"\x04\x00\x01x"), None),
    "v2 Unix": (v2(1, 0x31, bytes(216)), None),
}


@pytest.mark.parametrize("what", GOOD)
def test_a_header_is_read_whole_bytewise_and_with_what_follows(what: str) -> None:
    data, address = GOOD[what]
    assert ProxyHeaderReader().receive(data) == ProxyHeader(address, b"")
    assert ProxyHeaderReader().receive(data + STARTUP) == ProxyHeader(address, STARTUP)
    reader = ProxyHeaderReader()
    assert [reader.receive(data[i : i + 1]) for i in range(len(data))] == [None] * (len(data) - 1) + [
        ProxyHeader(address, b"")
    ]


BAD = {
    "a startup message": STARTUP,
    "a TLS hello": b"\x16\x03\x01",
    "HTTP": b"GET / HTTP/1.1\r\n",
    "another word": b"PROXZ",
    "v1 another protocol": b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "v1 too few": b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    "v1 too many": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
    "v1 two blanks": b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "v1 wrong family": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "v1 no address": b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
    "v1 leading zeros": b"PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
    "v1 port": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
    "v1 negative port": b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
    "v1 scope": b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    "v1 UNKNOWNS": b"PROXY UNKNOWNS\r\n",
    "v1 without an end": b"PROXY UNKNOWN " + b"x" * V1_MAX_BYTES,
    "v1 too long": b"PROXY UNKNOWN " + b"x" * V1_MAX_BYTES + b"\r\n",
    "v2 version": v2(1, 0x11, bytes(12), version=1),
    "v2 command": v2(2, 0x11, bytes(12)),
    "v2 datagram": v2(1, 0x12, bytes(12)),
    "v2 family": v2(1, 0x41, bytes(12)),
    "v2 without addresses": v2(1, 0x11, bytes(11)),
    "v2 too short for TCP6": v2(1, 0x21, bytes(35)),
    "v2 too long": v2(1, 0x11, bytes(V2_MAX_BYTES))[:16],
}


@pytest.mark.parametrize("what", BAD)
def test_anything_else_is_refused_and_not_repeated(what: str) -> None:
    with pytest.raises(ProxyHeaderError) as caught:
        ProxyHeaderReader().receive(BAD[what])
    assert "1.2.3" not in str(caught.value)


@given(st.binary(max_size=300), st.sampled_from([data for data, _ in GOOD.values()]), st.data())
def test_no_bytes_raise_anything_else(junk: bytes, good: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(good)))
    for received in (junk, SIGNATURE + junk, b"PROXY " + junk, good[:place] + junk + good[place:]):
        try:
            ProxyHeaderReader().receive(received)
        except ProxyHeaderError:
            pass


def test_an_address_has_one_spelling() -> None:
    assert plain_address("::FFFF:10.0.0.1") == "10.0.0.1"
    assert plain_address("2001:DB8:0::1") == "2001:db8::1"
