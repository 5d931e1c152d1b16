"""What is due, by phase, clocks and timeouts."""

import pytest

from pgweir_pooler.session.timeouts import (
    CANCEL_GRACE_S,
    LONGEST_PERIOD_S,
    SHORTEST_PERIOD_S,
    Phase,
    Sight,
    Timeouts,
    Verdict,
    decide,
)

# Of different lengths, so that no test passes by mistaking one for another.
ALL = Timeouts(query_s=10, transaction_s=40, idle_transaction_s=20, client_idle_s=30, wait_notify_s=5)


@pytest.mark.parametrize("now", [100.0, 1e9])
@pytest.mark.parametrize("phase", Phase)
def test_nothing_is_due_when_all_is_off(phase: Phase, now: float) -> None:
    sight = Sight(phase, since=100, query_started=100, transaction_started=100)
    assert decide(sight, Timeouts(), now) is None


@pytest.mark.parametrize(
    ("sight", "due_at", "verdict"),
    [
        (Sight(Phase.IDLE, 100), 130, Verdict.END_IDLE_CLIENT),
        (Sight(Phase.WAITING, 100), 105, Verdict.TELL),
        (Sight(Phase.RUNNING, 100, 100, 100), 110, Verdict.CANCEL),
        (Sight(Phase.RUNNING, 100, 100, 60), 100, Verdict.END_TRANSACTION),
        (Sight(Phase.RUNNING, 100, 100, 65), 105, Verdict.END_TRANSACTION),
        (Sight(Phase.RUNNING, 100, 100, 70), 110, Verdict.END_TRANSACTION),  # both at once: PostgreSQL's order
        (Sight(Phase.RUNNING, 100, 100, 100, cancelled_at=110), 110 + CANCEL_GRACE_S, Verdict.END_QUERY),
        (Sight(Phase.RUNNING, 100, 100, 72, cancelled_at=110), 112, Verdict.END_TRANSACTION),
        (Sight(Phase.RUNNING, 100), None, None),
        (Sight(Phase.HOLDING, 100, transaction_started=90), 120, Verdict.END_IDLE_TRANSACTION),
        (Sight(Phase.HOLDING, 100, transaction_started=75), 115, Verdict.END_TRANSACTION),
        (Sight(Phase.HOLDING, 100), 120, Verdict.END_IDLE_TRANSACTION),  # a Parse that was never executed
        (Sight(Phase.HOLDING, 100, query_started=95), 105, Verdict.CANCEL),  # COPY FROM STDIN
        (Sight(Phase.HOLDING, 100, 95, cancelled_at=105), 105 + CANCEL_GRACE_S, Verdict.END_QUERY),
    ],
    ids=str,
)
def test_it_is_due_at_its_time_and_not_before(sight: Sight, due_at: float | None, verdict: Verdict | None) -> None:
    if due_at is not None:
        assert decide(sight, ALL, due_at - 0.001) is None
        assert decide(sight, ALL, due_at) is verdict
    else:
        assert decide(sight, ALL, 1e9) is None


def test_each_timeout_concerns_its_phase_alone() -> None:
    late = 1e6
    running = Sight(Phase.RUNNING, 100, 100, 100)
    holding = Sight(Phase.HOLDING, 100, transaction_started=100)
    idle = Sight(Phase.IDLE, 100)
    waiting = Sight(Phase.WAITING, 100)
    sights = {"running": running, "holding": holding, "idle": idle, "waiting": waiting}
    cases = {
        "running": Timeouts(query_s=1),
        "running holding": Timeouts(transaction_s=1),
        "holding": Timeouts(idle_transaction_s=1),
        "idle": Timeouts(client_idle_s=1),
        "waiting": Timeouts(wait_notify_s=1),
    }
    for concerned, timeouts in cases.items():
        found = [name for name, sight in sights.items() if decide(sight, timeouts, late)]
        assert found == concerned.split()


def test_who_waits_is_told_once() -> None:
    assert decide(Sight(Phase.WAITING, 100, is_told=True), ALL, 1e9) is None


def test_who_is_being_given_a_server_is_not_told() -> None:
    assert decide(Sight(Phase.WAITING, 0.0), ALL, 1e9) is None


def test_a_cancel_is_followed_up_when_the_timeout_was_switched_off_meanwhile() -> None:
    cancelled = Sight(Phase.RUNNING, 100, 100, 100, cancelled_at=110)
    assert decide(cancelled, Timeouts(), 110 + CANCEL_GRACE_S) is Verdict.END_QUERY


@pytest.mark.parametrize(
    ("timeouts", "period_s"),
    [
        (Timeouts(), LONGEST_PERIOD_S),
        (Timeouts(query_s=3600), LONGEST_PERIOD_S),
        (Timeouts(query_s=3600, wait_notify_s=5), 0.5),
        (Timeouts(client_idle_s=0.8, transaction_s=60), 0.08),
        (Timeouts(idle_transaction_s=0.3), SHORTEST_PERIOD_S),
        (Timeouts(transaction_s=0.001), SHORTEST_PERIOD_S),
    ],
)
def test_short_timeouts_are_looked_after_often(timeouts: Timeouts, period_s: float) -> None:
    assert timeouts.period_s == pytest.approx(period_s)


def test_timeouts_are_equal_by_value() -> None:
    assert Timeouts(query_s=1) == Timeouts(query_s=1) != Timeouts(query_s=2)
