"""Cancel keys: layout, length by protocol version, and that the random part is all of the rest."""

import pytest

from pgweir_pooler.pool.cancel_keys import KeyMaker, is_same_key, member_of


class _Random:
    """Counts instead, so that every drawn byte can be seen."""

    def __init__(self) -> None:
        self.drawn = 0

    def __call__(self, size: int) -> bytes:
        start = self.drawn
        self.drawn += size
        return bytes((start + i) % 256 for i in range(size))


def maker(**options: bool | int) -> tuple[KeyMaker, _Random]:
    random = _Random()
    made = KeyMaker(random, **options)  # type: ignore[arg-type]
    random.drawn = 0x80
    return made, random


@pytest.mark.parametrize(("minor", "size"), [(0, 4), (1, 4), (2, 32), (3, 32)])
@pytest.mark.parametrize("is_alone", [True, False])
def test_a_secret_is_as_long_as_the_protocol_allows(minor: int, size: int, is_alone: bool) -> None:
    keys, _ = maker(is_alone=is_alone)
    assert len(keys.make(minor)) == 4 + size


def test_a_long_key_holds_member_and_generation_and_27_random_bytes() -> None:
    keys, _ = maker(member=200)
    key = keys.make(2, process_id=77)
    assert key == b"\0\0\0\x4d" + b"\xc8" + bytes(range(4)) + bytes(range(0x80, 0x80 + 27))
    assert member_of(key) == 200


def test_a_short_key_in_a_cluster_holds_its_member_and_no_process_id_of_a_server() -> None:
    keys, _ = maker(member=255, is_alone=False)
    assert not keys.shows_process_id(0)
    key = keys.make(0, process_id=77)
    assert key == b"\0\x81\x82\x83" + b"\xff" + b"\x84\x85\x86"
    assert member_of(key) == 255


def test_a_short_key_of_a_member_alone_is_random_next_to_a_process_id() -> None:
    keys, _ = maker()
    assert keys.shows_process_id(0)
    assert keys.make(0, process_id=77) == b"\0\0\0\x4d" + b"\x80\x81\x82\x83"


def test_a_process_id_of_our_own_is_a_positive_number_of_31_bits() -> None:
    for drawn, process_id in ((b"\xff\xff\xff\xff", 0x7FFFFFFF), (b"\x80\0\0\0", 1), (b"\0\0\0\0", 1)):
        keys = KeyMaker(lambda size, drawn=drawn: drawn.ljust(size, b"x")[:size])  # type: ignore[misc]
        assert int.from_bytes(keys.make(0)[:4], "big") == process_id


@pytest.mark.parametrize("member", [-1, 256])
def test_a_member_has_one_byte(member: int) -> None:
    with pytest.raises(OverflowError):
        maker(member=member)


def test_an_index_is_the_makers_own_and_says_nothing_of_its_key() -> None:
    first, second = KeyMaker(lambda size: b"1" * size), KeyMaker(lambda size: b"2" * size)
    key = first.make(0)
    assert first.index(key) == first.index(bytes(key)) != second.index(key)
    assert key not in first.index(key)
    assert first.index(key + b"\0") != first.index(key)


def test_keys_are_the_same_in_every_byte_or_not_at_all() -> None:
    assert is_same_key(b"\0\0\0\1key!", b"\0\0\0\1key!")
    for other in (b"\0\0\0\1key?", b"\0\0\0\2key!", b"\0\0\0\1key", b"\0\0\0\1key!!", b""):
        assert not is_same_key(b"\0\0\0\1key!", other)
