"""A flood of refusals fills no log, and is counted."""

from pgweir_pooler.admission.breaker import Pair
from pgweir_pooler.admission.refusal_log import LINES_MAX, RefusalLog

A, B = Pair("acme", "192.0.2.1"), Pair("acme", "192.0.2.2")


def test_the_first_of_each_pair_gets_a_line_and_the_others_are_counted() -> None:
    refusals = RefusalLog()
    assert refusals.is_empty
    assert [refusals.note(pair) for pair in (A, A, B, A)] == [True, False, True, False]
    assert not refusals.is_empty
    assert refusals.end_interval() == ({A: 2}, 0)
    assert refusals.is_empty
    assert refusals.note(A)


def test_more_pairs_than_fit_share_one_count() -> None:
    refusals = RefusalLog()
    lines = sum(refusals.note(Pair("acme", str(i))) for i in range(LINES_MAX + 50))
    assert lines == LINES_MAX
    assert refusals.end_interval() == ({}, 50)
