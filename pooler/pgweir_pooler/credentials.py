"""What the clients of one user are checked by, and what logs in at PostgreSQL for them. Pure: `now` is the time of day.

Enters: passwords and verifiers, the newest first, and what clients prove. Leaves: the secrets that a client may be
checked by, and those that a server is logged in to with. Always true: passwords come before verifiers; of an overlap
that is over only the newest counts; what a client proved is kept as long as its verifier, and is shown nowhere.

Several passwords make one verifier, so a client may use any of them. Of several verifiers a client can be offered one:
the first, and after a login of the user from the same address that failed the next, for as long as the address is
remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from pgweir_pooler.wire.md5 import Md5Hash
from pgweir_pooler.wire.password_verifier import PasswordVerifier
from pgweir_pooler.wire.scram import Verifier

if TYPE_CHECKING:
    from datetime import datetime

    from pgweir_contract.models import User
    from pgweir_pooler.session.backend_login import Secret
    from pgweir_pooler.wire.scram_keys import ScramKeys

Stored: TypeAlias = Verifier | Md5Hash
_T = TypeVar("_T")

ADDRESSES_MAX: Final = 64  # remembered per user
ADDRESS_S: Final = 600.0


class Credentials:
    """See the module."""

    __slots__ = ("_keys", "_made", "_overlap_until", "_passwords", "_stored", "_turns", "_valid_until", "has_wrong_key")

    def __init__(
        self,
        passwords: tuple[str, ...] = (),
        stored: tuple[Stored, ...] = (),
        overlap_until: datetime | None = None,
        valid_until: datetime | None = None,
    ) -> None:
        self._passwords = passwords
        self._stored = stored
        self._overlap_until = overlap_until
        self._valid_until = valid_until
        self._made: tuple[int, PasswordVerifier] | None = None  # of how many passwords, and their verifier
        self._keys: dict[Verifier, ScramKeys] = {}  # by the verifiers of `_stored`; until those are replaced
        self._turns: OrderedDict[str, tuple[int, float]] = OrderedDict()  # by address: whose turn it is, until when
        self.has_wrong_key = False  # PostgreSQL has another verifier than the one that was proved

    @classmethod
    def of(cls, user: User) -> Credentials:
        """A listed user's."""
        return cls(
            tuple(secret.get_secret_value() for secret in user.passwords),
            tuple(stored_secret(secret.get_secret_value()) for secret in user.verifiers),
            user.overlap_until,
            user.valid_until,
        )

    # --- clients

    def is_valid(self, now: float) -> bool:
        """Whether the user may log in at all (VALID UNTIL)."""
        return self._valid_until is None or now < self._valid_until.timestamp()

    def passwords(self, now: float) -> tuple[str, ...]:
        """The passwords that count now."""
        return self._current(self._passwords, now)

    def stored(self, now: float) -> tuple[Stored, ...]:
        """The verifiers that count now, without the one that passwords make."""
        return self._current(self._stored, now)

    def made(self, now: float, salt: bytes) -> PasswordVerifier | None:
        """The verifier of all passwords that count, with that salt; kept, for its keys cost 1-2 ms each."""
        passwords = self.passwords(now)
        if not passwords:
            return None
        if self._made is None or self._made[0] != len(passwords) or self._made[1].salt != salt:
            self._made = len(passwords), PasswordVerifier(passwords, salt)
        return self._made[1]

    def turn(self, address: str, now: float) -> int:
        """Which of several verifiers is the next for clients from this address; to be taken modulo their number."""
        turn, until = self._turns.get(address, (0, 0.0))
        return turn if now < until else 0

    def failed(self, address: str, now: float) -> None:
        """A login from the address failed with the one whose turn it was."""
        self._remember(address, self.turn(address, now) + 1, now)

    def succeeded(self, address: str, now: float) -> None:
        """A login from the address was good: it keeps the verifier."""
        turn = self.turn(address, now)
        if turn:
            self._remember(address, turn, now)

    # --- servers

    def proved(self, keys: ScramKeys) -> bool:
        """A client proved that it has a password; whether that is news, and servers may be opened from now on."""
        if self._passwords or keys.verifier not in self._stored or self._keys.get(keys.verifier) == keys:
            return False
        self._keys[keys.verifier] = keys
        self.has_wrong_key = False
        return True

    def upstream(self, now: float) -> tuple[Secret, ...]:
        """What to log in with, to be tried in this order; empty until a client has proved something."""
        passwords = self.passwords(now)
        if passwords:
            return passwords
        found: list[Secret] = []
        for secret in self.stored(now):
            if isinstance(secret, Md5Hash):
                found.append(secret)
            elif secret in self._keys:
                found.append(self._keys[secret])
        return tuple(found)

    def drop(self, keys: ScramKeys) -> None:
        """PostgreSQL did not take them."""
        if self._keys.get(keys.verifier) == keys:
            del self._keys[keys.verifier]
            self.has_wrong_key = True

    # --- changes

    def replace(self, stored: tuple[Stored, ...], valid_until: datetime | None) -> None:
        """What was looked up anew; what was proved of a verifier that is gone is forgotten."""
        self._valid_until = valid_until
        if stored != self._stored:
            self._stored = stored
            self._turns.clear()
            self.has_wrong_key = False
            self._keep_keys(self._keys)

    def take_over(self, before: Credentials) -> None:
        """The same user's before a change of the configuration: what is still right is kept."""
        if before._passwords == self._passwords:
            self._made = before._made
        self._keep_keys(before._keys)

    def is_akin(self, other: Credentials) -> bool:
        """Whether a password or verifier is common to both: then servers of one are as good for the other."""
        return not self._all().isdisjoint(other._all()) or self._all() == other._all()

    def is_same(self, other: Credentials) -> bool:
        """Whether nothing differs but what clients have proved."""
        return self._key() == other._key()

    def _key(self) -> tuple[object, ...]:
        return self._passwords, self._stored, self._overlap_until, self._valid_until

    def _all(self) -> frozenset[object]:
        return frozenset((*self._passwords, *self._stored))

    def _keep_keys(self, keys: dict[Verifier, ScramKeys]) -> None:
        self._keys = {verifier: key for verifier, key in keys.items() if verifier in self._stored}

    def _current(self, secrets: tuple[_T, ...], now: float) -> tuple[_T, ...]:
        is_over = self._overlap_until is not None and now >= self._overlap_until.timestamp()
        return secrets[:1] if is_over else secrets

    def _remember(self, address: str, turn: int, now: float) -> None:
        self._turns.pop(address, None)
        while len(self._turns) >= ADDRESSES_MAX:
            self._turns.popitem(last=False)
        self._turns[address] = turn, now + ADDRESS_S


def stored_secret(text: str) -> Stored:
    """A verifier as PostgreSQL stores it; its ValueError hides the text."""
    return Md5Hash.parse(text) if text.startswith("md5") else Verifier.parse(text)
