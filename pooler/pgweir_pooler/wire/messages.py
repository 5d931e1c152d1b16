"""The messages that a pooler writes and reads itself, protocol 3.0 and 3.2.

Builders return a whole message, ready to send. They clean what we say to a client (`error_response` drops
NULs and never raises) and refuse a NUL in what we say to a server, where a shortened name would be another
name (ValueError: our own mistake). Parsers take a body without type and length; those of a client's message
raise `ProtocolViolation`, those of a server's `ServerProtocolError`. Process ids and codes are unsigned
32-bit numbers. Source: https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from collections.abc import Iterable, Mapping, Sequence

from pgweir_pooler.errors import PoolerError, ProtocolViolation
from pgweir_pooler.wire.cursor import Cursor, ErrorMaker, ServerProtocolError
from pgweir_pooler.wire.limits import CANCEL_KEY_MAX_BYTES, CANCEL_KEY_MIN_BYTES

PROTOCOL_3_0 = 3 << 16
CANCEL_REQUEST_CODE = (1234 << 16) | 5678
SSL_REQUEST_CODE = (1234 << 16) | 5679
GSSENC_REQUEST_CODE = (1234 << 16) | 5680

AUTH_OK = 0
AUTH_CLEARTEXT = 3
AUTH_MD5 = 5
AUTH_SASL = 10
AUTH_SASL_CONTINUE = 11
AUTH_SASL_FINAL = 12


def message(tag: bytes, body: bytes = b"") -> bytes:
    """One typed message: tag, length, body."""
    return tag + (len(body) + 4).to_bytes(4, "big") + body


def _packet(code: int, body: bytes = b"") -> bytes:
    return (len(body) + 8).to_bytes(4, "big") + code.to_bytes(4, "big") + body


def _cstring(text: bytes) -> bytes:
    if b"\0" in text:
        raise ValueError("a protocol string cannot hold a NUL byte")
    return text + b"\0"


# --- from us to a client


def _report(tag: bytes, fields: Iterable[tuple[bytes, str]]) -> bytes:
    body = b"".join(code + text.encode("utf-8", "replace").replace(b"\0", b"") + b"\0" for code, text in fields if text)
    return message(tag, body + b"\0")


def error_response(
    severity: str, sqlstate: str, text: str, *, detail: str = "", hint: str = "", routine: str = ""
) -> bytes:
    """ErrorResponse; empty fields are left out."""
    return _report(b"E", (*_fields(severity, sqlstate, text, detail, hint), (b"R", routine)))


def notice_response(severity: str, sqlstate: str, text: str, *, detail: str = "", hint: str = "") -> bytes:
    """NoticeResponse; empty fields are left out."""
    return _report(b"N", _fields(severity, sqlstate, text, detail, hint))


def _fields(severity: str, sqlstate: str, text: str, detail: str, hint: str) -> tuple[tuple[bytes, str], ...]:
    # S may be translated, V never is; clients since 9.6 read V.
    return (b"S", severity), (b"V", severity), (b"C", sqlstate), (b"M", text), (b"D", detail), (b"H", hint)


def error_response_for(error: PoolerError) -> bytes:
    """ErrorResponse with what the client may read of `error`."""
    return error_response(
        error.severity,
        error.wire_sqlstate(),
        error.client_text(),
        detail=error.detail,
        hint=error.hint,
        routine=error.routine,
    )


def _authentication(kind: int, data: bytes = b"") -> bytes:
    return message(b"R", kind.to_bytes(4, "big") + data)


def authentication_ok() -> bytes:
    """AuthenticationOk."""
    return _authentication(AUTH_OK)


def authentication_cleartext() -> bytes:
    """AuthenticationCleartextPassword."""
    return _authentication(AUTH_CLEARTEXT)


def authentication_md5(salt: bytes) -> bytes:
    """AuthenticationMD5Password with its salt of four bytes."""
    if len(salt) != 4:
        raise ValueError("the salt of md5 authentication has four bytes")
    return _authentication(AUTH_MD5, salt)


def authentication_sasl(mechanisms: Sequence[str]) -> bytes:
    """AuthenticationSASL, the mechanisms in order of preference."""
    return _authentication(AUTH_SASL, b"".join(_cstring(name.encode()) for name in mechanisms) + b"\0")


def authentication_sasl_continue(data: bytes) -> bytes:
    """AuthenticationSASLContinue."""
    return _authentication(AUTH_SASL_CONTINUE, data)


def authentication_sasl_final(data: bytes) -> bytes:
    """AuthenticationSASLFinal."""
    return _authentication(AUTH_SASL_FINAL, data)


def parameter_status(name: bytes, value: bytes) -> bytes:
    """ParameterStatus."""
    return message(b"S", _cstring(name) + _cstring(value))


def backend_key_data(process_id: int, secret: bytes) -> bytes:
    """BackendKeyData; clients before protocol 3.2 take a secret of exactly four bytes."""
    return message(b"K", process_id.to_bytes(4, "big") + secret)


def ready_for_query(status: bytes = b"I") -> bytes:
    """ReadyForQuery; status is I (idle), T (in a transaction) or E (in a failed one)."""
    return message(b"Z", status)


def negotiate_protocol_version(minor: int, unknown_options: Sequence[bytes]) -> bytes:
    """NegotiateProtocolVersion: the 3.`minor` that is spoken, and the `_pq_.` options we do not know.

    The documentation says "minor version", PostgreSQL sends and libpq expects the whole number 3.minor.
    """
    names = b"".join(_cstring(name) for name in unknown_options)
    version = (PROTOCOL_3_0 | minor).to_bytes(4, "big")
    return message(b"v", version + len(unknown_options).to_bytes(4, "big") + names)


def command_complete(tag: bytes) -> bytes:
    """CommandComplete."""
    return message(b"C", _cstring(tag))


# --- from us to a server

TERMINATE = message(b"X")
FLUSH = message(b"H")


def ssl_request() -> bytes:
    """Asks a server whether it speaks TLS; it answers with one byte, S or N."""
    return _packet(SSL_REQUEST_CODE, b"")


def startup_message(parameters: Mapping[str, str]) -> bytes:
    """StartupMessage 3.0; the parameters in their order, `user` among them."""
    pairs = b"".join(_cstring(k.encode()) + _cstring(v.encode()) for k, v in parameters.items())
    return _packet(PROTOCOL_3_0, pairs + b"\0")


def cancel_request(process_id: int, secret: bytes) -> bytes:
    """CancelRequest, to be sent alone on a new connection."""
    return _packet(CANCEL_REQUEST_CODE, process_id.to_bytes(4, "big") + secret)


def query(sql: bytes) -> bytes:
    """Query (simple protocol)."""
    return message(b"Q", _cstring(sql))


def password_message(answer: bytes) -> bytes:
    """PasswordMessage: the password itself, or the md5 answer."""
    return message(b"p", _cstring(answer))


def sasl_initial_response(mechanism: str, data: bytes) -> bytes:
    """SASLInitialResponse."""
    return message(b"p", _cstring(mechanism.encode()) + len(data).to_bytes(4, "big") + data)


def sasl_response(data: bytes) -> bytes:
    """SASLResponse."""
    return message(b"p", data)


# --- read from a client


def parse_startup_parameters(body: bytes) -> list[tuple[bytes, bytes]]:
    """Names and values, in order, of a StartupMessage (its body after the version); values may be empty."""
    cursor = Cursor(body, "startup packet", ProtocolViolation)
    pairs = []
    while name := cursor.cstring():
        pairs.append((name, cursor.cstring()))
    cursor.end()
    return pairs


def parse_cancel_request(body: bytes) -> tuple[int, bytes]:
    """Process id and secret of a CancelRequest (its body after the code)."""
    return _parse_key(body, "CancelRequest", ProtocolViolation)


def parse_sasl_initial_response(body: bytes) -> tuple[bytes, bytes | None]:
    """Mechanism and data of a SASLInitialResponse; None when the client sent no data."""
    cursor = Cursor(body, "SASLInitialResponse", ProtocolViolation)
    mechanism = cursor.cstring()
    length = cursor.int32()
    data = None if length == -1 else cursor.take(length)
    cursor.end()
    return mechanism, data


# --- read from a server


def parse_error_fields(body: bytes) -> dict[str, str]:
    """Fields of an ErrorResponse or NoticeResponse by their code; bytes that are not UTF-8 are replaced.

    An error before the database is known comes in the server's own encoding, so bad UTF-8 is no violation.
    """
    cursor = Cursor(body, "ErrorResponse", ServerProtocolError)
    fields = {}
    while (code := cursor.take(1)) != b"\0":
        fields[code.decode("latin-1")] = cursor.cstring().decode("utf-8", "replace")
    cursor.end()
    return fields


def parse_parameter_status(body: bytes) -> tuple[bytes, bytes]:
    """Name and value of a ParameterStatus."""
    cursor = Cursor(body, "ParameterStatus", ServerProtocolError)
    pair = cursor.cstring(), cursor.cstring()
    cursor.end()
    return pair


def notification_channel(body: bytes) -> bytes:
    """The channel of a NotificationResponse, as the server encodes it."""
    cursor = Cursor(body, "NotificationResponse", ServerProtocolError)
    cursor.take(4)  # process id of the session that notifies
    channel = cursor.cstring()
    cursor.cstring()  # payload
    cursor.end()
    return channel


def parse_authentication(body: bytes) -> tuple[int, bytes]:
    """Kind (one of AUTH_*, or another number) and data of an Authentication message."""
    cursor = Cursor(body, "authentication request", ServerProtocolError)
    return cursor.uint32(), cursor.rest()


def parse_sasl_mechanisms(data: bytes) -> list[str]:
    """The mechanisms in the data of an AuthenticationSASL."""
    cursor = Cursor(data, "AuthenticationSASL", ServerProtocolError)
    mechanisms = []
    while name := cursor.cstring():
        mechanisms.append(name.decode("utf-8", "replace"))
    cursor.end()
    return mechanisms


def parse_md5_salt(data: bytes) -> bytes:
    """The salt in the data of an AuthenticationMD5Password."""
    cursor = Cursor(data, "AuthenticationMD5Password", ServerProtocolError)
    salt = cursor.take(4)
    cursor.end()
    return salt


def parse_backend_key_data(body: bytes) -> tuple[int, bytes]:
    """Process id and secret of a BackendKeyData."""
    return _parse_key(body, "BackendKeyData", ServerProtocolError)


def parse_negotiate_protocol_version(body: bytes) -> tuple[int, list[bytes]]:
    """The whole version number a server offers, and the options it does not know."""
    cursor = Cursor(body, "NegotiateProtocolVersion", ServerProtocolError)
    version, count = cursor.uint32(), cursor.uint32()
    names = []
    # A count that lies ends at the first string that is not there, so it needs no bound of its own.
    for _ in range(count):
        names.append(cursor.cstring())  # noqa: PERF401 - the cursor moves
    cursor.end()
    return version, names


def _parse_key(body: bytes, what: str, error: ErrorMaker) -> tuple[int, bytes]:
    cursor = Cursor(body, what, error)
    process_id, secret = cursor.uint32(), cursor.rest()
    if not CANCEL_KEY_MIN_BYTES <= len(secret) <= CANCEL_KEY_MAX_BYTES:
        raise cursor.malformed("its key has the wrong length")
    return process_id, secret
