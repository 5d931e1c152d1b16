"""Looks users up in their tenants' databases: who asks for the same user is joined, one query at a time per tenant.

The connection is a server of a pool of its own, of size one, in the instance's budget: opened when somebody is looked
up, closed when it was idle for a while, or when another pool needs its place.
"""

from __future__ import annotations

from datetime import UTC, datetime
from time import time
from typing import TYPE_CHECKING, Final, TypeAlias

import structlog

from pgweir_pooler.credentials import stored_secret
from pgweir_pooler.errors import PoolerError, UserLookupFailed
from pgweir_pooler.net.lookup_server import LookupServer
from pgweir_pooler.pool.keys import CloseReason
from pgweir_pooler.user_cache import Found

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from pgweir_pooler.directory import Directory, Tenant
    from pgweir_pooler.pool.pool import Pool
    from pgweir_pooler.pool.slot import Connection

    # None: the cache knows now, also that there is no such user. An error: nobody knows.
    Answer: TypeAlias = Callable[[PoolerError | None], None]

log = structlog.get_logger()

_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)

DEFAULT_QUERY: Final = (
    "SELECT rolname::pg_catalog.text, rolpassword::pg_catalog.text, rolvaliduntil::pg_catalog.timestamptz"
    " FROM pg_catalog.pg_authid WHERE rolname OPERATOR(pg_catalog.=) $1 AND rolcanlogin"
)


class UserLookups:
    """Those of all tenants."""

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: Directory) -> None:
        self._loop = loop
        self._directory = directory
        self._of: dict[Tenant, _TenantLookups] = {}  # while somebody waits

    def find(self, tenant: Tenant, user: str, answer: Answer) -> Callable[[], None]:
        """Looks the user up; returns what gives that up for this caller."""
        lookups = self._of.get(tenant)
        if lookups is None:
            lookups = self._of[tenant] = _TenantLookups(self._loop, self._directory, tenant)
        lookups.add(user, answer)

        def abandon() -> None:
            lookups.remove(user, answer)

        if lookups.is_idle:
            self._of.pop(tenant, None)
        else:
            lookups.on_idle = lambda: self._of.pop(tenant, None)
        return abandon


class _TenantLookups:
    """Those of one tenant; a waiter of the pool with its one server."""

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: Directory, tenant: Tenant) -> None:
        self._loop = loop
        self._directory = directory
        self._tenant = tenant
        self._wanted: dict[str, list[Answer]] = {}  # by user, in the order they came; until answered
        self._current: str | None = None  # who is being looked up
        self._asked: Pool | None = None  # in whose queue we wait
        self._task: asyncio.Task[None] | None = None  # while a server is ours
        self.on_idle: Callable[[], object] = lambda: None

    @property
    def is_idle(self) -> bool:
        """Nobody waits and nothing runs."""
        return not self._wanted and self._asked is None and self._task is None

    def add(self, user: str, answer: Answer) -> None:
        self._wanted.setdefault(user, []).append(answer)
        if self._asked is None and self._task is None:
            self._ask()

    def remove(self, user: str, answer: Answer) -> None:
        """The query still runs when it has begun: what it finds is worth knowing."""
        answers = self._wanted.get(user, [])
        if answer in answers:
            answers.remove(answer)
            if not answers and user != self._current:  # names of clients that are gone must not pile up
                del self._wanted[user]

    def _ask(self) -> None:
        held = self._directory.lookup_pool(self._tenant)
        if held is None:
            self._refuse_all(UserLookupFailed("the tenant's users are no longer looked up"))
            return
        self._asked = held.pool
        held.pool.ask(self)

    # --- pool.slot.Waiter

    def granted(self, connection: Connection, now: float) -> None:
        assert isinstance(connection, LookupServer)
        self._asked = None
        self._task = self._loop.create_task(self._serve(connection), name=f"look users of {self._tenant_id} up")
        self._task.add_done_callback(self._served)

    def refused(self, error: PoolerError) -> None:
        asked, self._asked = self._asked, None
        held = self._directory.lookup_pool(self._tenant)
        if held is not None and held.pool is not asked and asked is not None:
            self._ask()  # it drains because the tenant has moved
        else:
            self._refuse_all(UserLookupFailed(error.log_text()))

    # --- the work

    @property
    def _tenant_id(self) -> str:
        return self._tenant.entry.tenant_id

    async def _serve(self, server: LookupServer) -> None:
        """Looks up everybody who is wanted now or until the last one is found."""
        try:
            while self._wanted and self._is_right(server):
                self._current = next(iter(self._wanted))
                await self._look_up(server, self._current)
                self._current = None
        except BaseException:
            server.pool.discard(server, CloseReason.BROKEN)
            raise
        if server.slot in server.pool.ledger.active:
            server.pool.give_back(server)

    def _is_right(self, server: LookupServer) -> bool:
        """Whether the server is one to ask: alive, and not of before a change of the tenant."""
        held, pool = self._tenant.lookups, server.pool
        is_current = held is not None and held.pool is pool and server.slot.generation == pool.ledger.generation
        return is_current and not server.is_lost

    def _served(self, task: asyncio.Task[None]) -> None:
        self._task = self._current = None
        if not task.cancelled() and task.exception() is not None:
            log.error("looking users up failed in an unknown way", tenant=self._tenant_id, exc_info=task.exception())
            self._refuse_all(UserLookupFailed("the pooler failed"))
        elif self._wanted:
            self._ask()  # its server ended
        else:
            self.on_idle()

    async def _look_up(self, server: LookupServer, user: str) -> None:
        tenant, entry = self._tenant, self._tenant.entry
        error: UserLookupFailed | None = None
        try:
            timeout_s = entry.upstream.connect_timeout
            found = read_answer(await server.look_up(entry.auth.query or DEFAULT_QUERY, user, timeout_s), user)
        except UserLookupFailed as failed:
            error = failed
            tenant.users_failed(user, time())
            self._report(failed.why)
        else:
            if tenant.entry is not entry:
                return  # the question may have changed meanwhile: it is asked again
            self._directory.user_found(tenant, user, found, time())
            self._report("")
        for answer in self._wanted.pop(user, ()):
            answer(error)

    def _report(self, problem: str) -> None:
        """One line when it begins to fail, or fails for another reason, and one when it works again."""
        before, self._tenant.lookup_problem = self._tenant.lookup_problem, problem
        if problem and problem != before:
            log.warning("users cannot be looked up", tenant=self._tenant_id, reason=problem)
        elif before and not problem:
            log.info("users can be looked up again", tenant=self._tenant_id)

    def _refuse_all(self, error: UserLookupFailed) -> None:
        wanted, self._wanted = self._wanted, {}
        self._report(error.why)
        now = time()
        for user, answers in wanted.items():
            self._tenant.users_failed(user, now)
            for answer in answers:
                answer(error)
        if self.is_idle:
            self.on_idle()


def read_answer(rows: Sequence[Sequence[object]], user: str) -> Found | None:
    """What a query says of a user; None: there is none. Raises UserLookupFailed, which repeats nothing of it."""
    if not rows:
        return None
    if len(rows) > 1:
        raise UserLookupFailed("auth.query gives more than one row")
    row = tuple(rows[0])
    if len(row) not in (2, 3):
        raise UserLookupFailed("auth.query gives neither two nor three columns")
    name, secret, *rest = row
    valid_until = _moment(rest[0]) if rest else None
    if name is None and secret is None:
        return None  # as a function without a row to return says it
    if name != user:
        raise UserLookupFailed("auth.query gives another user than the one it was asked for")
    if secret is None:
        return Found((), valid_until)  # no password: nobody can log in by one
    try:
        return Found((stored_secret(str(secret)),), valid_until)
    except ValueError:
        raise UserLookupFailed(
            "auth.query's second column is neither a SCRAM-SHA-256 verifier nor an md5 hash"
        ) from None


def _moment(value: object) -> datetime | None:
    """VALID UNTIL; None: for ever."""
    if value is None or value == datetime.max:  # noqa: DTZ901 - asyncpg's word for infinity
        return None
    if value == datetime.min:  # noqa: DTZ901
        return _LONG_AGO
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise UserLookupFailed("auth.query's third column is no timestamptz")
    return value
