"""The protocol's messages for the tests, built and taken apart without the code under test.

Sources: PostgreSQL documentation, "Message Formats" and "Message Flow".
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from harness.secret_watch import WATCH

PROTOCOL_3_0 = 3 << 16
SSL_REQUEST_CODE = 80877103
GSSENC_REQUEST_CODE = 80877104
CANCEL_REQUEST_CODE = 80877102
TEXT, BINARY = 0, 1


class Message(NamedTuple):
    """One message from the server: its type byte and its body without type and length."""

    tag: bytes
    body: bytes


def message(tag: bytes, body: bytes = b"") -> bytes:
    """A whole message: type, length (which counts itself), body."""
    return tag + (len(body) + 4).to_bytes(4, "big") + body


def startup(parameters: Mapping[str, str], version: int = PROTOCOL_3_0) -> bytes:
    """A StartupMessage, which has no type byte."""
    pairs = b"".join(text(key) + text(value) for key, value in parameters.items())
    body = version.to_bytes(4, "big") + pairs + b"\0"
    return (len(body) + 4).to_bytes(4, "big") + body


def ssl_request() -> bytes:
    """An SSLRequest; the answer is one byte."""
    return struct.pack(">II", 8, SSL_REQUEST_CODE)


def gssenc_request() -> bytes:
    """A GSSENCRequest; the answer is one byte."""
    return struct.pack(">II", 8, GSSENC_REQUEST_CODE)


def cancel_request(pid: int, secret: bytes) -> bytes:
    """A CancelRequest; there is no answer."""
    body = struct.pack(">II", CANCEL_REQUEST_CODE, pid) + secret
    return (len(body) + 4).to_bytes(4, "big") + body


def text(value: str) -> bytes:
    """A string as the protocol has it: UTF-8 and a NUL."""
    return value.encode() + b"\0"


def query(sql: str) -> bytes:
    return message(b"Q", text(sql))


def parse(sql: str, name: str = "", types: Sequence[int] = ()) -> bytes:
    return message(b"P", text(name) + text(sql) + struct.pack(f">H{len(types)}I", len(types), *types))


def bind(
    values: Sequence[bytes | None] = (),
    *,
    portal: str = "",
    statement: str = "",
    formats: Sequence[int] = (),
    result_formats: Sequence[int] = (),
) -> bytes:
    """Bind; no formats: all text, one: it holds for all."""
    parts = [text(portal), text(statement), struct.pack(f">H{len(formats)}H", len(formats), *formats)]
    parts.append(len(values).to_bytes(2, "big"))
    parts += (b"\xff\xff\xff\xff" if v is None else len(v).to_bytes(4, "big") + v for v in values)
    parts.append(struct.pack(f">H{len(result_formats)}H", len(result_formats), *result_formats))
    return message(b"B", b"".join(parts))


def describe_statement(name: str = "") -> bytes:
    return message(b"D", b"S" + text(name))


def describe_portal(name: str = "") -> bytes:
    return message(b"D", b"P" + text(name))


def execute(portal: str = "", max_rows: int = 0) -> bytes:
    return message(b"E", text(portal) + max_rows.to_bytes(4, "big"))


def close_statement(name: str = "") -> bytes:
    return message(b"C", b"S" + text(name))


def close_portal(name: str = "") -> bytes:
    return message(b"C", b"P" + text(name))


def copy_data(data: bytes) -> bytes:
    return message(b"d", data)


def copy_fail(reason: str) -> bytes:
    return message(b"f", text(reason))


def password(data: bytes) -> bytes:
    """PasswordMessage, SASLInitialResponse and SASLResponse share this type."""
    return message(b"p", data)


SYNC = message(b"S")
FLUSH = message(b"H")
COPY_DONE = message(b"c")
TERMINATE = message(b"X")


def extended(sql: str, values: Sequence[bytes | None] = (), *, end: bytes = SYNC) -> bytes:
    """Parse, Bind, Describe, Execute of the unnamed statement, and Sync."""
    return parse(sql) + bind(values) + describe_portal() + execute() + end


def error_fields(body: bytes) -> dict[str, str]:
    """ErrorResponse or NoticeResponse: field code ("S", "C", "M", "H", …) to text."""
    fields = {part[:1].decode(): part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    WATCH.told.extend(fields.values())
    return fields


def row_values(body: bytes) -> list[bytes | None]:
    """The columns of a DataRow."""
    values: list[bytes | None] = []
    at = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        size = int.from_bytes(body[at : at + 4], "big", signed=True)
        at += 4
        values.append(None if size < 0 else body[at : at + size])
        at += max(size, 0)
    if at != len(body):
        raise ValueError(f"DataRow has {len(body) - at} bytes after its last column")
    return values


def column_types(body: bytes) -> list[int]:
    """The type of each column of a RowDescription."""
    types = []
    at = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        at = body.index(b"\0", at) + 1
        types.append(int.from_bytes(body[at + 6 : at + 10], "big"))
        at += 18
    return types


def rows(messages: Iterable[Message]) -> list[list[bytes | None]]:
    """The rows among the messages."""
    return [row_values(body) for tag, body in messages if tag == b"D"]


def tags(messages: Iterable[Message]) -> bytes:
    """The types of the messages in order, such as b"TDCZ"."""
    return b"".join(tag for tag, _ in messages)
