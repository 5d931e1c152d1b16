"""The two-sample Kolmogorov–Smirnov test: how likely two samples of one distribution differ as much as these do."""

import math
from bisect import bisect_right
from collections.abc import Sequence


def p_value(one: Sequence[float], other: Sequence[float]) -> float:
    """The asymptotic p-value (Numerical Recipes 14.3.3): good to a few per cent of itself from 20 values on."""
    effective = math.sqrt(len(one) * len(other) / (len(one) + len(other)))
    return _survival((effective + 0.12 + 0.11 / effective) * distance(one, other))


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference between the two distribution functions."""
    first, second = sorted(one), sorted(other)
    return max(
        abs(bisect_right(first, x) / len(first) - bisect_right(second, x) / len(second)) for x in (*first, *second)
    )


def _survival(x: float) -> float:
    if x < 0.2:  # the series is 1 to twelve digits there, and converges slowly
        return 1.0
    total = sum(math.copysign(math.exp(-2 * k * k * x * x), k % 2 - 0.5) for k in range(1, 101))
    return min(1.0, max(0.0, 2 * total))
