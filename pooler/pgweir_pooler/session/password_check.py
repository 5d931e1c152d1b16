"""Logins by md5 and by the password itself: what the client is sent, and whether its answer is right.

A user that does not exist gets the same messages as one with a wrong password, after the same work.
"""

import hmac
from collections.abc import Sequence
from typing import Protocol

from pgweir_pooler.wire import messages
from pgweir_pooler.wire.md5 import Md5Hash
from pgweir_pooler.wire.scram import KnownSecret
from pgweir_pooler.wire.scram_keys import ScramKeys, keys_of

# A password is checked while everybody else waits, so only what takes some milliseconds is: five times PostgreSQL's
# default. SCRAM leaves the work to the client and takes any count.
CLEARTEXT_ITERATIONS_MAX = 20_480


class PasswordCheck(Protocol):
    """One login's."""

    request: bytes
    """What the client is sent."""
    needs_tls: bool
    keys: ScramKeys | None
    """What logs in at PostgreSQL, once the answer was right and if it tells."""

    def matches(self, answer: bytes) -> bool:
        """Whether the client knows a password of the user."""


class Md5Check:
    """The client proves by md5 that it knows a password."""

    needs_tls = False
    keys: ScramKeys | None = None

    def __init__(self, hashes: Sequence[Md5Hash], salt: bytes, *, real: bool) -> None:
        """`salt` is fresh and random for every client; `real=False` with a hash that is nobody's."""
        self._hashes = hashes
        self._salt = salt
        self._is_real = real
        self.request = messages.authentication_md5(salt)

    def matches(self, answer: bytes) -> bool:
        found = [hmac.compare_digest(answer, known.answer(self._salt)) for known in self._hashes]
        return any(found) and self._is_real


class CleartextCheck:
    """The client sends the password as it is."""

    needs_tls = True

    def __init__(self, user: str, stored: Sequence[KnownSecret | Md5Hash], *, real: bool) -> None:
        self._user = user.encode()
        self._stored = stored
        self._is_real = real
        self.request = messages.authentication_cleartext()
        self.keys: ScramKeys | None = None

    def matches(self, answer: bytes) -> bool:
        is_right = False
        for known in self._stored:
            if isinstance(known, Md5Hash):
                is_right |= known.is_of(self._user, answer)
            elif known.iterations <= CLEARTEXT_ITERATIONS_MAX:
                keys = keys_of(answer, known)
                is_right |= keys is not None
                self.keys = self.keys or keys
        return is_right and self._is_real
