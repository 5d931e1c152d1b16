"""Texts out of the Secrets that manifests name; refused with sentences that hold no part of a value."""

from collections.abc import Mapping

from pydantic import SecretStr

from pgweir_contract.names import CREDENTIALS_LABEL
from pgweir_contract.pems import PemKind, key_fits, pem_digest, pem_problem
from pgweir_operator.objects import Secret


class Refused(Exception):
    """Something cannot be rendered; each problem begins with the path of the field that asks for it."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = list(problems)


def secret_text(field: str, namespace: str, name: str, key: str, secrets: Mapping[str, Secret]) -> SecretStr:
    """The text under a key of a Secret that the field names; raises Refused."""
    place = f"{namespace}/{name}"
    secret = secrets.get(place)
    if secret is None:
        raise Refused(f"{field}: SecretNotFound: there is no Secret {place}")
    if not secret.is_for_credentials:
        raise Refused(f'{field}: Secret {place} needs the label {CREDENTIALS_LABEL}: "true"')
    try:
        value = secret.value(key)
    except ValueError as error:
        raise Refused(f"{field}: Secret {place}: the value of key {key!r} {error}") from None
    if value is None:
        raise Refused(f"{field}: SecretKeyMissing: Secret {place} has no key {key!r}")
    return value


class PemCollector:
    """Takes PEM texts out of one namespace's Secrets; `texts` has what a file's `pems` must hold, by digest."""

    def __init__(self, namespace: str, secrets: Mapping[str, Secret]) -> None:
        self._namespace = namespace
        self._secrets = secrets
        self.texts: dict[str, SecretStr] = {}

    def take(self, field: str, name: str, key: str, kind: PemKind) -> str:
        """The digest of the text; raises Refused when there is none or it is not of its kind."""
        value = secret_text(field, self._namespace, name, key, self._secrets)
        problem = pem_problem(value.get_secret_value(), kind)
        if problem is not None:
            raise Refused(f"{field}: Secret {self._namespace}/{name}: the value of key {key!r} {problem}")
        digest = pem_digest(value.get_secret_value())
        self.texts[digest] = value
        return digest

    def take_pair(self, field: str, name: str) -> tuple[str, str]:
        """The digests of a certificate with its chain (`tls.crt`) and of its key (`tls.key`); raises Refused."""
        certificate = self.take(field, name, "tls.crt", "certificates")
        key = self.take(field, name, "tls.key", "key")
        if not key_fits(self.texts[key].get_secret_value(), self.texts[certificate].get_secret_value()):
            raise Refused(f"{field}: Secret {self._namespace}/{name}: tls.key does not fit tls.crt")
        return certificate, key
