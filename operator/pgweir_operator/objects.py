"""Kubernetes objects as far as all kinds are alike, and the one foreign kind that we read: Secrets."""

import base64
import binascii
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, SecretStr

from pgweir_contract.json_form import ContractModel
from pgweir_contract.names import CREDENTIALS_LABEL

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Namespace = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


class Metadata(ContractModel):
    """What we read of an object's metadata; the API server adds more, which is not ours to judge."""

    model_config = ConfigDict(extra="ignore")

    name: ObjectName
    namespace: Namespace = "default"
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    creation_timestamp: str | None = None  # RFC 3339; set by the API server


class Resource(ContractModel):
    """What all objects have."""

    metadata: Metadata

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


def _base64(secret: SecretStr) -> SecretStr:
    try:
        base64.b64decode(secret.get_secret_value(), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be base64 (stringData takes the text itself)") from None
    return secret


class Secret(Resource):
    """A Kubernetes Secret."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["Secret"] = "Secret"
    type: str = "Opaque"
    immutable: bool = False
    data: dict[str, Annotated[SecretStr, AfterValidator(_base64)]] = Field(default_factory=dict)
    string_data: dict[str, SecretStr] = Field(default_factory=dict)

    @property
    def is_for_credentials(self) -> bool:
        """Only such Secrets are read, so that no Tenant can send somebody else's to a host that it names."""
        return self.metadata.labels.get(CREDENTIALS_LABEL) == "true"

    def value(self, key: str) -> SecretStr | None:
        """The text under a key, stringData first; None when there is none, ValueError when it is no text."""
        if key in self.string_data:
            return self.string_data[key]
        if key not in self.data:
            return None
        try:
            return SecretStr(base64.b64decode(self.data[key].get_secret_value()).decode())
        except UnicodeDecodeError:
            raise ValueError("is not UTF-8 text") from None
