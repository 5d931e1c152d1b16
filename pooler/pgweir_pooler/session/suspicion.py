"""What a statement may leave behind in its session, by its text and by the tag that PostgreSQL answers with.

A suspicion is never more than a reason to ask: at the end of the transaction PostgreSQL is asked what is there
(`session_state`), so rollbacks, savepoints, quoting and procedures are its own business. A needless suspicion costs one
short query; so words are looked for anywhere, in comments and literals too.

PostgreSQL's tags tell of most statements, and so does a SELECT that returns no rows: it made a table. The text is
searched only for what hides behind any tag: set_config, advisory locks, and in prepared statements temporary tables.
What a function of the user does without a word of it in the client's text cannot be seen.
"""

import re
from functools import lru_cache
from typing import Final

# What to ask PostgreSQL about.
SETTINGS: Final = 1
PREPARED: Final = 2  # by SQL's PREPARE
CHANNELS: Final = 4
TEMPORARY: Final = 8  # relations, functions and types in the session's temporary schema
HOLDABLE: Final = 16  # cursors WITH HOLD
LOCKS: Final = 32  # advisory locks of the session
# What cannot be asked.
LOADED: Final = 64  # a library: it stays until the connection ends
DISCARDED: Final = 128  # everything the session had is gone: DISCARD ALL
DEALLOCATED: Final = 256  # all prepared statements are gone
NEEDS_REPLAY: Final = 512  # not a suspicion: the text may name what must be there before it runs
HIDDEN: Final = 1024  # settings by names that are in no text of the client's: they cannot be asked for
RESET: Final = 2048  # not a suspicion: settings went back to what the session began with
UNTAGGED: Final = SETTINGS | TEMPORARY | LOCKS  # what no tag tells of, see `asks_of`
EVERYTHING: Final = SETTINGS | PREPARED | CHANNELS | TEMPORARY | HOLDABLE | LOCKS
QUESTIONS: Final = EVERYTHING

# Why a client keeps its server between transactions, as status and metrics call it.
PIN_REASONS: Final[dict[int, str]] = {
    PREPARED: "sql_prepare",
    TEMPORARY: "temporary_objects",
    HOLDABLE: "holdable_cursor",
    LOCKS: "advisory_lock",
    LOADED: "loaded_library",
}

ASKS_BY_TAG: Final[dict[bytes, int]] = {
    b"SET\0": SETTINGS,
    b"RESET\0": SETTINGS | RESET,
    b"PREPARE\0": PREPARED,
    b"DEALLOCATE\0": PREPARED,
    b"DEALLOCATE ALL\0": PREPARED | DEALLOCATED,
    b"LISTEN\0": CHANNELS,
    b"UNLISTEN\0": CHANNELS,
    b"DECLARE CURSOR\0": HOLDABLE,
    b"CLOSE CURSOR\0": HOLDABLE,
    b"CLOSE CURSOR ALL\0": HOLDABLE,
    b"LOAD\0": LOADED,
    b"DISCARD ALL\0": EVERYTHING | DISCARDED | DEALLOCATED | RESET,
    b"DISCARD TEMP\0": TEMPORARY,
    b"CALL\0": EVERYTHING | HIDDEN,
    b"DO\0": EVERYTHING | HIDDEN,
    b"CREATE TABLE\0": TEMPORARY,
    b"CREATE TABLE AS\0": TEMPORARY,
    b"CREATE VIEW\0": TEMPORARY,
    b"CREATE SEQUENCE\0": TEMPORARY,
    b"CREATE FUNCTION\0": TEMPORARY,
    b"CREATE PROCEDURE\0": TEMPORARY,
    b"CREATE AGGREGATE\0": TEMPORARY,
    b"CREATE TYPE\0": TEMPORARY,
    b"CREATE DOMAIN\0": TEMPORARY,
    b"DROP TABLE\0": TEMPORARY,
    b"DROP VIEW\0": TEMPORARY,
    b"DROP SEQUENCE\0": TEMPORARY,
    b"DROP FUNCTION\0": TEMPORARY,
    b"DROP PROCEDURE\0": TEMPORARY,
    b"DROP AGGREGATE\0": TEMPORARY,
    b"DROP TYPE\0": TEMPORARY,
    b"DROP DOMAIN\0": TEMPORARY,
}

# Words of statements that need what the client prepared or listens to on the server before they run.
_NEEDS_REPLAY = re.compile(rb"\b(?:execute|deallocate|prepare|unlisten|discard)\b")
_FORGETS = re.compile(rb"\b(?:deallocate|discard)\b")
_ALL = re.compile(rb"\ball\b")
# A Query or Parse message that is this and nothing else.
_DEALLOCATE = re.compile(
    rb"""(?:Q.{4}|P.{4}[^\0]*\0)\s*deallocate\s+(?:prepare\s+)?("(?:[^"\0]|"")+"|[\w$\x80-\xff]+)[\s;]*\0""",
    re.IGNORECASE | re.DOTALL,
)
_CACHED_TEXT = 2048


def asks_of(text: bytes) -> int:
    """The suspicions that the text of a Query raises which no answer to it tells of.

    Only calls can raise them: 80 ns for a text without one.
    """
    return _asks_of_calls(text.lower()) if text.find(b"(") >= 0 else 0


def _asks_of_calls(low: bytes) -> int:
    asks = SETTINGS if low.find(b"set_config") >= 0 else 0
    return asks | LOCKS if low.find(b"advisory") >= 0 else asks


def asks_of_statement(body: bytes) -> int:
    """`asks_of` and NEEDS_REPLAY for a Parse message's body behind the name.

    With a memory: such texts come again and again.
    """
    return _remembered(body) if len(body) <= _CACHED_TEXT else _asks_of_statement(body)


def _asks_of_statement(body: bytes) -> int:
    low = body.lower()
    asks = _asks_of_calls(low)
    if low.find(b"temp") >= 0:  # nothing in the answer to an Execute tells a SELECT from a SELECT INTO
        asks |= TEMPORARY
    return asks | NEEDS_REPLAY if needs_replay(body) else asks


_remembered = lru_cache(maxsize=4096)(_asks_of_statement)


def needs_replay(text: bytes) -> bool:
    """Whether the text may name something that the client prepared by SQL, or a channel that it listens to."""
    return _NEEDS_REPLAY.search(text.lower()) is not None


def deallocated(messages: bytes) -> bytes | None:
    """The name that a DEALLOCATE drops, when the first of these messages is one."""
    found = _DEALLOCATE.match(messages)
    if found is None:
        return None
    name: bytes = found[1]
    return name[1:-1].replace(b'""', b'"') if name.startswith(b'"') else name.lower()


def forgets(text: bytes) -> bool:
    """Whether the text may drop all prepared statements: DEALLOCATE ALL, DISCARD ALL."""
    for part in text.lower().split(b";"):
        found = _FORGETS.search(part)
        if found is not None and _ALL.search(part, found.end()) is not None:
            return True
    return False
