"""Rows in text and in binary; PostgreSQL's own drivers read them in test_console."""

import struct

import pytest

from pgweir_pooler.console.columns import INT4, INT8, NUMERIC, TEXT, Column
from pgweir_pooler.console.encoding import Value, data_row, row_description


@pytest.mark.parametrize(
    ("value", "oid", "text", "binary"),
    [
        ("Zoë", TEXT, b"Zo\xc3\xab", b"Zo\xc3\xab"),
        (7, INT4, b"7", b"\0\0\0\x07"),
        (2**40, INT8, b"1099511627776", b"\0\0\x01\0\0\0\0\0"),
        (0, NUMERIC, b"0", struct.pack(">4h", 0, 0, 0, 0)),
        (9999, NUMERIC, b"9999", struct.pack(">5h", 1, 0, 0, 0, 9999)),
        (10000, NUMERIC, b"10000", struct.pack(">6h", 2, 1, 0, 0, 1, 0)),
        (123456789, NUMERIC, b"123456789", struct.pack(">7h", 3, 2, 0, 0, 1, 2345, 6789)),
    ],
)
def test_values(value: Value, oid: int, text: bytes, binary: bytes) -> None:
    columns = (Column("x", oid),)
    for formats, data in (((), text), ((1,), binary)):
        body = struct.pack(">HI", 1, len(data)) + data
        assert data_row((value,), columns, formats) == b"D" + struct.pack(">I", len(body) + 4) + body


def test_null_has_no_bytes() -> None:
    assert data_row((None,), (Column("x", TEXT),))[5:] == b"\0\x01\xff\xff\xff\xff"


def test_the_description_names_types_and_formats() -> None:
    body = row_description((Column("a", INT4), Column("b", TEXT)), (1, 0))[5:]
    a = b"a\0" + struct.pack(">IHIhih", 0, 0, 23, 4, -1, 1)
    b = b"b\0" + struct.pack(">IHIhih", 0, 0, 25, -1, -1, 0)
    assert body == b"\0\x02" + a + b
