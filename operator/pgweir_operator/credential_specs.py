"""What manifests say of credentials; the secrets themselves are in Secrets, which are named there."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from pgweir_contract.auth import AuthSettings
from pgweir_contract.json_form import ContractModel, Listed, PgName
from pgweir_contract.tenant import PoolOverrides
from pgweir_contract.timestamps import Timestamp
from pgweir_operator.objects import ObjectName

_Key = Annotated[str, Field(min_length=1, max_length=253)]


class SecretKeyRef(ContractModel):
    """One value of a Secret in the namespace of the object that names it."""

    name: ObjectName
    key: _Key = "password"


class VerifierRef(ContractModel):
    """A verifier as PostgreSQL stores it, in a Secret."""

    name: ObjectName
    key: _Key = "verifier"


class UserSecretRef(ContractModel):
    """A Secret with a name and a password, of the type kubernetes.io/basic-auth or with the same keys."""

    name: ObjectName
    username_key: _Key = "username"
    password_key: _Key = "password"  # noqa: S105 - of a Secret


class UserSpec(ContractModel):
    """Someone who may log in."""

    name: PgName
    alias: PgName | None = None
    password_secret_ref: SecretKeyRef | None = None
    verifier_secret_ref: VerifierRef | None = None
    valid_until: Timestamp | None = None
    databases: Annotated[Listed[PgName], Field(max_length=128)] | None = None
    pool: PoolOverrides | None = None

    @model_validator(mode="after")
    def _has_credentials(self) -> Self:
        if self.password_secret_ref is None and self.verifier_secret_ref is None:
            raise ValueError("a user needs passwordSecretRef or verifierSecretRef")
        return self


class AuthSpec(AuthSettings):
    """How clients prove who they are, and how users that are not listed are looked up."""

    user_secret_ref: UserSecretRef | None = None

    @model_validator(mode="after")
    def _has_a_role(self) -> Self:
        if self.mode == "AuthQuery" and self.user_secret_ref is None:
            raise ValueError("mode AuthQuery needs userSecretRef: the role that looks users up")
        if self.mode != "AuthQuery" and self.user_secret_ref is not None:
            raise ValueError("userSecretRef is for mode AuthQuery alone")
        return self
