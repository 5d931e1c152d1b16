"""A command's text, understood: one verb and at most one argument. Pure.

Words are case-insensitive and a semicolon may follow. A database is named as in SHOW DATABASES (`database.tenant`),
bare or in double quotes (doubled inside); its case counts.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pgweir_pooler.errors import CommandNotSupported, InvalidCommand


class Verb(Enum):
    """What a command does; the value is its CommandComplete tag."""

    SHOW = "SHOW"
    SET = "SET"
    PAUSE = "PAUSE"
    RESUME = "RESUME"
    DISABLE = "DISABLE"
    ENABLE = "ENABLE"
    RECONNECT = "RECONNECT"
    KILL = "KILL"
    KILL_CLIENT = "KILL_CLIENT"
    RELOAD = "RELOAD"
    SHUTDOWN = "SHUTDOWN"
    WAIT_CLOSE = "WAIT_CLOSE"


@dataclass(frozen=True, slots=True)
class Command:
    """`argument`: of SHOW and SHUTDOWN the word in lower case, else as given; empty for none."""

    verb: Verb
    argument: str = ""


SHOWN: Final = frozenset(
    {
        *("clients", "config", "databases", "help", "lists", "mem", "pools", "servers", "state", "stats"),
        *("stats_averages", "stats_totals", "totals", "users", "version"),
    }
)

# What a driver may ask about its own session before it gets to work; PgBouncer answers the same.
SESSION_SETTINGS: Final = {
    "client_encoding": "UTF8",
    "datestyle": "ISO",
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    "timezone": "GMT",
}
# What a driver may set for its own session: taken and ignored, for it can change nothing here.
_IGNORED_SETTINGS: Final = frozenset({*SESSION_SETTINGS, "application_name", "extra_float_digits"})

SHUTDOWN_MODES: Final = ("", "wait_for_servers", "wait_for_clients")

_WITHOUT_ARGUMENT: Final = frozenset({Verb.RELOAD})
_NEEDS_DATABASE: Final = frozenset({Verb.DISABLE, Verb.ENABLE})
_NOT_SHOWN: Final = {
    "fds": "sockets are not handed over to another process",
    "sockets": "SHOW CLIENTS and SHOW SERVERS list all connections",
    "active_sockets": "SHOW CLIENTS and SHOW SERVERS list all connections",
    "peers": "a pgweir member has no PgBouncer peers",
    "peer_pools": "a pgweir member has no PgBouncer peers",
    "dns_hosts": "host names are resolved by the system at each connect",
    "dns_zones": "host names are resolved by the system at each connect",
}
_TRANSACTION_WORDS: Final = frozenset({"begin", "start", "commit", "rollback", "end", "abort", "savepoint"})

# Possessive: what does not match does so in a time that grows as the text.
_COMMAND: Final = re.compile(r'\s*+(\w++)(?:\s++("(?:[^"]|"")*+"|[^\s;"\']++))?+\s*+(?:;\s*+)?+')
_SET: Final = re.compile(
    r'\s*set\s+(?:session\s+|local\s+)?"?([\w.]+)"?\s*(?:=|\bto\b)\s*.*', re.IGNORECASE | re.DOTALL
)
_FIRST_WORD: Final = re.compile(r"\s*(\w*)")
_SHOWN_MAX_CHARS: Final = 63


def parse_command(text: str) -> Command | None:
    """The command, None for an empty text. Raises InvalidCommand, CommandNotSupported."""
    if not text.strip(" \t\r\n;"):
        return None
    setting = _SET.fullmatch(text)
    if setting is not None:
        return _set(setting[1].lower())
    match = _COMMAND.fullmatch(text)
    if match is None:
        raise _invalid(text)
    word = match[1].lower()
    argument = _unquoted(match[2] or "")
    if word in ("show", "select"):  # PgBouncer takes SELECT, too
        return _show(argument.lower(), text)
    if word == "suspend":
        raise CommandNotSupported("SUSPEND is not supported: a process is never replaced in place", hint="Use PAUSE.")
    verb = Verb.__members__.get(word.upper())
    if verb is None or verb is Verb.SET:
        raise _invalid(text)
    return _action(verb, argument, text)


def _action(verb: Verb, argument: str, text: str) -> Command:
    if verb is Verb.SHUTDOWN:
        argument = argument.lower()
        if argument not in SHUTDOWN_MODES:
            raise _invalid(text)
    if verb in _WITHOUT_ARGUMENT and argument:
        raise _invalid(text)
    if verb in _NEEDS_DATABASE and not argument:
        raise InvalidCommand(f"{verb.value} needs a database", hint=NAMES_HINT)
    if verb is Verb.KILL_CLIENT and not (argument.isascii() and argument.isdecimal()):
        raise InvalidCommand("KILL_CLIENT needs the id of a client", hint="The column id of SHOW CLIENTS has it.")
    return Command(verb, argument)


NAMES_HINT: Final = "Databases are named database.tenant, as in SHOW DATABASES."


def _show(what: str, text: str) -> Command:
    if what in _NOT_SHOWN:
        raise CommandNotSupported(f"SHOW {what.upper()} is not supported: {_NOT_SHOWN[what]}")
    if what not in SHOWN and what not in SESSION_SETTINGS:
        raise _invalid(text)
    return Command(Verb.SHOW, what)


def _set(name: str) -> Command:
    if name in _IGNORED_SETTINGS:
        return Command(Verb.SET, name)
    raise CommandNotSupported(
        "SET is not supported: the configuration is changed in its files",
        hint="Change the manifests, or cluster.json and the tenants' files; RELOAD reads them at once.",
    )


def _unquoted(word: str) -> str:
    return word[1:-1].replace('""', '"') if word.startswith('"') else word


def _invalid(text: str) -> InvalidCommand | CommandNotSupported:
    first = _FIRST_WORD.match(text)
    if first is not None and first[1].lower() in _TRANSACTION_WORDS:
        return CommandNotSupported("the console has no transactions", hint="Switch the driver's autocommit on.")
    shown = "".join(char if char.isprintable() else " " for char in text.strip()[:_SHOWN_MAX_CHARS])
    return InvalidCommand(f"invalid command '{shown}'", hint="SHOW HELP lists the commands.")
