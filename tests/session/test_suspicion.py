"""Which texts and tags are a reason to ask PostgreSQL."""

import pytest

from harness.messages import bind, parse, query
from pgweir_pooler.session.suspicion import (
    ASKS_BY_TAG,
    CHANNELS,
    EVERYTHING,
    HOLDABLE,
    LOCKS,
    NEEDS_REPLAY,
    PREPARED,
    SETTINGS,
    TEMPORARY,
    asks_of,
    asks_of_statement,
    deallocated,
    forgets,
    needs_replay,
)


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        (b"select 1", 0),
        (b"select count(*) from t", 0),
        (b"", 0),
        (b"select set_config('a', 'b', false)", SETTINGS),
        (b"SELECT Pg_Catalog.SET_CONFIG ('a', 'b', false)", SETTINGS),
        (b"select/**/set_config(/* ( */'a', 'b', false)", SETTINGS),
        (b"select pg_advisory_lock(1)", LOCKS),
        (b"select pg_try_ADVISORY_lock_shared(1, 2)", LOCKS),
        (b"select pg_advisory_lock(1), set_config($1, $2, $3) from temp", LOCKS | SETTINGS),
        (b"select '(set_config and advisory)'", SETTINGS | LOCKS),  # needless, and cheap
    ],
)
def test_texts(text: bytes, asks: int) -> None:
    assert asks_of(text) == asks
    assert asks_of_statement(text) & ~(NEEDS_REPLAY | TEMPORARY) == asks


@pytest.mark.parametrize(
    ("text", "may"),
    [
        (b"select 1 into temp t", True),
        (b"create TEMPORARY table t as select 1", True),
        (b"select * into pg_temp.t from u", True),
        (b"select 1 from t", False),
    ],
)
def test_a_statement_that_may_make_a_temporary_table(text: bytes, may: bool) -> None:
    assert bool(asks_of_statement(text) & TEMPORARY) is may
    assert not asks_of(text) & TEMPORARY  # the answer to a Query tells


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        (b"execute p", True),
        (b"EXECUTE\np(1)", True),
        (b"create table t as execute p", True),
        (b"explain execute p", True),
        (b"deallocate p", True),
        (b"prepare p as select 1", True),
        (b"unlisten *", True),
        (b"discard all", True),
        (b"/* x */execute p", True),
        (b"select executed, prepared from deallocated", False),
        (b"select 1", False),
    ],
)
def test_what_names_something_of_the_session(text: bytes, needs: bool) -> None:
    assert needs_replay(text) is needs
    assert bool(asks_of_statement(text) & NEEDS_REPLAY) is needs
    long = text + b" " * 5_000  # not remembered
    assert bool(asks_of_statement(long) & NEEDS_REPLAY) is needs


@pytest.mark.parametrize(
    ("text", "does"),
    [
        (b"deallocate all", True),
        (b"DEALLOCATE  PREPARE ALL", True),
        (b"select 1; discard\nall; select 2", True),
        (b"deallocate p", False),
        (b"deallocate p; select all 1", False),
        (b"discard temp", False),
        (b"select all 1", False),
        (b"select all 1; deallocate p; discard all", True),
        (b"discard " * 100_000, False),  # in no time that grows with its square
    ],
    ids=lambda value: value[:30] if isinstance(value, bytes) else None,
)
def test_what_drops_all_statements(text: bytes, does: bool) -> None:
    assert forgets(text) is does


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (query("deallocate s"), b"s"),
        (query(" DEALLOCATE\nPREPARE S ; "), b"s"),
        (query('deallocate "A ""b"""') + query("select 1"), b'A "b"'),
        (parse("Deallocate s$1", "a name") + bind(), b"s$1"),
        (query("deallocate s; deallocate t"), None),
        (query("select 'deallocate s'"), None),
        (query("/* deallocate s */"), None),
        (query("select 1") + query("deallocate s"), None),
        (query("prepare s as select 1"), None),
        (b"", None),
    ],
)
def test_the_name_that_a_deallocate_drops(message: bytes, name: bytes | None) -> None:
    assert deallocated(message) == name


def test_tags() -> None:
    assert all(tag.endswith(b"\0") for tag in ASKS_BY_TAG)
    for tag, asks in (
        (b"SET", SETTINGS),
        (b"RESET", SETTINGS),
        (b"PREPARE", PREPARED),
        (b"LISTEN", CHANNELS),
        (b"DECLARE CURSOR", HOLDABLE),
        (b"CREATE TABLE", TEMPORARY),
        (b"DO", EVERYTHING),
        (b"CALL", EVERYTHING),
        (b"DISCARD ALL", EVERYTHING),
    ):
        assert ASKS_BY_TAG[tag + b"\0"] & asks == asks
    for tag in (b"SELECT 1", b"INSERT 0 1", b"BEGIN", b"COMMIT", b"ROLLBACK", b"UPDATE 3"):
        assert tag + b"\0" not in ASKS_BY_TAG
