"""How fast connections come from each address group: a token bucket per group, of a bounded number of groups."""

from typing import Final

from pgweir_contract.abuse import LoginRate

CAPACITY: Final = 10_000  # buckets that are not full


class LoginRates:
    """See the module. Without a limit everybody passes."""

    __slots__ = ("_buckets", "_limit")

    def __init__(self, limit: LoginRate | None = None) -> None:
        self._limit = limit
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and when; the one used longest ago first

    def learn(self, limit: LoginRate | None) -> None:
        """Takes over a new limit; buckets are full under it."""
        if limit != self._limit:
            self._limit = limit
            self._buckets.clear()

    def take(self, group: str, now: float) -> bool:
        """Whether one more login may begin."""
        limit = self._limit
        if limit is None:
            return True
        tokens, since = self._buckets.pop(group, (float(limit.burst), now))
        tokens = min(limit.burst, tokens + (now - since) * limit.per_second)
        is_free = tokens >= 1
        if len(self._buckets) >= CAPACITY:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[group] = (tokens - 1 if is_free else tokens, now)
        return is_free
