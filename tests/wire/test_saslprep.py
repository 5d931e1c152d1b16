"""Passwords are prepared as PostgreSQL prepares them (RFC 4013, with raw bytes where it would refuse)."""

import pytest

from pgweir_pooler.wire.saslprep import prepared


@pytest.mark.parametrize(
    ("password", "expected"),
    [
        ("I\u00adX", "IX"),  # RFC 4013 section 3: SOFT HYPHEN mapped to nothing
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),  # NFKC
        ("\u2168", "IX"),  # NFKC
        ("a\u00a0b", "a b"),  # a space that is not ASCII
        ("x\u200by\u00e9", "x y\u00e9"),  # in both mapping tables: a space wins
        ("\u0627\u0628", "\u0627\u0628"),  # right to left throughout
        ("", ""),
    ],
)
def test_a_password_is_mapped_and_normalised(password: str, expected: str) -> None:
    assert prepared(password) == expected.encode()


@pytest.mark.parametrize(
    "password",
    [
        "a\u0007b",  # ASCII is never touched, control characters included
        "\u00e9\u0007\u2168",  # prohibited: control character
        "\u0627\u0031\u00ad",  # bidi: ends with a digit
        "\u0627\u00e9\u2168\u0627",  # bidi: both directions
        "\u00ad",  # nothing is left
        "\u00e9\U0001f600",  # unassigned in Unicode 3.2
        "\u2168\ue000",  # private use
    ],
)
def test_a_password_that_saslprep_refuses_is_taken_as_it_is(password: str) -> None:
    assert prepared(password) == password.encode()


def test_a_lone_surrogate_does_not_raise() -> None:
    assert prepared("a\ud800") == b"a\xed\xa0\x80"
