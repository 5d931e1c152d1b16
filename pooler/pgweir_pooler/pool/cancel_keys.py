"""The keys by which clients cancel their queries: how they are made, kept and compared.

A key is the body of a BackendKeyData and of a CancelRequest after its code: four bytes of process id, then the secret.

| client | process id | secret |
| --- | --- | --- |
| protocol 3.2 | the server's own, or 31 random bits | member (1 byte), generation (4), random (27) |
| protocol 3.0, one member alone | the server's own, or 31 random bits | random (4) |
| protocol 3.0, in a cluster | 31 random bits | member (1), random (3) |

The member tells which process issued the key, so that a CancelRequest that lands on another one can be passed on; the
generation differs from start to start of a member. A server's process id is no secret and repeats over instances, so
next to it only the secret counts: 32 bits, as PostgreSQL's own, or 216. In a cluster 24 bits would be left of a short
key, too few, so its process id stays random there.

Keys are found by a keyed digest and then compared in constant time, so the time of a look-up says nothing about any
key.
"""

import hmac
from collections.abc import Callable
from hashlib import blake2b

LONG_KEYS_SINCE_MINOR = 2  # protocol 3.2, PostgreSQL 18
LONG_SECRET_BYTES = 32
SHORT_SECRET_BYTES = 4
_PROCESS_ID_BYTES = 4
_GENERATION_BYTES = 4
_INDEX_BYTES = 16


class KeyMaker:
    """Makes the keys of one member. `random_bytes(n)` gives n bytes fit for secrets; `member` is its ordinal."""

    def __init__(self, random_bytes: Callable[[int], bytes], *, member: int = 0, is_alone: bool = True) -> None:
        self._random_bytes = random_bytes
        self._is_alone = is_alone
        self._member = member.to_bytes(1, "big")
        self._generation = random_bytes(_GENERATION_BYTES)
        self._index_key = random_bytes(32)

    def shows_process_id(self, minor: int) -> bool:
        """Whether a key for protocol 3.`minor` may hold a server's process id: the rest is enough to find its owner."""
        return self._is_alone or minor >= LONG_KEYS_SINCE_MINOR

    def make(self, minor: int, process_id: int = 0) -> bytes:
        """A fresh key for a client of protocol 3.`minor`, with a server's process id where one is given and may show.

        Equal keys are possible, if unlikely: the caller looks whether somebody has this one.
        """
        if not process_id or not self.shows_process_id(minor):
            process_id = int.from_bytes(self._random_bytes(_PROCESS_ID_BYTES), "big") & 0x7FFFFFFF or 1
        if minor >= LONG_KEYS_SINCE_MINOR:
            head = self._member + self._generation
            secret = head + self._random_bytes(LONG_SECRET_BYTES - len(head))
        elif self._is_alone:
            secret = self._random_bytes(SHORT_SECRET_BYTES)
        else:
            secret = self._member + self._random_bytes(SHORT_SECRET_BYTES - 1)
        return process_id.to_bytes(_PROCESS_ID_BYTES, "big") + secret

    def index(self, key: bytes) -> bytes:
        """What a key is found by; nobody else can tell which keys have near ones."""
        return blake2b(key, digest_size=_INDEX_BYTES, key=self._index_key).digest()


def member_of(key: bytes) -> int:
    """The ordinal of the member that issued the key, in a cluster."""
    return key[_PROCESS_ID_BYTES]


def is_same_key(key: bytes, other: bytes) -> bool:
    """Whether both are the same, in a time that depends on their lengths alone."""
    return hmac.compare_digest(key, other)
