"""A client's login: every kind of packet, in any pieces, and nothing that a client sends may raise."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgweir_pooler.session.frontend_login import FrontendLogin
from pgweir_pooler.session.steps import (
    Admitted,
    CancelRequested,
    FrontendStep,
    Identity,
    NeedSecret,
    NotPostgres,
    Refused,
    Send,
)
from pgweir_pooler.wire import messages
from pgweir_pooler.wire.scram import ClientExchange, Verifier, mock_verifier
from session.conversation import all_steps, packet, startup
from wire.splits import cuts, fed_every_way

SSL_REQUEST = packet(messages.SSL_REQUEST_CODE)
GSSENC_REQUEST = packet(messages.GSSENC_REQUEST_CODE)
STARTUP = startup(user="bob.acme", database="shop", application_name="psql")
VERIFIER = Verifier.from_password("secret", b"0123456789abcdef", iterations=2)
CLOSING = Admitted | CancelRequested | Refused | NotPostgres


def login(*, default_tenant: str | None = None) -> FrontendLogin:
    return FrontendLogin(default_tenant=default_tenant, server_nonce="server")


def challenged(
    verifier: Verifier = VERIFIER, *, real: bool = True, password: str = "secret"
) -> tuple[FrontendLogin, bytes]:
    """A login that sent its challenge, and the client-final message that answers it."""
    front, client = login(), ClientExchange(password, "client")
    front.receive(STARTUP)
    front.secret_found(verifier, real=real)
    steps = front.receive(messages.sasl_initial_response("SCRAM-SHA-256", client.first()))
    return front, messages.sasl_response(client.receive_first(sent(steps)[9:]))


def sent(steps: Sequence[FrontendStep]) -> bytes:
    return b"".join(step.data for step in steps if isinstance(step, Send))


def refusal(steps: Sequence[FrontendStep]) -> tuple[str, str]:
    """SQLSTATE and text of the one step there is."""
    (step,) = steps
    assert isinstance(step, Refused)
    assert step.error.severity == "FATAL"
    return step.error.wire_sqlstate(), step.error.client_text()


@given(cuts)
def test_a_client_is_admitted_however_its_bytes_are_cut(places: list[int]) -> None:
    def startup_steps(pieces: Sequence[bytes]) -> list[object]:
        return all_steps(login().receive, pieces)

    assert fed_every_way(startup_steps, STARTUP, places) == [NeedSecret("acme", "bob", "shop")]
    client_first = messages.sasl_initial_response("SCRAM-SHA-256", ClientExchange("secret", "client").first())

    def first_steps(pieces: Sequence[bytes]) -> list[object]:
        front = login()
        front.receive(STARTUP)
        offer = front.secret_found(VERIFIER, real=True)
        assert offer == [Send(messages.authentication_sasl(["SCRAM-SHA-256"]))]
        return all_steps(front.receive, pieces)

    (challenge,) = fed_every_way(first_steps, client_first, places)
    assert isinstance(challenge, Send)
    assert challenge.data[9:].startswith(b"r=clientserver,s=")

    def final_steps(pieces: Sequence[bytes]) -> tuple[list[object], bytes, bytes]:
        front, _ = challenged()
        return all_steps(front.receive, pieces), front.unconsumed, front.client_key

    _, client_final = challenged()
    steps, unconsumed, client_key = fed_every_way(final_steps, client_final + b"Q\0", places)
    final, admitted = steps
    assert isinstance(final, Send)
    assert final.data.startswith(b"R")
    assert final.data[5:11] == b"\0\0\0\x0cv="
    assert admitted == Admitted(Identity("acme", "bob", "shop"), (("application_name", "psql"),), 0)
    assert unconsumed == b"Q\0"
    assert len(client_key) == 32


def test_bytes_after_the_login_are_kept_in_order() -> None:
    front, client_final = challenged()
    assert front.unconsumed == b""
    front.receive(client_final + b"ab")
    assert front.receive(b"cd") == []
    assert front.unconsumed == b"abcd"


@pytest.mark.parametrize(
    ("verifier", "real", "password"),
    [
        (VERIFIER, True, "wrong"),
        (VERIFIER, False, "secret"),  # even a good proof admits nobody who is not real
        (mock_verifier("bob", b"key", iterations=2), False, "secret"),
        (mock_verifier("bob", b"key", iterations=2), True, "secret"),
    ],
)
def test_a_login_that_must_fail_fails_in_the_words_of_postgresql(verifier: Verifier, real: bool, password: str) -> None:
    front, client_final = challenged(verifier, real=real, password=password)
    expected = ("28P01", 'password authentication failed for user "bob"')
    assert refusal(front.receive(client_final + b"more")) == expected
    assert (front.unconsumed, front.client_key) == (b"", b"")
    assert front.receive(client_final) == []


def test_encryption_is_declined_once_each_in_any_order() -> None:
    for requests in ([SSL_REQUEST, GSSENC_REQUEST], [GSSENC_REQUEST, SSL_REQUEST]):
        front = login()
        for request in requests:
            assert fed_bytewise(front, request) == [Send(b"N")]
        assert front.receive(STARTUP) == [NeedSecret("acme", "bob", "shop")]


def fed_bytewise(front: FrontendLogin, data: bytes) -> list[FrontendStep]:
    return [step for i in range(len(data)) for step in front.receive(data[i : i + 1])]


@pytest.mark.parametrize("request_bytes", [SSL_REQUEST, GSSENC_REQUEST])
def test_a_second_request_for_the_same_encryption_is_a_violation(request_bytes: bytes) -> None:
    front = login()
    front.receive(request_bytes)
    assert refusal(front.receive(request_bytes))[0] == "08P01"


@pytest.mark.parametrize("behind", [b"x", STARTUP, GSSENC_REQUEST])
def test_bytes_behind_an_encryption_request_are_never_understood(behind: bytes) -> None:
    sqlstate, text = refusal(login().receive(SSL_REQUEST + behind))
    assert sqlstate == "08P01"
    assert "unencrypted data" in text


def test_an_encryption_request_with_a_body_is_a_violation() -> None:
    assert refusal(login().receive(packet(messages.SSL_REQUEST_CODE, b"x")))[0] == "08P01"


@pytest.mark.parametrize("key", [b"keys", bytes(32), bytes(256)])
def test_a_cancel_request_is_recognised_with_keys_of_every_length(key: bytes) -> None:
    def steps(pieces: Sequence[bytes]) -> list[object]:
        return all_steps(login().receive, pieces)

    assert fed_every_way(steps, messages.cancel_request(7, key) + b"junk") == [CancelRequested(7, key)]


@pytest.mark.parametrize("key", [b"", b"abc", bytes(257)])
def test_a_cancel_request_with_another_key_is_a_violation(key: bytes) -> None:
    assert refusal(login().receive(messages.cancel_request(7, key)))[0] == "08P01"


def test_a_cancel_request_may_follow_a_declined_encryption() -> None:
    front = login()
    front.receive(SSL_REQUEST)
    assert front.receive(messages.cancel_request(7, b"keys")) == [CancelRequested(7, b"keys")]


@pytest.mark.parametrize(
    ("minor", "options", "answered", "names"),
    [
        (3, {}, 2, []),
        (9999, {"_pq_.test": "1"}, 2, [b"_pq_.test"]),
        (0, {"_pq_.a": "", "_pq_.b": ""}, 0, [b"_pq_.a", b"_pq_.b"]),
        (1, {"_pq_.a": ""}, 1, [b"_pq_.a"]),
        (2, {"_pq_.a": ""}, 2, [b"_pq_.a"]),
    ],
)
def test_a_newer_minor_version_or_an_unknown_option_is_negotiated_down(
    minor: int, options: dict[str, str], answered: int, names: list[bytes]
) -> None:
    steps = login().receive(startup((3 << 16) | minor, user="bob.acme", **options))
    assert steps == [Send(messages.negotiate_protocol_version(answered, names)), NeedSecret("acme", "bob", "bob")]


@pytest.mark.parametrize(("minor", "spoken"), [(0, 0), (1, 1), (2, 2), (3, 2), (9999, 2)])
def test_the_version_that_is_spoken_is_the_clients_or_ours(minor: int, spoken: int) -> None:
    front, client = login(), ClientExchange("secret", "client")
    steps = front.receive(startup((3 << 16) | minor, user="bob.acme"))
    assert len(steps) == (2 if minor > 2 else 1)  # nothing is negotiated that both speak
    front.secret_found(VERIFIER, real=True)
    steps = front.receive(messages.sasl_initial_response("SCRAM-SHA-256", client.first()))
    steps = front.receive(messages.sasl_response(client.receive_first(sent(steps)[9:])))
    admitted = steps[-1]
    assert isinstance(admitted, Admitted)
    assert admitted.protocol_minor == spoken


@pytest.mark.parametrize("version", [2 << 16, (2 << 16) | 1, 4 << 16, 0, (1234 << 16) | 5677])
def test_another_major_version_is_not_supported(version: int) -> None:
    sqlstate, text = refusal(login().receive(startup(version, user="bob.acme")))
    assert sqlstate == "0A000"
    assert f"unsupported frontend protocol {version >> 16}.{version & 0xFFFF}" in text


@pytest.mark.parametrize("length", [0, 4, 7, 10_001, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_startup_packet_of_an_impossible_length_is_refused_at_its_length(length: int) -> None:
    assert refusal(login().receive(length.to_bytes(4, "big")))[0] == "08P01"


def test_the_longest_startup_packet_is_taken_and_never_more_is_kept() -> None:
    room = 10_000 - len(startup(user="bob.acme", x="", **{"_pq_.x": ""}))
    front = login()
    data = startup(user="bob.acme", x="", **{"_pq_.x": "y" * room})
    assert len(data) == 10_000
    assert fed_bytewise(front, data)[-1] == NeedSecret("acme", "bob", "bob")


@pytest.mark.parametrize("body", [b"", b"user\0bob.acme\0", b"user\0bob.acme\0\0x", b"user\0\0"])
def test_a_malformed_parameter_list_is_a_violation(body: bytes) -> None:
    assert refusal(login().receive(packet(messages.PROTOCOL_3_0, body)))[0] == "08P01"


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\r\n\r\n", b"POST /x HTTP/1.0\r\n", b"PRI * HTTP/2.0\r\n\r\n"])
def test_a_web_client_is_told_in_its_own_words(line: bytes) -> None:
    def steps(pieces: Sequence[bytes]) -> list[object]:
        return all_steps(login().receive, pieces)

    (step,) = fed_every_way(steps, line)
    assert isinstance(step, NotPostgres)
    head, _, body = step.reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in head
    assert b"PostgreSQL protocol" in body


def test_tls_without_a_request_is_refused_with_a_hint() -> None:
    steps = login().receive(b"\x16\x03\x01\x02\x00\x01\x00")
    assert refusal(steps)[0] == "0A000"
    (step,) = steps
    assert isinstance(step, Refused)
    assert "sslnegotiation=postgres" in step.error.hint


def test_the_default_tenant_and_no_tenant() -> None:
    assert login(default_tenant="main").receive(startup(user="bob")) == [NeedSecret("main", "bob", "bob")]
    assert refusal(login().receive(startup(user="bob")))[0] == "28000"


@pytest.mark.parametrize(
    "answer",
    [
        b"X\0\0\0\4",
        b"Q",
        messages.password_message(b"secret"),
        messages.sasl_initial_response("SCRAM-SHA-256-PLUS", b"p=tls-unique,,n=,r=abc"),
        messages.sasl_initial_response("", b"n,,n=,r=abc"),
        messages.sasl_initial_response("SCRAM-SHA-256", b""),
        b"p\0\0\0\3",
        b"p\0\0\4\5",
        b"p\xff\xff\xff\xff",
    ],
)
def test_anything_but_a_good_sasl_answer_is_a_violation(answer: bytes) -> None:
    front = login()
    front.receive(STARTUP)
    front.secret_found(VERIFIER, real=True)
    assert refusal(front.receive(answer))[0] == "08P01"


def test_a_client_may_send_its_first_message_after_an_empty_challenge() -> None:
    front, client = login(), ClientExchange("secret", "client")
    front.receive(STARTUP)
    front.secret_found(VERIFIER, real=True)
    steps = front.receive(b"p\0\0\0\x16SCRAM-SHA-256\0\xff\xff\xff\xff")
    assert steps == [Send(messages.authentication_sasl_continue(b""))]
    challenge = sent(front.receive(messages.sasl_response(client.first())))[9:]
    *_, last = front.receive(messages.sasl_response(client.receive_first(challenge)))
    assert isinstance(last, Admitted)


def test_an_eager_client_is_answered_when_its_secret_is_there() -> None:
    front = login()
    client_first = messages.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=abc")
    assert front.receive(STARTUP + client_first) == [NeedSecret("acme", "bob", "shop")]
    offer, challenge = front.secret_found(VERIFIER, real=True)
    assert isinstance(offer, Send)
    assert isinstance(challenge, Send)
    assert challenge.data[9:].startswith(b"r=abcserver,")


def test_a_client_that_floods_while_its_secret_is_looked_up_is_refused() -> None:
    front = login()
    front.receive(STARTUP)
    assert front.receive(bytes(16_384)) == []
    assert refusal(front.receive(b"x"))[0] == "08P01"
    assert front.secret_found(VERIFIER, real=True) == []


def test_a_secret_that_nobody_asked_for_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        login().secret_found(VERIFIER, real=True)


PACKETS = st.sampled_from([STARTUP, SSL_REQUEST, GSSENC_REQUEST, messages.cancel_request(1, b"keys")])
PREFIXES = st.sampled_from(
    [b"", b"GET ", b"\x16\x03\x01\0", b"\0\0\0\x20\0\3\0\0", b"\0\0\0\x20\0\3\0\0user\0", b"p\0\0"]
)


@given(
    st.lists(PACKETS | st.binary(max_size=50) | PREFIXES.flatmap(lambda p: st.binary(max_size=40).map(p.__add__))),
    st.booleans(),
)
def test_random_bytes_give_steps_and_end_once(chunks: list[bytes], default: bool) -> None:
    front = login(default_tenant="main" if default else None)
    steps: list[FrontendStep] = []
    for chunk in chunks:
        steps += front.receive(chunk)
        if steps and isinstance(steps[-1], NeedSecret):
            steps += front.secret_found(VERIFIER, real=True)
    closing = [isinstance(step, CLOSING) for step in steps]
    assert not any(closing[:-1])
    assert not any(isinstance(step, Admitted) for step in steps)


@given(st.binary(max_size=80).map(lambda body: messages.message(b"p", body)) | st.binary(max_size=80), cuts)
def test_random_proofs_admit_nobody(answer: bytes, places: list[int]) -> None:
    def steps(pieces: Sequence[bytes]) -> list[object]:
        return all_steps(challenged()[0].receive, pieces)

    found = fed_every_way(steps, answer, places)
    assert len(found) <= 1
    assert not any(isinstance(step, Admitted) for step in found)


def test_no_step_shows_a_secret_in_its_repr() -> None:
    assert repr([Send(b"proof"), CancelRequested(1, b"proof")]) == "[Send(), CancelRequested(process_id=1)]"
