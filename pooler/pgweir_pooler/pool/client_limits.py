"""How many clients the process, a tenant, a user and an address have, and when one is too many. Pure counters.

Enters: a client after it named tenant and user, and the same when it leaves. Always true: a count is in its dict only
while it is above 0, so that names that come and go leave nothing behind.
"""

from collections.abc import Iterator
from typing import NamedTuple

from pgweir_pooler.errors import TooManyClients


class ClientCaps(NamedTuple):
    """The most clients at a time; 0 means no limit."""

    process: int = 0
    tenant: int = 0
    user: int = 0
    address: int = 0  # of the process
    tenant_address: int = 0  # of the tenant


class Whose(NamedTuple):
    """Whom a client is counted for."""

    tenant: str
    user: str
    group: str = ""  # of addresses (`admission.addresses`)


_Key = tuple[str, ...]


class ClientLimits:
    """Counts admitted clients. Whoever was admitted must `leave` once."""

    __slots__ = ("_counts", "total")

    def __init__(self) -> None:
        self.total = 0
        self._counts: dict[_Key, int] = {}  # the first part says what is counted

    def of_tenant(self, tenant: str) -> int:
        """Clients of one tenant now."""
        return self._counts.get(("tenant", tenant), 0)

    def of_user(self, tenant: str, user: str) -> int:
        """Clients of one user of one tenant now."""
        return self._counts.get(("user", tenant, user), 0)

    def of_address(self, group: str) -> int:
        """Clients from one address group now."""
        return self._counts.get(("address", group), 0)

    def admit(self, who: Whose, caps: ClientCaps) -> TooManyClients | None:
        """Counts the client in, or says which limit it meets, the narrowest first; then nothing was counted."""
        keys = list(_keys(who))
        limits = (
            (caps.tenant_address, f"your address at tenant {who.tenant!r}", "maxClientsPerAddress"),
            (caps.user, f"user {who.user!r}", "maxClients"),
            (caps.tenant, f"tenant {who.tenant!r}", "maxClients"),
            (caps.address, "your address", "maxClientsPerAddress"),
        )
        for key, (cap, whose, setting) in zip(keys, limits, strict=True):
            if cap and self._counts.get(key, 0) >= cap:
                return _too_many(whose, cap, setting)
        if caps.process and self.total >= caps.process:
            return _too_many("this pooler", caps.process, "maxClients")
        self.total += 1
        for key in keys:
            self._counts[key] = self._counts.get(key, 0) + 1
        return None

    def leave(self, who: Whose) -> None:
        """Counts an admitted client out; KeyError when there is none."""
        counts = {key: self._counts[key] - 1 for key in _keys(who)}
        self.total -= 1
        self._counts.update(counts)
        for key, count in counts.items():
            if not count:
                del self._counts[key]


def _keys(who: Whose) -> Iterator[_Key]:
    yield "both", who.tenant, who.group
    yield "user", who.tenant, who.user
    yield "tenant", who.tenant
    yield "address", who.group


def _too_many(whose: str, cap: int, setting: str) -> TooManyClients:
    return TooManyClients(
        f"too many clients: the limit of {whose} is {cap}",
        hint=f"Close connections that are not used, or raise {setting}.",
    )
