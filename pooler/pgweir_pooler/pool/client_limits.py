"""How many clients the process, a tenant and a user of a tenant have, and when one is too many. Pure counters.

Enters: a client after it named tenant and user, and the same when it leaves. Always true: a count is in its dict only
while it is above 0, so that names that come and go leave nothing behind.
"""

from typing import NamedTuple

from pgweir_pooler.errors import TooManyClients


class ClientCaps(NamedTuple):
    """The most clients at a time; 0 means no limit."""

    process: int = 0
    tenant: int = 0
    user: int = 0


class ClientLimits:
    """Counts admitted clients. Whoever was admitted must `leave` once."""

    __slots__ = ("_of_tenant", "_of_user", "total")

    def __init__(self) -> None:
        self.total = 0
        self._of_tenant: dict[str, int] = {}
        self._of_user: dict[tuple[str, str], int] = {}

    def of_tenant(self, tenant: str) -> int:
        """Clients of one tenant now."""
        return self._of_tenant.get(tenant, 0)

    def of_user(self, tenant: str, user: str) -> int:
        """Clients of one user of one tenant now."""
        return self._of_user.get((tenant, user), 0)

    def admit(self, tenant: str, user: str, caps: ClientCaps) -> TooManyClients | None:
        """Counts the client in, or says which limit it meets, the narrowest first; then nothing was counted."""
        if caps.user and self.of_user(tenant, user) >= caps.user:
            return _too_many(f"user {user!r}", caps.user)
        if caps.tenant and self.of_tenant(tenant) >= caps.tenant:
            return _too_many(f"tenant {tenant!r}", caps.tenant)
        if caps.process and self.total >= caps.process:
            return _too_many("this pooler", caps.process)
        self.total += 1
        self._of_tenant[tenant] = self.of_tenant(tenant) + 1
        self._of_user[tenant, user] = self.of_user(tenant, user) + 1
        return None

    def leave(self, tenant: str, user: str) -> None:
        """Counts an admitted client out; KeyError when there is none."""
        of_tenant, of_user = self._of_tenant[tenant] - 1, self._of_user[tenant, user] - 1
        self.total -= 1
        self._of_tenant[tenant] = of_tenant
        self._of_user[tenant, user] = of_user
        if not of_tenant:
            del self._of_tenant[tenant]
        if not of_user:
            del self._of_user[tenant, user]


def _too_many(whose: str, cap: int) -> TooManyClients:
    return TooManyClients(
        f"too many clients: the limit of {whose} is {cap}",
        hint="Close connections that are not used, or raise maxClients.",
    )
