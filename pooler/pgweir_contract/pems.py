"""PEM texts that tenants bring: certificates and private keys, once per digest in the file whose entries name them.

`pems` of a file maps the SHA-256 of a text to the text. An entry names a text by its digest, so that a CA bundle which
a thousand tenants share is there once, and so that entries can be compared without it. A text that is missing, is
damaged or is not what the entry takes it for makes the entries that name it bad, never the file.

No problem repeats any part of a text.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from pydantic import Field, SecretStr

PEM_MAX_CHARACTERS: Final = 256 * 1024  # the largest bundle of a cloud's database CAs has 180 KiB

PemDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""The SHA-256 of a PEM text's UTF-8, in lower-case hexadecimal."""

PemKind = Literal["certificates", "key"]

_BLOCK: Final = re.compile(r"^-----BEGIN ([A-Z0-9 ]+)-----\s*$", re.MULTILINE)
_KEYS: Final = frozenset({"PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"})


class PemRef(NamedTuple):
    """Where an entry names a text, and what the text must be."""

    path: str
    digest: str
    kind: PemKind
    certificate: str | None = None  # the digest of the certificates whose first one this key must fit


def pem_digest(text: str) -> str:
    """The name of a text in `pems`."""
    return hashlib.sha256(text.encode()).hexdigest()


def pem_problem(text: str, kind: PemKind) -> str | None:
    """What is wrong with a text that should be of this kind; None when nothing is."""
    blocks = _BLOCK.findall(text)
    if len(text) > PEM_MAX_CHARACTERS:
        return f"has more than {PEM_MAX_CHARACTERS} characters"
    if not blocks:
        return "is no PEM text: it has no line -----BEGIN …-----"
    return _certificates_problem(text, blocks) if kind == "certificates" else _key_problem(text, blocks)


def _certificates_problem(text: str, blocks: list[str]) -> str | None:
    strange = [block for block in blocks if block != "CERTIFICATE"]
    if strange:
        return "must hold certificates only, and has a block of another kind"
    try:
        x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        return "has a certificate that cannot be read"
    return None


def _key_problem(text: str, blocks: list[str]) -> str | None:
    if len(blocks) > 1 or blocks[0] not in _KEYS:
        if "ENCRYPTED" in text:
            return "is an encrypted private key; it must be without a passphrase"
        return "must hold one private key and nothing else"
    try:
        _public_key(text)
    except TypeError:
        return "is an encrypted private key; it must be without a passphrase"
    except (ValueError, UnsupportedAlgorithm):
        return "has a private key that cannot be read"
    return None


def _public_key(text: str) -> bytes:
    # The consistency of an RSA key's numbers is not looked at: that takes 0.1 s and more.
    key = load_pem_private_key(text.encode(), None, unsafe_skip_rsa_key_validation=True)
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _certified_key(text: str) -> bytes:
    first = x509.load_pem_x509_certificates(text.encode())[0]
    return first.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_fits(key: str, certificates: str) -> bool:
    """Whether a private key is that of the first certificate; both must be without a problem."""
    try:
        return _public_key(key) == _certified_key(certificates)
    except (ValueError, UnsupportedAlgorithm):
        return False


class PemTexts:
    """The texts of one file, judged when the first entry names them."""

    __slots__ = ("_given", "_verdicts", "texts")

    def __init__(self, given: Mapping[str, object]) -> None:
        self._given = given
        self._verdicts: dict[tuple[str, ...], str | None] = {}
        self.texts: dict[str, SecretStr] = {}  # by digest: those that an entry names and that are good

    def problems(self, refs: Iterable[PemRef]) -> list[str]:
        """One `path: message` for each text that the entry names in vain."""
        found = []
        for ref in refs:
            problem = self._verdict(ref)
            if problem is not None:
                found.append(f"{ref.path}: {problem}")
        return found

    def _verdict(self, ref: PemRef) -> str | None:
        key = (ref.digest, ref.kind, ref.certificate or "")
        if key not in self._verdicts:
            self._verdicts[key] = self._judge(ref)
        return self._verdicts[key]

    def _judge(self, ref: PemRef) -> str | None:
        text = self._given.get(ref.digest)
        if text is None:
            return "pems has no text with this digest"
        if not isinstance(text, str) or not _is_utf8(text):
            return "the text in pems is no text"
        if pem_digest(text) != ref.digest:
            return "the text in pems is damaged: it has another digest"
        problem = pem_problem(text, ref.kind)
        if problem is not None:
            return f"the text in pems {problem}"
        other = self._given.get(ref.certificate) if ref.certificate else None
        # A certificate that is bad itself is a problem of its own path.
        if isinstance(other, str) and pem_problem(other, "certificates") is None and not key_fits(text, other):
            return "the private key does not fit the certificate"
        self.texts[ref.digest] = SecretStr(text)
        return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def pems_of(refs: Iterable[PemRef], pems: Mapping[str, SecretStr]) -> dict[str, SecretStr]:
    """The texts that are named, out of those that are there."""
    return {ref.digest: pems[ref.digest] for ref in refs if ref.digest in pems}
