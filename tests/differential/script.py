"""A script of one client: what it says in its startup message, then step by step, each with the end of its answer.

The same script runs directly and through a pooler. It names nothing but objects of its own client, so what the other
clients do does not show in its answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness import messages

# Without those of PL/pgSQL: whether that is loaded depends on what the server has run.
_LISTED = (
    "select name, setting from pg_settings"
    " where context in ('user', 'superuser') and name not like 'plpgsql.%' order by name"
)
# What the session must be like at the end, behind whatever the script has left open. Statements and tables that a
# script may have made are used once more: they are there on both ways, or on none.
_LAST_QUERIES = (
    "rollback",
    "select current_user, session_user, nullif(current_setting('pgweir_test.x', true), '')",
    _LISTED,
    "execute p1(1)",
    "execute p2('z')",
    "table tmp",
    "fetch all from h",
    "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
)


@dataclass(frozen=True)
class Step:
    """Bytes that are sent in one go, and where their answer ends."""

    said: str  # for people
    data: bytes
    readies: int = 1  # with so many ReadyForQuery
    until: bytes = b""  # or with the first message of one of these types, when there is no Sync


@dataclass(frozen=True)
class Script:
    """What one client does; `number` is part of the names of its objects."""

    number: int
    steps: tuple[Step, ...]
    startup: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join([f"client {self.number}, startup {dict(self.startup)}", *(step.said for step in self.steps)])


def query(sql: str) -> Step:
    """A simple query."""
    return Step(sql, messages.query(sql))


def last_steps(names: tuple[str, ...]) -> tuple[Step, ...]:
    """Shows the session as it is at the end; `names` are prepared statements that may be there."""
    parts = [messages.describe_statement(name) + messages.SYNC for name in names]
    return (
        *(query(sql) for sql in _LAST_QUERIES),
        *(Step(f"Describe {name!r}; Sync", part) for name, part in zip(names, parts, strict=True)),
    )
