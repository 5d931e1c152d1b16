"""What a good proof leaves behind: enough to log in elsewhere as the same user, as long as the verifier is the same.

A secret like a password: it lives in memory only, and no repr shows it.
"""

import hmac
from dataclasses import dataclass, field

from pgweir_pooler.errors import ServerLoginFailed
from pgweir_pooler.wire.scram import KnownSecret, Verifier, client_key_of


class VerifierDiffers(ServerLoginFailed):
    """The server's verifier is not the one that the key was made for: the password was changed there."""

    def __init__(self) -> None:
        super().__init__("28P01", "the user's SCRAM verifier at the database is not the one that the client proved")


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """A user's ClientKey, and the verifier that it was proved against."""

    client_key: bytes = field(repr=False)
    verifier: Verifier = field(repr=False)

    def derive(self, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
        """ClientKey and ServerKey for a server's challenge; raises VerifierDiffers for another verifier's."""
        verifier = self.verifier
        if salt != verifier.salt or iterations != verifier.iterations:
            raise VerifierDiffers
        return self.client_key, verifier.server_key


def keys_of(password: bytes, verifier: KnownSecret) -> ScramKeys | None:
    """The keys that a password makes, None if it is not the verifier's; costs the verifier's iterations."""
    client_key, stored_key = client_key_of(password, verifier)
    for stored, server_key in verifier.pairs():
        if hmac.compare_digest(stored_key, stored):
            one = Verifier(verifier.iterations, verifier.salt, stored, server_key)
            return ScramKeys(client_key, one)
    return None
