"""A cursor reads fields within its body and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgweir_pooler.errors import ProtocolViolation
from pgweir_pooler.wire.cursor import Cursor, ServerProtocolError


def test_fields_are_read_in_order_and_empty_strings_are_values() -> None:
    cursor = Cursor(b"\xff\xff\xff\xff\0\0\1\0a\0\0xyz", "thing", ProtocolViolation)
    assert cursor.int32() == -1
    assert cursor.uint32() == 256
    assert (cursor.cstring(), cursor.cstring()) == (b"a", b"")
    assert cursor.take(2) == b"xy"
    assert not cursor.at_end
    assert cursor.rest() == b"z"
    assert cursor.at_end
    cursor.end()


@given(st.binary(max_size=12), st.integers(min_value=-5, max_value=20))
def test_a_count_beyond_the_body_or_below_zero_is_refused(body: bytes, count: int) -> None:
    cursor = Cursor(body, "thing", ServerProtocolError)
    if 0 <= count <= len(body):
        assert cursor.take(count) == body[:count]
    else:
        with pytest.raises(ServerProtocolError, match="malformed thing: it ends too early"):
            cursor.take(count)


def test_a_string_without_its_nul_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="not terminated"):
        Cursor(b"abc", "thing", ProtocolViolation).cstring()


def test_bytes_behind_the_end_are_refused() -> None:
    with pytest.raises(ProtocolViolation, match="bytes follow"):
        Cursor(b"a", "thing", ProtocolViolation).end()
