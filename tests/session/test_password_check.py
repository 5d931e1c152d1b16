"""Logins by md5 and by the password itself, and what stands for a password at a server."""

import pytest

from harness.messages import ssl_request
from pgweir_pooler.errors import AuthenticationFailed, ServerLoginFailed, TlsNeeded
from pgweir_pooler.session.backend_login import BackendLogin, Secret
from pgweir_pooler.session.frontend_login import FrontendLogin
from pgweir_pooler.session.password_check import CLEARTEXT_ITERATIONS_MAX, CleartextCheck, Md5Check
from pgweir_pooler.session.secure_channel import SecureChannel, TlsPolicy
from pgweir_pooler.session.server_security import ServerSecurity
from pgweir_pooler.session.steps import Admitted, Failed, NeedSecret, Refused, Send
from pgweir_pooler.wire import messages
from pgweir_pooler.wire.md5 import Md5Hash, md5_answer
from pgweir_pooler.wire.scram import ServerExchange, Verifier
from pgweir_pooler.wire.scram_keys import VerifierDiffers, keys_of
from session.conversation import startup

STARTUP = startup(user="bob.acme", database="shop")
SALT = b"salt"
VERIFIER = Verifier.from_password("secret", b"0123456789abcdef", iterations=2)


def asked(check: Md5Check | CleartextCheck, *, secure: bool = True) -> FrontendLogin:
    front = FrontendLogin(default_tenant=None, server_nonce="server", policy=TlsPolicy(is_offered=True))
    if secure:
        front.receive(ssl_request())
        front.secured(SecureChannel())
    assert front.receive(STARTUP) == [NeedSecret("acme", "bob", "shop")]
    assert front.sent_user == b"bob.acme"
    assert front.password_needed(check) == [Send(check.request)]
    return front


def refusal(steps: list[object]) -> type[Exception]:
    (step,) = steps
    assert isinstance(step, Refused)
    return type(step.error)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_the_answer_of_md5_lets_in(size: int) -> None:
    front = asked(
        Md5Check([Md5Hash.from_password("bob.acme", "old"), Md5Hash.from_password("bob.acme", "x")], SALT, real=True)
    )
    answer = messages.password_message(md5_answer("bob.acme", "old", SALT))
    steps = [step for i in range(0, len(answer), size) for step in front.receive(answer[i : i + size])]
    (admitted,) = steps
    assert isinstance(admitted, Admitted)
    assert front.proved is None
    front.receive(b"Q")
    assert front.unconsumed == b"Q"


@pytest.mark.parametrize(("password", "real"), [("wrong", True), ("secret", False)])
def test_a_wrong_answer_and_nobodys_are_refused_alike(password: str, real: bool) -> None:
    front = asked(Md5Check([Md5Hash.from_password("bob.acme", "secret")], SALT, real=real))
    answer = messages.password_message(md5_answer("bob.acme", password, SALT))
    assert refusal([*front.receive(answer)]) is AuthenticationFailed


@pytest.mark.parametrize("body", [b"", b"md5", b"no end", b"two\0two\0"])
def test_malformed_answers_are_errors(body: bytes) -> None:
    front = asked(Md5Check([Md5Hash.from_password("bob.acme", "secret")], SALT, real=True))
    (step,) = front.receive(messages.message(b"p", body))
    assert isinstance(step, Refused)
    front = asked(Md5Check([Md5Hash.from_password("bob.acme", "secret")], SALT, real=True))
    (step,) = front.receive(b"Q\0\0\0\4")
    assert isinstance(step, Refused)
    assert step.error.wire_sqlstate() == "08P01"


def test_a_password_in_clear_is_checked_by_whatever_is_stored() -> None:
    hashed = Md5Hash.from_password("bob", "secret")
    for stored in ([VERIFIER], [hashed], [Verifier.from_password("x", b"salt", 1), VERIFIER]):
        front = asked(CleartextCheck("bob", stored, real=True))
        (admitted,) = front.receive(messages.password_message(b"secret"))
        assert isinstance(admitted, Admitted)
        assert front.proved == (None if stored == [hashed] else keys_of(b"secret", VERIFIER))
        front = asked(CleartextCheck("bob", stored, real=True))
        assert refusal([*front.receive(messages.password_message(b"wrong"))]) is AuthenticationFailed
        front = asked(CleartextCheck("bob", stored, real=False))
        assert refusal([*front.receive(messages.password_message(b"secret"))]) is AuthenticationFailed


def test_a_verifier_that_takes_long_is_not_checked_here() -> None:
    slow = Verifier(CLEARTEXT_ITERATIONS_MAX + 1, VERIFIER.salt, VERIFIER.stored_key, VERIFIER.server_key)
    assert not CleartextCheck("bob", [slow], real=True).matches(b"secret")


def test_no_password_in_clear_without_tls() -> None:
    front = FrontendLogin(default_tenant=None, server_nonce="server")
    front.receive(STARTUP)
    assert refusal([*front.password_needed(CleartextCheck("bob", [VERIFIER], real=True))]) is TlsNeeded
    assert front.receive(messages.password_message(b"secret")) == []
    assert front.password_needed(CleartextCheck("bob", [VERIFIER], real=True)) == []


def server_login(secret: Secret) -> BackendLogin:
    login = BackendLogin(
        user="bob",
        database="shop",
        passwords=[secret],
        client_nonce="client",
        parameters={},
        security=ServerSecurity(is_encrypted=True),
    )
    login.start()
    return login


def test_proved_keys_log_in_by_scram_and_by_nothing_else() -> None:
    keys = keys_of(b"secret", VERIFIER)
    assert keys is not None
    for verifier in (
        VERIFIER,
        Verifier.from_password("secret", b"another", 2),
        Verifier.from_password("secret", b"0123456789abcdef", 3),
    ):
        login, server = server_login(keys), ServerExchange(verifier, "server")
        (first,) = login.receive(messages.authentication_sasl(["SCRAM-SHA-256"]))
        assert isinstance(first, Send)
        _, data = messages.parse_sasl_initial_response(first.data[5:])
        assert data is not None
        (answer,) = login.receive(messages.authentication_sasl_continue(server.receive_first(data)))
        if verifier is VERIFIER:
            assert isinstance(answer, Send)
            final = server.receive_final(answer.data[5:])
            assert final is not None
            assert login.receive(messages.authentication_sasl_final(final)) == []
        else:
            assert isinstance(answer, Failed)
            assert isinstance(answer.error, VerifierDiffers)
    for request in (messages.authentication_cleartext(), messages.authentication_md5(SALT)):
        (step,) = server_login(keys).receive(request)
        assert isinstance(step, Failed)
        assert isinstance(step.error, ServerLoginFailed)
        assert step.error.wire_sqlstate() == "28P01"


def test_an_md5_hash_logs_in_by_md5_and_by_nothing_else() -> None:
    known = Md5Hash.from_password("bob", "secret")
    assert server_login(known).receive(messages.authentication_md5(SALT)) == [
        Send(messages.password_message(md5_answer("bob", "secret", SALT)))
    ]
    for request in (messages.authentication_cleartext(), messages.authentication_sasl(["SCRAM-SHA-256"])):
        (step,) = server_login(known).receive(request)
        assert isinstance(step, Failed)
