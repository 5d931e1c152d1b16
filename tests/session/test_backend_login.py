"""The pooler's login at a server: every method, a protocol broken in every state, and real PostgreSQL."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgweir_operator.local_postgres import PostgresServer
from pgweir_pooler.errors import InsecureLogin, NotSupported, ServerLoginFailed
from pgweir_pooler.session.backend_login import BackendLogin
from pgweir_pooler.session.server_security import IN_CLEAR, ServerSecurity
from pgweir_pooler.session.steps import BackendStep, Failed, LoggedIn, NeedKeys, Send
from pgweir_pooler.wire import messages
from pgweir_pooler.wire.cursor import ServerProtocolError
from pgweir_pooler.wire.md5 import md5_answer
from pgweir_pooler.wire.messages import PROTOCOL_3_0, message
from pgweir_pooler.wire.scram import ServerExchange, Verifier, keys_of_password
from session.conversation import all_steps, startup
from wire.splits import cuts, fed_every_way

OK = messages.authentication_ok()
PARAMETERS = messages.parameter_status(b"server_version", b"18.1") + messages.parameter_status(b"a", b"")
KEY = messages.backend_key_data(7, b"keys")
READY = messages.ready_for_query()
GREETING = OK + PARAMETERS + KEY + READY
LOGGED_IN = LoggedIn({b"server_version": b"18.1", b"a": b""}, 7, b"keys", b"")
SASL = messages.authentication_sasl(["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])
VERIFIER = Verifier.from_password("secret", b"salt", iterations=2)
NOTICE = messages.notice_response("WARNING", "01000", "by the way")


UNDER_TLS = ServerSecurity(is_encrypted=True)
BOUND = ServerSecurity(is_encrypted=True, binding=b"hash")


def login(*passwords: str, security: ServerSecurity = IN_CLEAR) -> BackendLogin:
    return BackendLogin(
        user="bob",
        database="shop",
        passwords=passwords,
        client_nonce="client",
        parameters={},
        security=security,
    )


def failure(steps: Sequence[BackendStep]) -> Failed:
    (step,) = steps
    assert isinstance(step, Failed)
    return step


def data_of(steps: Sequence[BackendStep]) -> bytes:
    (step,) = steps
    assert isinstance(step, Send)
    return step.data


def scram(state: str) -> tuple[BackendLogin, bytes]:
    """A login in the middle of SCRAM, and the server's message that it awaits: continue, final or ok."""
    back, server = login("secret"), ServerExchange(VERIFIER, "server")
    client_first = data_of(back.receive(SASL)).partition(b"n,,")
    challenge = messages.authentication_sasl_continue(server.receive_first(b"n,," + client_first[2]))
    if state == "continue":
        return back, challenge
    server_final = server.receive_final(data_of(back.receive(challenge))[5:])
    assert server_final is not None
    final = messages.authentication_sasl_final(server_final)
    if state == "final":
        return back, final
    assert back.receive(final) == []
    return back, OK


def test_much_work_is_asked_for_and_done_elsewhere() -> None:
    verifier = Verifier.from_password("secret", b"salt", iterations=20_481)
    back, server = login("secret"), ServerExchange(verifier, "server")
    client_first = data_of(back.receive(SASL)).partition(b"n,,")
    challenge = messages.authentication_sasl_continue(server.receive_first(b"n,," + client_first[2]))
    (need,) = back.receive(challenge)
    assert need == NeedKeys("secret", b"salt", 20_481)
    assert "secret" not in repr(need)
    server_final = server.receive_final(data_of(back.keys_found(*keys_of_password("secret", b"salt", 20_481)))[5:])
    assert server_final is not None
    assert back.receive(messages.authentication_sasl_final(server_final)) == []
    assert back.keys_found(b"", b"") == []  # nobody asks any more


def test_the_startup_message_names_user_database_and_parameters() -> None:
    parameters = {"application_name": "pgweir", "client_encoding": "UTF8"}
    back = BackendLogin(user="b", database="d", passwords=[], client_nonce="n", parameters=parameters)
    assert back.start() == startup(user="b", database="d", **parameters)


@pytest.mark.parametrize("name", ["user", "database", "options", "replication"])
def test_a_parameter_never_takes_the_place_of_a_reserved_one(name: str) -> None:
    with pytest.raises(ValueError):
        BackendLogin(user="b", database="d", passwords=[], client_nonce="n", parameters={name: "x"})


def test_a_nul_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ValueError):
        login("pass\0word")
    with pytest.raises(ValueError):
        BackendLogin(user="b\0", database="d", passwords=[], client_nonce="n", parameters={})


@given(cuts, st.binary(max_size=5))
def test_a_trusting_server_is_entered_however_its_bytes_are_cut(places: list[int], rest: bytes) -> None:
    def steps(pieces: Sequence[bytes]) -> list[object]:
        return all_steps(login().receive, pieces)

    assert fed_every_way(steps, NOTICE + OK + PARAMETERS + NOTICE + KEY + READY, places) == [LOGGED_IN]
    assert login().receive(GREETING + rest) == [LoggedIn(LOGGED_IN.parameters, 7, b"keys", rest)]


def test_a_server_may_have_no_key_and_report_a_parameter_twice() -> None:
    again = messages.parameter_status(b"a", b"2")
    expected = LoggedIn({b"server_version": b"18.1", b"a": b"2"}, 0, b"", b"")
    assert login().receive(OK + PARAMETERS + again + READY) == [expected]


def test_parameters_keep_the_order_of_the_server() -> None:
    (step,) = login().receive(GREETING)
    assert isinstance(step, LoggedIn)
    assert list(step.parameters) == [b"server_version", b"a"]


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (messages.authentication_cleartext(), b"secret"),
        (messages.authentication_md5(b"salt"), md5_answer("bob", "secret", b"salt")),
    ],
)
def test_a_password_is_sent_as_the_server_asks(request_bytes: bytes, answer: bytes) -> None:
    back = login("secret", "older", security=UNDER_TLS)
    assert data_of(back.receive(request_bytes)) == messages.password_message(answer)
    assert back.receive(GREETING) == [LOGGED_IN]


def test_the_password_itself_is_never_sent_in_clear() -> None:
    failed = failure(login("secret").receive(messages.authentication_cleartext())).error
    assert isinstance(failed, InsecureLogin)
    assert "under TLS only" in failed.text


def first_sent(security: ServerSecurity, *offered: str) -> bytes:
    return data_of(login("secret", security=security).receive(messages.authentication_sasl(offered)))


def test_scram_is_bound_to_tls_when_the_server_can() -> None:
    plus, plain = "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"
    bound = messages.sasl_initial_response(plus, b"p=tls-server-end-point,,n=,r=client")
    assert first_sent(BOUND, plus, plain) == first_sent(BOUND, plus) == bound
    assert first_sent(BOUND, plain) == messages.sasl_initial_response(plain, b"y,,n=,r=client")
    unbound = messages.sasl_initial_response(plain, b"n,,n=,r=client")
    for security in (IN_CLEAR, UNDER_TLS, replace(BOUND, channel_binding="Disable")):
        assert first_sent(security, plus, plain) == unbound


@pytest.mark.parametrize(
    ("request_bytes", "what"),
    [
        (OK, "no proof of a password"),
        (messages.authentication_cleartext(), "the password itself"),
        (messages.authentication_md5(b"salt"), "an MD5 hash"),
        (messages.authentication_sasl(["SCRAM-SHA-256"]), "SCRAM without it"),
    ],
)
def test_required_binding_takes_nothing_less(request_bytes: bytes, what: str) -> None:
    back = login("secret", security=replace(BOUND, channel_binding="Require"))
    failed = failure(back.receive(request_bytes)).error
    assert isinstance(failed, InsecureLogin)
    assert failed.text == f"channel binding is required, and the database server asks for {what}"


@pytest.mark.parametrize("security", [IN_CLEAR, UNDER_TLS])
def test_required_binding_needs_a_channel_that_can_be_bound(security: ServerSecurity) -> None:
    failed = failure(login("secret", security=replace(security, channel_binding="Require")).receive(SASL)).error
    assert isinstance(failed, InsecureLogin)
    assert "a channel that cannot be bound" in failed.text


@given(cuts)
def test_scram_is_spoken_however_the_servers_bytes_are_cut(places: list[int]) -> None:
    assert data_of(login("secret").receive(SASL)) == messages.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=client")

    def steps_in(state: str, behind: bytes = b"") -> list[object]:
        def steps(pieces: Sequence[bytes]) -> list[object]:
            return all_steps(scram(state)[0].receive, pieces)

        return fed_every_way(steps, scram(state)[1] + behind, places)

    (proof,) = steps_in("continue")
    assert isinstance(proof, Send)
    assert steps_in("final") == []
    assert steps_in("final", GREETING) == [LOGGED_IN]


def test_a_wrong_password_is_the_servers_to_tell() -> None:
    back = login("wrong")
    back.receive(SASL)
    error = messages.error_response("FATAL", "28P01", "password authentication failed")
    failed = failure(back.receive(error + GREETING)).error
    assert isinstance(failed, ServerLoginFailed)
    assert failed.wire_sqlstate() == "28P01"
    assert "password authentication failed" in failed.text
    assert back.receive(GREETING) == []


@pytest.mark.parametrize("before", [b"", OK, OK + PARAMETERS + KEY])
def test_an_error_ends_the_login_in_every_state(before: bytes) -> None:
    error = messages.error_response("FATAL", "57P03", "the database system is starting up")
    failed = failure(login().receive(before + error)).error
    assert isinstance(failed, ServerLoginFailed)
    assert failed.is_starting_up


@pytest.mark.parametrize("fields", [b"\0", b"Mx\0\0", b"C\xff\0\0", b"C28P0\0\0", b"C28P011\0\0", b"C28-01\0\0"])
def test_an_error_without_a_good_sqlstate_gets_one(fields: bytes) -> None:
    assert failure(login().receive(message(b"E", fields))).error.wire_sqlstate() == "08006"


@pytest.mark.parametrize(
    "request_bytes", [messages.authentication_cleartext(), messages.authentication_md5(b"salt"), SASL]
)
def test_a_server_that_asks_for_a_password_that_we_do_not_have_is_told_apart(request_bytes: bytes) -> None:
    failed = failure(login(security=UNDER_TLS).receive(request_bytes)).error
    assert isinstance(failed, ServerLoginFailed)
    assert "none is configured" in failed.text


@pytest.mark.parametrize(
    ("request_bytes", "name"),
    [
        (message(b"R", b"\0\0\0\2"), "KerberosV5"),
        (message(b"R", b"\0\0\0\7"), "GSSAPI"),
        (message(b"R", b"\0\0\0\x09"), "SSPI"),
        (message(b"R", b"\0\0\0\x63"), "number 99"),
        (messages.authentication_sasl(["OAUTHBEARER", "SCRAM-SHA-256-PLUS"]), "without SCRAM-SHA-256"),
    ],
)
def test_a_method_that_we_do_not_have_is_named(request_bytes: bytes, name: str) -> None:
    failed = failure(login("secret").receive(request_bytes)).error
    assert isinstance(failed, NotSupported)
    assert name in failed.text


def test_a_version_negotiation_is_accepted_only_for_the_version_that_we_asked_for() -> None:
    assert login().receive(messages.negotiate_protocol_version(0, []) + GREETING) == [LOGGED_IN]
    for body in (
        (PROTOCOL_3_0 | 2).to_bytes(4, "big") + bytes(4),
        (2 << 16).to_bytes(4, "big") + bytes(4),
        PROTOCOL_3_0.to_bytes(4, "big") + b"\0\0\0\1_pq_.x\0",
    ):
        assert isinstance(failure(login().receive(message(b"v", body))).error, ServerProtocolError)


@pytest.mark.parametrize("state", ["continue", "final"])
@pytest.mark.parametrize("behind", [b"", GREETING])
def test_a_server_cannot_skip_its_own_proof(state: str, behind: bytes) -> None:
    back, _ = scram(state)
    assert isinstance(failure(back.receive(OK + behind)).error, ServerProtocolError)


def test_a_server_with_a_wrong_signature_is_refused() -> None:
    back, final = scram("final")
    broken = final[:-4] + b"AAA="
    assert isinstance(failure(back.receive(broken + GREETING)).error, ServerProtocolError)


def test_a_login_ends_well_only_after_the_servers_proof() -> None:
    back, ok = scram("ok")
    assert back.receive(ok + PARAMETERS + KEY + READY) == [LOGGED_IN]


@pytest.mark.parametrize(
    "data",
    [
        b"H\0\0\0\4",
        READY,
        PARAMETERS,
        KEY,
        b"R\0\0\0\3",
        b"R\0\0\0\4",
        b"R\xff\xff\xff\xff",
        b"R\0\x20\0\0",
        b"E\0\0\0\4",
        b"Ecould not fork new process",
        message(b"R", b"\0\0\0\0x"),
        message(b"R", b"\0\0\0\3x"),
        message(b"R", b"\0\0\0\5abc"),
        message(b"R", b"\0\0\0\x0aSCRAM-SHA-256\0"),
        OK + OK,
        OK + SASL,
        OK + messages.negotiate_protocol_version(0, []),
        OK + message(b"K", b"\0\0\0\7"),
        OK + message(b"S", b"a\0"),
        OK + messages.ready_for_query(b"T"),
        OK + message(b"Z"),
        OK + message(b"D", b"\0\0"),
    ],
)
def test_a_server_that_breaks_the_protocol_is_left(data: bytes) -> None:
    def steps(pieces: Sequence[bytes]) -> list[object]:
        return all_steps(login("secret").receive, pieces)

    if data.startswith(b"R\0\x20"):
        data += bytes(5)  # 2 MiB announced
    assert isinstance(failure(login("secret").receive(data)).error, ServerProtocolError)
    fed_every_way(steps, data)


@pytest.mark.parametrize(
    ("state", "data"),
    [
        ("continue", SASL),
        ("continue", messages.authentication_sasl_continue(b"r=other,s=YWJj,i=1")),
        ("continue", messages.authentication_sasl_continue(b"r=clientx,s=YWJj,i=99999999")),
        ("continue", messages.authentication_sasl_final(b"v=")),
        ("final", messages.authentication_sasl_continue(b"r=clientx,s=YWJj,i=1")),
        ("final", messages.authentication_sasl_final(b"e=invalid-proof")),
        ("ok", messages.authentication_sasl_final(b"v=YWJj")),
        ("ok", READY),
    ],
)
def test_scram_out_of_order_or_out_of_bounds_is_left(state: str, data: bytes) -> None:
    back, _ = scram(state)
    assert isinstance(failure(back.receive(data)).error, ServerProtocolError)


def test_a_server_that_never_comes_to_an_end_is_left() -> None:
    back = login()
    assert back.receive(OK) == []
    notices = NOTICE * (1_048_576 // len(NOTICE))
    assert back.receive(notices) == []
    assert isinstance(failure(back.receive(NOTICE)).error, ServerProtocolError)


def test_no_step_and_no_error_shows_a_secret() -> None:
    back = login("secret", security=UNDER_TLS)
    shown = repr(back.receive(messages.authentication_cleartext())) + repr(login().receive(GREETING + b"rest"))
    assert "secret'" not in shown
    assert "keys" not in shown
    assert "rest=" not in shown


TAGS = st.sampled_from([b"R", b"S", b"K", b"Z", b"N", b"v", b"E"]) | st.binary(min_size=1, max_size=1)
KINDS = st.sampled_from([0, 3, 5, 7, 10, 11, 12]).map(lambda kind: kind.to_bytes(4, "big")) | st.just(b"")
TYPED = st.builds(lambda tag, kind, body: message(tag, kind + body), TAGS, KINDS, st.binary(max_size=20))


@given(st.lists(TYPED | st.binary(max_size=20) | st.sampled_from([OK, SASL, PARAMETERS, KEY, READY])), cuts)
def test_random_bytes_give_steps_and_end_once(chunks: list[bytes], places: list[int]) -> None:
    def steps(pieces: Sequence[bytes]) -> list[object]:
        # `rest` is what came in the same piece as the ReadyForQuery, so it depends on the cut.
        found = all_steps(login("secret").receive, pieces)
        return [replace(step, rest=b"") if isinstance(step, LoggedIn) else step for step in found]

    found = fed_every_way(steps, b"".join(chunks), places)
    closing = [not isinstance(step, Send) for step in found]
    assert not any(closing[:-1])


def enter(server: PostgresServer, back: BackendLogin) -> BackendStep:
    """Lets a login talk to a real server; its closing step."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(back.start())
        while True:
            for step in back.receive(connection.recv(65_536)):
                if not isinstance(step, Send):
                    connection.sendall(messages.TERMINATE)
                    return step
                connection.sendall(step.data)


def test_every_method_opens_a_real_server(new_postgres: Callable[..., PostgresServer]) -> None:
    methods = {"u_trust": "trust", "u_password": "password", "u_md5": "md5", "u_scram": "scram-sha-256"}
    lines = tuple(f"host all {user} 127.0.0.1/32 {method}" for user, method in methods.items())
    server = new_postgres(hba_lines=lines)
    for user, method in methods.items():
        encryption = "md5" if method == "md5" else "scram-sha-256"
        server.sql(f"set password_encryption = '{encryption}'; create role {user} login password 'pässword'")

    def attempt(user: str, password: str) -> BackendStep:
        return enter(
            server,
            BackendLogin(
                user=user,
                database="postgres",
                passwords=[password],
                client_nonce="0123456789",
                parameters={"application_name": "pgweir", "client_encoding": "UTF8"},
                security=UNDER_TLS,  # it is not, but only so u_password's password is sent
            ),
        )

    for user in methods:
        step = attempt(user, "pässword")
        assert isinstance(step, LoggedIn), (user, step)
        assert step.parameters[b"application_name"] == b"pgweir"
        assert step.parameters[b"server_version"].startswith(b"18.")
        assert step.process_id > 0
        assert len(step.secret_key) == 4
        refused = attempt(user, "wrong")
        assert isinstance(refused, LoggedIn if user == "u_trust" else Failed)
        if isinstance(refused, Failed):
            assert refused.error.wire_sqlstate() == "28P01"
