"""SCRAM-SHA-256 (RFC 5802, RFC 7677) in both roles, by PostgreSQL's rules (auth-scram.c, fe-auth-scram.c).

Messages go in and come out as the bytes of the SASL data; nonces, salts and the data of channel bindings are
arguments. The server role recovers the ClientKey from a
good proof, which is all that is needed to log in elsewhere as the same user. No repr, error or log shows a
key, a salt or a password.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pgweir_pooler.errors import ChannelBindingFailed, NotSupported, ProtocolViolation
from pgweir_pooler.wire.cursor import ServerProtocolError
from pgweir_pooler.wire.limits import SCRAM_ITERATIONS_MAX
from pgweir_pooler.wire.saslprep import prepared

MECHANISM = "SCRAM-SHA-256"
MECHANISM_PLUS = "SCRAM-SHA-256-PLUS"
BINDING_TYPE = b"tls-server-end-point"  # RFC 5929 section 4, the only one that PostgreSQL knows
DEFAULT_ITERATIONS = 4096  # PostgreSQL's scram_iterations
KEY_BYTES = 32
_SHOWN_MAX_CHARS = 63
PAIRS_CHECKED = 4  # the most passwords that a user has at a time
_MOCK_SALT_BYTES = 16  # SCRAM_DEFAULT_SALT_LEN

# RFC 5802 section 7: printable ASCII without the comma.
_NONCE = re.compile(rb"[\x21-\x2b\x2d-\x7e]+")
_VERIFIER = re.compile(r"SCRAM-SHA-256\$([0-9]{1,10}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a server stores instead of a password."""

    iterations: int
    salt: bytes = field(repr=False)
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)
    # (StoredKey, ServerKey) of further passwords that are as good, under the same salt and count: one exchange can be
    # checked against all of them.
    others: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)

    def pairs(self) -> tuple[tuple[bytes, bytes], ...]:
        """(StoredKey, ServerKey) of every password."""
        return ((self.stored_key, self.server_key), *self.others)

    @classmethod
    def from_passwords(cls, passwords: Sequence[str], salt: bytes, iterations: int = DEFAULT_ITERATIONS) -> "Verifier":
        """One verifier of several passwords that are equally good."""
        made = [cls.from_password(password, salt, iterations) for password in passwords]
        return cls(iterations, salt, made[0].stored_key, made[0].server_key, tuple(x.pairs()[0] for x in made[1:]))

    @classmethod
    def from_password(cls, password: str, salt: bytes, iterations: int = DEFAULT_ITERATIONS) -> "Verifier":
        """The verifier of a password; costs `iterations` HMACs (1-2 ms for 4096)."""
        salted = _salted_password(password, salt, iterations)
        return cls(iterations, salt, _sha256(_hmac(salted, b"Client Key")), _hmac(salted, b"Server Key"))

    @classmethod
    def parse(cls, text: str) -> "Verifier":
        """Reads `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`; its ValueError hides the text."""
        match = _VERIFIER.fullmatch(text)
        try:
            if match is None:
                raise ValueError
            iterations = int(match[1])
            salt, stored_key, server_key = (_unbase64(match[i].encode()) for i in (2, 3, 4))
            fits = len(stored_key) == len(server_key) == KEY_BYTES and 1 <= iterations <= SCRAM_ITERATIONS_MAX
            if not fits:
                raise ValueError
        except ValueError:
            raise ValueError("not a SCRAM-SHA-256 verifier") from None
        return cls(iterations, salt, stored_key, server_key)

    def render(self) -> str:
        """The text that `parse` reads and that PostgreSQL takes as a password."""
        salt, stored_key, server_key = (
            base64.b64encode(part).decode() for part in (self.salt, self.stored_key, self.server_key)
        )
        return f"{MECHANISM}${self.iterations}:{salt}${stored_key}:{server_key}"


def derived_salt(user: str, secret_key: bytes) -> bytes:
    """The salt of a user: of one who is not there, and of one whose verifier is made from a password.

    Both must have the same one in every member and after a restart, or the difference tells who is there.
    """
    return _derived(b"salt", user, secret_key)[:_MOCK_SALT_BYTES]


def mock_verifier(user: str, secret_key: bytes, iterations: int = DEFAULT_ITERATIONS) -> Verifier:
    """The verifier of a user who is not there: the same for one user and key, matched by no password.

    Equal salts on every attempt are what a real user shows (RFC 5802 section 9, PostgreSQL's mock
    authentication nonce). `iterations` should be what real users have. `secret_key` must be the same in every
    member that clients can reach.
    """
    # Nobody knows a value whose SHA-256 is this stored key.
    stored, server = _derived(b"stored", user, secret_key), _derived(b"server", user, secret_key)
    return Verifier(iterations, derived_salt(user, secret_key), stored, server)


def _derived(purpose: bytes, user: str, secret_key: bytes) -> bytes:
    return _hmac(secret_key, purpose + b"\0" + user.encode("utf-8", "surrogatepass"))


class KnownSecret(Protocol):
    """What a server checks proofs by: a `Verifier`, or something that makes one when it is needed."""

    @property
    def iterations(self) -> int: ...
    @property
    def salt(self) -> bytes: ...
    def pairs(self) -> tuple[tuple[bytes, bytes], ...]: ...


class ServerExchange:
    """The server's role: client-first in, server-first out, client-final in, server-final or nothing out.

    `binding` is the tls-server-end-point of the connection when SCRAM-SHA-256-PLUS was offered, else empty; `is_bound`
    is set when the client chose that mechanism.
    """

    __slots__ = (
        "_auth_prefix",
        "_binding",
        "_gs2_header",
        "_nonce",
        "_server_nonce",
        "_verifier",
        "client_key",
        "is_bound",
        "proved",
    )

    def __init__(self, verifier: KnownSecret, server_nonce: str, binding: bytes = b"") -> None:
        self._verifier = verifier
        self._binding = binding
        self.is_bound = False
        self._server_nonce = server_nonce.encode("ascii")
        self._gs2_header = b""
        self._nonce = b""
        self._auth_prefix = b""  # client-first-bare "," server-first ","
        self.client_key = b""  # the user's ClientKey once the proof was good
        self.proved: Verifier | None = None  # what the proof was good for: one pair, even of a verifier with several

    @property
    def offers_binding(self) -> bool:
        """Whether the client could have chosen SCRAM-SHA-256-PLUS."""
        return bool(self._binding)

    def receive_first(self, message: bytes) -> bytes:
        """Takes client-first, returns server-first; raises ProtocolViolation, NotSupported, ChannelBindingFailed."""
        header_bytes, bare = _split_client_first(message)
        self._check_flag(header_bytes)
        fields = _Attributes(bare, ProtocolViolation)
        if fields.next_name() == b"m":
            raise NotSupported("client requires an unsupported SCRAM extension")
        fields.take(b"n")  # ignored as PostgreSQL does: the startup message named the user
        client_nonce = fields.take(b"r")
        fields.skip_optional()
        if _NONCE.fullmatch(client_nonce) is None:
            raise ProtocolViolation("non-printable characters in SCRAM nonce")
        self._gs2_header = header_bytes
        self._nonce = client_nonce + self._server_nonce
        server_first = b"r=%b,s=%b,i=%d" % (
            self._nonce,
            base64.b64encode(self._verifier.salt),
            self._verifier.iterations,
        )
        self._auth_prefix = bare + b"," + server_first + b","
        return server_first

    def receive_final(self, message: bytes) -> bytes | None:
        """Takes client-final; returns server-final, None for a wrong proof.

        Raises ProtocolViolation, and ChannelBindingFailed when client and server do not see the same TLS.
        """
        without_proof, separator, proof_text = message.partition(b",p=")
        if not separator:
            raise ProtocolViolation("malformed SCRAM message: the proof is missing")
        fields = _Attributes(without_proof, ProtocolViolation)
        bound = self._binding if self.is_bound else b""
        if not hmac.compare_digest(fields.take(b"c"), base64.b64encode(self._gs2_header + bound)):
            if self.is_bound:
                raise ChannelBindingFailed("SCRAM channel binding check failed")
            raise ProtocolViolation("unexpected SCRAM channel-binding attribute in client-final-message")
        if fields.take(b"r") != self._nonce:
            raise ProtocolViolation("invalid SCRAM response: the nonce does not match")
        fields.skip_optional()
        return self._check(_proof(proof_text), self._auth_prefix + without_proof)

    def _check_flag(self, header: bytes) -> None:
        """What the client says of channel binding, by PostgreSQL's rules (read_client_first_message)."""
        flag = header[:1]
        if flag == b"p" and not self.is_bound:
            raise ProtocolViolation(
                "malformed SCRAM message",
                detail="The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes "
                "channel binding data.",
            )
        if flag != b"p" and self.is_bound:
            raise ProtocolViolation(
                "malformed SCRAM message",
                detail="The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding "
                "data.",
            )
        if flag == b"y" and self._binding:
            # Somebody between us took the mechanism out of our list.
            raise ChannelBindingFailed(
                "SCRAM channel binding negotiation error",
                detail="The client supports SCRAM channel binding but thinks the server does not.  "
                "However, this server does support channel binding.",
            )
        if flag == b"p" and header != b"p=" + BINDING_TYPE + b",,":
            name = "".join(chr(c) if 0x20 < c < 0x7F else "?" for c in header[2:-2][:_SHOWN_MAX_CHARS])
            raise ProtocolViolation(f'unsupported SCRAM channel-binding type "{name}"')

    def _check(self, proof: bytes, auth_message: bytes) -> bytes | None:
        # The same work for right and wrong proofs, real and mock verifiers, one password and several.
        pairs = self._verifier.pairs()
        answer = None
        for i in range(max(len(pairs), PAIRS_CHECKED)):
            stored_key, server_key = pairs[i % len(pairs)]
            client_key = _xor(proof, _hmac(stored_key, auth_message))
            signature = _hmac(server_key, auth_message)
            if hmac.compare_digest(_sha256(client_key), stored_key) and answer is None:
                self.client_key = client_key
                self.proved = Verifier(self._verifier.iterations, self._verifier.salt, stored_key, server_key)
                answer = b"v=" + base64.b64encode(signature)
        return answer


def keys_of_password(password: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """ClientKey and ServerKey; costs `iterations` HMACs, without the interpreter's lock."""
    salted = _salted_password(password, salt, iterations)
    return _hmac(salted, b"Client Key"), _hmac(salted, b"Server Key")


class KeySource(Protocol):
    """What makes ClientKey and ServerKey in the place of a password."""

    def derive(self, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
        """ClientKey and ServerKey; raises PoolerError when they cannot be had for this salt and count."""


class ClientExchange:
    """The client's role: `first`, then server-first in and client-final out, then server-final in.

    The user name is empty by default, as libpq sends it: PostgreSQL takes it from the startup message.

    With a `binding` the mechanism is SCRAM-SHA-256-PLUS. Without one, `could_bind` says that it would have been, had
    the server offered it: a server whose offer somebody took away then notices.
    """

    __slots__ = (
        "_binding",
        "_first_bare",
        "_gs2_header",
        "_nonce",
        "_password",
        "_server_first",
        "_server_nonce",
        "_server_signature",
    )

    def __init__(
        self, password: str | KeySource, nonce: str, user: str = "", *, binding: bytes = b"", could_bind: bool = False
    ) -> None:
        self._password = password
        self._binding = binding
        self._gs2_header = (b"p=" + BINDING_TYPE if binding else b"y" if could_bind else b"n") + b",,"
        self._nonce = nonce.encode("ascii")
        name = user.replace("=", "=3D").replace(",", "=2C").encode()
        self._first_bare = b"n=" + name + b",r=" + self._nonce
        self._server_first = b""
        self._server_nonce = b""
        self._server_signature = b""  # what server-final must show; empty until server-first was taken

    def first(self) -> bytes:
        """client-first."""
        return self._gs2_header + self._first_bare

    def receive_first(self, message: bytes) -> bytes:
        """Takes server-first, returns client-final; costs the server's iteration count in HMACs.

        Raises ServerProtocolError, also for a nonce that does not begin with ours and for an absurd iteration
        count.
        """
        return self.answer(*self._keys(*self.challenge(message)))

    def challenge(self, message: bytes) -> tuple[bytes, int]:
        """Takes server-first: salt and iterations of the keys that `answer` takes. Raises as `receive_first`."""
        nonce, salt, iterations = self._read_server_first(message)
        self._server_first = message
        self._server_nonce = nonce[len(self._nonce) :]
        return salt, iterations

    def answer(self, client_key: bytes, server_key: bytes) -> bytes:
        """client-final, behind `challenge`."""
        nonce = self._nonce + self._server_nonce
        without_proof = b"c=" + base64.b64encode(self._gs2_header + self._binding) + b",r=" + nonce
        auth_message = self._first_bare + b"," + self._server_first + b"," + without_proof
        self._server_signature = _hmac(server_key, auth_message)
        proof = _xor(client_key, _hmac(_sha256(client_key), auth_message))
        return without_proof + b",p=" + base64.b64encode(proof)

    @property
    def server_nonce(self) -> bytes:
        """The server's part of the nonce; empty before server-first was taken."""
        return self._server_nonce

    def _keys(self, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
        if not isinstance(self._password, str):
            return self._password.derive(salt, iterations)
        return keys_of_password(self._password, salt, iterations)

    def receive_final(self, message: bytes) -> None:
        """Takes server-final; raises ServerProtocolError unless it proves that the server has a verifier."""
        fields = _Attributes(message, ServerProtocolError)
        if fields.next_name() == b"e":
            raise ServerProtocolError("the server ended SCRAM with an error")
        try:
            signature = _unbase64(fields.take(b"v"))
        except ValueError:
            raise ServerProtocolError("malformed SCRAM message: bad base64") from None
        fields.skip_optional()
        # An empty signature is compared too: before server-first there is none to match.
        if not self._server_signature or not hmac.compare_digest(signature, self._server_signature):
            raise ServerProtocolError("the server's SCRAM signature is wrong")

    def _read_server_first(self, message: bytes) -> tuple[bytes, bytes, int]:
        fields = _Attributes(message, ServerProtocolError)
        if fields.next_name() == b"m":
            raise ServerProtocolError("the server requires an unsupported SCRAM extension")
        nonce = fields.take(b"r")
        salt_text = fields.take(b"s")
        count_text = fields.take(b"i")
        fields.skip_optional()
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce) or _NONCE.fullmatch(nonce) is None:
            raise ServerProtocolError("invalid SCRAM message: the nonce is not an extension of ours")
        try:
            salt = _unbase64(salt_text)
        except ValueError:
            raise ServerProtocolError("malformed SCRAM message: bad salt") from None
        # Eight digits reach the limit; isdigit on bytes is ASCII only.
        if not count_text.isdigit() or len(count_text) > 8 or not 1 <= int(count_text) <= SCRAM_ITERATIONS_MAX:
            raise ServerProtocolError("the server asks for an unreasonable number of SCRAM iterations")
        return nonce, salt, int(count_text)


class _Attributes:
    """The comma-separated `name=value` attributes of one SCRAM message, read in order."""

    __slots__ = ("_error", "_left")

    def __init__(self, text: bytes, error: type[ProtocolViolation] | type[ServerProtocolError]) -> None:
        self._left: bytes | None = text
        self._error = error

    def next_name(self) -> bytes:
        """The name of the next attribute, empty at the end."""
        return (self._left or b"")[:1]

    def take(self, name: bytes) -> bytes:
        """The value of the next attribute, which must have this name."""
        if self._left is None or not self._left.startswith(name + b"="):
            raise self._error(f"malformed SCRAM message: attribute {name.decode()} expected")
        value, comma, left = self._left[2:].partition(b",")
        self._left = left if comma else None
        return value

    def skip_optional(self) -> None:
        """Passes over optional extensions up to the end; each must look like an attribute."""
        while self._left is not None:
            if not self._left[:1].isalpha():
                raise self._error("malformed SCRAM message: attribute expected")
            self.take(self._left[:1])


def _split_client_first(message: bytes) -> tuple[bytes, bytes]:
    """gs2 header (to its second comma) and client-first-bare."""
    flag, comma, after_flag = message.partition(b",")
    if not (flag in (b"n", b"y") or flag.startswith(b"p=")) or not comma:
        raise ProtocolViolation("malformed SCRAM message: unexpected channel-binding flag")
    authzid, comma, bare = after_flag.partition(b",")
    if authzid.startswith(b"a="):
        raise NotSupported("client uses authorization identity, but it is not supported")
    if authzid or not comma:
        raise ProtocolViolation("malformed SCRAM message: unexpected attribute in client-first-message")
    return flag + b",,", bare


def _proof(text: bytes) -> bytes:
    try:
        proof = _unbase64(text)
    except ValueError:
        proof = b""
    if len(proof) != KEY_BYTES:
        raise ProtocolViolation("malformed SCRAM message: malformed proof in client-final-message")
    return proof


def _unbase64(text: bytes) -> bytes:
    """Strict base64 of something that is not empty; ValueError else."""
    data = binascii.a2b_base64(text, strict_mode=True)
    if not data:
        raise ValueError
    return data


def client_key_of(password: bytes, verifier: KnownSecret) -> tuple[bytes, bytes]:
    """ClientKey and StoredKey of a password that a client sent, under a verifier's salt and count."""
    try:
        raw = prepared(password.decode())
    except UnicodeDecodeError:
        raw = password  # as PostgreSQL does
    salted = hashlib.pbkdf2_hmac("sha256", raw, verifier.salt, verifier.iterations)
    client_key = _hmac(salted, b"Client Key")
    return client_key, _sha256(client_key)


def _salted_password(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", prepared(password), salt, iterations)


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
