"""The verifier of a plain password, whose keys are made when a proof is there to be checked.

The challenge needs salt and count alone. If the keys were made before it (1-2 ms), a slow challenge would tell that the
user exists and has not been here yet; after the proof, the time of a failure tells nothing (`admission.failure_time`).
"""

from pgweir_pooler.wire.scram import DEFAULT_ITERATIONS, Verifier


class PasswordVerifier:
    """Like a `Verifier` to a `ServerExchange`."""

    __slots__ = ("_made", "_password", "iterations", "salt")

    def __init__(self, password: str, salt: bytes, iterations: int = DEFAULT_ITERATIONS) -> None:
        self._password = password
        self._made: Verifier | None = None  # kept as long as this object
        self.salt = salt
        self.iterations = iterations

    @property
    def stored_key(self) -> bytes:
        """StoredKey; the first call costs `iterations` HMACs."""
        return self._verifier().stored_key

    @property
    def server_key(self) -> bytes:
        """ServerKey, likewise."""
        return self._verifier().server_key

    def _verifier(self) -> Verifier:
        if self._made is None:
            self._made = Verifier.from_password(self._password, self.salt, self.iterations)
        return self._made
