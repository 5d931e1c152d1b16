"""What one cancel ends of the bytes of a waiting client."""

import pytest

from harness import messages
from pgweir_pooler.session.waiting_batch import first_batch_size

QUERY = messages.query("select 1")
CALL = messages.message(b"F", b"\0\0\0\1\0\0\0\0\0\0")
BATCH = messages.extended("select 1")


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (QUERY, b""),
        (QUERY, QUERY),
        (QUERY, QUERY[:3]),
        (QUERY, messages.TERMINATE),
        (QUERY, messages.copy_data(b"1\n") + messages.COPY_DONE),
        (CALL, BATCH),
        (BATCH, b""),
        (BATCH, BATCH),
        (BATCH, messages.SYNC),
        (messages.parse("select 1") + QUERY + messages.SYNC, QUERY),  # PostgreSQL skips that Query
        (messages.parse("select 1") + messages.FLUSH + CALL + messages.SYNC, b"\xff"),
        (messages.execute() + messages.COPY_DONE + messages.SYNC, b""),
    ],
)
def test_the_first_batch_is_what_one_error_answers(first: bytes, rest: bytes) -> None:
    assert first_batch_size(first + rest) == len(first)
    for cut in range(len(first)):
        assert first_batch_size(first[:cut]) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        messages.SYNC,
        messages.SYNC + QUERY,
        messages.TERMINATE,
        messages.parse("select 1"),
        messages.parse("select 1") + messages.FLUSH,
        messages.parse("select 1") + messages.TERMINATE + messages.SYNC,
        messages.parse("select 1") + b"?\0\0\0\4" + messages.SYNC,
        b"?\0\0\0\4" + QUERY,
        b"Q\0\0\0\3" + QUERY,
        b"Q\x7f\xff\xff\xff" + QUERY,
        messages.parse("select 1") + b"S\0\0\0\0",
    ],
)
def test_what_is_not_sure_goes_on_waiting(data: bytes) -> None:
    assert first_batch_size(data) == 0
