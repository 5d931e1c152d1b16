"""What waits for the end of a transaction: in order, bounded, and never silently less."""

from pgweir_pooler.session.mailbox import Mailbox


def deliver(box: Mailbox, message: bytes, *, between: bool, unwritten_bytes: int = 0) -> bytes:
    return box.deliver(message, is_between_transactions=between, unwritten_bytes=unwritten_bytes)


def test_between_transactions_it_goes_out_at_once() -> None:
    box = Mailbox()
    message = b"A..."
    assert deliver(box, message, between=True) is message
    assert box.take() == b""


def test_in_a_transaction_it_waits_for_the_end() -> None:
    box = Mailbox()
    assert deliver(box, b"one", between=False) == b""
    assert deliver(box, b"two", between=False) == b""
    assert box.size_bytes == 6
    assert box.take() == b"onetwo"
    assert box.take() == b""
    assert box.size_bytes == 0


def test_nothing_overtakes_what_waits() -> None:
    box = Mailbox()
    deliver(box, b"one", between=False)
    assert deliver(box, b"two", between=True) == b"onetwo"
    assert box.size_bytes == 0


def test_more_than_the_bound_overflows_for_good() -> None:
    box = Mailbox(10)
    assert deliver(box, b"12345", between=False) == b""
    assert deliver(box, b"12345", between=False) == b""
    assert not box.has_overflown
    assert deliver(box, b"1", between=False) == b""
    assert box.has_overflown
    assert box.size_bytes == 0
    assert box.take() == b""
    assert deliver(box, b"1", between=True) == b""


def test_what_the_socket_has_not_taken_counts() -> None:
    box = Mailbox(10)
    assert deliver(box, b"12345", between=True, unwritten_bytes=5) == b"12345"
    assert deliver(box, b"12345", between=True, unwritten_bytes=6) == b""
    assert box.has_overflown
