"""The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), from hashlib alone, not the code under test."""

import base64
import functools
import hashlib
import hmac
import secrets


@functools.lru_cache(maxsize=64)
def _salted_password(password: str, salt: bytes, iterations: int) -> bytes:
    # Cached: thousands of logins of one user would otherwise cost 1 ms each.
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


class ScramClient:
    """One login: `first()`, then `final(server_first)`, then `verify(server_final)`."""

    def __init__(self, password: str) -> None:
        self._password = password
        self._nonce = secrets.token_urlsafe(18)
        self._server_signature = b""

    def first(self) -> bytes:
        """The client-first-message, without channel binding; the user's name goes in the StartupMessage."""
        return f"n,,n=,r={self._nonce}".encode()

    def final(self, server_first: bytes) -> bytes:
        """The client-final-message; ValueError when the server did not keep our nonce."""
        fields = dict(part.split("=", 1) for part in server_first.decode().split(","))
        if not fields["r"].startswith(self._nonce) or fields["r"] == self._nonce:
            raise ValueError("the server's nonce does not extend ours")
        salted = _salted_password(self._password, base64.b64decode(fields["s"]), int(fields["i"]))
        without_proof = f"c=biws,r={fields['r']}"
        auth_message = f"n=,r={self._nonce},{server_first.decode()},{without_proof}".encode()
        client_key = _hmac(salted, b"Client Key")
        signature = _hmac(hashlib.sha256(client_key).digest(), auth_message)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._server_signature = _hmac(_hmac(salted, b"Server Key"), auth_message)
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def verify(self, server_final: bytes) -> None:
        """ValueError when the server does not know the password either."""
        if server_final != b"v=" + base64.b64encode(self._server_signature):
            raise ValueError("the server's signature is wrong")
