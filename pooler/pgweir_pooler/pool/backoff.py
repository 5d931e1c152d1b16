"""When a pool may try the next login after one failed, and what the failure says to those who wait.

Enters: each failed login with `now` in seconds. Leaves: `retry_at`, before which no login is begun, and the server's
own error. The delay doubles from a quarter of a second to 15 s and ends with the first success.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgweir_pooler.errors import PoolerError, ServerLoginFailed

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_DELAY_S = 0.25
LAST_DELAY_S = 15.0
# A database that starts or recovers is asked again within this time, however long it takes.
STARTING_UP_DELAY_S = 1.0
# Many pools fail together when a database goes down: the delay is up to a quarter shorter, so they return apart.
JITTER = 0.25


class Backoff:
    """`jitter` yields a number in [0, 1)."""

    __slots__ = ("_delay_s", "_jitter", "error", "retry_at")

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._delay_s = 0.0
        self.error: PoolerError | None = None  # of the last login, until one succeeds
        self.retry_at = 0.0

    def failed(self, error: PoolerError, now: float) -> None:
        """Logins that were in flight together count as one failure."""
        self.error = error
        if now < self.retry_at:
            return
        last_s = STARTING_UP_DELAY_S if self.is_starting_up else LAST_DELAY_S
        self._delay_s = min(max(FIRST_DELAY_S, 2 * self._delay_s), last_s)
        self.retry_at = now + self._delay_s * (1 - JITTER * self._jitter())

    def forget(self) -> None:
        """A login succeeded, or endpoint or password changed."""
        self.error = None
        self._delay_s = 0.0
        self.retry_at = 0.0

    @property
    def is_starting_up(self) -> bool:
        """Whether the database said that it starts or recovers: that is worth waiting for."""
        return isinstance(self.error, ServerLoginFailed) and self.error.is_starting_up
