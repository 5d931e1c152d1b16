"""The verifier of plain passwords, whose keys are made when a proof is there to be checked.

The challenge needs salt and count alone. If the keys were made before it (1-2 ms), a slow challenge would tell that the
user exists and has not been here yet; after the proof, the time of a failure tells nothing (`admission.failure_time`).
"""

from collections.abc import Sequence

from pgweir_pooler.wire.scram import DEFAULT_ITERATIONS, Verifier


class PasswordVerifier:
    """Like a `Verifier` to a `ServerExchange`; several passwords are equally good."""

    __slots__ = ("_made", "_passwords", "iterations", "salt")

    def __init__(self, passwords: Sequence[str], salt: bytes, iterations: int = DEFAULT_ITERATIONS) -> None:
        self._passwords = tuple(passwords)
        self._made: Verifier | None = None  # kept as long as this object
        self.salt = salt
        self.iterations = iterations

    def pairs(self) -> tuple[tuple[bytes, bytes], ...]:
        """(StoredKey, ServerKey) of each password; the first call costs `iterations` HMACs for each."""
        if self._made is None:
            self._made = Verifier.from_passwords(self._passwords, self.salt, self.iterations)
        return self._made.pairs()
