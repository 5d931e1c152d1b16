"""How one client is asked who it is: by what its user has, and by the tenant's `auth.clientMethod`.

A user that does not exist, may not log in any more, or has nothing that the method can check, gets what another user of
its tenant would get, with a secret that is nobody's.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, TypeAlias

from pgweir_pooler.session.password_check import CleartextCheck, Md5Check
from pgweir_pooler.wire.md5 import SALT_BYTES, Md5Hash
from pgweir_pooler.wire.password_verifier import PasswordVerifier
from pgweir_pooler.wire.scram import DEFAULT_ITERATIONS, Verifier, mock_verifier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgweir_contract.auth import ClientMethod
    from pgweir_pooler.credentials import Credentials, Stored
    from pgweir_pooler.session.frontend_login import FrontendLogin
    from pgweir_pooler.session.password_check import PasswordCheck
    from pgweir_pooler.session.steps import FrontendStep

BY_CERTIFICATE = "certificate"  # nothing is asked: the client's certificate names the user

Ask: TypeAlias = "Verifier | PasswordVerifier | PasswordCheck | str"


class Asked:
    """One login's question, and what its end means for the user's next."""

    __slots__ = ("_address", "_credentials", "ask", "is_real")

    def __init__(self, ask: Ask, credentials: Credentials | None, address: str, *, is_real: bool) -> None:
        self.ask = ask
        self.is_real = is_real
        self._credentials = credentials
        self._address = address

    def begin(self, front: FrontendLogin) -> list[FrontendStep]:
        """Asks."""
        if isinstance(self.ask, Verifier | PasswordVerifier):
            return front.secret_found(self.ask, real=self.is_real)
        if isinstance(self.ask, str):
            return front.certified(real=self.is_real)
        return front.password_needed(self.ask)

    def failed(self, now: float) -> None:
        """The client did not know the password."""
        if self._credentials is not None:
            self._credentials.failed(self._address, now)

    def succeeded(self, front: FrontendLogin, now: float) -> bool:
        """The client proved who it is; whether servers can be opened from now on that could not be before."""
        if self._credentials is None:
            return False
        self._credentials.succeeded(self._address, now)
        keys = front.proved
        return keys is not None and self._credentials.proved(keys)


def ask_user(
    credentials: Credentials,
    method: ClientMethod,
    name: str,
    front: FrontendLogin,
    address: str,
    now: float,
    salt: bytes,
) -> Asked | None:
    """The question to a user; None when nothing that it has fits the method. After VALID UNTIL no answer is right.

    `salt` is for the verifier that passwords make.
    """
    real = credentials.is_valid(now)
    if method == "Certificate":
        # Without such a certificate the client is asked as a user who is not there.
        asked = Asked(BY_CERTIFICATE, credentials, address, is_real=real)
        return asked if front.is_named_by_certificate else None
    made = credentials.made(now, salt) if method != "MD5" else None
    stored = credentials.stored(now)
    if method == "Cleartext":
        known = (made, *stored) if made is not None else stored
        return Asked(CleartextCheck(name, known, real=real), credentials, address, is_real=real) if known else None
    hashes: list[Md5Hash] = []
    if method == "MD5":
        user = front.sent_user.decode()
        hashes = [Md5Hash.from_password(user, password) for password in credentials.passwords(now)]
        hashes += [secret for secret in stored if isinstance(secret, Md5Hash)]
    verifiers = [secret for secret in (made, *stored) if isinstance(secret, Verifier | PasswordVerifier)]
    choices: Sequence[Ask] = [*([Md5Check(hashes, _md5_salt(), real=real)] if hashes else []), *verifiers]
    if not choices:
        return None
    return Asked(choices[credentials.turn(address, now) % len(choices)], credentials, address, is_real=real)


def ask_nobody(method: ClientMethod, usual: Stored | None, user: str, mock_key: bytes) -> Asked:
    """The question to a user that is not there. `usual` is what others of the tenant have."""
    iterations = usual.iterations if isinstance(usual, Verifier) else DEFAULT_ITERATIONS
    verifier = mock_verifier(user, mock_key, iterations)
    nobody = [Md5Hash(verifier.stored_key.hex()[:32].encode())]
    ask: Ask = verifier
    if method == "Cleartext":
        ask = CleartextCheck(user, [usual if isinstance(usual, Md5Hash) else verifier], real=False)
    elif method == "MD5" and not isinstance(usual, Verifier):
        ask = Md5Check(nobody, _md5_salt(), real=False)
    return Asked(ask, None, "", is_real=False)


def _md5_salt() -> bytes:
    return secrets.token_bytes(SALT_BYTES)
