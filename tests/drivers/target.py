"""Where a driver's scenario runs: straight to PostgreSQL, or through one of a pooler's listeners."""

from dataclasses import dataclass

from harness.address import Address
from harness.config import tenant
from harness.databases import Database
from harness.pooler import Pooler
from integration.quiet import until_quiet
from pgweir_contract.models import TenantEntry

WHERES = ("direct", "session", "transaction")
POOL_SIZE = 5


@dataclass(frozen=True)
class Target:
    """A database of the scenario's own, empty, and the way to it."""

    where: str
    address: Address
    database: Database
    pooler: Pooler | None = None  # None: straight to PostgreSQL

    @property
    def is_pooled(self) -> bool:
        """True where transactions of one client may run on different servers."""
        return self.where == "transaction"

    @property
    def environment(self) -> dict[str, str]:
        """What a scenario that is a program of its own reads."""
        return {**self.address.environment, "MATRIX_WHERE": self.where}

    async def check_rest(self) -> None:
        """After a scenario no client, no transaction and not one server too many is left."""
        if self.pooler is not None:
            await until_quiet(self.pooler, self.database)
            assert len(self.database.backends()) <= POOL_SIZE


def pool_entry(database: Database) -> TenantEntry:
    """A tenant with POOL_SIZE servers, in its default settings otherwise."""
    return tenant(database, size=POOL_SIZE)
