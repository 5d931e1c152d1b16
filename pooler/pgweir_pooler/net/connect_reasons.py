"""Why a connection to PostgreSQL could not be made, in words that hold no address and no name of a host."""

import socket
import ssl

# X509_V_ERR_*: the reasons that people meet, in the words of this project.
_VERIFY_REASONS = {
    9: "its certificate is not yet valid",
    10: "its certificate has expired",
    18: "its certificate is self-signed and not among the trusted ones",
    19: "its certificate comes from an unknown CA (self-signed in its chain)",
    20: "its certificate comes from an unknown CA",
    21: "its certificate comes from an unknown CA",
    23: "its certificate is revoked",
    62: "its certificate is for another host name",
    64: "its certificate is for another address",
}

# How a server says that it does not take our certificate; under TLS 1.3 that comes after the handshake.
_ABOUT_OUR_CERTIFICATE = (
    "ALERT_UNKNOWN_CA",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_REQUIRED",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_REVOKED",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_UNSUPPORTED_CERTIFICATE",
    "ALERT_DECRYPT_ERROR",
)


def os_reason(error: Exception) -> str:
    """The system's word for what went wrong, without the address that Python puts before it."""
    if isinstance(error, socket.gaierror | UnicodeError):
        return "its name cannot be resolved"
    text = error.strerror if isinstance(error, OSError) else None
    return text.partition(": ")[0] if text and ":" not in text else type(error).__name__


def tls_reason(error: Exception) -> str:
    """Why TLS failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_REASONS.get(error.verify_code, f"its certificate is not good: {_word(error.verify_message)}")
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if any(word in reason for word in _ABOUT_OUR_CERTIFICATE):
            return f"it refuses our certificate ({_word(reason)})"
        return _word(reason) or "the handshake failed"
    if isinstance(error, ValueError):
        return "its name cannot be sent or checked"
    return "the server ended the handshake"


def _word(text: str) -> str:
    return text.lower().replace("_", " ").strip()
