"""What a conversation asks its driver to do, in order. Values only; the driver owns socket, clock and books.

Bytes and keys stay out of repr, because a driver may log a step.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from pgweir_pooler.errors import PoolerError

Settings = tuple[tuple[str, str], ...]
"""Names (lower case, unique) and values of what a client wants set, sorted: equal wishes are equal values."""


class Identity(NamedTuple):
    """Who a client is once it has proved it."""

    tenant: str
    user: str
    database: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send these bytes to the peer."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class UpgradeToTls:
    """Begin TLS, then call `FrontendLogin.secured`. Nothing else is understood until then.

    `received` has the first bytes of a client that began TLS by itself; without any, answer `S` first.
    """

    received: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class NeedSecret:
    """Look up this user's verifier, answer by `FrontendLogin.secret_found`; nobody is authenticated yet."""

    tenant: str
    user: str
    database: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """The client proved who it is; it awaits AuthenticationOk, its parameters, its key and ReadyForQuery."""

    identity: Identity
    settings: Settings
    protocol_minor: int


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Cancel what runs under this key, then close without an answer, whether the key is known or not."""

    process_id: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """Send `error` to the client and close."""

    error: PoolerError


@dataclass(frozen=True, slots=True)
class NotPostgres:
    """The peer speaks another protocol: send `reply` as it is and close."""

    reply: bytes


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A server is at its first ReadyForQuery, idle.

    `parameters` in the order the server reported them; `process_id` 0 and an empty key when it has none to
    give; `rest` is what it sent after its ReadyForQuery.
    """

    parameters: dict[bytes, bytes]
    process_id: int
    secret_key: bytes = field(repr=False)
    rest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class NeedKeys:
    """Work out `keys_of_password` of these, away from the event loop; answer by `BackendLogin.keys_found`."""

    password: str = field(repr=False)
    salt: bytes = field(repr=False)
    iterations: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The server did not let us in; close the connection."""

    error: PoolerError


FrontendStep = Send | UpgradeToTls | NeedSecret | Admitted | CancelRequested | Refused | NotPostgres
BackendStep = Send | NeedKeys | LoggedIn | Failed
Step = FrontendStep | BackendStep
