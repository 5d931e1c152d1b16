"""TLS contexts for connections to PostgreSQL: one per distinct settings, kept for the next connection.

Certificates and keys come as texts and touch no disk: the key goes to OpenSSL, which reads files only, by an anonymous
file in memory.
"""

import os
import re
import ssl
from collections import OrderedDict
from collections.abc import Mapping

from pydantic import SecretStr

from pgweir_contract.models import UpstreamTls
from pgweir_pooler.errors import ServerTlsFailed

ALPN = "postgresql"
# A context holds its CAs: 50 KiB with one of them, 1 MiB with those of the system. The least recently used go first.
CONTEXTS_MAX = 512

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

_Key = tuple[bool, bool, bool, str | None, str | None, str | None]


class TlsContexts:
    """Makes contexts and keeps them; one for the process."""

    def __init__(self) -> None:
        self._contexts: OrderedDict[_Key, ssl.SSLContext] = OrderedDict()  # the most recently used last

    def context(self, tls: UpstreamTls, pems: Mapping[str, SecretStr]) -> ssl.SSLContext:
        """The context for these settings; ServerTlsFailed when OpenSSL does not take the certificates."""
        verifies = tls.mode in ("VerifyCA", "VerifyFull")
        key = (verifies, tls.mode == "VerifyFull", tls.system_cas, tls.ca, tls.client_cert, tls.client_key)
        known = self._contexts.get(key)
        if known is not None:
            self._contexts.move_to_end(key)
            return known
        try:
            made = _make(tls, pems)
        except ssl.SSLError as error:
            word = (error.reason or "unknown reason").lower().replace("_", " ")
            raise ServerTlsFailed(f"the configured certificates cannot be used: {word}") from None
        self._contexts[key] = made
        if len(self._contexts) > CONTEXTS_MAX:
            self._contexts.popitem(last=False)
        return made


def _make(tls: UpstreamTls, pems: Mapping[str, SecretStr]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    context.check_hostname = tls.mode == "VerifyFull"
    context.verify_mode = ssl.CERT_REQUIRED if tls.mode in ("VerifyCA", "VerifyFull") else ssl.CERT_NONE
    if tls.system_cas:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if tls.ca is not None:
        context.load_verify_locations(cadata=certificates_alone(pems[tls.ca].get_secret_value()))
    if tls.client_cert is not None and tls.client_key is not None:
        load_key_pair(context, pems[tls.client_cert].get_secret_value(), pems[tls.client_key].get_secret_value())
    return context


def load_key_pair(context: ssl.SSLContext, certificates: str, key: str) -> None:
    """Gives the context a certificate with its chain and its key; raises ssl.SSLError."""
    fd = os.memfd_create("key pair", os.MFD_CLOEXEC)
    with os.fdopen(fd, "wb") as file:
        file.write(f"{certificates}\n{key}\n".encode())
        file.flush()
        # An encrypted key is an error: without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(f"/proc/self/fd/{fd}", password="")


def certificates_alone(text: str) -> str:
    """Without the words around them, which may be in any language and which `cadata` does not take."""
    return "\n".join(_CERTIFICATE.findall(text))
