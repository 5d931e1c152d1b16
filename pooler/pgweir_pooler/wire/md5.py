"""PostgreSQL's md5 passwords: what a server stores, and the answer to its challenge ("AuthenticationMD5Password")."""

import hashlib
import hmac
import re
from dataclasses import dataclass, field

SALT_BYTES = 4
_STORED = re.compile(r"md5([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class Md5Hash:
    """What a server stores instead of a password: `md5` + hex(md5(password + user)). It is enough to log in with."""

    digits: bytes = field(repr=False)

    @classmethod
    def from_password(cls, user: str, password: str) -> "Md5Hash":
        """The hash of a user's password; `user` is the name that the client sent."""
        return cls(_hex_md5(password.encode() + user.encode()))

    @classmethod
    def parse(cls, text: str) -> "Md5Hash":
        """Reads `md5` and 32 digits; its ValueError hides the text."""
        match = _STORED.fullmatch(text)
        if match is None:
            raise ValueError("not an md5 password")
        return cls(match[1].encode())

    def answer(self, salt: bytes) -> bytes:
        """What the client sends."""
        return b"md5" + _hex_md5(self.digits + salt)

    def is_of(self, user: bytes, password: bytes) -> bool:
        """Whether this is the hash of the password."""
        return hmac.compare_digest(_hex_md5(password + user), self.digits)


def md5_answer(user: str, password: str, salt: bytes) -> bytes:
    """What the client sends: "md5" + hex(md5(hex(md5(password + user)) + salt))."""
    return Md5Hash.from_password(user, password).answer(salt)


def _hex_md5(data: bytes) -> bytes:
    # The protocol fixes the algorithm. In FIPS mode a hash "for security" would raise.
    return hashlib.md5(data, usedforsecurity=False).hexdigest().encode("ascii")
