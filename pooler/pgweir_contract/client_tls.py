"""How clients connect: their TLS, and the PROXY protocol of load balancers before them.

The cluster's certificate, key and client CA are files, mounted beside the configuration: the pooler reads them again
when they change. A relative path starts at the configuration's directory.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pgweir_contract.json_form import ContractModel, Listed
from pgweir_contract.networks import Cidr
from pgweir_contract.pems import PemDigest, PemRef

ClientTlsMode = Literal["Disable", "Allow", "Prefer", "Require", "VerifyCA", "VerifyFull"]
TlsVersion = Literal["TLS1.2", "TLS1.3"]

_LABELS: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")


def _dns_name(name: str) -> str:
    if _LABELS.fullmatch(name) is None:
        raise ValueError("must be a host name in lower case, without a final dot")
    return name


def _path(path: str) -> str:
    if "\0" in path:
        raise ValueError("a path cannot hold a NUL character")
    return path


DnsName = Annotated[str, Field(min_length=1, max_length=253), AfterValidator(_dns_name)]
FilePath = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_path)]


def default_mode(mode: ClientTlsMode | None, *, has_certificate: bool) -> ClientTlsMode:
    """The mode that nobody named: TLS for those who ask, as soon as there is a certificate."""
    return mode or ("Prefer" if has_certificate else "Disable")


class ClientTls(ContractModel):
    """TLS of clients. The modes say what PostgreSQL's sslmode of the same name says, seen from the other side."""

    mode: ClientTlsMode | None = None  # None: Prefer with a certificate, Disable without
    min_version: TlsVersion = "TLS1.2"
    cert_file: FilePath | None = None  # the certificate and its chain, PEM
    key_file: FilePath | None = None  # without a passphrase
    ca_file: FilePath | None = None  # who may sign the certificates of clients
    # `TENANT.` one of these is the host name of a tenant: a client that says it by SNI needs to name no tenant.
    sni_domains: Annotated[Listed[DnsName], Field(max_length=16)] = ()

    @property
    def effective_mode(self) -> ClientTlsMode:
        """The mode that counts."""
        return default_mode(self.mode, has_certificate=self.cert_file is not None)

    @model_validator(mode="after")
    def _files_fit_the_mode(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("certFile and keyFile need each other")
        if self.effective_mode != "Disable" and self.cert_file is None:
            raise ValueError(f"mode {self.effective_mode} needs certFile and keyFile")
        if self.effective_mode in ("VerifyCA", "VerifyFull") and self.ca_file is None:
            raise ValueError(f"mode {self.effective_mode} needs caFile")
        return self


class TenantTls(ContractModel):
    """A tenant's own certificate, for clients that say one of its host names by SNI: texts of the file's `pems`."""

    cert: PemDigest
    key: PemDigest

    def pem_refs(self, path: str) -> Iterator[PemRef]:
        """The texts that are named here."""
        yield PemRef(f"{path}.cert", self.cert, "certificates")
        yield PemRef(f"{path}.key", self.key, "key", self.cert)


class ClusterTls(ContractModel):
    """All of a cluster's TLS that is not a tenant's."""

    client: ClientTls = ClientTls()


class ProxyProtocol(ContractModel):
    """Whether a listener stands behind load balancers that state the client's address (PROXY protocol v1 and v2)."""

    mode: Literal["Disable", "Require"] = "Disable"
    # Who may state an address; nobody else can connect.
    trusted_cidrs: Annotated[Listed[Cidr], Field(alias="trustedCIDRs", max_length=64)] = ()

    @model_validator(mode="after")
    def _somebody_is_trusted(self) -> Self:
        if self.mode == "Require" and not self.trusted_cidrs:
            raise ValueError("mode Require needs trustedCIDRs")
        return self
