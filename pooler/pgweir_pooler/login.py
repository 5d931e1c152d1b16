"""A user of a tenant, as far as logging in goes."""

from pgweir_contract.models import User
from pgweir_pooler.credentials import Credentials


class Login:
    """Who it is, and what it is checked by."""

    __slots__ = ("credentials", "entry", "is_listed")

    def __init__(self, entry: User, credentials: Credentials, *, is_listed: bool = True) -> None:
        self.entry = entry
        self.credentials = credentials
        self.is_listed = is_listed  # in the configuration; else it was looked up

    @classmethod
    def looked_up(cls, name: str) -> "Login":
        """A role of the tenant's database, with the tenant's settings."""
        # What PostgreSQL takes as a name needs no check by the contract's rules, and there is no secret in the entry.
        return cls(User.model_construct(name=name), Credentials(), is_listed=False)
