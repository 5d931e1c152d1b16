"""SCRAM-SHA-256 in both roles: the RFC's vector, PostgreSQL's own verifiers, and what must be refused."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.databases import Database
from pgweir_pooler.errors import NotSupported, PoolerError, ProtocolViolation
from pgweir_pooler.wire.cursor import ServerProtocolError
from pgweir_pooler.wire.scram import ClientExchange, ServerExchange, Verifier, mock_verifier

# RFC 7677 section 3.
CLIENT_NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

VERIFIER = Verifier.from_password("pencil", SALT)


def challenged() -> ServerExchange:
    exchange = ServerExchange(VERIFIER, SERVER_NONCE)
    exchange.receive_first(CLIENT_FIRST)
    return exchange


def challenged_client() -> ClientExchange:
    exchange = ClientExchange("pencil", CLIENT_NONCE, user="user")
    exchange.receive_first(SERVER_FIRST)
    return exchange


def agree(password: str, verifier: Verifier, first: bytes | None = None) -> bool:
    """Runs both roles against each other; whether the proof was good."""
    server, client = ServerExchange(verifier, "server"), ClientExchange(password, "client")
    client_final = client.receive_first(server.receive_first(first or client.first()))
    server_final = server.receive_final(client_final)
    if server_final is None:
        return False
    client.receive_final(server_final)
    return True


def test_both_roles_speak_the_vector_of_the_rfc() -> None:
    server, client = (
        ServerExchange(VERIFIER, SERVER_NONCE),
        ClientExchange("pencil", CLIENT_NONCE, user="user"),
    )
    assert client.first() == CLIENT_FIRST
    assert server.receive_first(CLIENT_FIRST) == SERVER_FIRST
    assert client.receive_first(SERVER_FIRST) == CLIENT_FINAL
    assert server.receive_final(CLIENT_FINAL) == SERVER_FINAL
    client.receive_final(SERVER_FINAL)


# The exchange of RFC 7677 once more, bound to a channel: made with scramp 1.4, an implementation of its own.
BINDING = hashlib.sha256(b"certificate").digest()
BOUND_CLIENT_FINAL = (
    b"c=cD10bHMtc2VydmVyLWVuZC1wb2ludCwsA9Zt0Ig1wco/EozOrNHzGslBYwlrIPRFroQoW8CDLXI=,"
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=PDYoWyjL2USDf7LnQ7piOwt3OVcEPRbXsEvXHNKDU04="
)
BOUND_SERVER_FINAL = b"v=WQt6/B0lyhcS0jEpTrs9PZzMa+An2Woiy3ZQ75nvla0="


def test_a_client_binds_to_its_channel_by_the_vector() -> None:
    client = ClientExchange("pencil", CLIENT_NONCE, user="user", binding=BINDING)
    assert client.first() == b"p=tls-server-end-point,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    assert client.receive_first(SERVER_FIRST) == BOUND_CLIENT_FINAL
    client.receive_final(BOUND_SERVER_FINAL)


def test_a_server_with_another_channel_does_not_prove_itself() -> None:
    client = ClientExchange("pencil", CLIENT_NONCE, user="user", binding=bytes(32))
    assert client.receive_first(SERVER_FIRST) != BOUND_CLIENT_FINAL
    with pytest.raises(ServerProtocolError):
        client.receive_final(BOUND_SERVER_FINAL)


def test_a_client_says_that_it_could_have_bound() -> None:
    client = ClientExchange("pencil", CLIENT_NONCE, could_bind=True)
    assert client.first() == b"y,,n=,r=" + CLIENT_NONCE.encode()
    assert client.receive_first(SERVER_FIRST).startswith(b"c=eSws,")
    assert agree_with(ClientExchange("pencil", "client", could_bind=True))


def agree_with(client: ClientExchange) -> bool:
    server = ServerExchange(VERIFIER, "server")
    server_final = server.receive_final(client.receive_first(server.receive_first(client.first())))
    assert server_final is not None
    client.receive_final(server_final)
    return True


def test_the_client_key_is_recovered_from_a_good_proof_only() -> None:
    server = challenged()
    assert server.client_key == b""
    server.receive_final(CLIENT_FINAL)
    assert Verifier.parse(VERIFIER.render()).stored_key == hashlib.sha256(server.client_key).digest()
    wrong = challenged()
    proof = base64.b64encode(bytes(32))
    assert wrong.receive_final(CLIENT_FINAL.partition(b",p=")[0] + b",p=" + proof) is None
    assert wrong.client_key == b""


@pytest.mark.parametrize(
    "password",
    [
        "pencil",
        "with spaces, = and , signs",
        "I\u00adX",
        "\u2168 \u00aa",
        "pässwörd\u00a0ß",
        "x\u200by\u00e9",
        "\u0627\u0031\u00e9",
        "\u0627\u0628",
        "\u00e9\U0001f600",
        "\u00e9\u0007",
        "\u00ad",
    ],
)
def test_our_keys_are_those_that_postgresql_stores(database18: Database, password: str) -> None:
    database18.sql(f"set client_encoding = 'UTF8'; alter role {database18.user} password '{password}'")
    text = database18.sql(f"select rolpassword from pg_authid where rolname = '{database18.user}'").strip()
    stored = Verifier.parse(text)
    assert stored.render() == text
    assert Verifier.from_password(password, stored.salt, stored.iterations) == stored
    assert agree(password, stored)


def test_postgresql_takes_a_verifier_of_ours(database18: Database) -> None:
    verifier = Verifier.from_password("pencil", SALT, 5_000)
    database18.sql(f"alter role {database18.user} password '{verifier.render()}'")
    text = database18.sql(f"select rolpassword from pg_authid where rolname = '{database18.user}'").strip()
    assert text == verifier.render()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "md5f21dfe33ff3a9e03dbc3e008251fe5cc",
        VERIFIER.render() + "=",
        VERIFIER.render() + "\n",
        VERIFIER.render().replace("$4096:", "$0:"),
        VERIFIER.render().replace("$4096:", "$-1:"),
        VERIFIER.render().replace("$4096:", "$10000001:"),
        VERIFIER.render().replace("$4096:", "$\u0664:"),
        VERIFIER.render().replace("SHA-256", "SHA-1"),
        "SCRAM-SHA-256$4096:YWJj$YWJj:YWJj",
        "SCRAM-SHA-256$4096:a$a:a",
    ],
)
def test_a_text_that_is_no_verifier_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not a SCRAM-SHA-256 verifier$") as caught:
        Verifier.parse(text)
    assert caught.value.__cause__ is None


def test_no_repr_shows_a_key() -> None:
    assert repr(VERIFIER) == "Verifier(iterations=4096)"
    assert "pencil" not in repr(ClientExchange("pencil", "nonce"))


def test_a_user_who_is_not_there_always_shows_the_same_salt_and_matches_no_password() -> None:
    mock = mock_verifier("bob", b"key")
    assert mock == mock_verifier("bob", b"key")
    others = (mock_verifier("eve", b"key"), mock_verifier("bob", b"other"))
    assert all(other.salt != mock.salt for other in others)
    assert len(mock.salt) == 16
    assert len({mock.stored_key, mock.server_key, mock.salt + mock.salt}) == 3
    assert mock_verifier("bob", b"key", iterations=8_000).iterations == 8_000
    assert not agree("bob", mock)
    assert not agree("", mock)


@given(st.text(max_size=12), st.text(max_size=12))
def test_only_the_password_itself_is_a_match(password: str, other: str) -> None:
    verifier = Verifier.from_password(password, b"salt", iterations=1)
    assert agree(password, verifier)
    same = Verifier.from_password(other, b"salt", iterations=1) == verifier
    assert agree(other, verifier) == same


@pytest.mark.parametrize("header", [b"n,,", b"y,,"])
def test_a_client_may_know_channel_binding_or_not(header: bytes) -> None:
    exchange = ServerExchange(VERIFIER, SERVER_NONCE)
    exchange.receive_first(header + CLIENT_FIRST[3:])
    other = b"n,," if header == b"y,," else b"y,,"
    swapped = b"c=" + base64.b64encode(other) + CLIENT_FINAL[6:]
    with pytest.raises(ProtocolViolation, match="channel-binding"):
        exchange.receive_final(swapped)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"p=tls-server-end-point,,n=,r=abc", ProtocolViolation),
        (b"n,a=eve,n=,r=abc", NotSupported),
        (b"n,,m=x,n=,r=abc", NotSupported),
        (b"n,x=eve,n=,r=abc", ProtocolViolation),
        (b"x,,n=,r=abc", ProtocolViolation),
        (b"n,,r=abc", ProtocolViolation),
        (b"n,,n=", ProtocolViolation),
        (b"n,,n=,r=", ProtocolViolation),
        (b"n,,n=,r=a c", ProtocolViolation),
        (b"n,,n=,r=\xff", ProtocolViolation),
        (b"n,,n=,r=abc,", ProtocolViolation),
        (b"n,,n=,r=abc,1=x", ProtocolViolation),
        (b"n,", ProtocolViolation),
        (b"n", ProtocolViolation),
        (b"", ProtocolViolation),
    ],
)
def test_a_client_first_that_breaks_the_rules_is_refused(message: bytes, error: type[PoolerError]) -> None:
    with pytest.raises(error):
        ServerExchange(VERIFIER, SERVER_NONCE).receive_first(message)


def test_optional_extensions_and_an_empty_user_are_accepted() -> None:
    first = ServerExchange(VERIFIER, "server").receive_first(b"n,,n=,r=abc,x=ignored,y=")
    assert first.startswith(b"r=abcserver,s=")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        CLIENT_FINAL.partition(b",p=")[0],
        CLIENT_FINAL.replace(b"c=biws", b"c=biw"),
        CLIENT_FINAL.replace(b"c=biws,", b""),
        CLIENT_FINAL.replace(b"k0,", b"k1,"),
        CLIENT_FINAL.replace(b"r=rO", b"r=rP"),
        CLIENT_FINAL + b"=",
        CLIENT_FINAL + b",x=y",
        CLIENT_FINAL + b",p=AAAA",
        CLIENT_FINAL.replace(b",p=", b",bad,p="),
        CLIENT_FINAL[:-4],
        CLIENT_FINAL.replace(b"dHzb", b"dH\0b"),
        b"c=biws,r=,p=" + base64.b64encode(bytes(32)),
    ],
)
def test_a_client_final_that_breaks_the_rules_is_refused(message: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        challenged().receive_final(message)


@pytest.mark.parametrize("bit", range(0, 256, 37))
def test_a_proof_with_one_wrong_bit_is_wrong(bit: int) -> None:
    head, _, text = CLIENT_FINAL.partition(b",p=")
    proof = bytearray(base64.b64decode(text))
    proof[bit // 8] ^= 1 << bit % 8
    assert challenged().receive_final(head + b",p=" + base64.b64encode(proof)) is None


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"m=x," + SERVER_FIRST,
        SERVER_FIRST.replace(b"r=rO", b"r=rP"),
        b"r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        SERVER_FIRST.replace(b"k0,", b"k\xff,"),
        SERVER_FIRST.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s="),
        SERVER_FIRST.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s=W22"),
        SERVER_FIRST.replace(b",s=W22ZaJ0SNY7soEsUEjb6gQ==", b""),
        SERVER_FIRST.replace(b"i=4096", b"i=0"),
        SERVER_FIRST.replace(b"i=4096", b"i=-1"),
        SERVER_FIRST.replace(b"i=4096", b"i="),
        SERVER_FIRST.replace(b"i=4096", b"i=4_0"),
        SERVER_FIRST.replace(b"i=4096", b"i=10000001"),
        SERVER_FIRST.replace(b"i=4096", b"i=" + b"9" * 5_000),
        SERVER_FIRST.replace(b",i=4096", b""),
    ],
)
def test_a_server_first_that_breaks_the_rules_is_refused(message: bytes) -> None:
    with pytest.raises(ServerProtocolError):
        ClientExchange("pencil", CLIENT_NONCE).receive_first(message)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"v=",
        b"v=!",
        b"e=other-error",
        b"v=" + base64.b64encode(bytes(32)),
        SERVER_FINAL[:-4],
        SERVER_FINAL + b",1",
        SERVER_FINAL.replace(b"v=", b"w="),
    ],
)
def test_a_server_that_cannot_prove_itself_is_refused(message: bytes) -> None:
    with pytest.raises(ServerProtocolError):
        challenged_client().receive_final(message)


def test_a_server_final_before_server_first_is_refused() -> None:
    with pytest.raises(ServerProtocolError):
        ClientExchange("pencil", CLIENT_NONCE).receive_final(SERVER_FINAL)


def test_a_user_name_is_escaped() -> None:
    assert ClientExchange("", "abc", user="a=b,c").first() == b"n,,n=a=3Db=2Cc,r=abc"


@given(st.binary(max_size=60) | st.sampled_from([b"n,,", b"c=biws,", b"r=client", b"v="]).map(lambda b: b + b"x"))
def test_random_messages_raise_nothing_but_our_errors(message: bytes) -> None:
    for receive in (
        ServerExchange(VERIFIER, SERVER_NONCE).receive_first,
        challenged().receive_final,
        ClientExchange("pencil", CLIENT_NONCE).receive_first,
        ClientExchange("pencil", CLIENT_NONCE).receive_final,
    ):
        with pytest.raises(PoolerError):
            receive(message)
