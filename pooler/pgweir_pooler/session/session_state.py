"""What a session holds beyond its transaction, as PostgreSQL itself tells it.

`question` makes one Query that asks for all that is suspected; `Answer.of` reads its rows. Names and values come as
hexadecimal UTF-8, so that neither the client's encoding nor its settings change how they are read; everything is
schema-qualified, so that a hostile search_path changes nothing.
"""

import re
from dataclasses import dataclass, field

from pgweir_pooler.session.settings import literal
from pgweir_pooler.session.suspicion import CHANNELS, HOLDABLE, LOCKS, PREPARED, SETTINGS, TEMPORARY
from pgweir_pooler.wire.cursor import ServerProtocolError
from pgweir_pooler.wire.framing import DATA_ROW, HEADER_SIZE, read_header
from pgweir_pooler.wire.messages import query

# Settings with a dot in their name that no extension has defined are not in pg_settings: they are asked for by name.
MAX_CUSTOM_NAMES = 200
# Nothing is tried from the middle of a word and no part is longer than a name may be: so the time grows with the text's
# length, not with its square. A dollar may stand before a word: $$app.x$$.
_WORD = rb"(?:[A-Za-z_\x80-\xff][\w$\x80-\xff]{0,62}|\"[^\"\0]{1,62}\")"
_CUSTOM_NAME = re.compile(
    rb"(?<![\w\x80-\xff])" + _WORD + rb"(?:\s{0,9}\.\s{0,9}" + _WORD + rb")+|\"[^\".\0]{1,62}\.[^\"\0]{1,62}\""
)
_SPACES_AND_QUOTES = re.compile(rb"[\s\"]+")


def _hex(expression: str) -> str:
    return f"pg_catalog.encode(pg_catalog.convert_to({expression}, 'UTF8'), 'hex')"


_NULL = b"null"  # told apart by identity

_SESSION_SOURCE = " WHERE source OPERATOR(pg_catalog.=) 'session'"
_NO_TIMEOUT = " AND name OPERATOR(pg_catalog.<>) 'statement_timeout'"
_QUESTIONS = {
    SETTINGS: f"SELECT 's', {_hex('name')}, {_hex('setting')} FROM pg_catalog.pg_settings"
    f"{_SESSION_SOURCE} "
    f"""UNION ALL SELECT 'r', '', {_hex("pg_catalog.current_setting('role')")} """
    f"UNION ALL SELECT 'u', '', {_hex('session_user::pg_catalog.text')}",
    PREPARED: "SELECT CASE WHEN from_sql THEN 'p' ELSE 'q' END, "
    f"{_hex('name')}, {_hex('statement')} FROM pg_catalog.pg_prepared_statements",
    CHANNELS: f"SELECT 'l', {_hex('c')}, '' FROM pg_catalog.pg_listening_channels() c",
    TEMPORARY: "SELECT 't', '', '' WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 AND ("
    + " OR ".join(
        f"EXISTS (SELECT FROM pg_catalog.{table} WHERE {column} OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())"
        for table, column in (
            ("pg_class", "relnamespace"),
            ("pg_proc", "pronamespace"),
            ("pg_type", "typnamespace"),
        )
    )
    + ")",
    HOLDABLE: f"SELECT 'h', {_hex('name')}, '' FROM pg_catalog.pg_cursors WHERE is_holdable",
    LOCKS: "SELECT 'a', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks"
    " WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())",
}
# Settings of the transaction that has ended, or that cannot be set.
_NOT_KEPT = frozenset({"transaction_isolation", "transaction_read_only", "transaction_deferrable", "is_superuser"})


def question(asks: int, custom_names: frozenset[str] = frozenset(), *, is_unhurried: bool = False) -> bytes:
    """A Query message that asks for the suspicions in `asks`; unhurried, the session's statement_timeout is off."""
    parts = [text for bit, text in _QUESTIONS.items() if asks & bit]
    if asks & SETTINGS:
        parts += [
            f"SELECT 's', {_hex(literal(name))}, {_hex(f'pg_catalog.current_setting({literal(name)}, true)')}"
            for name in sorted(custom_names)
        ]
    asked = " UNION ALL ".join(parts)
    if is_unhurried:
        timeout = f"SELECT 's', {_hex(literal('statement_timeout'))}, "
        timeout += _hex("pg_catalog.current_setting('statement_timeout')")
        asked = f"SET LOCAL statement_timeout = 0; {asked.replace(_SESSION_SOURCE, _SESSION_SOURCE + _NO_TIMEOUT)}"
        asked = f"{timeout}; {asked}"
    return query(asked.encode())


def custom_names(text: bytes) -> frozenset[str]:
    """What may be a custom setting's name in a text, in lower case: setting names know no case."""
    matches = (_SPACES_AND_QUOTES.sub(b"", match) for match in _CUSTOM_NAME.findall(text))
    found = {match.decode("utf-8", "replace").lower() for match in matches}
    found.update(*(name.split("$") for name in found if "$" in name))  # $$app.x$$ is app.x
    return frozenset(name for name in found if "." in name and len(name) < 64)


@dataclass
class Answer:
    """What PostgreSQL said. Only what was asked for is filled in."""

    settings: dict[str, str] = field(default_factory=dict)
    role: str = "none"
    session_user: str = ""
    sql_statements: dict[str, str] = field(default_factory=dict)  # name -> text, prepared by SQL
    statements: set[str] = field(default_factory=set)  # names that were prepared by Parse
    channels: set[str] = field(default_factory=set)
    found: int = 0  # of TEMPORARY, HOLDABLE and LOCKS, what is there

    @classmethod
    def of(cls, data: bytes) -> "Answer":
        """Reads the messages that answered a `question`."""
        answer = cls()
        for kind, name, value in _rows(data):
            if value is None:
                continue
            match kind:
                case "s":
                    if name not in _NOT_KEPT:
                        answer.settings[name.lower()] = value  # as the startup message's are kept: DateStyle, TimeZone
                case "r":
                    answer.role = value
                case "u":
                    answer.session_user = value
                case "p":
                    answer.sql_statements[name] = value
                case "q":
                    answer.statements.add(name)
                case "l":
                    answer.channels.add(name)
                case _:
                    answer.found |= {"t": TEMPORARY, "h": HOLDABLE, "a": LOCKS}[kind]
        return answer


def _rows(data: bytes) -> list[tuple[str, str, str | None]]:
    """The rows among these messages: kind, name, value."""
    rows = []
    pos = 0
    while len(data) - pos >= HEADER_SIZE:
        tag, length = read_header(data, pos)
        after = pos + 1 + length
        if tag == DATA_ROW:
            rows.append(_row(data[pos + HEADER_SIZE : after]))
        pos = after
    return rows


def _row(body: bytes) -> tuple[str, str, str | None]:
    values: list[bytes] = []
    at = 2
    while at < len(body):
        size = int.from_bytes(body[at : at + 4], "big", signed=True)
        at += 4
        values.append(_NULL if size < 0 else body[at : at + size])
        at += max(size, 0)
    if len(values) != 3:
        raise ServerProtocolError("a row of the session's state has the wrong form")
    kind, name, value = values
    return kind.decode(), _text(name), None if value is _NULL else _text(value)


def _text(digits: bytes) -> str:
    return bytes.fromhex(digits.decode("ascii", "replace")).decode("utf-8", "replace")


def is_single(text: str) -> bool:
    """Whether the text is surely one statement, so that it may be run again by itself."""
    return ";" not in text.strip().removesuffix(";")


def deallocate(names: set[str]) -> bytes:
    """A Query message that drops these prepared statements; all there are, if a name is not plain ASCII."""
    if not all(name.isascii() for name in names):
        return query(b"DEALLOCATE ALL")
    return query("; ".join(f"DEALLOCATE {quoted(name)}" for name in sorted(names)).encode())


def quoted(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'
