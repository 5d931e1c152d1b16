"""What lies below a login at a server: whether anybody can listen, and what ties the login to the TLS channel."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class ServerSecurity:
    """Of one connection to a server, and what its tenant demands.

    `binding` is the tls-server-end-point of RFC 5929, empty in clear and for certificates that have none.
    """

    is_encrypted: bool = False
    binding: bytes = field(default=b"", repr=False)
    channel_binding: Literal["Disable", "Prefer", "Require"] = "Prefer"


IN_CLEAR = ServerSecurity()
