"""The one way in which parsers are fed in tests: whole, byte by byte, and cut anywhere."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")

cuts = st.lists(st.integers(min_value=0, max_value=2_000), max_size=8)
"""Where hypothesis cuts the bytes."""


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` in pieces; pieces may be empty, places behind the end do nothing."""
    edges = [0, *sorted(place for place in places if place < len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def fed_every_way(feed: Callable[[Sequence[bytes]], T], data: bytes, places: Iterable[int] = ()) -> T:
    """What `feed` makes of the pieces, which must be the same however they are cut."""
    whole = feed([data])
    bytewise = feed([data[i : i + 1] for i in range(len(data))])
    assert bytewise == whole
    assert feed(cut(data, places)) == whole
    return whole
