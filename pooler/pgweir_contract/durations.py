"""Durations: a whole number with a unit in files ("500ms", "60s", "5m", "1h"), float seconds in Python.

Only Python code may give plain numbers (of seconds). In a file a number without a unit is an error: `60`
reads as seconds to one person and as milliseconds to the next.
"""

import re
from typing import Annotated, Final

from pydantic import Field, PlainSerializer, ValidationInfo, WithJsonSchema
from pydantic.functional_validators import BeforeValidator

_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
DURATION_PATTERN: Final = r"^(0|[1-9][0-9]{0,10})(ms|s|m|h)$"
_FORM = re.compile(DURATION_PATTERN)
_EXPECTED: Final = 'a duration is a whole number with a unit (ms, s, m, h), such as "500ms", "60s" or "5m"'

# A year. What is longer is a mistake in the unit; "0s" means "no limit" where a limit may be absent.
LONGEST_S: Final = 366 * 24 * 3600.0

FROM_FILE: Final = "pgweir.from_file"


def parse_duration(text: str) -> float:
    """Seconds of a text such as "500ms"; ValueError (without the text) when it has another form."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(_EXPECTED)
    return int(match[1]) * _UNITS_MS[match[2]] / 1_000


def render_duration(seconds: float) -> str:
    """The canonical text: the largest unit that gives a whole number; finer than a millisecond is rounded."""
    ms = round(seconds * 1_000)
    if ms == 0:
        return "0s"
    unit = next(u for u in ("h", "m", "s", "ms") if ms % _UNITS_MS[u] == 0)
    return f"{ms // _UNITS_MS[unit]}{unit}"


def _to_seconds(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        return parse_duration(value)
    from_file = isinstance(info.context, dict) and FROM_FILE in info.context
    if from_file or isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(_EXPECTED)
    return float(value)


_SCHEMA: Final = WithJsonSchema(
    {"type": "string", "pattern": DURATION_PATTERN, "examples": ["500ms", "60s", "5m", "1h"]}
)
_TEXT: Final = PlainSerializer(render_duration, return_type=str, when_used="json")

Duration = Annotated[
    float, Field(ge=0, le=LONGEST_S, allow_inf_nan=False), BeforeValidator(_to_seconds), _TEXT, _SCHEMA
]
"""Zero or more seconds; "0s" switches off what it limits, where the field says so."""

PositiveDuration = Annotated[
    float, Field(ge=0.001, le=LONGEST_S, allow_inf_nan=False), BeforeValidator(_to_seconds), _TEXT, _SCHEMA
]
"""At least a millisecond."""
