"""What admins have ordered in the console: databases that are paused, and databases that let nobody in.

It outlives pools, which come and go with logins and configurations, and dies with the process. Pure values: whoever
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

    __slots__ = ("disabled", "is_all_paused", "paused")

    def __init__(self) -> None:
        self.is_all_paused = False
        self.paused: set[DatabaseKey] = set()  # by name, whether all are paused or not
        self.disabled: set[DatabaseKey] = set()

    def is_paused(self, key: DatabaseKey) -> bool:
        """Whether new transactions have to wait."""
        return self.is_all_paused or key in self.paused

    def forget_tenant(self, tenant: str) -> None:
        """The tenant was removed; one of the same name is another one."""
        self.paused = {key for key in self.paused if key.tenant != tenant}
        self.disabled = {key for key in self.disabled if key.tenant != tenant}
