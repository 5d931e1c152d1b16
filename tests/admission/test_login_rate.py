"""An address begins logins as fast as its bucket fills, and takes nothing from another's."""

from pgweir_contract.abuse import LoginRate
from pgweir_pooler.admission.login_rate import CAPACITY, LoginRates


def test_a_burst_then_the_rate() -> None:
    rates = LoginRates(LoginRate(per_second=10, burst=3))
    assert [rates.take("a", 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert [rates.take("a", 0.11), rates.take("a", 0.12), rates.take("a", 0.21)] == [True, False, True]
    assert rates.take("b", 0.21)
    assert [rates.take("a", 100.0) for _ in range(4)] == [True, True, True, False]


def test_without_a_limit_everybody_passes() -> None:
    rates = LoginRates()
    assert all(rates.take("a", 0.0) for _ in range(1000))
    rates.learn(LoginRate(per_second=1, burst=1))
    assert [rates.take("a", 0.0) for _ in range(2)] == [True, False]
    rates.learn(LoginRate(per_second=1, burst=1))
    assert not rates.take("a", 0.0), "the same limit again changes nothing"
    rates.learn(None)
    assert rates.take("a", 0.0)


def test_memory_is_bounded() -> None:
    rates = LoginRates(LoginRate(per_second=1, burst=1))
    for i in range(CAPACITY + 100):
        rates.take(str(i), 0.0)
    assert len(rates._buckets) == CAPACITY
