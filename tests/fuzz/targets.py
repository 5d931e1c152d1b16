"""What a stranger can send before anybody knows who it is, and what must hold whatever it is.

Each target takes any bytes; the first one or two choose how the rest is sent. A target fails by an AssertionError, or
by an exception that is not the parser's own.
"""

from collections.abc import Callable, Iterator

from pgweir_pooler.session.frontend_login import FrontendLogin
from pgweir_pooler.session.password_check import CleartextCheck, Md5Check
from pgweir_pooler.session.secure_channel import SecureChannel, TlsPolicy
from pgweir_pooler.session.steps import (
    Admitted,
    CancelRequested,
    FrontendStep,
    NeedSecret,
    NotPostgres,
    Refused,
    Send,
    UpgradeToTls,
)
from pgweir_pooler.wire import messages
from pgweir_pooler.wire.client_hello import HELLO_MAX_BYTES, ClientHello, NotClientHelloError, read_client_hello
from pgweir_pooler.wire.limits import EARLY_BYTES_MAX
from pgweir_pooler.wire.md5 import Md5Hash
from pgweir_pooler.wire.proxy_header import V2_MAX_BYTES, ProxyHeader, ProxyHeaderError, ProxyHeaderReader
from pgweir_pooler.wire.scram import Verifier

_VERIFIER = Verifier.from_passwords(["a password that no input has", "another one"], b"0123456789abcdef", iterations=1)
_STARTUP = messages.startup_message({"user": "bob.acme", "database": "shop"})
_LAST = (Admitted, CancelRequested, Refused, NotPostgres)
_ANSWER_MAX_BYTES = 64 << 10  # what a login sends before anybody has proved anything


def startup(data: bytes) -> None:
    """Startup packets: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage, HTTP, TLS."""
    how, stream = data[0] if data else 0, data[1:]
    policy = TlsPolicy(is_offered=bool(how & 1), is_required=bool(how & 2), names_user=bool(how & 4))
    _Client(how, policy).send(stream)


def sasl(data: bytes) -> None:
    """What follows the question who it is: SASL messages, md5's answer, a password."""
    how, stream = data[0] if data else 0, data[1:]
    client = _Client(how, TlsPolicy(is_offered=True))
    if how & 16:
        client.send(_SSL_REQUEST)
    client.send(_STARTUP)
    client.send(stream)
    assert not client.is_admitted, "nobody proves a password that he does not have"


def proxy(data: bytes) -> None:
    """The PROXY protocol's header: in any pieces it is the same one, or the same error."""
    found = [_proxied(data[1:], size) for size in (1, 7, len(data) + 1)]
    assert found[0] == found[1] == found[2], found


def hello(data: bytes) -> None:
    """TLS's ClientHello: more bytes never make another one of it."""
    whole = _hello(data)
    for end in range(0, len(data), max(1, len(data) // 8)):
        part = _hello(data[:end])
        assert part is None or part == whole, (part, whole)
    if isinstance(whole, ClientHello):
        assert len(whole.server_name) <= HELLO_MAX_BYTES
        assert whole.server_name == whole.server_name.lower()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "startup": startup,
    "sasl": sasl,
    "proxy": proxy,
    "hello": hello,
}

_SSL_REQUEST = (8).to_bytes(4, "big") + messages.SSL_REQUEST_CODE.to_bytes(4, "big")


class _Client:
    """A client of a login whose driver answers at once; `how` says by what, and in which pieces it sends."""

    def __init__(self, how: int, policy: TlsPolicy) -> None:
        self._how = how
        self._login = FrontendLogin(
            default_tenant="acme" if how & 8 else None,
            server_nonce="servernonce",
            policy=policy,
            is_tenant=lambda name: name in ("acme", "other"),
            has_console=bool(how & 8),
        )
        self._size = (1, 2, 5, 1 << 20)[how >> 6]
        self._is_over = False
        self._sent_bytes = 0
        self.is_admitted = False

    def send(self, stream: bytes) -> None:
        """In pieces."""
        for piece in _pieces(stream, self._size):
            for step in self._login.receive(piece):
                self._take(step)
            assert len(self._login._inbox) <= EARLY_BYTES_MAX + (1 << 20), "what is kept of a stranger is bounded"

    def _take(self, step: FrontendStep) -> None:
        assert not self._is_over, "nothing follows the last step"
        if isinstance(step, _LAST):
            self._is_over = True
            self.is_admitted = isinstance(step, Admitted)
        elif isinstance(step, Send):
            self._sent_bytes += len(step.data)
            assert self._sent_bytes <= _ANSWER_MAX_BYTES
        elif isinstance(step, UpgradeToTls):
            self._login.secured(SecureChannel(binding=b"\1" * 32, peer_names=frozenset({"bob.acme"})))
        else:
            assert isinstance(step, NeedSecret)
            for more in self._answer():
                self._take(more)

    def _answer(self) -> list[FrontendStep]:
        way = self._how >> 4 & 3
        if way == 2:
            return self._login.password_needed(Md5Check([Md5Hash(b"0" * 32)], b"salt", real=True))
        if way == 3:
            return self._login.password_needed(CleartextCheck("bob", [_VERIFIER], real=True))
        return self._login.secret_found(_VERIFIER, real=way == 0)


def _pieces(stream: bytes, size: int) -> Iterator[bytes]:
    return (stream[at : at + size] for at in range(0, len(stream), size))


def _proxied(stream: bytes, size: int) -> object:
    reader, received = ProxyHeaderReader(), 0
    for piece in _pieces(stream, size):
        received += len(piece)
        try:
            header = reader.receive(piece)
        except ProxyHeaderError:
            return "error"
        if header is not None:
            assert isinstance(header, ProxyHeader)
            # What follows the header depends on the pieces; with what was not read yet it does not.
            return header.address, header.rest + stream[received:]
        assert received <= V2_MAX_BYTES
    return None


def _hello(stream: bytes) -> ClientHello | str | None:
    try:
        return read_client_hello(stream)
    except NotClientHelloError:
        return "error"
