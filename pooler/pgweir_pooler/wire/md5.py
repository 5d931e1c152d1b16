"""The md5 password answer of PostgreSQL (protocol documentation, "AuthenticationMD5Password")."""

import hashlib


def md5_answer(user: str, password: str, salt: bytes) -> bytes:
    """What the client sends: "md5" + hex(md5(hex(md5(password + user)) + salt))."""
    inner = _hex_md5(password.encode() + user.encode())
    return b"md5" + _hex_md5(inner + salt)


def _hex_md5(data: bytes) -> bytes:
    # The protocol fixes the algorithm. In FIPS mode a hash "for security" would raise.
    return hashlib.md5(data, usedforsecurity=False).hexdigest().encode("ascii")
