"""What admins have ordered in the console: databases that are paused, and databases that let nobody in.

Besides, which tenants are paused by the configuration: neither can end what the other has ordered. It outlives pools,
which come and go with logins and configurations, and dies with the process. Pure values: whoever
changes them also tells the pools that exist.
"""

from typing import NamedTuple


class DatabaseKey(NamedTuple):
    """A database of a tenant; in the console `database.tenant`, as clients log in as `user.tenant`."""

    database: str
    tenant: str

    def __str__(self) -> str:
        return f"{self.database}.{self.tenant}"


class Orders:
    """See the module."""

    __slots__ = ("disabled", "is_all_paused", "paused", "paused_tenants")

    def __init__(self) -> None:
        self.is_all_paused = False
        self.paused: set[DatabaseKey] = set()  # by name, whether all are paused or not
        self.disabled: set[DatabaseKey] = set()
        self.paused_tenants: set[str] = set()  # by their `paused`

    def is_paused(self, key: DatabaseKey) -> bool:
        """Whether new transactions have to wait."""
        return self.is_all_paused or key in self.paused or key.tenant in self.paused_tenants

    def pause_tenant(self, tenant: str, *, is_paused: bool) -> bool:
        """What the tenant's configuration says; whether that is news."""
        if is_paused == (tenant in self.paused_tenants):
            return False
        self.paused_tenants ^= {tenant}
        return True

    def forget_tenant(self, tenant: str) -> None:
        """The tenant was removed; one of the same name is another one."""
        self.paused = {key for key in self.paused if key.tenant != tenant}
        self.paused_tenants.discard(tenant)
        self.disabled = {key for key in self.disabled if key.tenant != tenant}
