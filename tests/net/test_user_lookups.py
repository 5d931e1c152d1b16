"""Who is looked up, without a database: what is joined, given up and refused, and what an answer may look like."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from pgweir_pooler.errors import PoolerError, ServerUnreachable, UserLookupFailed
from pgweir_pooler.net.user_lookups import UserLookups, read_answer
from pgweir_pooler.user_cache import Found
from pgweir_pooler.wire.scram import Verifier

VERIFIER = Verifier.from_password("secret", b"0123456789abcdef", 1)
MOMENT = datetime(2027, 1, 1, tzinfo=UTC)


class Pool:
    """Notes who asks for a server, and gives none."""

    def __init__(self) -> None:
        self.waiters: list[Any] = []

    def ask(self, waiter: Any) -> None:
        self.waiters.append(waiter)


class Tenant:
    def __init__(self) -> None:
        self.entry = SimpleNamespace(tenant_id="acme")
        self.lookup_problem = ""
        self.failed: list[str] = []

    def users_failed(self, name: str, now: float) -> None:
        self.failed.append(name)


@pytest.fixture
def lookups() -> Iterator[tuple[UserLookups, Tenant, Pool]]:
    pool = Pool()
    directory: Any = SimpleNamespace(lookup_pool=lambda _tenant: SimpleNamespace(pool=pool))
    loop = asyncio.new_event_loop()
    yield UserLookups(loop, directory), Tenant(), pool
    loop.close()


def test_those_who_wait_are_told_the_same_and_those_who_left_are_not(lookups: Any) -> None:
    finder, tenant, pool = lookups
    told: list[tuple[int, PoolerError | None]] = []
    leave = [finder.find(tenant, user, lambda e, i=i: told.append((i, e))) for i, user in enumerate("aabc")]
    assert len(pool.waiters) == 1, "one server for all of them"
    leave[1]()
    leave[3]()
    pool.waiters[0].refused(ServerUnreachable("it is down"))
    assert [i for i, _ in told] == [0, 2]
    assert all(isinstance(error, UserLookupFailed) and "it is down" in error.log_text() for _, error in told)
    assert tenant.failed == ["a", "b"], "who is wanted by nobody is forgotten"
    assert tenant.lookup_problem == "it is down"
    assert not finder._of
    leave[0]()
    finder.find(tenant, "a", lambda e: told.append((4, e)))
    assert len(pool.waiters) == 2


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([], None),
        ([(None, None)], None),
        ([("bob", None)], Found()),
        ([("bob", VERIFIER.render())], Found((VERIFIER,))),
        ([("bob", VERIFIER.render(), None)], Found((VERIFIER,))),
        ([("bob", VERIFIER.render(), MOMENT)], Found((VERIFIER,), MOMENT)),
        ([("bob", VERIFIER.render(), datetime.max)], Found((VERIFIER,))),  # noqa: DTZ901
        ([("bob", VERIFIER.render(), datetime.min)], Found((VERIFIER,), datetime(1970, 1, 1, tzinfo=UTC))),  # noqa: DTZ901
    ],
)
def test_what_a_query_may_say(rows: list[tuple[object, ...]], found: Found | None) -> None:
    assert read_answer(rows, "bob") == found


@pytest.mark.parametrize(
    "rows",
    [
        [("bob",)],
        [("bob", "x", None, None)],
        [("bob", VERIFIER.render()), ("bob", VERIFIER.render())],
        [("eve", VERIFIER.render())],
        [("bob", "hunter2")],
        [("bob", VERIFIER.render(), "2027-01-01")],
        [("bob", VERIFIER.render(), datetime(2027, 1, 1))],  # noqa: DTZ001
    ],
)
def test_what_it_may_not_say_is_an_error_that_repeats_nothing(rows: list[tuple[object, ...]]) -> None:
    with pytest.raises(UserLookupFailed) as caught:
        read_answer(rows, "bob")
    for word in ("hunter2", "eve", "SCRAM-SHA-256$"):
        assert word not in caught.value.log_text() + caught.value.client_text()
