"""What is known of a tenant's users that are not listed but looked up in its database. Pure: `now` is the time of day.

Enters: answers of the database, failed lookups, and wrong passwords. Leaves: who may be asked for a password at once,
and who must be looked up before. Always true:

- An answer counts for `cacheTTL`, that there is no such user for NOBODY_S.
- After a wrong password, or when PostgreSQL did not take what a client proved, the next login looks again, but for one
  user at most every REFRESH_S.
- While the database does not answer, who was found before still counts, for STALE_S after its time; nobody else does.
- Users with pools stay. Of the others the least recently used go when there are too many; unknown names push out
  unknown names alone.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum, auto
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Container
    from datetime import datetime

    from pgweir_pooler.credentials import Stored
    from pgweir_pooler.login import Login

NOBODY_S: Final = 10.0
REFRESH_S: Final = 2.0
STALE_S: Final = 3600.0
RETRY_S: Final = 5.0  # after a failed lookup, how long who is known is not looked up again
USERS_MAX: Final = 10_000
NOBODIES_MAX: Final = 1_000


class Found(NamedTuple):
    """A role as its database has it; without a secret nobody can log in as it by a password."""

    stored: tuple[Stored, ...] = ()
    valid_until: datetime | None = None


class Freshness(Enum):
    """What the cache knows of a user."""

    FRESH = auto()  # what `login` says counts, also that there is nobody
    STALE = auto()  # look it up; `login` counts if that fails or takes long
    UNKNOWN = auto()  # look it up


class _Known:
    __slots__ = ("asked_at", "is_doubtful", "login", "may_be_stale", "retry_at")

    def __init__(self, login: Login, now: float) -> None:
        self.login = login
        self.asked_at = now
        self.retry_at = -inf
        self.is_doubtful = False
        self.may_be_stale = True


class UserCache:
    """One tenant's."""

    __slots__ = ("_known", "_nobodies", "ttl_s", "usual")

    def __init__(self, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self.usual: Stored | None = None  # what the user that was found last has
        self._known: OrderedDict[str, _Known] = OrderedDict()  # the least recently used first, as the next
        self._nobodies: OrderedDict[str, float] = OrderedDict()  # when it was found out

    def login(self, name: str) -> Login | None:
        """The user if it was found when it was looked up last, however long ago."""
        known = self._known.get(name)
        return known.login if known is not None else None

    def names(self) -> list[str]:
        """Of all users that were found."""
        return list(self._known)

    def look(self, name: str, now: float) -> Freshness:
        """Whether the user has to be looked up."""
        known = self._known.get(name)
        if known is None:
            found_at = self._nobodies.get(name, -inf)
            return Freshness.FRESH if now < found_at + NOBODY_S else Freshness.UNKNOWN
        self._known.move_to_end(name)
        age_s = now - known.asked_at
        wants = age_s >= REFRESH_S and (known.is_doubtful or known.login.credentials.has_wrong_key)
        if age_s < self.ttl_s and not wants:
            return Freshness.FRESH
        if not known.may_be_stale or age_s >= self.ttl_s + STALE_S:
            return Freshness.UNKNOWN
        return Freshness.FRESH if now < known.retry_at else Freshness.STALE

    def doubt(self, name: str) -> None:
        """A password was wrong by what is known."""
        known = self._known.get(name)
        if known is not None:
            known.is_doubtful = True

    def found(self, name: str, login: Login, found: Found, now: float) -> bool:
        """The database's word; `login` is used if the name is new. Whether another secret than before was found."""
        self._nobodies.pop(name, None)
        if found.stored:
            self.usual = found.stored[0]
        known = self._known.get(name)
        is_new = known is None or known.login.credentials.stored(now) != found.stored
        if known is None:
            known = self._known[name] = _Known(login, now)
        known.login.credentials.replace(found.stored, found.valid_until)
        known.asked_at, known.retry_at = now, -inf
        known.is_doubtful, known.may_be_stale = False, True
        self._known.move_to_end(name)
        return is_new

    def nobody(self, name: str, now: float) -> bool:
        """There is no such user; whether there was."""
        self._nobodies.pop(name, None)
        while len(self._nobodies) >= NOBODIES_MAX:
            self._nobodies.popitem(last=False)
        self._nobodies[name] = now
        return self._known.pop(name, None) is not None

    def failed(self, name: str, now: float) -> None:
        """The database did not answer."""
        known = self._known.get(name)
        if known is not None:
            known.retry_at = now + RETRY_S

    def outdate(self) -> None:
        """Where and how users are looked up has changed: nothing that was found counts any more."""
        self._nobodies.clear()
        for known in self._known.values():
            known.asked_at, known.may_be_stale = -inf, False

    def trim(self, in_use: Container[str]) -> None:
        """Forgets the least recently used while there are too many."""
        surplus = len(self._known) - USERS_MAX
        if surplus > 0:
            for name in [name for name in self._known if name not in in_use][:surplus]:
                del self._known[name]
