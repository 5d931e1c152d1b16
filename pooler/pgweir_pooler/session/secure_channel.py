"""What a login must know of TLS, without knowing TLS: what is demanded, and what the handshake has shown."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """What the cluster says of its clients' connections."""

    is_offered: bool = False
    is_required: bool = False
    names_user: bool = False  # VerifyFull: the client's certificate must name the user that logs in
    default_tenant: str | None = None  # whose users a certificate may name without a suffix


PLAIN_ONLY = TlsPolicy()


@dataclass(frozen=True, slots=True)
class SecureChannel:
    """One client's TLS after its handshake."""

    # The tls-server-end-point (RFC 5929); empty when no hash is defined for the signature of our certificate.
    binding: bytes = field(default=b"", repr=False)
    peer_names: frozenset[str] = frozenset()  # of a client certificate that was verified: its CN and SANs
    tenant: str | None = None  # the one that the host name (SNI) belongs to
