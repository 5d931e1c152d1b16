"""The pooler's login at a server: bytes in, steps out.

A table names, for each state, the messages that a server may send and who handles them; everything else is a
`ServerProtocolError`. AuthenticationOk in the middle of SCRAM is not in the table: a server that asked for a
proof must give its own first.

Always true: at most one closing step (`LoggedIn`, `Failed`) is ever given, it is the last one, and no
exception leaves `receive` for anything that a server may send.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from typing import ClassVar

from pgweir_pooler.errors import InsecureLogin, NotSupported, PoolerError, ServerLoginFailed, UpstreamNotAllowed
from pgweir_pooler.session.server_security import IN_CLEAR, ServerSecurity
from pgweir_pooler.session.steps import BackendStep, Failed, LoggedIn, NeedKeys, Send
from pgweir_pooler.wire import messages
from pgweir_pooler.wire.cursor import ServerProtocolError
from pgweir_pooler.wire.inbox import Inbox
from pgweir_pooler.wire.limits import SCRAM_ITERATIONS_AT_ONCE, SERVER_LOGIN_MAX_BYTES
from pgweir_pooler.wire.md5 import Md5Hash, md5_answer
from pgweir_pooler.wire.scram import MECHANISM, MECHANISM_PLUS, ClientExchange, keys_of_password
from pgweir_pooler.wire.scram_keys import ScramKeys

Secret = str | ScramKeys | Md5Hash
"""What logs in: a password, or what stands for one at a server with a certain method."""

LEADS_BACK = "the database server's address leads back to the pooler itself"

_OTHER_METHODS = {2: "KerberosV5", 6: "SCM", 7: "GSSAPI", 9: "SSPI"}
_RESERVED = frozenset({"user", "database", "options", "replication"})


class _State(Enum):
    STARTED = auto()  # awaits an authentication request
    PASSWORD_SENT = auto()  # awaits AuthenticationOk
    CLIENT_FIRST_SENT = auto()  # awaits AuthenticationSASLContinue
    KEYS = auto()  # awaits keys_found(); the server has nothing to say
    CLIENT_FINAL_SENT = auto()  # awaits AuthenticationSASLFinal
    PROVEN = auto()  # the server's signature was right; awaits AuthenticationOk
    AUTHENTICATED = auto()  # awaits ParameterStatus, BackendKeyData, ReadyForQuery
    CLOSED = auto()


_Steps = list[BackendStep]


class BackendLogin:
    """One login at a server.

    `passwords` are tried from the first one on, one per connection: this login uses the first, and the driver
    connects again with the others when it `Failed` with 28P01. `client_nonce` is fresh and random (printable
    ASCII, no comma). `parameters` go into the startup message as they are. ValueError for a NUL anywhere or a
    reserved parameter.
    """

    def __init__(
        self,
        *,
        user: str,
        database: str,
        passwords: Sequence[Secret],
        client_nonce: str,
        parameters: Mapping[str, str],
        security: ServerSecurity = IN_CLEAR,
        is_own_nonce: Callable[[bytes], bool] = lambda _nonce: False,
    ) -> None:
        if not _RESERVED.isdisjoint(parameters) or any(
            isinstance(password, str) and "\0" in password for password in passwords
        ):
            raise ValueError("a reserved startup parameter, or a password with a NUL")
        self._startup_message = messages.startup_message({"user": user, "database": database, **parameters})
        self._user = user
        self._password = passwords[0] if passwords else None
        self._client_nonce = client_nonce
        self._security = security
        self._is_own_nonce = is_own_nonce
        self._state = _State.STARTED
        self._inbox = Inbox(ServerProtocolError)
        self._received_bytes = 0
        self._exchange: ClientExchange | None = None  # set when SCRAM begins
        self._parameters: dict[bytes, bytes] = {}
        self._process_id = 0
        self._secret_key = b""

    def start(self) -> bytes:
        """The StartupMessage, to be sent first."""
        return self._startup_message

    def receive(self, data: bytes) -> list[BackendStep]:
        """Takes what the server sent; ignored after a closing step. SCRAM costs some milliseconds at most."""
        steps: _Steps = []
        if self._closed:
            return steps
        self._inbox.add(data)
        self._received_bytes += len(data)
        try:
            while not self._closed:
                message = self._inbox.take_message(SERVER_LOGIN_MAX_BYTES)
                if message is None:
                    break
                steps += self._handle(*message)
            if not self._closed and self._received_bytes > SERVER_LOGIN_MAX_BYTES:
                raise ServerProtocolError("the server sends too much before its login ends")
        except PoolerError as error:
            steps.append(Failed(error))
            self._close()
        return steps

    @property
    def _closed(self) -> bool:
        return self._state is _State.CLOSED

    def _close(self) -> None:
        self._state = _State.CLOSED
        self._password = None
        self._exchange = None
        self._inbox.take_all()

    def _handle(self, tag: bytes, body: bytes) -> _Steps:
        if tag == b"E":
            raise _login_failed(body)
        if tag == b"N":
            return []
        kind: int | None = None
        if tag == b"R":
            kind, body = messages.parse_authentication(body)
        handler = self._HANDLERS.get((self._state, tag, kind))
        if handler is not None:
            return handler(self, body)
        if self._state is _State.STARTED and kind is not None:
            raise _unknown_method(_OTHER_METHODS.get(kind, f"number {kind}"))
        raise ServerProtocolError("the server sent an unexpected message during login")

    # --- authentication requests

    def _needed_password(self) -> str:
        if self._password is None:
            raise ServerLoginFailed("28P01", "it asks for a password and none is configured")
        if not isinstance(self._password, str):
            raise ServerLoginFailed("28P01", "it asks for a password, of which only what was proved is known")
        return self._password

    def _refuse_unbound(self, what: str) -> None:
        if self._security.channel_binding == "Require":
            raise InsecureLogin(f"channel binding is required, and the database server asks for {what}")

    def _on_trust(self, body: bytes) -> _Steps:
        self._refuse_unbound("no proof of a password")
        return self._on_ok(body)

    def _on_ok(self, body: bytes) -> _Steps:
        _expect_empty(body)
        self._state = _State.AUTHENTICATED
        return []

    def _on_cleartext(self, body: bytes) -> _Steps:
        _expect_empty(body)
        self._refuse_unbound("the password itself")
        if not self._security.is_encrypted:
            raise InsecureLogin("the database server asks for the password itself, which is sent under TLS only")
        return self._answer(self._needed_password().encode("utf-8", "surrogatepass"))

    def _on_md5(self, body: bytes) -> _Steps:
        salt = messages.parse_md5_salt(body)
        self._refuse_unbound("an MD5 hash")
        if isinstance(self._password, Md5Hash):
            return self._answer(self._password.answer(salt))
        return self._answer(md5_answer(self._user, self._needed_password(), salt))

    def _answer(self, answer: bytes) -> _Steps:
        self._state = _State.PASSWORD_SENT
        return [Send(messages.password_message(answer))]

    def _on_sasl(self, body: bytes) -> _Steps:
        offered = messages.parse_sasl_mechanisms(body)
        binding = self._security.binding if self._security.channel_binding != "Disable" else b""
        is_bound = bool(binding) and MECHANISM_PLUS in offered
        if not is_bound:
            self._refuse_unbound("SCRAM without it" if binding else "SCRAM on a channel that cannot be bound")
            if MECHANISM not in offered:
                raise _unknown_method("SASL without " + MECHANISM)
        self._exchange = ClientExchange(
            self._password if isinstance(self._password, ScramKeys) else self._needed_password(),
            self._client_nonce,
            binding=binding if is_bound else b"",
            could_bind=bool(binding),
        )
        self._state = _State.CLIENT_FIRST_SENT
        mechanism = MECHANISM_PLUS if is_bound else MECHANISM
        return [Send(messages.sasl_initial_response(mechanism, self._exchange.first()))]

    def _on_sasl_continue(self, body: bytes) -> _Steps:
        assert self._exchange is not None
        salt, iterations = self._exchange.challenge(body)
        if self._is_own_nonce(self._exchange.server_nonce):
            raise UpstreamNotAllowed(LEADS_BACK)
        if isinstance(self._password, ScramKeys):
            return self._prove(*self._password.derive(salt, iterations))
        password = self._needed_password()
        if iterations > SCRAM_ITERATIONS_AT_ONCE:
            self._state = _State.KEYS
            return [NeedKeys(password, salt, iterations)]
        return self._prove(*keys_of_password(password, salt, iterations))

    def keys_found(self, client_key: bytes, server_key: bytes) -> list[BackendStep]:
        """Answers NeedKeys; returns nothing when the login has failed meanwhile."""
        return self._prove(client_key, server_key) if self._state is _State.KEYS else []

    def _prove(self, client_key: bytes, server_key: bytes) -> _Steps:
        assert self._exchange is not None
        self._state = _State.CLIENT_FINAL_SENT
        return [Send(messages.sasl_response(self._exchange.answer(client_key, server_key)))]

    def _on_sasl_final(self, body: bytes) -> _Steps:
        assert self._exchange is not None
        self._exchange.receive_final(body)
        self._state = _State.PROVEN
        return []

    # --- the rest of the startup

    def _on_negotiate(self, body: bytes) -> _Steps:
        """We ask for 3.0 without options, the least there is, so a server can only confirm it."""
        version, unknown_options = messages.parse_negotiate_protocol_version(body)
        if version not in (0, messages.PROTOCOL_3_0) or unknown_options:
            raise ServerProtocolError("the server does not speak protocol 3.0")
        return []

    def _on_parameter_status(self, body: bytes) -> _Steps:
        name, value = messages.parse_parameter_status(body)
        self._parameters[name] = value
        return []

    def _on_backend_key_data(self, body: bytes) -> _Steps:
        self._process_id, self._secret_key = messages.parse_backend_key_data(body)
        return []

    def _on_ready(self, body: bytes) -> _Steps:
        if body != b"I":
            raise ServerProtocolError("the server's first ReadyForQuery is not idle")
        rest = self._inbox.take_all()
        self._close()
        return [LoggedIn(self._parameters, self._process_id, self._secret_key, rest)]

    _HANDLERS: ClassVar[dict[tuple[_State, bytes, int | None], Callable[["BackendLogin", bytes], _Steps]]] = {
        (_State.STARTED, b"v", None): _on_negotiate,
        (_State.STARTED, b"R", messages.AUTH_OK): _on_trust,
        (_State.STARTED, b"R", messages.AUTH_CLEARTEXT): _on_cleartext,
        (_State.STARTED, b"R", messages.AUTH_MD5): _on_md5,
        (_State.STARTED, b"R", messages.AUTH_SASL): _on_sasl,
        (_State.PASSWORD_SENT, b"R", messages.AUTH_OK): _on_ok,
        (_State.CLIENT_FIRST_SENT, b"R", messages.AUTH_SASL_CONTINUE): _on_sasl_continue,
        (_State.CLIENT_FINAL_SENT, b"R", messages.AUTH_SASL_FINAL): _on_sasl_final,
        (_State.PROVEN, b"R", messages.AUTH_OK): _on_ok,
        (_State.AUTHENTICATED, b"S", None): _on_parameter_status,
        (_State.AUTHENTICATED, b"K", None): _on_backend_key_data,
        (_State.AUTHENTICATED, b"Z", None): _on_ready,
    }


def _expect_empty(body: bytes) -> None:
    if body:
        raise ServerProtocolError("malformed authentication request: bytes follow its end")


def _login_failed(body: bytes) -> ServerLoginFailed:
    fields = messages.parse_error_fields(body)
    sqlstate = fields.get("C", "")
    is_sqlstate = len(sqlstate) == 5 and sqlstate.isascii() and sqlstate.isalnum()
    return ServerLoginFailed(sqlstate if is_sqlstate else "08006", fields.get("M", "it gave no reason"))


def _unknown_method(name: str) -> NotSupported:
    return NotSupported(f"the database asks for an authentication method that the pooler does not have: {name}")
