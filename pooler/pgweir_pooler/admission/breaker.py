"""Who has failed to log in too often: counted by tenant and address group, refused for a while, longer each time.

Enters: failures and successes. Leaves: whether a pair is refused now. Always true: at most `capacity` pairs are
remembered, and a pair is forgotten only when no worse one could be forgotten in its place: a flood of addresses that
fail once cannot push out one that is refused. A pair knows nothing of another pair.

Worse is, in this order: more blocks, more failures in powers of two, a later failure.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pgweir_contract.abuse import FailedLogins

CAPACITY: Final = 20_000  # pairs, of 0.5 to 1.5 KiB
_BLOCKED_RANK: Final = 64  # above any power of two of failures
_DOUBLINGS_MAX: Final = 32
_USERS_MAX: Final = 8  # told apart within a pair; the failures of others are forgiven to nobody


class Pair(NamedTuple):
    """Whose failures are counted together."""

    tenant: str
    group: str  # of addresses


@dataclass(slots=True)
class _Record:
    window_began: float
    failures: int = 0  # in the window
    by_user: dict[str, int] = field(default_factory=dict)  # the same failures
    blocks: int = 0
    blocked_until: float = 0.0

    @property
    def rank(self) -> int:
        return _BLOCKED_RANK + self.blocks if self.blocks else self.failures.bit_length()


class Breaker:
    """See the module."""

    def __init__(self, limits: FailedLogins, capacity: int = CAPACITY) -> None:
        self.limits = limits
        self._capacity = capacity
        self._records: dict[Pair, _Record] = {}
        # The same pairs by rank, the one that failed longest ago first; no rank is empty.
        self._ranks: dict[int, dict[Pair, None]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def blocked(self, now: float) -> int:
        """How many pairs are refused now; looks at those that ever were."""
        ranks = [pairs for rank, pairs in self._ranks.items() if rank > _BLOCKED_RANK]
        return sum(self.is_blocked(pair, now) for pairs in ranks for pair in pairs)

    def is_blocked(self, pair: Pair, now: float) -> bool:
        """Whether the pair is to be refused without a look at what it sends."""
        record = self._records.get(pair)
        return record is not None and now < record.blocked_until and self.limits.max > 0

    def failed(self, pair: Pair, now: float, user: str = "") -> float:
        """Counts a failed login; the seconds that the pair is refused from now on, 0.0 unless this opens the breaker.

        What was under way when it opened is not counted.
        """
        limits = self.limits
        if not limits.max or self.is_blocked(pair, now):
            return 0.0
        record = self._take_out(pair)
        if record is None or self._is_stale(record, now):
            record = _Record(now)
        elif now - record.window_began > limits.window:
            record.window_began, record.failures = now, 0
            record.by_user.clear()
        record.failures += 1
        if user in record.by_user or len(record.by_user) < _USERS_MAX:
            record.by_user[user] = record.by_user.get(user, 0) + 1
        block_s = 0.0
        if record.failures >= limits.max:
            block_s = min(limits.block * 2 ** min(record.blocks, _DOUBLINGS_MAX), limits.max_block)
            record.blocks += 1
            record.failures = 0
            record.by_user.clear()
            record.blocked_until = now + block_s
        if len(self._records) >= self._capacity:
            self._make_room(now)
        self._put_in(pair, record)
        return block_s

    def succeeded(self, pair: Pair, user: str = "") -> None:
        """Forgets the user's failures, and how often the pair was refused.

        Failures with other users' names stay: whoever has one password must not guess others without end.
        """
        record = self._take_out(pair)
        if record is None:
            return
        record.failures -= record.by_user.pop(user, 0)
        record.blocks = 0
        if record.failures:
            self._put_in(pair, record)

    def _is_stale(self, record: _Record, now: float) -> bool:
        """Whether nothing follows from it any more: the next block would be a first one."""
        is_quiet = now - record.window_began > self.limits.window
        return is_quiet and (not record.blocks or now - record.blocked_until > self.limits.max_block)

    def _make_room(self, now: float) -> None:
        lowest = min(self._ranks)
        oldest_of_each = [next(iter(self._ranks[rank])) for rank in sorted(self._ranks)]
        stale = (pair for pair in oldest_of_each if self._is_stale(self._records[pair], now))
        self._take_out(next(stale, next(iter(self._ranks[lowest]))))

    def _put_in(self, pair: Pair, record: _Record) -> None:
        self._records[pair] = record
        self._ranks.setdefault(record.rank, {})[pair] = None

    def _take_out(self, pair: Pair) -> _Record | None:
        record = self._records.pop(pair, None)
        if record is not None:
            pairs = self._ranks[record.rank]
            del pairs[pair]
            if not pairs:
                del self._ranks[record.rank]
        return record
