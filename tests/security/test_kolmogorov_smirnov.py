"""The statistic agrees with tables of Kolmogorov's distribution, and seldom sees what is not there."""

import random

import pytest

from security.kolmogorov_smirnov import distance, p_value


def test_equal_samples_are_alike() -> None:
    assert p_value(range(100), range(100)) == 1.0


def test_samples_apart_are_not() -> None:
    assert distance(range(100), range(100, 200)) == 1.0
    assert p_value(range(100), range(100, 200)) < 1e-20


@pytest.mark.parametrize(("shift", "found"), [(10, 0.66), (15, 0.19), (20, 0.03), (30, 0.00017)])
def test_a_shift_of_a_hundred_values_shows(shift: int, found: float) -> None:
    """Kolmogorov's distribution at shift/100 * sqrt(50), by any table."""
    assert p_value(range(100), range(shift, 100 + shift)) == pytest.approx(found, rel=0.35)


def test_one_distribution_seldom_looks_like_two() -> None:
    source = random.Random(7)
    values = [p_value(*([source.gauss(0, 1) for _ in range(200)] for _ in range(2))) for _ in range(200)]
    assert 0 <= sum(p < 0.05 for p in values) <= 22
