"""How clients connect, as manifests say it: certificates are in Secrets, which become files and texts here."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from pgweir_contract.client_tls import ClientTls, ClientTlsMode, DnsName, TenantTls, TlsVersion, default_mode
from pgweir_contract.json_form import ContractModel, Listed, describe_errors
from pgweir_contract.names import CLIENT_CA_FILE, CLIENT_CERT_FILE, CLIENT_KEY_FILE
from pgweir_operator.objects import Secret
from pgweir_operator.secret_texts import PemCollector, Refused
from pgweir_operator.upstream_spec import CaSecretRef, CertSecretRef


class ClientTlsSpec(ContractModel):
    """TLS of a cluster's clients."""

    mode: ClientTlsMode | None = None  # None: Prefer with a certificate, Disable without
    min_version: TlsVersion = "TLS1.2"
    cert_secret_ref: CertSecretRef | None = None
    ca_secret_ref: CaSecretRef | None = None
    sni_domains: Annotated[Listed[DnsName], Field(max_length=16)] = ()

    @model_validator(mode="after")
    def _secrets_fit_the_mode(self) -> Self:
        mode = default_mode(self.mode, has_certificate=self.cert_secret_ref is not None)
        if mode != "Disable" and self.cert_secret_ref is None:
            raise ValueError(f"mode {mode} needs certSecretRef")
        if mode in ("VerifyCA", "VerifyFull") and self.ca_secret_ref is None:
            raise ValueError(f"mode {mode} needs caSecretRef")
        return self


class ClusterTlsSpec(ContractModel):
    """A cluster's TLS."""

    client: ClientTlsSpec = ClientTlsSpec()


class TenantTlsSpec(ContractModel):
    """The certificate that clients see who say one of the tenant's host names by SNI."""

    cert_secret_ref: CertSecretRef


def cluster_tls(
    spec: ClientTlsSpec, namespace: str, secrets: Mapping[str, Secret]
) -> tuple[ClientTls, dict[str, bytes]]:
    """cluster.json's word and the files that it names; raises Refused, and then the former files must stay."""
    pems = PemCollector(namespace, secrets)
    texts: dict[str, str] = {}  # digests by file
    if spec.cert_secret_ref is not None:
        pair = pems.take_pair("spec.tls.client.certSecretRef", spec.cert_secret_ref.name)
        texts |= dict(zip((CLIENT_CERT_FILE, CLIENT_KEY_FILE), pair, strict=True))
    if spec.ca_secret_ref is not None:
        ref = spec.ca_secret_ref
        texts[CLIENT_CA_FILE] = pems.take("spec.tls.client.caSecretRef", ref.name, ref.key, "certificates")
    files = {name: pems.texts[digest].get_secret_value().encode() for name, digest in texts.items()}
    named = {name: name if name in files else None for name in (CLIENT_CERT_FILE, CLIENT_KEY_FILE, CLIENT_CA_FILE)}
    try:
        tls = ClientTls(
            mode=spec.mode,
            min_version=spec.min_version,
            cert_file=named[CLIENT_CERT_FILE],
            key_file=named[CLIENT_KEY_FILE],
            ca_file=named[CLIENT_CA_FILE],
            sni_domains=spec.sni_domains,
        )
    except ValidationError as error:
        raise Refused(*(f"spec.tls.client: {problem}" for problem in describe_errors(error))) from None
    return tls, files


def tenant_tls(spec: TenantTlsSpec | None, pems: PemCollector) -> TenantTls | None:
    """The tenant's own certificate as poolers read it; raises Refused."""
    if spec is None:
        return None
    cert, key = pems.take_pair("spec.clientTls.certSecretRef", spec.cert_secret_ref.name)
    return TenantTls(cert=cert, key=key)


class HostNames:
    """Which tenant has which host name while a cluster is rendered; the first that claims one has it."""

    def __init__(self, domains: tuple[str, ...]) -> None:
        self._domains = domains
        self._owners: dict[str, str] = {}  # host name -> tenant id

    def claim(self, tenant_id: str, names: tuple[str, ...]) -> None:
        """All of them or none; raises Refused."""
        problems = []
        for i, name in enumerate(names):
            label, _, domain = name.partition(".")
            owner = self._owners.get(name, tenant_id)
            if domain in self._domains:
                owner = label
            if owner != tenant_id:
                problems.append(f"spec.sniHostnames[{i}]: HostnameConflict: {name} is another tenant's")
        if problems:
            raise Refused(*problems)
        self._owners |= dict.fromkeys(names, tenant_id)
