"""Every failure that pgweir itself reports, one class each.

An error answers four questions: its SQLSTATE (PostgreSQL, appendix A), its severity (FATAL ends the connection, ERROR
ends the statement), how loud it is in our log, and what the client reads. The text the client reads starts with the
class's name in parentheses, so that a ticket can be searched for; it never holds a secret, an address or another
tenant's name. The same word labels the metric `pgweir_errors_total{code=…}`.
"""

import logging
from typing import ClassVar, Self


class PoolerError(Exception):
    """Base of all errors below; not raised itself."""

    sqlstate: ClassVar[str] = "XX000"
    severity: ClassVar[str] = "FATAL"
    log_level: ClassVar[int] = logging.INFO
    # PostgreSQL's routine that raises the same error, where drivers look at it to know what to do.
    routine: str = ""

    def __init__(self, text: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint
        self.detail = detail

    @property
    def code(self) -> str:
        """The searchable word: the class's name."""
        return type(self).__name__

    def wire_sqlstate(self) -> str:
        """The SQLSTATE that goes to the client."""
        return self.sqlstate

    def client_text(self) -> str:
        """What the client reads."""
        return f"({self.code}) {self.text}"

    def log_text(self) -> str:
        """What our log says."""
        return self.text


# --- the client broke the protocol, or asks for what is not there


class ProtocolViolation(PoolerError):
    """Bytes that the PostgreSQL protocol does not allow here; the connection is closed."""

    sqlstate = "08P01"


class NotSupported(PoolerError):
    """The session asks for a feature that pgweir does not have."""

    sqlstate = "0A000"


class UnknownStatement(PoolerError):
    """Bind or Describe of a statement that this client has not prepared: PostgreSQL's own words."""

    sqlstate = "26000"
    severity = "ERROR"
    routine = "FetchPreparedStatement"

    def __init__(self, name: bytes, *, is_bind: bool = True) -> None:
        text = name.decode("utf-8", "replace")
        if not name:
            self.routine = "exec_bind_message" if is_bind else "exec_describe_statement_message"
        super().__init__(
            f'prepared statement "{text}" does not exist' if name else "unnamed prepared statement does not exist"
        )

    def client_text(self) -> str:
        return self.text


class DuplicateStatement(PoolerError):
    """Parse of a name that this client has prepared already: PostgreSQL's own words."""

    sqlstate = "42P05"
    severity = "ERROR"
    routine = "StorePreparedStatement"

    def __init__(self, name: bytes) -> None:
        super().__init__(f'prepared statement "{name.decode("utf-8", "replace")}" already exists')

    def client_text(self) -> str:
        return self.text


class CachedPlanChanged(PoolerError):
    """The client reads rows by a shape that the statement has no longer: PostgreSQL's own words."""

    sqlstate = "0A000"
    severity = "ERROR"
    routine = "RevalidateCachedQuery"

    def __init__(self) -> None:
        super().__init__("cached plan must not change result type")

    def client_text(self) -> str:
        return self.text


class TooManyStatements(PoolerError):
    """One session's prepared statements are too many, or too long, to be kept for it."""

    sqlstate = "54000"
    severity = "ERROR"


class TransactionInStatementMode(PoolerError):
    """A transaction block was opened on a listener in statement mode."""

    sqlstate = "0A000"

    def __init__(self) -> None:
        super().__init__(
            "transaction blocks do not work in statement mode", hint="Connect to the transaction-mode port."
        )


# --- login


class NoTenant(PoolerError):
    """The startup message names no tenant and the cluster has no default one."""

    sqlstate = "28000"


class AuthenticationFailed(PoolerError):
    """Wrong password, unknown user and unknown tenant alike: PostgreSQL's own words, so that nothing can be probed."""

    sqlstate = "28P01"

    def __init__(self, user: str) -> None:
        super().__init__(f'password authentication failed for user "{user}"')

    def client_text(self) -> str:
        return self.text


class TlsRequired(PoolerError):
    """A plain connection, where the cluster or the tenant takes TLS only."""

    sqlstate = "28000"

    def __init__(self) -> None:
        super().__init__("the connection must use TLS", hint="Connect with sslmode=require or a stronger one.")


class TlsFailed(PoolerError):
    """The TLS handshake came to no good end; the client gets TLS's own alert, never this."""

    sqlstate = "08006"


class ProxyHeaderInvalid(PoolerError):
    """A load balancer did not say whose connection it is; nobody is there to be told why it ends."""

    sqlstate = "08P01"


class ProxyNotTrusted(PoolerError):
    """A listener behind load balancers was connected to by somebody else; as above."""

    sqlstate = "28000"


class CertificateMismatch(PoolerError):
    """The client's certificate is of another user: PostgreSQL's own words for it."""

    sqlstate = "28000"

    def __init__(self, user: str) -> None:
        super().__init__(f'certificate authentication failed for user "{user}"')

    def client_text(self) -> str:
        return self.text


class ChannelBindingFailed(PoolerError):
    """Client and pooler do not see the same TLS connection: PostgreSQL's own words."""

    sqlstate = "28000"
    log_level = logging.WARNING

    def client_text(self) -> str:
        return self.text


class UnknownDatabase(PoolerError):
    """An authenticated user asked for a database that its tenant does not have."""

    sqlstate = "3D000"


class InvalidParameter(PoolerError):
    """A startup parameter that cannot be understood, or that the server refused."""

    sqlstate = "22023"

    def __init__(self, text: str, *, sqlstate: str = "22023", hint: str = "") -> None:
        super().__init__(text, hint=hint)
        self._sqlstate = sqlstate

    def wire_sqlstate(self) -> str:
        return self._sqlstate


class LoginTimeout(PoolerError):
    """The client did not finish its login in time."""

    sqlstate = "08006"


class TooManyClients(PoolerError):
    """A limit on client connections is reached: of the process, the tenant or the user."""

    sqlstate = "53300"


# --- waiting for a server


class QueueTimeout(PoolerError):
    """No server connection became free within the pool's `queueTimeout`."""

    sqlstate = "53300"
    log_level = logging.WARNING


class QueryCanceled(PoolerError):
    """A client cancelled its query while that waited for a server: PostgreSQL's own words."""

    sqlstate = "57014"
    severity = "ERROR"

    def __init__(self) -> None:
        super().__init__("canceling statement due to user request")

    def client_text(self) -> str:
        return self.text


class ServerUnreachable(PoolerError):
    """PostgreSQL could not be connected to, or did not answer in time."""

    sqlstate = "08006"
    log_level = logging.WARNING


class ServerTlsFailed(ServerUnreachable):
    """There is no TLS with PostgreSQL as the tenant's `upstream.tls` demands it."""


class UpstreamNotAllowed(ServerUnreachable):
    """The tenant's PostgreSQL is where the cluster lets no tenant point, or is the pooler itself."""

    sqlstate = "08001"


class InsecureLogin(ServerUnreachable):
    """PostgreSQL asks for a login that is weaker than the tenant allows, or that would give the password away."""


class ServerLoginFailed(PoolerError):
    """PostgreSQL answered our login with an error; its SQLSTATE and message are passed on."""

    log_level = logging.WARNING

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(f"the database refused the pooler's login: {message}")
        self._sqlstate = sqlstate

    def wire_sqlstate(self) -> str:
        return self._sqlstate

    @property
    def is_starting_up(self) -> bool:
        """57P03 cannot_connect_now: the database starts or recovers, so waiting is the answer."""
        return self._sqlstate == "57P03"


# --- listening for notifications


class NoRoomToListen(PoolerError):
    """The instance's `maxConnections` leaves no place for the server that listens for a database's clients."""

    sqlstate = "53300"
    severity = "ERROR"
    log_level = logging.WARNING

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"no server connection is left to listen with (maxConnections {limit} of the database instance)",
            hint="LISTEN takes one server connection per database beside those of the pools: raise maxConnections.",
        )


class ListenFailed(PoolerError):
    """The server that listens for a database's clients cannot be had now; the session goes on without the channels."""

    severity = "ERROR"
    log_level = logging.WARNING

    def __init__(self, sqlstate: str, why: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(f"cannot listen: {why}", hint=hint, detail=detail)
        self._sqlstate = sqlstate

    @classmethod
    def because_of(cls, cause: PoolerError) -> Self:
        """What would end a session ends the statement."""
        return cls(cause.wire_sqlstate(), cause.text, hint=cause.hint, detail=cause.detail)

    def wire_sqlstate(self) -> str:
        return self._sqlstate


class TooManyChannels(PoolerError):
    """A client listens on more channels than one may."""

    sqlstate = "54000"
    severity = "ERROR"

    def __init__(self, limit: int) -> None:
        super().__init__(f"too many channels: a client may listen on {limit}", hint="UNLISTEN what is not needed.")


_MISSED = "notifications may have been lost: the server connection that listened for this session has ended"


class ListeningLost(PoolerError):
    """`listen.onGap: Disconnect`: the session ends, so that its client connects, listens and reads anew."""

    sqlstate = "57P01"

    def __init__(self) -> None:
        super().__init__(_MISSED, hint="Connect again, LISTEN, and read what the notifications would have told.")


class NotificationsMissed(PoolerError):
    """`listen.onGap: Notice`: the session is told and listens on; it goes to the client as a NoticeResponse."""

    sqlstate = "01000"
    severity = "WARNING"

    def __init__(self) -> None:
        super().__init__(_MISSED + "; it listens again", hint="Read what the notifications would have told.")


class NotificationsUnread(PoolerError):
    """More notifications wait for the client than are kept for one."""

    sqlstate = "53400"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"more than {limit_bytes} bytes of notifications wait for this session",
            hint="Read while listening, and keep transactions short: notifications come between them.",
        )


class NotificationUntranslatable(PoolerError):
    """A notification has characters that the client's encoding does not have; PostgreSQL's code for it."""

    sqlstate = "22P05"

    def __init__(self, encoding: str) -> None:
        super().__init__(
            f'a notification has a character with no equivalent in encoding "{encoding}"',
            hint="Set client_encoding to UTF8.",
        )


# --- a session ends


class ServerLost(PoolerError):
    """The server connection ended under a client's transaction."""

    sqlstate = "08006"
    log_level = logging.WARNING


class ClientStalled(PoolerError):
    """The client holds a server and has not read for longer than `clientStallTimeout`."""

    sqlstate = "08006"


class QueryTimeout(PoolerError):
    """A query ran longer than `queryTimeout`: it was cancelled, or, after a cancel in vain, its session ended."""

    sqlstate = "57014"


class TransactionTimeout(PoolerError):
    """A transaction lasted longer than `transactionTimeout`: the words of PostgreSQL 17."""

    sqlstate = "25P04"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            "terminating connection due to transaction timeout", hint=_limit("transactionTimeout", timeout_s)
        )

    def client_text(self) -> str:
        return self.text


class IdleTransactionTimeout(PoolerError):
    """A client kept a server for longer than `idleTransactionTimeout` without using it: PostgreSQL's own words."""

    sqlstate = "25P03"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            "terminating connection due to idle-in-transaction timeout",
            hint=_limit("idleTransactionTimeout", timeout_s),
        )

    def client_text(self) -> str:
        return self.text


class ClientIdleTimeout(PoolerError):
    """A client was silent for longer than `clientIdleTimeout` outside of a transaction: PostgreSQL's own words."""

    sqlstate = "57P05"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            "terminating connection due to idle-session timeout", hint=_limit("clientIdleTimeout", timeout_s)
        )

    def client_text(self) -> str:
        return self.text


def _limit(setting: str, timeout_s: float) -> str:
    return f"The pool's {setting} is {timeout_s:g} s."


class Terminated(PoolerError):
    """The process drains, or the tenant or user was removed: PostgreSQL's own words."""

    sqlstate = "57P01"

    def __init__(self, detail: str = "") -> None:
        super().__init__("terminating connection due to administrator command", detail=detail)

    def client_text(self) -> str:
        return self.text


# --- the admin console


class DatabaseDisabled(PoolerError):
    """An admin has disabled the database: nobody new comes in."""

    sqlstate = "57P03"

    def __init__(self, database: str) -> None:
        super().__init__(f'database "{database}" is disabled', hint="An admin ends this with ENABLE.")


class ConsoleError(PoolerError):
    """Base of the errors that an admin reads; the session goes on. Not raised itself."""

    severity = "ERROR"


class InvalidCommand(ConsoleError):
    """The console has no such command, or not with this argument."""

    sqlstate = "42601"


class CommandNotSupported(ConsoleError):
    """PgBouncer or PostgreSQL would know what this means; the console does not do it."""

    sqlstate = "0A000"


class CommandNotAllowed(ConsoleError):
    """The admin's role does not allow the command."""

    sqlstate = "42501"


class CommandNotPossible(ConsoleError):
    """Not in this state: what is to be resumed is not paused, what is to be paused is."""

    sqlstate = "55000"


class NoSuchDatabase(ConsoleError):
    """The command names a database that is not there."""

    sqlstate = "3D000"


class NoSuchClient(ConsoleError):
    """The command names a client that is not there."""

    sqlstate = "42704"


class NoSuchStatement(ConsoleError):
    """Bind, Describe or Execute of a prepared statement or a portal that is not there."""

    sqlstate = "26000"


class DuplicateCursor(ConsoleError):
    """Bind to a portal's name that is taken."""

    sqlstate = "42P03"


class ReloadFailed(ConsoleError):
    """The configuration has problems; what is good in it has been applied."""

    sqlstate = "F0000"


class CommandCanceled(ConsoleError):
    """A CancelRequest ended the wait for a command's end."""

    sqlstate = "57014"
