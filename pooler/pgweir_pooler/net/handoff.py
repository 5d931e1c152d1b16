"""From one listening server to the next, each notification delivered once.

Both listen to everything, and to a channel of this handoff alone. Then the new one notifies on that channel: PostgreSQL
gives every session the notifications in commit order, so this mark divides what both hear at the same place. The old
one is delivered up to the mark, the new one from it on; what one hears behind it is kept until the other has got there,
too. An old server that
answers a later query without having heard the mark is on another database: then nothing can be said, and it is a gap.
A server that answers with an error has failed, and whoever owns the handoff ends it by `abandon`.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from pgweir_pooler.session.listening import ARE_YOU_THERE, notify, queries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from pgweir_pooler.net.listening_server import ListeningServer

    Heard: TypeAlias = list[tuple[bytes, bytes]]  # channel, message

# What one server may hear while the other one does not come to the mark: seconds of a busy database.
KEPT_BYTES: Final = 16_777_216


class Handoff:
    """See the module. `done` gets what the new server heard from the mark on, or None for a gap; it is called once."""

    __slots__ = (
        "_done",
        "_failed",
        "_heard",
        "_heard_by_old",
        "_is_new_marked",
        "_is_old_marked",
        "_kept_bytes",
        "_listening",
        "_mark",
        "new",
        "old",
    )

    def __init__(
        self,
        old: ListeningServer,
        new: ListeningServer,
        done: Callable[[Heard | None], None],
        failed: Callable[[ListeningServer, dict[str, str]], None],
    ) -> None:
        self.old = old
        self.new = new
        self._done: Callable[[Heard | None], None] | None = done  # until it is called
        self._failed = failed
        self._mark = b"pgweir_handoff_" + secrets.token_hex(8).encode()
        self._listening = 0  # servers that listen to the mark
        self._is_old_marked = False
        self._is_new_marked = False
        self._heard: Heard = []  # by the new one from the mark on
        self._heard_by_old: Heard = []  # from the mark on, in case that the new one fails before it comes to the mark
        self._kept_bytes = 0

    def begin(self, channels: Sequence[bytes]) -> None:
        """What comes to be listened on later must be told to both servers."""
        mark = queries([(True, self._mark)])
        self._ask(self.old, mark, self._listens)
        self._ask(self.new, queries((True, channel) for channel in channels) + mark, self._listens)

    def abandon(self) -> Heard:
        """One of the two was lost; `done` is not called. What it returns is to be delivered if that was the new one."""
        self._done = None
        self.old.ask(queries([(False, self._mark)]))
        return self._heard_by_old

    def must_deliver(self, server: ListeningServer, channel: bytes, message: bytes) -> bool:
        """Whether a notification of one of the two goes to the clients now."""
        if channel == self._mark:
            if server is self.old:
                self._is_old_marked = True
            else:
                self._is_new_marked = True
            if self._is_old_marked and self._is_new_marked:
                self._end(self._heard)
            return False
        if server is self.old:
            if not self._is_old_marked:
                return True
            self._keep(self._heard_by_old, channel, message)
        elif self._is_new_marked:
            self._keep(self._heard, channel, message)
        return False

    def _keep(self, place: Heard, channel: bytes, message: bytes) -> None:
        place.append((channel, message))
        self._kept_bytes += len(message)
        if self._kept_bytes > KEPT_BYTES:
            self._end(None)

    def _ask(self, server: ListeningServer, asked: Sequence[bytes], then: Callable[[], None]) -> None:
        def answered(error: dict[str, str]) -> None:
            if self._done is None:
                return
            if error:
                self._failed(server, error)
            else:
                then()

        server.ask(asked, answered)

    def _listens(self) -> None:
        self._listening += 1
        if self._listening == 2:
            self._ask(self.new, [notify(self._mark)], self._marked)

    def _marked(self) -> None:
        self._ask(self.old, [ARE_YOU_THERE], self._old_is_past)

    def _old_is_past(self) -> None:
        """PostgreSQL signals a notification before it answers the NOTIFY, and sends it before the next answer."""
        if not self._is_old_marked:
            self._end(None)

    def _end(self, heard: Heard | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            self.new.ask(queries([(False, self._mark)]))
            done(heard)
