"""Moments: RFC 3339 texts with a time zone in files, aware `datetime`s in Python, UTC on the way out."""

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_FORM: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,6})?([Zz]|[+-]\d{2}:\d{2})")
_EXPECTED: Final = 'a moment is an RFC 3339 text with a time zone, such as "2027-01-31T18:00:00Z"'


def parse_timestamp(text: str) -> datetime:
    """The moment of a text; ValueError (without the text) when it has another form."""
    if _FORM.fullmatch(text) is None:
        raise ValueError(_EXPECTED)
    try:
        return datetime.fromisoformat(text.upper())
    except ValueError:
        raise ValueError(_EXPECTED) from None


def render_timestamp(moment: datetime) -> str:
    """The canonical text: UTC, a fraction only where there is one."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _to_moment(value: object) -> object:
    if isinstance(value, str):
        return parse_timestamp(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    raise ValueError(_EXPECTED)


Timestamp = Annotated[
    datetime,
    BeforeValidator(_to_moment),
    PlainSerializer(render_timestamp, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2027-01-31T18:00:00Z"]}),
]
"""A moment."""
