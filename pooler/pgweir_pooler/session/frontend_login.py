"""The login of a client: bytes in, steps out.

One handler per state takes one packet or message from the inbox and says what to do; a state without a
handler waits for the driver (`secret_found`) or is the end. A client whose tenant or user does not exist gets
a mock verifier from the driver and walks the same states with the same messages as one with a wrong password.

Always true: at most one closing step (`Admitted`, `CancelRequested`, `Refused`, `NotPostgres`) is ever given,
it is the last one, and no exception leaves this class for anything that a client may send.
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import ClassVar

from pgweir_pooler.errors import (
    AuthenticationFailed,
    CertificateMismatch,
    NotSupported,
    PoolerError,
    ProtocolViolation,
    TlsNeeded,
    TlsRequired,
)
from pgweir_pooler.session.password_check import PasswordCheck
from pgweir_pooler.session.secure_channel import PLAIN_ONLY, SecureChannel, TlsPolicy
from pgweir_pooler.session.startup import Startup, parse_startup
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
from pgweir_pooler.wire.inbox import Inbox
from pgweir_pooler.wire.limits import (
    EARLY_BYTES_MAX,
    PASSWORD_MESSAGE_MAX_BYTES,
    SASL_MESSAGE_MAX_BYTES,
    STARTUP_PACKET_MAX_BYTES,
)
from pgweir_pooler.wire.scram import MECHANISM, MECHANISM_PLUS, KnownSecret, ServerExchange
from pgweir_pooler.wire.scram_keys import ScramKeys

# 3.2 brings long cancel keys (PostgreSQL 18); 3.1 was never published and is, as in PostgreSQL, spoken like 3.0.
NEWEST_MINOR = 2
_HTTP_METHODS = frozenset({b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC", b"PRI "})
_HTTP_TEXT = b"This port speaks the PostgreSQL protocol, not HTTP.\n"
_HTTP_REPLY = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_HTTP_TEXT), _HTTP_TEXT)
)
_TLS_HANDSHAKE = b"\x16"  # the type of a TLS record; a packet's length would begin with zero


class _State(Enum):
    STARTUP = auto()  # awaits SSLRequest, GSSENCRequest, CancelRequest or StartupMessage
    TLS = auto()  # awaits secured()
    SECRET = auto()  # awaits secret_found()
    CLIENT_FIRST = auto()  # awaits SASLInitialResponse
    CLIENT_FIRST_DATA = auto()  # awaits the client-first that the SASLInitialResponse left out
    CLIENT_FINAL = auto()  # awaits SASLResponse with the proof
    PASSWORD = auto()  # awaits PasswordMessage
    ADMITTED = auto()
    CLOSED = auto()


_Steps = list[FrontendStep]


class FrontendLogin:
    """One client's login.

    `server_nonce` is fresh and random for every client (printable ASCII without a comma, 18 bytes in base64
    as PostgreSQL's). `policy` says whether TLS is offered or demanded. `is_tenant` and `has_console` are explained in
    `session.startup`.
    """

    def __init__(
        self,
        *,
        default_tenant: str | None,
        server_nonce: str,
        policy: TlsPolicy = PLAIN_ONLY,
        is_tenant: Callable[[str], bool] | None = None,
        has_console: bool = False,
    ) -> None:
        self._default_tenant = default_tenant
        self._is_tenant = is_tenant
        self._has_console = has_console
        self._server_nonce = server_nonce
        self._state = _State.STARTUP
        self._inbox = Inbox(ProtocolViolation)
        self._policy = policy
        self._channel: SecureChannel | None = None  # set by secured()
        # Encryption requests that may still come, each once; none inside TLS.
        self._encryption_requests = {messages.GSSENC_REQUEST_CODE, messages.SSL_REQUEST_CODE}
        self._startup: Startup | None = None  # set by the StartupMessage, as is the next
        self._minor = 0  # of the protocol that is spoken
        self._exchange: ServerExchange | None = None  # set by secret_found()
        self._secret_is_real = False
        self._check: PasswordCheck | None = None  # set by password_needed()
        self._is_barred = False  # see bar()

    @property
    def shown_user(self) -> str:
        """The user's name for errors, once the startup message was read; it depends on what the client sent alone."""
        return self._startup.shown_user if self._startup else ""

    def bar(self) -> None:
        """Whatever the client proves from here on, its login fails like one with a wrong password."""
        self._is_barred = True

    @property
    def unconsumed(self) -> bytes:
        """Bytes that came after the login; the driver feeds them to what follows `Admitted`."""
        return self._inbox.peek(len(self._inbox)) if self._state is _State.ADMITTED else b""

    @property
    def channel(self) -> SecureChannel | None:
        """The TLS that the client is in; None while its connection is plain."""
        return self._channel

    @property
    def client_key(self) -> bytes:
        """The user's SCRAM ClientKey after `Admitted`, else empty; a secret."""
        return self._exchange.client_key if self._exchange and self._state is _State.ADMITTED else b""

    def receive(self, data: bytes) -> list[FrontendStep]:
        """Takes what the client sent; ignored after the end, but `unconsumed` keeps it once admitted."""
        if self._state is not _State.CLOSED:
            self._inbox.add(data)
        return self._run([])

    def secured(self, channel: SecureChannel) -> None:
        """Answers UpgradeToTls: the handshake is over, and what comes next was encrypted."""
        assert self._state is _State.TLS, "secured() answers one UpgradeToTls"
        self._channel = channel
        self._encryption_requests.clear()
        if channel.tenant is not None:
            self._default_tenant = channel.tenant
            self._has_console = False
        self._state = _State.STARTUP

    def secret_found(self, verifier: KnownSecret, *, real: bool) -> list[FrontendStep]:
        """Answers NeedSecret; `real=False` with a mock verifier when there is no such tenant or user.

        Returns nothing when the client was refused meanwhile.
        """
        if self._state is _State.CLOSED:
            return []
        assert self._state is _State.SECRET, "secret_found() answers one NeedSecret"
        binding = self._channel.binding if self._channel is not None else b""
        self._exchange = ServerExchange(verifier, self._server_nonce, binding)
        self._secret_is_real = real
        self._state = _State.CLIENT_FIRST
        mechanisms = [MECHANISM_PLUS, MECHANISM] if binding else [MECHANISM]
        return self._run([Send(messages.authentication_sasl(mechanisms))])

    def password_needed(self, check: PasswordCheck) -> list[FrontendStep]:
        """Answers NeedSecret in the place of `secret_found`: the client is to send a password, or md5's answer."""
        if self._state is _State.CLOSED:
            return []
        assert self._state is _State.SECRET, "password_needed() answers one NeedSecret"
        if check.needs_tls and self._channel is None:
            self._close()
            return [Refused(TlsNeeded())]
        self._check = check
        self._state = _State.PASSWORD
        return self._run([Send(check.request)])

    @property
    def is_named_by_certificate(self) -> bool:
        """Whether a certificate that was verified names the user that logs in."""
        return self._startup is not None and self._is_named(self._startup)

    def certified(self, *, real: bool) -> list[FrontendStep]:
        """Answers NeedSecret in the place of `secret_found`: the client's certificate is proof enough.

        `real=False` for a user that may not log in any more.
        """
        if self._state is _State.CLOSED:
            return []
        assert self._state is _State.SECRET, "certified() answers one NeedSecret"
        assert self._startup is not None
        if self._is_barred or not real:
            self._close()
            return [Refused(AuthenticationFailed(self.shown_user))]
        self._state = _State.ADMITTED
        return [Admitted(self._startup.identity, self._startup.settings, self._minor)]

    def refused(self, error: PoolerError) -> list[FrontendStep]:
        """Answers NeedSecret in the place of `secret_found`: nobody knows now whether there is such a user."""
        if self._state is _State.CLOSED:
            return []
        self._close()
        return [Refused(error)]

    @property
    def sent_user(self) -> bytes:
        """The user's name as the client sent it, which is what it makes md5's answer of."""
        return self._startup.sent_user if self._startup else b""

    @property
    def proved(self) -> ScramKeys | None:
        """What a good SCRAM proof, or a password, leaves behind after `Admitted`; a secret."""
        if self._state is not _State.ADMITTED:
            return None
        if self._check is not None:
            return self._check.keys
        exchange = self._exchange
        return ScramKeys(exchange.client_key, exchange.proved) if exchange and exchange.proved else None

    def _run(self, steps: _Steps) -> _Steps:
        """Lets handlers work until one lacks bytes or the state has none."""
        try:
            while (handler := self._HANDLERS.get(self._state)) is not None:
                made = handler(self)
                if made is None:
                    break
                if self._is_barred and self._state is _State.ADMITTED:
                    raise AuthenticationFailed(self.shown_user)
                steps += made
            if self._state is _State.SECRET and len(self._inbox) > EARLY_BYTES_MAX:
                raise ProtocolViolation("too many bytes before authentication")
        except PoolerError as error:
            steps.append(Refused(error))
            self._close()
        return steps

    def _close(self) -> None:
        self._state = _State.CLOSED
        self._inbox.take_all()

    # --- startup packets

    def _on_startup_packet(self) -> _Steps | None:
        start = self._inbox.peek(4)
        if start in _HTTP_METHODS:
            self._close()
            return [NotPostgres(_HTTP_REPLY)]
        if start.startswith(_TLS_HANDSHAKE) and self._channel is None:
            if self._policy.is_offered and len(self._encryption_requests) == 2:
                self._state = _State.TLS
                return [UpgradeToTls(self._inbox.take_all())]
            raise NotSupported(
                "TLS without a preceding SSLRequest is not supported",
                hint="Connect with sslnegotiation=postgres.",
            )
        packet = self._inbox.take_packet(STARTUP_PACKET_MAX_BYTES)
        if packet is None:
            return None
        code, body = int.from_bytes(packet[:4], "big"), packet[4:]
        if code in (messages.SSL_REQUEST_CODE, messages.GSSENC_REQUEST_CODE):
            return self._encryption_requested(code, body)
        if code == messages.CANCEL_REQUEST_CODE:
            process_id, secret = messages.parse_cancel_request(body)
            self._close()
            return [CancelRequested(process_id, secret)]
        return self._startup_message(code >> 16, code & 0xFFFF, body)

    def _encryption_requested(self, code: int, body: bytes) -> _Steps:
        if code not in self._encryption_requests or body:
            raise ProtocolViolation("unexpected encryption request")
        # Whoever may write into the connection before TLS could plant bytes behind the request
        # (CVE-2021-23222).
        if len(self._inbox):
            raise ProtocolViolation("received unencrypted data after encryption request")
        self._encryption_requests.remove(code)
        if code == messages.SSL_REQUEST_CODE and self._policy.is_offered:
            self._state = _State.TLS
            return [UpgradeToTls()]
        return [Send(b"N")]

    def _startup_message(self, major: int, minor: int, body: bytes) -> _Steps:
        if major != 3:
            raise NotSupported(
                f"unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}"
            )
        if self._policy.is_required and self._channel is None:
            raise TlsRequired
        self._startup = parse_startup(
            messages.parse_startup_parameters(body),
            default_tenant=self._default_tenant,
            is_tenant=self._is_tenant,
            has_console=self._has_console,
        )
        self._check_certificate(self._startup)
        steps: _Steps = []
        unknown = self._startup.unknown_options
        self._minor = min(minor, NEWEST_MINOR)
        if minor > NEWEST_MINOR or unknown:
            # Once, before authentication. The version is the one that is spoken from here: libpq refuses a newer one
            # than it asked for.
            steps.append(Send(messages.negotiate_protocol_version(self._minor, unknown)))
        steps.append(NeedSecret(*self._startup.identity))
        self._state = _State.SECRET
        return steps

    def _check_certificate(self, startup: Startup) -> None:
        if self._policy.names_user and not self._is_named(startup):
            raise CertificateMismatch(startup.shown_user)

    def _is_named(self, startup: Startup) -> bool:
        """Whether the client's certificate names the user; those of the default tenant need no suffix in it."""
        tenant, user, _ = startup.identity
        fitting = {f"{user}.{tenant}"} if tenant else {user}
        if tenant == self._policy.default_tenant:
            fitting.add(user)
        return self._channel is not None and not fitting.isdisjoint(self._channel.peer_names)

    # --- SCRAM

    def _sasl_message(self) -> bytes | None:
        """The body of the next message, which must be of type p."""
        if self._inbox.peek(1) not in (b"", b"p"):
            raise ProtocolViolation("expected SASL response, got another message")
        message = self._inbox.take_message(SASL_MESSAGE_MAX_BYTES + 4)
        return None if message is None else message[1]

    def _on_client_first(self) -> _Steps | None:
        body = self._sasl_message()
        if body is None:
            return None
        mechanism, data = messages.parse_sasl_initial_response(body)
        assert self._exchange is not None
        self._exchange.is_bound = mechanism == MECHANISM_PLUS.encode() and self._exchange.offers_binding
        if mechanism != MECHANISM.encode() and not self._exchange.is_bound:
            raise ProtocolViolation("client selected an invalid SASL authentication mechanism")
        if data is None:
            self._state = _State.CLIENT_FIRST_DATA
            return [Send(messages.authentication_sasl_continue(b""))]
        return self._challenge(data)

    def _on_client_first_data(self) -> _Steps | None:
        body = self._sasl_message()
        return None if body is None else self._challenge(body)

    def _challenge(self, client_first: bytes) -> _Steps:
        assert self._exchange is not None
        challenge = self._exchange.receive_first(client_first)
        self._state = _State.CLIENT_FINAL
        return [Send(messages.authentication_sasl_continue(challenge))]

    def _on_client_final(self) -> _Steps | None:
        body = self._sasl_message()
        if body is None:
            return None
        assert self._exchange is not None
        assert self._startup is not None
        server_final = self._exchange.receive_final(body)
        if server_final is None or not self._secret_is_real:
            raise AuthenticationFailed(self._startup.shown_user)
        self._state = _State.ADMITTED
        admitted = Admitted(self._startup.identity, self._startup.settings, self._minor)
        return [Send(messages.authentication_sasl_final(server_final)), admitted]

    # --- a password

    def _on_password(self) -> _Steps | None:
        if self._inbox.peek(1) not in (b"", b"p"):
            raise ProtocolViolation("expected password response, got another message")
        message = self._inbox.take_message(PASSWORD_MESSAGE_MAX_BYTES + 4)
        if message is None:
            return None
        assert self._check is not None
        assert self._startup is not None
        if not self._check.matches(messages.parse_password(message[1])):
            raise AuthenticationFailed(self._startup.shown_user)
        self._state = _State.ADMITTED
        return [Admitted(self._startup.identity, self._startup.settings, self._minor)]

    _HANDLERS: ClassVar[dict[_State, Callable[["FrontendLogin"], _Steps | None]]] = {
        _State.STARTUP: _on_startup_packet,
        _State.CLIENT_FIRST: _on_client_first,
        _State.CLIENT_FIRST_DATA: _on_client_first_data,
        _State.CLIENT_FINAL: _on_client_final,
        _State.PASSWORD: _on_password,
    }
