"""The ClientHello ahead of the handshake: whole, in any pieces and records, cut, and wrong in any place."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgweir_pooler.wire.client_hello import ClientHello, NotClientHelloError, read_client_hello


def hello(server_name: str | None = "acme.example.com", protocols: list[str] | None = None) -> bytes:
    """What OpenSSL sends."""
    context = ssl.create_default_context()
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(protocols)
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=server_name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


HELLO = hello(protocols=["postgresql", "http/1.1"])


def in_records(data: bytes, size: int) -> bytes:
    """The same message in records of this size."""
    body = data[5:]
    return b"".join(
        b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece
        for piece in (body[i : i + size] for i in range(0, len(body), size))
    )


def test_the_name_and_the_protocols_are_read() -> None:
    assert read_client_hello(HELLO) == ClientHello("acme.example.com", (b"postgresql", b"http/1.1"))
    assert read_client_hello(hello("ACME.Example.com")) == ClientHello("acme.example.com")
    assert read_client_hello(hello(None)) == ClientHello()
    assert read_client_hello(HELLO + b"what follows") == read_client_hello(HELLO)


def test_a_part_is_incomplete_wherever_it_ends() -> None:
    assert all(read_client_hello(HELLO[:i]) is None for i in range(len(HELLO)))


@pytest.mark.parametrize("size", [40, 100, 200])
def test_it_may_come_in_several_records(size: int) -> None:
    data = in_records(HELLO, size)
    assert read_client_hello(data) == read_client_hello(HELLO)
    assert all(read_client_hello(data[:i]) is None for i in range(len(data)))


@pytest.mark.parametrize(
    "data",
    [
        b"\x15\x03\x01",  # an alert
        b"\x16\x02",
        b"\x16\x03\x01\x00\x00",  # an empty record
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00",  # a ServerHello
        b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(0x4000 - 4),
        in_records(HELLO, 1),
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",  # an empty hello
    ],
)
def test_what_is_no_hello_is_refused(data: bytes) -> None:
    with pytest.raises(NotClientHelloError):
        read_client_hello(data)


def test_what_is_no_host_name_is_no_name() -> None:
    for strange in (b"acme\0example.com", b"acme..\xff.com", b"-acme.example.c", b" cme.example.com"):
        data = HELLO.replace(b"acme.example.com", strange.ljust(16, b"."))
        found = read_client_hello(data)
        assert found is not None
        assert found.server_name == ""


@given(st.binary(max_size=200), st.integers(0, len(HELLO) - 1))
def test_no_bytes_raise_anything_else(junk: bytes, place: int) -> None:
    for data in (junk, b"\x16\x03\x01" + junk, HELLO[:place] + junk + HELLO[place + len(junk) :]):
        try:
            read_client_hello(data)
        except NotClientHelloError:
            pass
