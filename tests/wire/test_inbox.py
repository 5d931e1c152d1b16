"""Messages come out of the inbox whole, however their bytes arrive."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgweir_pooler.errors import ProtocolViolation
from pgweir_pooler.wire.inbox import Inbox
from pgweir_pooler.wire.messages import message
from wire.splits import cuts, fed_every_way


def taken(pieces: Sequence[bytes]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    inbox = Inbox(ProtocolViolation)
    found = []
    for piece in pieces:
        inbox.add(piece)
        while (one := inbox.take_message(1_000)) is not None:
            found.append(one)
    return found, inbox.take_all()


@given(st.lists(st.tuples(st.sampled_from([b"p", b"Z"]), st.binary(max_size=40))), st.binary(max_size=4), cuts)
def test_messages_and_a_rest_come_out_as_they_went_in(
    sent: list[tuple[bytes, bytes]], rest: bytes, places: list[int]
) -> None:
    data = b"".join(message(tag, body) for tag, body in sent) + rest
    assert fed_every_way(taken, data, places) == (sent, rest)


@pytest.mark.parametrize("length", [0, 3, 1_001, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_message_length_that_cannot_be_is_refused_before_its_body_comes(length: int) -> None:
    inbox = Inbox(ProtocolViolation)
    inbox.add(b"p" + length.to_bytes(4, "big"))
    with pytest.raises(ProtocolViolation, match="invalid message length"):
        inbox.take_message(1_000)


@pytest.mark.parametrize("length", [0, 7, 10_001, 0xFFFFFFFF])
def test_a_packet_length_that_cannot_be_is_refused_before_its_body_comes(length: int) -> None:
    inbox = Inbox(ProtocolViolation)
    inbox.add(length.to_bytes(4, "big"))
    with pytest.raises(ProtocolViolation, match="invalid length of startup packet"):
        inbox.take_packet(10_000)


@pytest.mark.parametrize("length", [8, 10_000])
def test_packets_of_the_shortest_and_the_longest_legal_length_are_taken(length: int) -> None:
    inbox = Inbox(ProtocolViolation)
    inbox.add(length.to_bytes(4, "big") + b"x" * (length - 5))
    assert inbox.take_packet(10_000) is None
    inbox.add(b"xy")
    assert inbox.take_packet(10_000) == b"x" * (length - 4)
    assert inbox.take_all() == b"y"


def test_the_limit_itself_is_still_a_legal_message_length() -> None:
    inbox = Inbox(ProtocolViolation)
    inbox.add(message(b"p", bytes(996)))
    assert inbox.take_message(1_000) == (b"p", bytes(996))
