"""Looks after the timeouts of all clients of the process.

No timer per client or query: one task goes through the sessions every half second, more often when a timeout is shorter
than five seconds (`session.timeouts.Timeouts.period_s`), in slices of the loop. A session tells when its queries began
and ended; what else must be known from one look to the next is in a `Watch`. `session.timeouts` decides.

A look at an idle client costs 0.13 us, so 10,000 of them cost 2.6 ms of a core per second; one that has a server or
waits for one costs 2 us.
"""

import asyncio
from collections.abc import Mapping
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Final

import structlog

from pgweir_pooler.errors import (
    ClientIdleTimeout,
    IdleTransactionTimeout,
    PoolerError,
    QueryTimeout,
    TransactionTimeout,
)
from pgweir_pooler.net.client_session import SESSION
from pgweir_pooler.net.last_words import LastWords
from pgweir_pooler.session.timeouts import CANCEL_GRACE_S, LONGEST_PERIOD_S, Phase, Sight, Timeouts, Verdict, decide
from pgweir_pooler.wire.framing import IDLE
from pgweir_pooler.wire.messages import notice_response

if TYPE_CHECKING:
    from pgweir_pooler.net.client_session import ClientSession
    from pgweir_pooler.net.server_connection import ServerConnection

log = structlog.get_logger()

SLICE_S: Final = 0.002
END_GRACE_S: Final = 5.0  # how long a server may take to finish the message after which its client reads why it ends
_LOOKS_PER_CLOCK: Final = 16  # what a look may lead to costs 0.1 ms at most


class Watch:
    """What was found at the last look at one session. Times are 0.0 when there was nothing."""

    __slots__ = ("asked_at", "cancelled_at", "cancelled_query", "ending_since", "silent_since")

    def __init__(self) -> None:
        self.asked_at = 0.0  # of the wait that the client was told of
        self.cancelled_query = 0.0  # when the query began that was cancelled
        self.cancelled_at = 0.0
        self.ending_since = 0.0  # since when its last words wait for the end of a message
        self.silent_since = 0.0  # since when the client owes the rest of a query


class TimeoutSweep:
    """One per process."""

    def __init__(self, sessions: Mapping[bytes, "ClientSession"]) -> None:
        self._sessions = sessions
        # Of sessions that hold a server or wait for one; the next look drops those it does not meet again.
        self._watches: dict[ClientSession, Watch] = {}
        self._period_s = LONGEST_PERIOD_S
        self._is_wanted = asyncio.Event()

    def joined(self, session: "ClientSession") -> None:
        """A client came whose timeouts may not allow to wait for the next look."""
        if session.held.timeouts.period_s < self._period_s:
            self._is_wanted.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self._is_wanted.clear()
            await self.sweep()
            try:
                async with asyncio.timeout(self._period_s):
                    await self._is_wanted.wait()
            except TimeoutError:
                pass

    async def sweep(self) -> None:
        """Looks once at every session that is there."""
        watches: dict[ClientSession, Watch] = {}
        period_s = LONGEST_PERIOD_S
        now = monotonic()
        ends_at = perf_counter() + SLICE_S
        for number, session in enumerate(list(self._sessions.values())):
            if not number % _LOOKS_PER_CLOCK and perf_counter() >= ends_at:
                await asyncio.sleep(0)
                now = monotonic()
                ends_at = perf_counter() + SLICE_S
            timeouts = session.held.timeouts
            if timeouts.period_s < period_s:
                period_s = timeouts.period_s
            if session.server is None and not session.is_waiting:
                idle_s = timeouts.client_idle_s
                if not idle_s or now < session.ready_at + idle_s:
                    continue  # by far the most common case; `decide` would come to the same
            try:
                self._look_at(session, timeouts, now, watches)
            except Exception:  # whatever is wrong with one session, the others keep their timeouts
                log.exception("looking after a client's timeouts failed")
        self._watches = watches
        self._period_s = period_s

    def _look_at(
        self, session: "ClientSession", timeouts: Timeouts, now: float, watches: "dict[ClientSession, Watch]"
    ) -> None:
        if session.is_closing:
            return
        watch = self._watches.get(session) or Watch()
        server = session.server
        if server is not None:
            watches[session] = watch
            sight = _with_server(session, server, watch, now)
        elif session.is_waiting:
            watches[session] = watch
            asked_at = session.pool.asked_at(session) or 0.0  # a server that takes its settings is not waited for
            sight = Sight(Phase.WAITING, asked_at, is_told=watch.asked_at == asked_at)
        else:
            sight = Sight(Phase.IDLE, session.ready_at)
        verdict = decide(sight, timeouts, now)
        if verdict is Verdict.TELL:
            watch.asked_at = sight.since
            _tell(session, now - sight.since)
        elif verdict is Verdict.CANCEL and server is not None:
            watch.cancelled_query, watch.cancelled_at = sight.query_started, now
            _cancel(session, server, timeouts)
        elif verdict is not None:
            _end(session, server, watch, now, _error(verdict, timeouts))


def _with_server(session: "ClientSession", server: "ServerConnection", watch: Watch, now: float) -> Sight:
    """What a session does that holds a server."""
    pipeline = server.stream.pipeline
    is_mid_message = session.stream.is_mid_message
    transaction_started = session.transaction_started
    started = session.query_started
    if pipeline.is_settled and not is_mid_message:
        watch.silent_since = 0.0
        # The beginning of a message that could not be forwarded yet is in nobody's books but counts as a word.
        since = max(session.ready_at, started)
        if (session.mode == SESSION or session.pins) and pipeline.status == IDLE:
            return Sight(Phase.IDLE, since)
        return Sight(Phase.HOLDING, since, transaction_started=transaction_started)
    cancelled_at = watch.cancelled_at if watch.cancelled_query == started else 0.0
    if session.is_reading_paused or not pipeline.awaits_client(is_mid_message=is_mid_message):
        watch.silent_since = 0.0
        return Sight(Phase.RUNNING, started, started, transaction_started, cancelled_at)
    # When the server began to wait is not known, for no ReadyForQuery came: it counts from the first look.
    if session.is_heard or not watch.silent_since:
        session.is_heard = False
        watch.silent_since = now
    # A COPY runs while it waits; of other queries the server has not begun anything that a cancel would end.
    query_started = started if pipeline.is_copying_in else 0.0
    return Sight(Phase.HOLDING, watch.silent_since, query_started, transaction_started, cancelled_at)


def _tell(session: "ClientSession", waited_s: float) -> None:
    """The client waits for a server: it is between two queries, so a notice may come."""
    text = f"waiting for a server connection for {waited_s:.1f} s"
    hint = "All connections of the pool are in use. The query runs as soon as one is free."
    session.transport.write(notice_response("NOTICE", "00000", text, hint=hint))


def _cancel(session: "ClientSession", server: "ServerConnection", timeouts: Timeouts) -> None:
    error = QueryTimeout(f"canceling the query after {timeouts.query_s:g} s, the pool's queryTimeout")
    if not server.stream.forwarded_part_lacks:  # PostgreSQL's own words will be that a user asked for it
        session.transport.write(notice_response("NOTICE", error.sqlstate, error.client_text()))
    session.clients.counters.error(error.code)
    session.clients.log_closed(session, error, "query cancelled")
    session.cancel_query(server)


def _end(
    session: "ClientSession", server: "ServerConnection | None", watch: Watch, now: float, error: PoolerError
) -> None:
    if server is None or not server.stream.forwarded_part_lacks or 0 < watch.ending_since <= now - END_GRACE_S:
        session.close(error)
    elif not watch.ending_since:
        watch.ending_since = now
        LastWords(session, server, error)


def _error(verdict: Verdict, timeouts: Timeouts) -> PoolerError:
    if verdict is Verdict.END_TRANSACTION:
        return TransactionTimeout(timeouts.transaction_s)
    if verdict is Verdict.END_IDLE_TRANSACTION:
        return IdleTransactionTimeout(timeouts.idle_transaction_s)
    if verdict is Verdict.END_IDLE_CLIENT:
        return ClientIdleTimeout(timeouts.client_idle_s)
    return QueryTimeout(
        f"terminating connection due to query timeout: the query did not end within {CANCEL_GRACE_S:g} s of its cancel",
        hint=f"The pool's queryTimeout is {timeouts.query_s:g} s.",
    )
