"""Durations are texts with a unit in files and seconds in Python."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgweir_contract.durations import LONGEST_S, parse_duration, render_duration
from pgweir_contract.models import PoolSettings
from pgweir_contract.reading import ContractError, validate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("60s", 60.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("0s", 0.0),
        ("0ms", 0.0),
        ("90m", 5400.0),
    ],
)
def test_each_unit_is_understood(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "60", "1.5s", "-1s", " 1s", "1s\n", "1 s", "1d", "1S", "s", "01s", "1m30s", "1e3s", "١s", "9" * 40],
)
def test_other_forms_are_refused_with_the_expected_one_and_without_the_text(text: str) -> None:
    with pytest.raises(ValueError, match="whole number with a unit") as caught:
        parse_duration(text)
    with pytest.raises(ValueError, match="whole number with a unit") as of_another:
        parse_duration("another")
    assert str(caught.value) == str(of_another.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0s"), (0.25, "250ms"), (1.0, "1s"), (90.0, "90s"), (60.0, "1m"), (7200.0, "2h"), (0.0004, "0s")],
)
def test_the_largest_unit_that_fits_is_written(seconds: float, text: str) -> None:
    assert render_duration(seconds) == text


@given(st.integers(0, int(LONGEST_S * 1000)))
def test_what_is_written_is_read_back(ms: int) -> None:
    assert parse_duration(render_duration(ms / 1000)) == ms / 1000


@pytest.mark.parametrize("value", [60, 60.0, True, None, ["60s"]])
def test_a_file_cannot_leave_the_unit_out(value: object) -> None:
    with pytest.raises(ContractError, match="queueTimeout: a duration is a whole number with a unit") as caught:
        validate(PoolSettings, {"queueTimeout": value})
    assert len(caught.value.problems) == 1


def test_python_code_gives_seconds() -> None:
    assert PoolSettings(queue_timeout=0.2).queue_timeout == 0.2
    assert PoolSettings(queue_timeout=3).queue_timeout == 3.0


def test_a_limit_that_must_exist_cannot_be_zero_and_none_is_longer_than_a_year() -> None:
    with pytest.raises(ContractError, match="queueTimeout"):
        validate(PoolSettings, {"queueTimeout": "0s"})
    with pytest.raises(ContractError, match="serverLifetime"):
        validate(PoolSettings, {"serverLifetime": "9999999h"})
    assert validate(PoolSettings, {"serverLifetime": "0s"}).server_lifetime == 0
