"""The md5 answer is the one libpq sends."""

from pgweir_pooler.wire.md5 import md5_answer


def test_the_answer_is_that_of_a_worked_example() -> None:
    # md5sum by hand: printf 'secretbob' | md5sum, then that hex and the salt again.
    assert md5_answer("bob", "secret", b"\x01\x02\x03\x04") == b"md5f21dfe33ff3a9e03dbc3e008251fe5cc"
