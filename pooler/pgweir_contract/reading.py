"""From bytes to models: the tolerant readers of the pooler and the strict checker for humans' files.

Tolerant means: a bad tenant is refused alone while the others move on, and the unknown fields of a newer
minor version are ignored. An unknown field at our own or an older version is a typing error and refused, for
to ignore it would do silently something else than what was asked; so is an unknown major version, for its
known fields may mean something else. Strict means that unknown fields are always errors.

No error text repeats a value of the file: it may be a secret.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeVar

from pydantic import SecretStr, TypeAdapter, ValidationError
from pydantic_core import from_json

from pgweir_contract.durations import FROM_FILE
from pgweir_contract.json_form import ContractModel, TenantId, describe_errors
from pgweir_contract.models import AssignmentsFile, ClusterFile, TenantEntry, TenantsFile
from pgweir_contract.names import CONTRACT_VERSION
from pgweir_contract.pems import PemTexts

_Model = TypeVar("_Model", bound=ContractModel)
# None: each model's own word, which is "forbid" but for what Kubernetes adds to metadata.
_Extra = Literal["ignore"] | None

_TENANT_ID: Final[TypeAdapter[str]] = TypeAdapter(TenantId)


class ContractError(Exception):
    """A file, or one tenant of it, cannot be used; `problems` never hold a value of the file."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


class Version(NamedTuple):
    """The version of a file's format."""

    major: int
    minor: int


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 4


def parse_version(text: object) -> Version:
    """The version of a file; ContractError when it is none."""
    if isinstance(text, str):
        major, dot, minor = text.partition(".")
        if dot and _is_number(major) and _is_number(minor):
            return Version(int(major), int(minor))
    raise ContractError('version: must be a text such as "1.0"')


OURS: Final = parse_version(CONTRACT_VERSION)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A tenant that cannot be used: its id, or `tenants[7]` when it has none of its own."""

    key: str
    problems: list[str]
    is_identified: bool = True  # False: whose entry it is cannot be told


@dataclass(slots=True)
class TenantsRead:
    """What one file, or all files together, say about tenants."""

    revision: str = ""
    tenants: dict[str, TenantEntry] = field(default_factory=dict)
    # By tenant id where the entry has one that no earlier entry has, else by its place. A reader keeps the
    # last good state of the tenants named here.
    rejected: dict[str, list[str]] = field(default_factory=dict)
    # By digest: the PEM texts that these tenants name.
    pems: dict[str, SecretStr] = field(default_factory=dict)
    # Whether an entry is there that may be any tenant's: who is not mentioned is then not known to be removed.
    has_unidentified: bool = False

    def refuse(self, rejected: Rejected) -> None:
        """Takes in a tenant that cannot be used."""
        self.rejected[rejected.key] = rejected.problems
        self.has_unidentified |= not rejected.is_identified


@dataclass(frozen=True, slots=True)
class TenantsDocument:
    """A decoded tenants file whose entries are not yet validated."""

    revision: str
    entries: list[object]
    extra: _Extra
    pems: PemTexts

    def each(self) -> Iterator[TenantEntry | Rejected]:
        """Validates one tenant per step (about 50 us), so that a caller can pause in between."""
        seen: set[str] = set()
        for place, entry in enumerate(self.entries):
            yield self._one(place, entry, seen)

    def _one(self, place: int, entry: object, seen: set[str]) -> TenantEntry | Rejected:
        key = _tenant_id(entry)
        is_identified = key is not None
        if key is None:
            key = f"tenants[{place}]"
        elif key in seen:
            return Rejected(f"tenants[{place}]", [f"tenantId {key!r} is listed twice; the first one counts"])
        seen.add(key)
        try:
            tenant = validate(TenantEntry, entry, extra=self.extra)
        except ContractError as error:
            return Rejected(key, error.problems, is_identified)
        problems = self.pems.problems(tenant.pem_refs())
        return Rejected(key, problems) if problems else tenant


def validate(model: type[_Model], value: object, *, extra: _Extra = None) -> _Model:
    """A value decoded from a file as a model; ContractError with one problem per error."""
    try:
        return model.model_validate(value, extra=extra, context={FROM_FILE: True}, by_alias=True, by_name=False)
    except ValidationError as error:
        raise ContractError(*describe_errors(error)) from None


def decode(data: bytes) -> dict[str, Any]:
    """The JSON object of a file; ContractError saying what is wrong and where (line and column)."""
    if not data.strip():
        raise ContractError("the file is empty")
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise ContractError(f"not valid JSON (truncated?): {error}") from None
    if not isinstance(value, dict):
        raise ContractError("must be a JSON object")
    return value


def parse_cluster(data: bytes, *, strict: bool = False) -> ClusterFile:
    """`cluster.json`; ContractError when it cannot be used."""
    return _whole(ClusterFile, data, strict=strict)


def parse_assignments(data: bytes, *, strict: bool = False) -> AssignmentsFile:
    """`assignments-NN.json`; ContractError when it cannot be used."""
    return _whole(AssignmentsFile, data, strict=strict)


def open_tenants(data: bytes, *, strict: bool = False) -> TenantsDocument:
    """Decodes `tenants-NN.json` and checks its frame; ContractError when the whole file is unusable."""
    value = decode(data)
    extra = _extra(value, strict=strict)
    entries = value.get("tenants", [])
    if not isinstance(entries, list):
        raise ContractError("tenants: must be a list")
    pems = value.get("pems", {})
    if not isinstance(pems, dict):
        raise ContractError("pems: must be a mapping")
    frame = validate(TenantsFile, {**value, "tenants": [], "pems": {}}, extra=extra)
    return TenantsDocument(frame.revision, entries, extra, PemTexts(pems))


def parse_tenants(data: bytes, *, strict: bool = False) -> TenantsRead:
    """`tenants-NN.json` in one go; ContractError when the file as a whole cannot be used."""
    document = open_tenants(data, strict=strict)
    read = TenantsRead(document.revision, pems=document.pems.texts)
    for outcome in document.each():
        if isinstance(outcome, Rejected):
            read.refuse(outcome)
        else:
            read.tenants[outcome.tenant_id] = outcome
    return read


def merge_shards(shards: Mapping[str, TenantsRead]) -> TenantsRead:
    """All files' tenants as one. An id that two files hold counts in the first one by name."""
    merged = TenantsRead()
    home: dict[str, str] = {}  # tenant id -> the file that it counts in, be it good or bad there
    for name in sorted(shards):
        shard = shards[name]
        merged.pems |= shard.pems  # a digest is one text, whatever file it is in
        for key, problems in shard.rejected.items():
            if "[" not in key and key not in home:
                home[key] = name
                merged.rejected[key] = problems
            else:
                merged.rejected[f"{name}: {key}"] = problems
        for tenant_id, entry in shard.tenants.items():
            if tenant_id in home:
                merged.rejected[f"{name}: {tenant_id}"] = [f"tenantId is already listed in {home[tenant_id]}"]
                continue
            home[tenant_id] = name
            merged.tenants[tenant_id] = entry
    return merged


def _whole(model: type[_Model], data: bytes, *, strict: bool) -> _Model:
    value = decode(data)
    return validate(model, value, extra=_extra(value, strict=strict))


def _extra(value: dict[str, Any], *, strict: bool) -> _Extra:
    if "version" not in value:
        raise ContractError("version: required field is missing")
    version = parse_version(value["version"])
    if version.major != OURS.major:
        raise ContractError(f"version: major {version.major} is unknown, this reader understands {OURS.major}.x")
    return "ignore" if version.minor > OURS.minor and not strict else None


def _tenant_id(entry: object) -> str | None:
    found = entry.get("tenantId") if isinstance(entry, dict) else None
    return found if isinstance(found, str) and _is_tenant_id(found) else None


def _is_tenant_id(text: str) -> bool:
    try:
        _TENANT_ID.validate_python(text)
    except ValidationError:
        return False
    return True
