"""Which refused logins get a line of their own in the log: the first of each tenant and address in an interval.

The others are counted, and told when the interval is over. So whoever fails as fast as he can writes two lines per
interval, and all together LINES_MAX, and one for the rest.
"""

from collections.abc import Mapping
from typing import Final

from pgweir_pooler.admission.breaker import Pair

INTERVAL_S: Final = 10.0
LINES_MAX: Final = 100  # pairs with lines of their own in one interval


class RefusalLog:
    """See the module. Its owner ends each interval, which begins with the first note."""

    __slots__ = ("_left_out", "_others")

    def __init__(self) -> None:
        self._left_out: dict[Pair, int] = {}  # pairs that had a line, and how many they had not
        self._others = 0  # refusals of pairs that had none

    @property
    def is_empty(self) -> bool:
        """Whether nothing was noted in this interval."""
        return not self._left_out

    def note(self, pair: Pair) -> bool:
        """Whether this refusal gets a line."""
        if pair in self._left_out:
            self._left_out[pair] += 1
            return False
        if len(self._left_out) >= LINES_MAX:
            self._others += 1
            return False
        self._left_out[pair] = 0
        return True

    def end_interval(self) -> tuple[Mapping[Pair, int], int]:
        """What got no line: the pairs with a count, and how many refusals of other pairs; then all is forgotten."""
        told = {pair: count for pair, count in self._left_out.items() if count}
        others, self._others = self._others, 0
        self._left_out = {}
        return told, others
