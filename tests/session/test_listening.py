"""The listening server's messages, however they are cut, and the statements that it gets."""

from collections.abc import Sequence

import pytest
from hypothesis import given

from harness.messages import message
from pgweir_pooler.session.listening import (
    STATEMENTS_PER_QUERY,
    Answer,
    ListeningStream,
    Notification,
    notify,
    queries,
)
from pgweir_pooler.wire.cursor import ServerProtocolError
from wire.splits import cuts, fed_every_way

READY = message(b"Z", b"I")
DONE = message(b"C", b"LISTEN\0")
ONE = message(b"A", b"\0\0\0\1a\0first\0")
TWO = message(b"A", b"\0\0\0\2b\0\0")
ERROR = message(b"E", b"SERROR\0C25006\0Mno\0\0")
NOTICE = message(b"N", b"SNOTICE\0\0")


def feed(pieces: Sequence[bytes], owed: int = 2) -> list[Notification | Answer]:
    stream = ListeningStream()
    stream.owed = owed
    return [found for piece in pieces for found in stream.receive(piece)]


@given(cuts)
def test_notifications_and_answers_come_in_order(places: list[int]) -> None:
    rows = message(b"T", b"\0\0") + message(b"D", b"\0\0") + message(b"I") + message(b"S", b"a\0b\0")
    data = ONE + DONE + TWO + READY + NOTICE + rows + ERROR + ONE + READY + TWO
    found = fed_every_way(feed, data, places)
    one, two = Notification(b"a", ONE), Notification(b"b", TWO)
    assert found == [one, two, Answer({}), one, Answer({"S": "ERROR", "C": "25006", "M": "no"}), two]


@pytest.mark.parametrize(
    "data",
    [
        READY * 3,
        message(b"1"),
        b"A\0\0\0\3",
        b"A\0\2\0\0",
        message(b"A", b"\0\0\0\1no end"),
        message(b"A", b"\0\0\0\1a\0b\0more"),
        message(b"G", b"\0\0\0"),
    ],
)
def test_what_does_not_belong_here_ends_it(data: bytes) -> None:
    with pytest.raises(ServerProtocolError):
        feed([data])


def test_names_are_quoted() -> None:
    assert queries([(True, b'a"b'), (False, b"Mixed")]) == [
        message(b"Q", b'LISTEN "a""b";UNLISTEN "Mixed"\0'),
    ]
    assert notify(b'"') == message(b"Q", b'NOTIFY """"\0')
    assert queries([]) == []


def test_many_changes_go_out_in_several_queries() -> None:
    found = queries((True, b"c%d" % i) for i in range(2 * STATEMENTS_PER_QUERY + 1))
    assert [query.count(b"LISTEN") for query in found] == [STATEMENTS_PER_QUERY, STATEMENTS_PER_QUERY, 1]
