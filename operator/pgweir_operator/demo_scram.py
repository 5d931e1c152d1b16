"""The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677) for the demo's clients."""

import base64
import hashlib
import hmac
import secrets


class SaltedPasswords:
    """The costly step of SCRAM, once per password and salt: 500 clients of one user would else cost a second."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes, int], bytes] = {}

    def get(self, password: str, salt: bytes, iterations: int) -> bytes:
        """PBKDF2 of the password."""
        key = (password, salt, iterations)
        if key not in self._known:
            self._known[key] = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
        return self._known[key]


class ScramExchange:
    """One login: `first`, then `final` with server-first, then `verify` with server-final."""

    def __init__(self, password: str, salted: SaltedPasswords) -> None:
        self._password = password
        self._salted = salted
        self._nonce = secrets.token_urlsafe(18)
        self._server_signature = b""

    def first(self) -> bytes:
        """client-first; the startup message has named the user."""
        return f"n,,n=,r={self._nonce}".encode()

    def final(self, server_first: bytes) -> bytes:
        """client-final; ValueError when server-first is not an answer to ours."""
        fields = dict(part.split("=", 1) for part in server_first.decode().split(","))
        if not fields.get("r", "").startswith(self._nonce) or not {"s", "i"} <= fields.keys():
            raise ValueError("the server's first SCRAM message is wrong")
        salted = self._salted.get(self._password, base64.b64decode(fields["s"]), int(fields["i"]))
        without_proof = f"c=biws,r={fields['r']}".encode()
        auth_message = b",".join((f"n=,r={self._nonce}".encode(), server_first, without_proof))
        client_key = _hmac(salted, b"Client Key")
        signature = _hmac(hashlib.sha256(client_key).digest(), auth_message)
        self._server_signature = _hmac(_hmac(salted, b"Server Key"), auth_message)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return without_proof + b",p=" + base64.b64encode(proof)

    def verify(self, server_final: bytes) -> None:
        """ValueError when the server does not know the password."""
        if not hmac.compare_digest(server_final, b"v=" + base64.b64encode(self._server_signature)):
            raise ValueError("the server's SCRAM signature is wrong")


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")
