"""What all contract models share: their strictness, their texts, and the one way out to JSON.

In Python a model is built with snake_case names (`PoolSettings(min_idle=1)`), in files it has the camelCase
names of the CRDs. Models are frozen; lists are tuples. Secrets are `SecretStr`: no repr, str or error shows
them, and `render` is the only function that reveals them.
"""

import json
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    SerializationInfo,
    ValidationError,
    field_serializer,
)
from pydantic.alias_generators import to_camel

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_REVEAL = "pgweir.reveal"

_MESSAGES: Final = {
    "extra_forbidden": "unknown field",
    "missing": "required field is missing",
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
}

T = TypeVar("T")


class ContractModel(BaseModel):
    """Base of the contract's models."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,
    )

    @field_serializer("*", mode="wrap", when_used="json", check_fields=False)
    def _hide_or_reveal(self, value: Any, handler: Any, info: SerializationInfo) -> Any:
        if not (isinstance(info.context, dict) and _REVEAL in info.context):
            return handler(value)
        if isinstance(value, SecretStr):
            return value.get_secret_value()
        if isinstance(value, tuple) and value and isinstance(value[0], SecretStr):
            return [secret.get_secret_value() for secret in value]
        if isinstance(value, dict) and value and isinstance(next(iter(value.values())), SecretStr):
            return {key: secret.get_secret_value() for key, secret in value.items()}
        return handler(value)


def render(model: BaseModel) -> bytes:
    """Canonical JSON: sorted keys, no blanks, a final newline, nothing that is None. Secrets are in clear."""
    data = model.model_dump(mode="json", by_alias=True, exclude_none=True, context={_REVEAL: True})
    return (json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n").encode()


def path_text(location: tuple[int | str, ...]) -> str:
    """`("users", 0, "name")` as `users[0].name`."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def describe_errors(error: ValidationError) -> list[str]:
    """One `path: message` per problem, without the input, which may be a secret."""
    lines = []
    problems = error.errors(include_url=False, include_input=False)
    for problem in problems:
        depth = len(problem["loc"])
        if problem["type"] == "too_short" and any(
            len(other["loc"]) > depth and other["loc"][:depth] == problem["loc"] for other in problems
        ):
            continue  # pydantic counts good items only, so a list of one bad item is also "too short"
        path = path_text(problem["loc"])
        message = _message(problem)
        lines.append(f"{path}: {message}" if path else message)
    return lines


def _message(problem: "ErrorDetails") -> str:
    """What is wrong, in the words of files: pydantic's speak of Python's types and of our classes."""
    kind, context = problem["type"], problem.get("ctx", {})
    unit = "character" if context.get("field_type") == "Value" else "item"  # of a SecretStr, or of a list
    if kind == "too_short":
        return f"must have at least {_counted(context['min_length'], unit)}"
    if kind == "too_long":
        return f"must have at most {_counted(context['max_length'], unit)}"
    return _MESSAGES.get(kind) or problem["msg"].removeprefix("Value error, ")


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def unique(what: str, keys: list[str]) -> None:
    """ValueError naming the first key that occurs twice."""
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"{what} {key!r} is listed twice")
        seen.add(key)


def _pg_name(name: str) -> str:
    if "\0" in name:
        raise ValueError("a PostgreSQL name cannot hold a NUL character")
    if not name.isprintable():
        raise ValueError("control characters are not allowed in a name")
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError("the name is not valid Unicode") from None
    if size_bytes > 63:
        raise ValueError("a PostgreSQL name has at most 63 bytes")
    return name


def _host(host: str) -> str:
    if not host.isprintable() or any(c.isspace() for c in host):
        raise ValueError("a host name cannot hold whitespace or control characters")
    return host


def _secret_text(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value()
    if "\0" in value:
        raise ValueError("a password cannot hold a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("a password must be valid Unicode") from None
    return secret


Listed = Annotated[tuple[T, ...], Field(strict=False)]
"""A tuple that a JSON list fills; its items stay strict."""

PgName = Annotated[str, Field(min_length=1, max_length=63), AfterValidator(_pg_name)]
"""A role or database name: 1 to 63 bytes of printable UTF-8."""

Host = Annotated[str, Field(min_length=1, max_length=253), AfterValidator(_host)]
"""A host name or an IP address (IPv6 without brackets)."""

Port = Annotated[int, Field(ge=1, le=65535)]

MemberName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""The name of a pooler process: its pod's name."""

TenantId = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""A DNS label, so that it fits a host name (SNI) and holds no dot (`user.tenant` splits at the last)."""

InstanceKey = Annotated[str, Field(min_length=3, max_length=263, pattern=r"^\S+:[0-9]{1,5}$")]
"""`host:port` as `names.instance_key` spells it."""

Password = Annotated[SecretStr, Field(min_length=1, max_length=4096), AfterValidator(_secret_text)]
