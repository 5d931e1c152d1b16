"""Pairs of tenant and address are refused after failures, alone, for a while, and the worst are forgotten last."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgweir_contract.abuse import FailedLogins
from pgweir_pooler.admission.breaker import Breaker, Pair

LIMITS = FailedLogins(max=3, window=10.0, block=5.0, max_block=30.0)
MALLORY = Pair("acme", "192.0.2.1")


def breaker(capacity: int = 100, **changes: float) -> Breaker:
    return Breaker(LIMITS.model_copy(update=changes), capacity)


def fail(books: Breaker, pair: Pair, now: float, times: int = 3) -> float:
    """The seconds of the block that the last failure brought."""
    return [books.failed(pair, now) for _ in range(times)][-1]


def test_the_last_failure_of_too_many_opens_it_for_that_pair_alone() -> None:
    books = breaker()
    assert [books.failed(MALLORY, now) for now in (0.0, 1.0, 2.0)] == [0.0, 0.0, 5.0]
    assert books.is_blocked(MALLORY, 6.9)
    assert not books.is_blocked(MALLORY, 7.0)
    for other in (Pair("globex", MALLORY.group), Pair("acme", "192.0.2.2")):
        assert not books.is_blocked(other, 3.0)
        assert books.failed(other, 3.0) == 0.0
    assert books.blocked(3.0) == 1


def test_failures_apart_do_not_add_up() -> None:
    books = breaker()
    assert [books.failed(MALLORY, now) for now in (0.0, 1.0, 11.0, 12.0, 22.5, 23.0)] == [0.0] * 6


def test_each_block_is_twice_as_long_up_to_the_bound() -> None:
    books, now, found = breaker(), 0.0, []
    for _ in range(5):
        found.append(fail(books, MALLORY, now))
        now += found[-1]
    assert found == [5.0, 10.0, 20.0, 30.0, 30.0]


def test_after_a_long_rest_it_begins_again() -> None:
    books = breaker()
    assert [fail(books, MALLORY, 0.0), fail(books, MALLORY, 6.0)] == [5.0, 10.0]
    assert fail(books, MALLORY, 16.0 + 30.1) == 5.0


def test_a_good_login_forgives_no_failures_with_other_names() -> None:
    books = breaker()
    for now in (0.0, 1.0):
        assert books.failed(MALLORY, now, "victim") == 0.0
        books.succeeded(MALLORY, "mallory")
    assert books.failed(MALLORY, 2.0, "victim") == 5.0

    books = breaker(max=20)
    for number in range(19):
        assert books.failed(MALLORY, 0.0, f"victim{number}") == 0.0
        books.succeeded(MALLORY, f"nobody{number}")
    books.succeeded(MALLORY, "victim0")
    books.succeeded(MALLORY, "victim18")  # one of those that are not told apart
    assert books.failed(MALLORY, 0.0, "victim") == 0.0
    assert books.failed(MALLORY, 0.0, "victim") == 5.0


def test_a_good_login_forgets_the_failures_of_its_own_pair() -> None:
    books, other = breaker(), Pair("acme", "192.0.2.2")
    fail(books, MALLORY, 0.0, times=2)
    fail(books, other, 0.0, times=2)
    books.succeeded(other)
    assert fail(books, MALLORY, 0.0, times=1) == 5.0
    assert fail(books, other, 0.0, times=2) == 0.0
    books.succeeded(Pair("nobody", "here"))


def test_what_was_under_way_when_it_opened_makes_it_no_longer() -> None:
    books = breaker()
    fail(books, MALLORY, 0.0)
    assert fail(books, MALLORY, 1.0, times=50) == 0.0
    assert not books.is_blocked(MALLORY, 5.0)


def test_zero_switches_it_off_at_once() -> None:
    books = breaker()
    fail(books, MALLORY, 0.0)
    books.limits = FailedLogins(max=0)
    assert not books.is_blocked(MALLORY, 0.1)
    assert fail(books, MALLORY, 0.2, times=100) == 0.0


@pytest.mark.parametrize("failures_of_each", [1, 2])
def test_a_flood_of_addresses_pushes_out_no_worse_one(failures_of_each: int) -> None:
    books = breaker()
    fail(books, MALLORY, 0.0)
    suspect = Pair("acme", "192.0.2.2")
    if failures_of_each == 1:
        fail(books, suspect, 0.0, times=2)
    for i in range(10_000):
        fail(books, Pair("acme", f"flood{i}"), 0.0, times=failures_of_each)
    assert len(books) == 100
    assert books.is_blocked(MALLORY, 1.0)
    if failures_of_each == 1:
        assert fail(books, suspect, 1.0, times=1) == 5.0, "its two failures are not forgotten"


def test_what_has_no_consequence_any_more_goes_first() -> None:
    books = breaker(capacity=3)
    fail(books, MALLORY, 0.0)
    fresh = [Pair("acme", "fresh0"), Pair("acme", "fresh1")]
    for pair in fresh:
        fail(books, pair, 100.0, times=1)
    books.failed(Pair("acme", "one more"), 100.0)
    assert [fail(books, pair, 100.0, times=2) for pair in fresh] == [5.0, 5.0]
    assert fail(books, MALLORY, 100.0, times=3) == 5.0, "forgotten: its blocks begin again"


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from(["fail", "succeed"]), st.floats(0, 20)), min_size=1, max_size=200
    )
)
def test_it_never_remembers_more_than_it_may_and_its_books_agree(steps: list[tuple[int, str, float]]) -> None:
    books, now = breaker(capacity=8), 0.0
    for number, what, later in steps:
        now += later
        pair = Pair("acme", str(number))
        if what == "fail":
            block_s = books.failed(pair, now)
            assert 0.0 <= block_s <= 30.0
            assert books.is_blocked(pair, now) == (block_s > 0 or books.is_blocked(pair, now))
        else:
            books.succeeded(pair)
            assert not books.is_blocked(pair, now)
        assert len(books) <= 8
        listed = [(pair, rank) for rank, pairs in books._ranks.items() for pair in pairs]
        assert {pair: record.rank for pair, record in books._records.items()} == dict(listed)
        assert len(listed) == len(books)
        assert all(books._ranks.values())
