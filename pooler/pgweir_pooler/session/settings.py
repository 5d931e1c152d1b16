"""The settings of a session: what a client put into its startup message, to be applied to the server it gets.

Settings are a sorted tuple of (name, value). They are applied with `set_config`, which reads a value as the startup
message does (a list stays a list, where SET would take it for one quoted name), schema-qualified, so that a hostile
search_path changes nothing.
"""

from functools import lru_cache

from pgweir_pooler.session.steps import Settings
from pgweir_pooler.wire.messages import parameter_status, query

NO_SETTINGS: Settings = ()
UNKNOWN_SETTINGS: Settings = (("", ""),)  # equal to no client's, so that whoever comes next has its own applied

# By these PostgreSQL reads a text when it prepares it: names, and literals that it turns into values at once.
_READING = frozenset(
    {
        "array_nulls",
        "backslash_quote",
        "client_encoding",
        "datestyle",
        "intervalstyle",
        "lc_monetary",
        "role",
        "search_path",
        "session_authorization",
        "standard_conforming_strings",
        "timezone",
        "transform_null_equals",
        "xmloption",
    }
)

APPLICATION_NAME = "application_name"
# NAMEDATALEN - 1: PostgreSQL cuts longer application names (src/backend/commands/variable.c).
_APPLICATION_NAME_LIMIT = 63

RESET_SESSION = query(b"DISCARD ALL")
ROLLBACK = query(b"ROLLBACK")


# The two messages of `apply_settings`. The first also undoes a role, which RESET ALL leaves; and it brings
# client_encoding back to UTF8 before the second one is read: in SJIS and others a byte could swallow an escape.
_RESET = query(b"SET SESSION AUTHORIZATION DEFAULT; RESET ALL")


_LAST = {"session_authorization": 1, "role": 2}


def apply_settings(settings: Settings) -> tuple[bytes, int]:
    """Query messages that bring a server from any other client's settings to these, and how many they are."""
    if not settings:
        return _RESET, 1
    # A role may not be allowed to set what was set before it was taken on.
    ordered = sorted(settings, key=lambda setting: _LAST.get(setting[0], 0))
    calls = ", ".join(f"pg_catalog.set_config({literal(k)}, {literal(v)}, false)" for k, v in ordered)
    return _RESET + query(f"SELECT {calls}".encode()), 2


@lru_cache(maxsize=4096)
def reading_settings(settings: Settings) -> Settings:
    """The settings that decide what a statement's text means."""
    return tuple(setting for setting in settings if setting[0] in _READING)


def literal(text: str) -> str:
    """An escape string literal: right whatever standard_conforming_strings and backslash_quote say."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def split_application_name(settings: Settings) -> tuple[Settings, str | None]:
    """Takes the application name out of the settings if PostgreSQL would report it exactly as given.

    It is different for nearly every client, so it must not make each login ask a server.
    """
    for i, (name, value) in enumerate(settings):
        if (
            name == APPLICATION_NAME
            and value.isascii()
            and value.isprintable()
            and len(value) <= _APPLICATION_NAME_LIMIT
        ):
            return settings[:i] + settings[i + 1 :], value
    return settings, None


def render_parameters(parameters: dict[bytes, bytes], application_name: str | None) -> bytes:
    """ParameterStatus messages of what a server reported, with the client's own application name if it gave one."""
    shown = dict(parameters)
    if application_name is not None:
        shown[b"application_name"] = application_name.encode()
    return b"".join(parameter_status(name, value) for name, value in shown.items())


def changed_parameters(before: dict[bytes, bytes], after: dict[bytes, bytes]) -> bytes:
    """ParameterStatus messages for what is another value now."""
    return b"".join(parameter_status(name, value) for name, value in after.items() if before.get(name) != value)
