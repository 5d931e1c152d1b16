"""A client's login by TLS: when it is offered, what is demanded, whom a certificate names, and what binds the proof."""

import base64
import hmac

import pytest

from pgweir_pooler.session.frontend_login import FrontendLogin
from pgweir_pooler.session.secure_channel import SecureChannel, TlsPolicy
from pgweir_pooler.session.steps import Admitted, CancelRequested, FrontendStep, NeedSecret, Refused, Send, UpgradeToTls
from pgweir_pooler.wire import messages
from pgweir_pooler.wire.scram import Verifier
from session.conversation import packet, startup

SSL_REQUEST = packet(messages.SSL_REQUEST_CODE)
GSSENC_REQUEST = packet(messages.GSSENC_REQUEST_CODE)
STARTUP = startup(user="bob.acme", database="shop")
VERIFIER = Verifier.from_password("secret", b"0123456789abcdef", iterations=2)
OFFERED = TlsPolicy(is_offered=True)
REQUIRED = TlsPolicy(is_offered=True, is_required=True)
BINDING = bytes(range(32))
BOUND = b"p=tls-server-end-point,,"


def login(
    policy: TlsPolicy = OFFERED, *, default_tenant: str | None = None, has_console: bool = False
) -> FrontendLogin:
    return FrontendLogin(default_tenant=default_tenant, server_nonce="server", policy=policy, has_console=has_console)


def secured(channel: SecureChannel, policy: TlsPolicy = OFFERED, *, default_tenant: str | None = None) -> FrontendLogin:
    front = login(policy, default_tenant=default_tenant, has_console=True)
    assert front.receive(SSL_REQUEST) == [UpgradeToTls()]
    front.secured(channel)
    return front


def refusal(steps: list[FrontendStep]) -> tuple[str, str, str]:
    """SQLSTATE, text and detail of the one step there is."""
    (step,) = steps
    assert isinstance(step, Refused)
    return step.error.wire_sqlstate(), step.error.client_text(), step.error.detail


# --- when TLS begins


def test_an_ssl_request_begins_tls_where_it_is_offered() -> None:
    assert login().receive(SSL_REQUEST) == [UpgradeToTls()]
    assert login(TlsPolicy()).receive(SSL_REQUEST) == [Send(b"N")]


def test_gss_encryption_is_declined_and_tls_may_follow() -> None:
    front = login()
    assert front.receive(GSSENC_REQUEST) == [Send(b"N")]
    assert front.receive(SSL_REQUEST) == [UpgradeToTls()]


@pytest.mark.parametrize("behind", [b"\x16", b"x", STARTUP, GSSENC_REQUEST])
def test_bytes_behind_the_request_are_never_understood(behind: bytes) -> None:
    sqlstate, text, _ = refusal(login().receive(SSL_REQUEST + behind))
    assert sqlstate == "08P01"
    assert "unencrypted data" in text


def test_nothing_is_understood_until_tls_is_there() -> None:
    front = login()
    front.receive(SSL_REQUEST)
    assert front.receive(STARTUP) == []


@pytest.mark.parametrize("request_bytes", [SSL_REQUEST, GSSENC_REQUEST])
def test_no_encryption_is_asked_for_inside_tls(request_bytes: bytes) -> None:
    assert refusal(secured(SecureChannel()).receive(request_bytes))[0] == "08P01"


def test_a_client_may_begin_tls_by_itself() -> None:
    assert login().receive(b"\x16\x03\x01") == [UpgradeToTls(b"\x16\x03\x01")]


@pytest.mark.parametrize("before", [SSL_REQUEST, GSSENC_REQUEST])
def test_tls_without_a_request_comes_first_or_not_at_all(before: bytes) -> None:
    front = login(OFFERED if before == GSSENC_REQUEST else TlsPolicy())
    assert front.receive(before) == [Send(b"N")]
    assert refusal(front.receive(b"\x16\x03\x01"))[0] == "0A000"


def test_tls_inside_tls_is_a_packet_of_an_impossible_length() -> None:
    assert refusal(secured(SecureChannel()).receive(b"\x16\x03\x01\x00"))[0] == "08P01"


# --- what is demanded


def test_a_plain_client_is_refused_before_its_password_is_asked_for() -> None:
    assert refusal(login(REQUIRED).receive(STARTUP))[0] == "28000"
    front = login(REQUIRED)
    front.receive(GSSENC_REQUEST)
    assert refusal(front.receive(STARTUP))[0] == "28000"
    assert secured(SecureChannel(), REQUIRED).receive(STARTUP) == [NeedSecret("acme", "bob", "shop")]


def test_a_plain_cancel_request_is_taken_where_tls_is_demanded() -> None:
    assert login(REQUIRED).receive(messages.cancel_request(7, b"keys")) == [CancelRequested(7, b"keys")]


@pytest.mark.parametrize(
    ("names", "user", "is_good"),
    [
        ({"bob.acme"}, "bob.acme", True),
        ({"x", "bob.acme"}, "bob.acme", True),
        ({"bob"}, "bob.acme", False),
        ({"bob.other"}, "bob.acme", False),
        ({"acme"}, "bob.acme", False),
        (set(), "bob.acme", False),
        ({"BOB.acme"}, "bob.acme", False),
        ({"bob"}, "bob", True),  # of the default tenant
        ({"bob.main"}, "bob", True),
        ({"bob"}, "bob.main", True),
    ],
)
def test_a_certificate_names_the_user(names: set[str], user: str, is_good: bool) -> None:
    policy = TlsPolicy(is_offered=True, is_required=True, names_user=True, default_tenant="main")
    front = FrontendLogin(
        default_tenant="main", server_nonce="server", policy=policy, is_tenant={"main", "acme", "other"}.__contains__
    )
    front.receive(SSL_REQUEST)
    front.secured(SecureChannel(peer_names=frozenset(names)))
    steps = front.receive(startup(user=user))
    if is_good:
        assert isinstance(steps[0], NeedSecret)
    else:
        assert refusal(steps)[:2] == ("28000", f'certificate authentication failed for user "{user}"')


# --- the host name


def test_the_host_name_names_the_tenant_where_the_startup_message_names_none() -> None:
    channel = SecureChannel(tenant="shop")
    assert secured(channel).receive(startup(user="bob")) == [NeedSecret("shop", "bob", "bob")]
    assert secured(channel, default_tenant="main").receive(startup(user="bob")) == [NeedSecret("shop", "bob", "bob")]
    assert secured(channel).receive(startup(user="bob.acme")) == [NeedSecret("acme", "bob", "bob")]
    named = startup(user="bob", options="-c pgweir.tenant=acme")
    assert secured(channel).receive(named) == [NeedSecret("acme", "bob", "bob")]


def test_a_host_name_of_a_tenant_leads_to_its_databases_and_not_to_the_console() -> None:
    wanted = startup(user="bob", database="pgbouncer")
    assert secured(SecureChannel(tenant="shop")).receive(wanted) == [NeedSecret("shop", "bob", "pgbouncer")]
    assert secured(SecureChannel()).receive(wanted) == [NeedSecret("", "bob", "pgweir")]


# --- SCRAM-SHA-256-PLUS


def answered(front: FrontendLogin, mechanism: str, header: bytes, binding: bytes) -> list[FrontendStep]:
    """What becomes of a client that knows the password and says this about channel binding."""
    front.receive(STARTUP)
    front.secret_found(VERIFIER, real=True)
    bare = b"n=,r=client"
    steps = front.receive(messages.sasl_initial_response(mechanism, header + bare))
    if not isinstance(steps[0], Send):
        return steps
    server_first = steps[0].data[9:]
    without_proof = b"c=" + base64.b64encode(header + binding) + b",r=clientserver"
    auth_message = b",".join((bare, server_first, without_proof))
    client_key = hmac.digest(VERIFIER_SALTED, b"Client Key", "sha256")
    signature = hmac.digest(VERIFIER.stored_key, auth_message, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    return front.receive(messages.sasl_response(without_proof + b",p=" + base64.b64encode(proof)))


def _salted() -> bytes:
    import hashlib

    return hashlib.pbkdf2_hmac("sha256", b"secret", VERIFIER.salt, VERIFIER.iterations)


VERIFIER_SALTED = _salted()


def test_plus_is_offered_first_and_inside_tls_only() -> None:
    front = secured(SecureChannel(binding=BINDING))
    front.receive(STARTUP)
    assert front.secret_found(VERIFIER, real=True) == [
        Send(messages.authentication_sasl(["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]))
    ]
    for plain in (login(), secured(SecureChannel())):
        plain.receive(STARTUP)
        assert plain.secret_found(VERIFIER, real=True) == [Send(messages.authentication_sasl(["SCRAM-SHA-256"]))]


@pytest.mark.parametrize(
    ("mechanism", "header", "binding"),
    [("SCRAM-SHA-256-PLUS", BOUND, BINDING), ("SCRAM-SHA-256", b"n,,", b"")],
)
def test_a_bound_and_an_unbound_proof_admit(mechanism: str, header: bytes, binding: bytes) -> None:
    steps = answered(secured(SecureChannel(binding=BINDING)), mechanism, header, binding)
    assert isinstance(steps[-1], Admitted)


def test_a_client_that_knows_binding_is_admitted_where_it_is_not_offered() -> None:
    assert isinstance(answered(secured(SecureChannel()), "SCRAM-SHA-256", b"y,,", b"")[-1], Admitted)
    assert isinstance(answered(login(), "SCRAM-SHA-256", b"y,,", b"")[-1], Admitted)


@pytest.mark.parametrize(
    ("mechanism", "header", "binding", "sqlstate", "text"),
    [
        ("SCRAM-SHA-256-PLUS", BOUND, bytes(32), "28000", "SCRAM channel binding check failed"),
        ("SCRAM-SHA-256-PLUS", BOUND, b"", "28000", "SCRAM channel binding check failed"),
        ("SCRAM-SHA-256-PLUS", b"n,,", b"", "08P01", "malformed SCRAM message"),
        ("SCRAM-SHA-256-PLUS", b"y,,", b"", "08P01", "malformed SCRAM message"),
        ("SCRAM-SHA-256", BOUND, BINDING, "08P01", "malformed SCRAM message"),
        ("SCRAM-SHA-256", b"y,,", b"", "28000", "SCRAM channel binding negotiation error"),
        ("SCRAM-SHA-256-PLUS", b"p=tls-unique,,", BINDING, "08P01", "unsupported SCRAM channel-binding type"),
        ("SCRAM-SHA-256-PLUS", b"p=,,", BINDING, "08P01", "unsupported SCRAM channel-binding type"),
    ],
)
def test_what_does_not_fit_the_connection_is_refused_in_postgresqls_words(
    mechanism: str, header: bytes, binding: bytes, sqlstate: str, text: str
) -> None:
    found = refusal(answered(secured(SecureChannel(binding=BINDING)), mechanism, header, binding))
    assert found[0] == sqlstate
    assert text in found[1]


def test_plus_that_was_not_offered_is_no_mechanism() -> None:
    assert refusal(answered(secured(SecureChannel()), "SCRAM-SHA-256-PLUS", BOUND, BINDING))[0] == "08P01"
    assert refusal(answered(login(), "SCRAM-SHA-256-PLUS", BOUND, BINDING))[0] == "08P01"
