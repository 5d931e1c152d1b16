"""How the pooler secures its connections to a tenant's PostgreSQL."""

from collections.abc import Iterator
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from pgweir_contract.json_form import ContractModel, Host
from pgweir_contract.pems import PemDigest, PemRef

UpstreamTlsMode = Literal["Disable", "Prefer", "Require", "VerifyCA", "VerifyFull"]
Negotiation = Literal["Postgres", "Direct"]
ChannelBinding = Literal["Disable", "Prefer", "Require"]

_VERIFYING: Final = ("VerifyCA", "VerifyFull")


class UpstreamTlsPolicy(ContractModel):
    """What the contract and the manifests have in common: everything but certificates and keys."""

    mode: UpstreamTlsMode = "Prefer"
    server_name: Host | None = None  # for SNI and VerifyFull; None: the upstream's host
    # VerifyFull trusts the CAs of the operating system, too.
    system_cas: Annotated[bool, Field(alias="systemCAs")] = False
    negotiation: Negotiation = "Postgres"  # Direct: TLS without the question before it (PostgreSQL 17 and later)
    channel_binding: ChannelBinding = "Prefer"  # SCRAM-SHA-256-PLUS

    def misfit(self, *, has_ca: bool, has_client_certificate: bool) -> str | None:
        """Why these settings do not fit together; None when they do."""
        mode = self.mode
        if mode in _VERIFYING and not has_ca and not (self.system_cas and mode == "VerifyFull"):
            return f"mode {mode} needs a CA" + (" or systemCAs" if mode == "VerifyFull" else "")
        if has_ca and mode not in _VERIFYING:
            return "a CA has no effect unless mode is VerifyCA or VerifyFull"
        if self.system_cas and mode != "VerifyFull":
            return "systemCAs needs mode VerifyFull: everybody can get a certificate of a public CA"
        if self.negotiation == "Direct" and mode in ("Disable", "Prefer"):
            return "negotiation Direct needs mode Require, VerifyCA or VerifyFull"
        if mode == "Disable" and self.channel_binding == "Require":
            return "channelBinding Require has no meaning when mode is Disable"
        if mode == "Disable" and (has_client_certificate or self.server_name is not None):
            return "a client certificate or serverName has no meaning when mode is Disable"
        return None


class UpstreamTls(UpstreamTlsPolicy):
    """As the pooler reads it: certificates and keys are texts of the file's `pems`."""

    ca: PemDigest | None = None
    client_cert: PemDigest | None = None
    client_key: PemDigest | None = None

    def pem_refs(self, path: str) -> Iterator[PemRef]:
        """The texts that are named here."""
        if self.ca is not None:
            yield PemRef(f"{path}.ca", self.ca, "certificates")
        if self.client_cert is not None:
            yield PemRef(f"{path}.clientCert", self.client_cert, "certificates")
        if self.client_key is not None:
            yield PemRef(f"{path}.clientKey", self.client_key, "key", self.client_cert)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.client_cert is None) != (self.client_key is None):
            raise ValueError("clientCert and clientKey need each other")
        misfit = self.misfit(has_ca=self.ca is not None, has_client_certificate=self.client_cert is not None)
        if misfit is not None:
            raise ValueError(misfit)
        return self
