"""Results as messages: RowDescription and DataRow, in text or binary. Pure."""

import struct
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from pgweir_pooler.console.columns import INT4, INT8, NUMERIC, TEXT, Columns
from pgweir_pooler.wire.messages import message

Value: TypeAlias = str | int | None
Row: TypeAlias = tuple[Value, ...]
Rows: TypeAlias = Iterator[Row | None]
"""The rows of a table as they are made; None: no row yet, but a good moment to let the event loop have its turn."""

_NULL: Final = b"\xff\xff\xff\xff"
_SIZES: Final = {TEXT: -1, INT4: 4, INT8: 8, NUMERIC: -1}
_NUMERIC_BASE: Final = 10_000


def row_description(columns: Columns, formats: Sequence[int] = ()) -> bytes:
    """RowDescription; `formats` has one code per column, or is empty for all text."""
    fields = [
        column.name.encode()
        + b"\0"
        # No table, no column number; type, its size, no modifier, format.
        + struct.pack(">IHIhih", 0, 0, column.oid, _SIZES[column.oid], -1, formats[i] if formats else 0)
        for i, column in enumerate(columns)
    ]
    return message(b"T", struct.pack(">H", len(columns)) + b"".join(fields))


def data_row(row: Row, columns: Columns, formats: Sequence[int] = ()) -> bytes:
    """DataRow."""
    parts = [struct.pack(">H", len(row))]
    for i, value in enumerate(row):
        if value is None:
            parts.append(_NULL)
            continue
        data = _binary(value, columns[i].oid) if formats and formats[i] else str(value).encode("utf-8", "replace")
        parts += (struct.pack(">I", len(data)), data)
    return message(b"D", b"".join(parts))


def _binary(value: str | int, oid: int) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    if oid == NUMERIC:
        return _numeric(value)
    return value.to_bytes(_SIZES[oid], "big", signed=True)


def _numeric(value: int) -> bytes:
    """A whole number as PostgreSQL's numeric_send writes it: digits of base 10,000, the first one's weight before."""
    assert value >= 0, "the console counts"
    digits: list[int] = []
    while value:
        value, digit = divmod(value, _NUMERIC_BASE)
        digits.append(digit)
    digits.reverse()
    return struct.pack(f">hhhh{len(digits)}h", len(digits), max(0, len(digits) - 1), 0, 0, *digits)
