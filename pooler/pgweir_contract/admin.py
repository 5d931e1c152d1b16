"""Who may use the admin console, and how far.

An admin is no user of any tenant: the login has no suffix (`user=jane dbname=pgweir`), so the name has no dot.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pgweir_contract.auth import SECRETS_MAX, Passwords, ScramVerifier
from pgweir_contract.json_form import ContractModel, Listed, PgName, unique

AdminRole = Literal["Admin", "Stats"]

ADMIN_USERS_MAX: Final = 64


def _without_dot(name: str) -> str:
    if "." in name:
        raise ValueError("an admin's name cannot hold a dot: what follows it would be a tenant")
    return name


AdminName = Annotated[PgName, AfterValidator(_without_dot)]


class AdminUser(ContractModel):
    """Someone who may log in to the console; `Stats` may look, `Admin` may also act."""

    name: AdminName
    role: AdminRole
    passwords: Passwords = ()
    verifiers: Annotated[Listed[ScramVerifier], Field(max_length=SECRETS_MAX)] = ()

    @model_validator(mode="after")
    def _has_credentials(self) -> Self:
        if not self.passwords and not self.verifiers:
            raise ValueError("a user needs a password or a verifier")
        return self


class AdminConsole(ContractModel):
    """The console; without users there is none."""

    users: Annotated[Listed[AdminUser], Field(max_length=ADMIN_USERS_MAX)] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        unique("admin user", [x.name for x in self.users])
        return self
