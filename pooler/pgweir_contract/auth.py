"""What a login is checked by: passwords and verifiers of users, and how users that are not listed are looked up.

Several passwords of one user are for a rotation, the newest first: the others count until `overlapUntil`, for ever
without one. Whoever writes the files removes them afterwards; a pooler keeps to the time by itself.
"""

import re
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from pgweir_contract.durations import PositiveDuration
from pgweir_contract.json_form import ContractModel, Listed, Password, PgName

SECRETS_MAX: Final = 4  # passwords, or verifiers, of one user at a time

# `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, PostgreSQL's own form (pg_authid.rolpassword).
_SCRAM: Final = re.compile(
    r"SCRAM-SHA-256\$[1-9][0-9]{0,8}:[A-Za-z0-9+/]{4,}={0,2}\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}="
)
_MD5: Final = re.compile(r"md5[0-9a-f]{32}")


def _scram_verifier(secret: SecretStr) -> SecretStr:
    if _SCRAM.fullmatch(secret.get_secret_value()) is None:
        raise ValueError("a verifier has the form SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY")
    return secret


def _verifier(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value()
    if _SCRAM.fullmatch(value) is None and _MD5.fullmatch(value) is None:
        raise ValueError(
            "a verifier has the form SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY, or is md5 and 32 hex digits"
        )
    return secret


ScramVerifier = Annotated[SecretStr, Field(min_length=1, max_length=1024), AfterValidator(_scram_verifier)]
Verifier = Annotated[SecretStr, Field(min_length=1, max_length=1024), AfterValidator(_verifier)]

Passwords = Annotated[Listed[Password], Field(max_length=SECRETS_MAX)]
Verifiers = Annotated[Listed[Verifier], Field(max_length=SECRETS_MAX)]

ClientMethod = Literal["ScramSHA256", "MD5", "Cleartext", "Certificate"]


def _query(text: str) -> str:
    if "$1" not in text:
        raise ValueError("the query takes the user's name as $1")
    if "\0" in text:
        raise ValueError("a query cannot hold a NUL character")
    return text


AuthQueryText = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_query)]


class AuthSettings(ContractModel):
    """How clients prove who they are, and how users that are not listed are looked up; without secrets."""

    mode: Literal["Users", "AuthQuery"] = "Users"
    # What clients are asked for. MD5: md5 where the secret allows it, else SCRAM, as in PostgreSQL's pg_hba.conf.
    # Cleartext: the password itself, inside TLS only. Certificate: nothing, when their certificate names them.
    client_method: ClientMethod = "ScramSHA256"
    query: AuthQueryText | None = None  # None: pg_authid is read
    database: PgName | None = None  # PostgreSQL's name of the one to ask in; None: that of the first one listed
    cache_ttl: Annotated[PositiveDuration, Field(alias="cacheTTL")] = 300.0
    max_users: Annotated[int, Field(ge=1, le=10_000)] = 1000  # users that have pools without being listed

    @model_validator(mode="after")
    def _only_for_queries(self) -> Self:
        if self.mode != "AuthQuery":
            for name, value in (("query", self.query), ("database", self.database)):
                if value is not None:
                    raise ValueError(f"{name} is for mode AuthQuery alone")
        elif self.client_method == "Certificate":
            raise ValueError("clientMethod Certificate is for mode Users: of others nothing logs in to PostgreSQL")
        return self


class Auth(AuthSettings):
    """The same with the role that looks users up."""

    user: PgName | None = None
    passwords: Passwords = ()

    @model_validator(mode="after")
    def _has_a_role(self) -> Self:
        if self.mode == "AuthQuery" and not (self.user and self.passwords):
            raise ValueError("mode AuthQuery needs user and passwords: the role that looks users up")
        if self.mode != "AuthQuery" and (self.user or self.passwords):
            raise ValueError("user and passwords are for mode AuthQuery alone")
        return self
