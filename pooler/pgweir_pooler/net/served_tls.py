"""How clients may come in: the cluster's rules about TLS, and the certificates that are served.

The cluster's certificate, key and client CA are files, read when cluster.json names them and again whenever they look
changed. What cannot be used leaves what is served as it is; connections that are there are never touched. Tenants' own
certificates are texts in the contract's files, made ready when the first client asks for one.
"""

import datetime
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from pgweir_contract.client_tls import ClientTls, ClientTlsMode
from pgweir_contract.reading import ContractError
from pgweir_pooler.errors import TlsFailed
from pgweir_pooler.net.certificates import (
    BadCertificate,
    Rules,
    ServerCertificate,
    names_of,
    server_certificate,
)
from pgweir_pooler.net.tls_contexts import ALPN
from pgweir_pooler.net.tls_transport import HandshakeRefused
from pgweir_pooler.session.secure_channel import PLAIN_ONLY, SecureChannel, TlsPolicy

if TYPE_CHECKING:
    from pgweir_pooler.directory import Directory
    from pgweir_pooler.wire.client_hello import ClientHello

log = structlog.get_logger()

# Certificates of tenants that are ready at a time; each costs some 30 KiB.
READY_MAX = 1024

_NO_APPLICATION_PROTOCOL = 120  # the alert of RFC 7301
_HANDSHAKE_FAILURE = 40

Look = tuple[int, int, int, int] | None  # device, inode, size and time of a file; None when it is not there


class ServedTls:
    """One for the process."""

    def __init__(self, directory: "Directory", now: Callable[[], datetime.datetime]) -> None:
        self._directory = directory
        self._now = now
        self._folder = Path()
        self._config = ClientTls()  # what cluster.json wants
        self._has_learnt = False
        self._default_tenant: str | None = None
        self._mode: ClientTlsMode = "Disable"  # in force
        self._looks: dict[str, Look] = {}  # by field: the files as they were read last, usable or not
        self._problems: dict[str, list[str]] = {}
        self._certificate: ServerCertificate | None = None  # the cluster's
        self._rules = Rules()
        self._ready: dict[tuple[str, str], ServerCertificate] = {}  # tenants', by their digests; the last used last
        self._unusable: set[tuple[str, str]] = set()  # tenants' that OpenSSL did not take: tried and told of once
        self.policy = PLAIN_ONLY
        self.reloads = 0  # of the cluster's certificate
        self.reload_failures = 0

    @property
    def not_after(self) -> datetime.datetime | None:
        """When the cluster's certificate expires."""
        return self._certificate.not_after if self._certificate is not None else None

    @property
    def folders(self) -> set[Path]:
        """Where the files lie."""
        return {path.parent for path in self._paths().values()}

    # --- configuration

    def learn(self, config: ClientTls, default_tenant: str | None, folder: Path) -> None:
        """Takes over cluster.json's word. ContractError when the first one's files cannot be used.

        Later on, the former rules and files count until the new ones can be used.
        """
        is_first, is_new = not self._has_learnt, (config, folder) != (self._config, self._folder)
        self._config, self._folder = config, folder
        self._directory.sni.domains = config.sni_domains
        self._default_tenant = default_tenant
        if config.effective_mode == "Disable":
            self._certificate, self._looks, self._problems, self._mode = None, {}, {}, "Disable"
        elif is_new:
            self._looks = self._look_at_files()
            try:
                self._serve(*self._read())
            except BadCertificate as error:
                if is_first:
                    raise ContractError(f"tls.client: {error}") from None
                self._note(error)
        self._has_learnt = True
        self._set_policy()

    def look(self) -> dict[str, list[str]]:
        """Reads the files again if they have changed; what is wrong with them, by file."""
        if self._config.effective_mode != "Disable":
            looks = self._look_at_files()
            if looks != self._looks:
                self._looks = looks
                self._reload()
            self._forget_unused()
        return self._problems

    def _reload(self) -> None:
        try:
            certificate, rules = self._read()
            served = self._certificate
            if served is not None and certificate.not_after <= self._now() < served.not_after:
                raise BadCertificate("the certificate has expired")
        except BadCertificate as error:
            self._note(error)
            return
        self._serve(certificate, rules)
        self._set_policy()
        self.reloads += 1
        log.info("tls for clients reloaded", file=self._config.cert_file, expires=certificate.not_after.isoformat())

    def _note(self, error: BadCertificate) -> None:
        self.reload_failures += 1
        rest = "nothing has changed for clients" if self._certificate is None else "the former files are in use"
        self._problems = {"tls.client": [f"{error}; {rest}"]}

    def _serve(self, certificate: ServerCertificate, rules: Rules) -> None:
        if rules != self._rules:
            self._ready.clear()
            self._unusable.clear()
        self._certificate, self._rules, self._mode = certificate, rules, self._config.effective_mode
        self._problems = {}
        if certificate.not_after <= self._now():
            self._problems = {"tls.client": ["the certificate has expired"]}

    def _set_policy(self) -> None:
        self.policy = TlsPolicy(
            is_offered=self._mode != "Disable",
            is_required=self._mode in ("Require", "VerifyCA", "VerifyFull"),
            names_user=self._mode == "VerifyFull",
            default_tenant=self._default_tenant,
        )

    def _read(self) -> tuple[ServerCertificate, Rules]:
        texts = {}
        for name, path in self._paths().items():
            try:
                texts[name] = path.read_text(encoding="utf-8")
            except OSError as error:
                raise BadCertificate(f"{name} cannot be read: {error.strerror}") from None
            except UnicodeDecodeError:
                raise BadCertificate(f"{name} is no PEM text") from None
        self._warn_about_permissions()
        rules = Rules(
            self._config.min_version,
            texts.get("caFile"),
            self._config.effective_mode in ("VerifyCA", "VerifyFull"),
        )
        return server_certificate(texts["certFile"], texts["keyFile"], rules), rules

    def _warn_about_permissions(self) -> None:
        path = self._paths()["keyFile"]
        if path.stat().st_mode & 0o007:
            log.warning("the private key can be read by everybody on this machine", file=str(path))

    def _paths(self) -> dict[str, Path]:
        config = self._config
        named = {"certFile": config.cert_file, "keyFile": config.key_file, "caFile": config.ca_file}
        return {name: self._folder / path for name, path in named.items() if path is not None}

    def _look_at_files(self) -> dict[str, Look]:
        looks: dict[str, Look] = {}
        for name, path in self._paths().items():
            try:
                stat = path.stat()
                looks[name] = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            except OSError:
                looks[name] = None
        return looks

    # --- serving

    def certificate_for(self, server_name: str) -> ServerCertificate:
        """The tenant's own if the name is a tenant's that has one, else the cluster's. May raise HandshakeRefused."""
        if self._certificate is None:  # switched off since the client was told that there is TLS
            raise HandshakeRefused(_HANDSHAKE_FAILURE, "TLS is not offered any more")
        tenant = self._directory.tenants.get(self._directory.sni.tenant_of(server_name) or "")
        own = tenant.entry.client_tls if tenant is not None else None
        if own is None:
            return self._certificate
        key = (own.cert, own.key)
        if key in self._unusable:
            return self._certificate
        ready = self._ready.pop(key, None)
        if ready is None:
            pems = self._directory.pems
            try:
                ready = server_certificate(
                    pems[own.cert].get_secret_value(), pems[own.key].get_secret_value(), self._rules
                )
            except BadCertificate as error:
                # The contract's reader has judged the texts; what is left is a key that OpenSSL thinks too weak.
                self._unusable.add(key)
                log.warning("a tenant's certificate cannot be served", server_name=server_name, problem=str(error))
                return self._certificate
            if len(self._ready) >= READY_MAX:
                del self._ready[next(iter(self._ready))]
        self._ready[key] = ready
        return ready

    def _forget_unused(self) -> None:
        """Keys of tenants that are gone do not stay in memory."""
        pems = self._directory.pems
        self._ready = {key: ready for key, ready in self._ready.items() if key[0] in pems and key[1] in pems}
        self._unusable = {key for key in self._unusable if key[0] in pems and key[1] in pems}

    def tenant_of(self, server_name: str) -> str | None:
        """Whose host name it is."""
        return self._directory.sni.tenant_of(server_name) if server_name else None


class ClientHandshake:
    """What one client's handshake needs and shows."""

    __slots__ = ("_certificate", "_is_direct", "_served", "_server_name")

    def __init__(self, served: ServedTls, *, is_direct: bool) -> None:
        self._served = served
        self._is_direct = is_direct  # TLS without an SSLRequest
        self._server_name = ""
        self._certificate: ServerCertificate | None = None

    def context_for(self, hello: "ClientHello | None") -> ssl.SSLContext:
        """The context to go on with. Raises HandshakeRefused where PostgreSQL ends the handshake, too.

        Without an SSLRequest ALPN is a must: it keeps bytes that were meant for another protocol out (ALPACA).
        """
        if hello is not None:
            self._server_name = hello.server_name
            if hello.protocols is not None and ALPN.encode() not in hello.protocols:
                raise HandshakeRefused(_NO_APPLICATION_PROTOCOL, "the client does not offer the ALPN protocol")
            if hello.protocols is None and self._is_direct:
                raise HandshakeRefused(_NO_APPLICATION_PROTOCOL, "direct TLS without ALPN")
        self._certificate = self._served.certificate_for(self._server_name)
        return self._certificate.context

    def channel(self, ssl_object: ssl.SSLObject) -> SecureChannel:
        """What the login must know; raises TlsFailed."""
        assert self._certificate is not None
        if self._is_direct and ssl_object.selected_alpn_protocol() != ALPN:
            raise TlsFailed("direct TLS without ALPN")
        return SecureChannel(
            self._certificate.binding,
            names_of(ssl_object.getpeercert()),  # type: ignore[arg-type]
            self._served.tenant_of(self._server_name),
        )
