"""Messages are built as PostgreSQL's documentation lays them out, and read back without trusting a byte."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgweir_pooler.errors import AuthenticationFailed, NoTenant, ProtocolViolation
from pgweir_pooler.wire import messages
from pgweir_pooler.wire.cursor import ServerProtocolError

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
CSTRING = st.binary(max_size=20).map(lambda data: data.replace(b"\0", b""))


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (messages.authentication_ok(), b"R\0\0\0\x08\0\0\0\0"),
        (messages.authentication_cleartext(), b"R\0\0\0\x08\0\0\0\x03"),
        (messages.authentication_md5(b"abcd"), b"R\0\0\0\x0c\0\0\0\x05abcd"),
        (messages.authentication_sasl(["A", "B"]), b"R\0\0\0\x0d\0\0\0\x0aA\0B\0\0"),
        (messages.authentication_sasl_continue(b"xy"), b"R\0\0\0\x0a\0\0\0\x0bxy"),
        (messages.authentication_sasl_final(b"xy"), b"R\0\0\0\x0a\0\0\0\x0cxy"),
        (messages.parameter_status(b"a", b""), b"S\0\0\0\x07a\0\0"),
        (messages.backend_key_data(0xFFFFFFFF, b"keys"), b"K\0\0\0\x0c\xff\xff\xff\xffkeys"),
        (messages.ready_for_query(), b"Z\0\0\0\x05I"),
        (messages.ready_for_query(b"E"), b"Z\0\0\0\x05E"),
        (messages.negotiate_protocol_version(0, [b"_pq_.x"]), b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0"),
        (messages.command_complete(b"SELECT 1"), b"C\0\0\0\x0dSELECT 1\0"),
        (messages.query(b"SELECT 1"), b"Q\0\0\0\x0dSELECT 1\0"),
        (messages.TERMINATE, b"X\0\0\0\x04"),
        (messages.cancel_request(1, b"keys"), b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01keys"),
        (messages.startup_message({"user": "u", "x": ""}), b"\0\0\0\x13\0\x03\0\0user\0u\0x\0\0\0"),
        (messages.sasl_initial_response("M", b"data"), b"p\0\0\0\x0eM\0\0\0\0\x04data"),
        (messages.sasl_response(b"data"), b"p\0\0\0\x08data"),
        (messages.password_message(b"pw"), b"p\0\0\0\x07pw\0"),
    ],
)
def test_a_message_is_built_byte_for_byte(built: bytes, expected: bytes) -> None:
    assert built == expected


@given(TEXT.filter(bool), TEXT, TEXT)
def test_an_error_comes_back_with_its_fields_and_without_empty_ones(text: str, detail: str, hint: str) -> None:
    built = messages.error_response("FATAL", "28P01", text, detail=detail, hint=hint)
    assert built[:1] == b"E"
    expected = {"S": "FATAL", "V": "FATAL", "C": "28P01", "M": text}
    expected |= {code: value for code, value in (("D", detail), ("H", hint)) if value}
    assert messages.parse_error_fields(built[5:]) == expected


def test_a_nul_or_a_lone_surrogate_in_an_error_text_cannot_break_the_message() -> None:
    built = messages.notice_response("WARNING", "01000", "a\0b\ud800c")
    assert built[:1] == b"N"
    assert messages.parse_error_fields(built[5:])["M"] == "ab?c"


def test_an_error_of_ours_shows_what_the_client_may_read() -> None:
    fields = messages.parse_error_fields(messages.error_response_for(NoTenant("none", hint="Name one."))[5:])
    assert fields == {"S": "FATAL", "V": "FATAL", "C": "28000", "M": "(NoTenant) none", "H": "Name one."}
    fields = messages.parse_error_fields(messages.error_response_for(AuthenticationFailed("bob"))[5:])
    assert fields["M"] == 'password authentication failed for user "bob"'


@pytest.mark.parametrize(
    "build",
    [
        lambda: messages.startup_message({"user": "u\0database\0other"}),
        lambda: messages.startup_message({"us\0er": "u"}),
        lambda: messages.query(b"SELECT 1\0"),
        lambda: messages.password_message(b"p\0w"),
        lambda: messages.parameter_status(b"a", b"b\0"),
        lambda: messages.authentication_md5(b"abc"),
    ],
)
def test_a_nul_is_never_smuggled_into_a_string(build: Callable[[], bytes]) -> None:
    with pytest.raises(ValueError):
        build()


@given(st.lists(st.tuples(CSTRING.filter(bool), CSTRING), max_size=5))
def test_startup_parameters_are_read_in_order_with_empty_values(pairs: list[tuple[bytes, bytes]]) -> None:
    body = b"".join(name + b"\0" + value + b"\0" for name, value in pairs)
    assert messages.parse_startup_parameters(body + b"\0") == pairs


@pytest.mark.parametrize("body", [b"", b"user", b"user\0", b"user\0bob", b"user\0bob\0", b"user\0bob\0\0x", b"\0\0"])
def test_a_parameter_list_that_is_odd_or_not_terminated_is_a_violation(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="malformed startup packet"):
        messages.parse_startup_parameters(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"M\0\0\0\0\x02ab", (b"M", b"ab")),
        (b"M\0\0\0\0\0", (b"M", b"")),
        (b"M\0\xff\xff\xff\xff", (b"M", None)),
    ],
)
def test_a_sasl_initial_response_is_read(body: bytes, expected: tuple[bytes, bytes | None]) -> None:
    assert messages.parse_sasl_initial_response(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"M",
        b"M\0",
        b"M\0\0\0\0",
        b"M\0\0\0\0\3ab",
        b"M\0\0\0\0\1ab",
        b"M\0\xff\xff\xff\xfe",
        b"M\0\x7f\xff\xff\xff",
    ],
)
def test_a_sasl_initial_response_whose_lengths_lie_is_a_violation(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        messages.parse_sasl_initial_response(body)


@pytest.mark.parametrize("size", [4, 32, 256])
def test_keys_of_every_legal_length_are_read(size: int) -> None:
    key = bytes(range(256))[:size]
    assert messages.parse_cancel_request(b"\xff\xff\xff\xff" + key) == (0xFFFFFFFF, key)
    assert messages.parse_backend_key_data(b"\0\0\0\x07" + key) == (7, key)


@pytest.mark.parametrize("size", [0, 3, 257])
def test_keys_of_other_lengths_are_refused(size: int) -> None:
    with pytest.raises(ProtocolViolation):
        messages.parse_cancel_request(bytes(4 + size))
    with pytest.raises(ServerProtocolError):
        messages.parse_backend_key_data(bytes(4 + size))


def test_what_a_server_says_is_read() -> None:
    assert messages.parse_parameter_status(b"a\0\xff\0") == (b"a", b"\xff")
    assert messages.parse_authentication(b"\0\0\0\x0aabc") == (messages.AUTH_SASL, b"abc")
    assert messages.parse_sasl_mechanisms(b"A\0B\0\0") == ["A", "B"]
    assert messages.parse_md5_salt(b"abcd") == b"abcd"
    assert messages.parse_negotiate_protocol_version(b"\0\3\0\0\0\0\0\1x\0") == (
        messages.PROTOCOL_3_0,
        [b"x"],
    )
    assert messages.parse_error_fields(b"M\xff!\0\0") == {"M": "�!"}


@pytest.mark.parametrize(
    ("parse", "body"),
    [
        (messages.parse_error_fields, b""),
        (messages.parse_error_fields, b"M"),
        (messages.parse_error_fields, b"Mx"),
        (messages.parse_error_fields, b"Mx\0"),
        (messages.parse_error_fields, b"Mx\0\0y"),
        (messages.parse_parameter_status, b"a\0"),
        (messages.parse_parameter_status, b"a\0b\0c"),
        (messages.parse_authentication, b"\0\0\0"),
        (messages.parse_sasl_mechanisms, b"A\0"),
        (messages.parse_sasl_mechanisms, b"A\0\0B"),
        (messages.parse_md5_salt, b"abc"),
        (messages.parse_md5_salt, b"abcde"),
        (messages.parse_negotiate_protocol_version, b"\0\3\0\0\xff\xff\xff\xffx\0"),
        (messages.parse_negotiate_protocol_version, b"\0\3\0\0\0\0\0\0x"),
        (messages.parse_backend_key_data, b""),
    ],
)
def test_what_a_server_says_wrongly_is_the_servers_fault(parse: Callable[[bytes], object], body: bytes) -> None:
    with pytest.raises(ServerProtocolError, match="malformed"):
        parse(body)


@given(
    st.sampled_from(
        [
            messages.parse_authentication,
            messages.parse_backend_key_data,
            messages.parse_cancel_request,
            messages.parse_error_fields,
            messages.parse_md5_salt,
            messages.parse_negotiate_protocol_version,
            messages.parse_parameter_status,
            messages.parse_sasl_initial_response,
            messages.parse_sasl_mechanisms,
            messages.parse_startup_parameters,
        ]
    ),
    st.binary(max_size=60),
)
def test_random_bodies_raise_nothing_but_the_two_violations(parse: Callable[[bytes], object], body: bytes) -> None:
    with contextlib.suppress(ProtocolViolation, ServerProtocolError):
        parse(body)
