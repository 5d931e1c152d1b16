"""Connections that have not logged in, by address group, so that the one that has most of them makes room for others.

Always true: `by_count` has each group under the number of its members, and no empty entry.
"""

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

_T = TypeVar("_T")


class HalfOpen(Generic[_T]):
    """A set of logins in the order of their arrival."""

    __slots__ = ("_by_count", "_group_of", "_members", "_most")

    def __init__(self) -> None:
        self._group_of: dict[_T, str] = {}
        self._members: dict[str, dict[_T, None]] = {}
        self._by_count: dict[int, dict[str, None]] = {}  # groups in the order in which they got to the count
        self._most = 0  # the highest key of `_by_count`

    def __len__(self) -> int:
        return len(self._group_of)

    def __iter__(self) -> Iterator[_T]:
        return iter(self._group_of)

    def of_group(self, group: str) -> Iterable[_T]:
        """The logins of a group, the oldest first."""
        return self._members.get(group, ())

    def count(self, group: str) -> int:
        """How many the group has."""
        return len(self._members.get(group, ()))

    def add(self, login: _T, group: str) -> None:
        """Takes in a login that is not here; one that is changes its group, and counts as new there."""
        self.discard(login)
        members = self._members.setdefault(group, {})
        self._recount(group, len(members), len(members) + 1)
        members[login] = None
        self._group_of[login] = group

    def discard(self, login: _T) -> None:
        """Removes a login if it is here."""
        group = self._group_of.pop(login, None)
        if group is None:
            return
        members = self._members[group]
        self._recount(group, len(members), len(members) - 1)
        del members[login]
        if not members:
            del self._members[group]

    def oldest_of(self, group: str) -> _T:
        """The oldest login of a group that has one."""
        return next(iter(self._members[group]))

    def first_to_go(self) -> _T:
        """The oldest login of the group with most of them; of several, the one that got there first. Must not be empty.

        One address can fill all places, and does not keep another out by it.
        """
        return self.oldest_of(next(iter(self._by_count[self._most])))

    def _recount(self, group: str, before: int, after: int) -> None:
        if before:
            groups = self._by_count[before]
            del groups[group]
            if not groups:
                del self._by_count[before]
        if after:
            self._by_count.setdefault(after, {})[group] = None
        if after > self._most:
            self._most = after
        elif self._most and self._most not in self._by_count:
            self._most -= 1  # a count changes by one: the group that left it is one below, or gone
