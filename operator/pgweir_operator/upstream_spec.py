"""A Tenant's `spec.upstream`, and what poolers read of it."""

from typing import Annotated

from pydantic import Field

from pgweir_contract.durations import PositiveDuration
from pgweir_contract.json_form import ContractModel, Host, Port
from pgweir_contract.models import Upstream, UpstreamTls
from pgweir_contract.names import instance_key
from pgweir_contract.tenant import PoolSize
from pgweir_contract.upstream_tls import UpstreamTlsPolicy
from pgweir_operator.objects import ObjectName
from pgweir_operator.secret_texts import PemCollector, Refused


class CaSecretRef(ContractModel):
    """The CA certificates in a Secret of the Tenant's namespace."""

    name: ObjectName
    key: Annotated[str, Field(min_length=1, max_length=253)] = "ca.crt"


class CertSecretRef(ContractModel):
    """A certificate and its key, `tls.crt` and `tls.key` of a Secret as cert-manager writes it."""

    name: ObjectName


class UpstreamTlsSpec(UpstreamTlsPolicy):
    """How connections to PostgreSQL are secured."""

    ca_secret_ref: CaSecretRef | None = None
    client_cert_secret_ref: CertSecretRef | None = None


class UpstreamSpec(ContractModel):
    """The tenant's PostgreSQL."""

    host: Host
    port: Port = 5432
    max_connections: PoolSize = 60
    connect_timeout: PositiveDuration | None = None  # None: the cluster's default
    tls: UpstreamTlsSpec = UpstreamTlsSpec()

    @property
    def instance(self) -> str:
        """The key of the database instance, which tenants may share."""
        return instance_key(self.host, self.port)


def upstream_entry(spec: UpstreamSpec, connect_timeout_s: float, pems: PemCollector) -> Upstream:
    """The upstream as poolers read it; raises Refused with paths under `spec`."""
    return Upstream(
        host=spec.host,
        port=spec.port,
        max_connections=spec.max_connections,
        connect_timeout=connect_timeout_s if spec.connect_timeout is None else spec.connect_timeout,
        tls=_tls(spec.tls, pems),
    )


def _tls(spec: UpstreamTlsSpec, pems: PemCollector) -> UpstreamTls:
    path = "spec.upstream.tls"
    ca, client = spec.ca_secret_ref, spec.client_cert_secret_ref
    misfit = spec.misfit(has_ca=ca is not None, has_client_certificate=client is not None)
    if misfit is not None:
        raise Refused(f"{path}: {misfit}")
    certificate = key = None
    if client is not None:
        certificate, key = pems.take_pair(f"{path}.clientCertSecretRef", client.name)
    return UpstreamTls(
        **{name: getattr(spec, name) for name in UpstreamTlsPolicy.model_fields},
        ca=None if ca is None else pems.take(f"{path}.caSecretRef", ca.name, ca.key, "certificates"),
        client_cert=certificate,
        client_key=key,
    )
