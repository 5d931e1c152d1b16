"""Failed logins are answered at multiples of one step after their startup messages, and at no other time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgweir_pooler.admission.failure_time import FAILURE_STEP_S, answer_at


@given(st.floats(0, 1e6), st.floats(0, FAILURE_STEP_S * 0.999))
def test_work_of_less_than_a_step_does_not_show(startup_at: float, work_s: float) -> None:
    assert answer_at(startup_at, startup_at + work_s) == startup_at + FAILURE_STEP_S


@pytest.mark.parametrize(("work_s", "steps"), [(0.0, 1), (0.25, 1), (0.2501, 2), (0.5, 2), (59.9, 240)])
def test_longer_work_is_answered_at_the_next_multiple(work_s: float, steps: int) -> None:
    assert answer_at(100.0, 100.0 + work_s) == 100.0 + steps * FAILURE_STEP_S


@given(st.floats(0, 1e6), st.floats(0, 1e3))
def test_no_answer_is_due_in_the_past(startup_at: float, work_s: float) -> None:
    assert answer_at(startup_at, startup_at + work_s) >= startup_at + work_s - 1e-6
