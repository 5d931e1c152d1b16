"""The question to PostgreSQL, and how its answer is read: whatever the session is set to."""

import contextlib
import time

import pytest

from harness import messages
from harness.databases import Database
from harness.messages import tags
from harness.raw_client import RawClient, ServerRefusedError
from pgweir_pooler.session.session_state import (
    MAX_CUSTOM_NAMES,
    Answer,
    custom_names,
    deallocate,
    is_single,
    question,
    quoted,
)
from pgweir_pooler.session.suspicion import (
    CHANNELS,
    EVERYTHING,
    HOLDABLE,
    LOCKS,
    PREPARED,
    SETTINGS,
    TEMPORARY,
)
from pgweir_pooler.wire.cursor import ServerProtocolError

NASTY = "a'b\\c\"d$$;--/*é\n"


async def ask(
    client: RawClient, asks: int = EVERYTHING, names: frozenset[str] = frozenset(), *, is_unhurried: bool = False
) -> Answer:
    """What PostgreSQL says."""
    client.send(question(asks, names, is_unhurried=is_unhurried))
    received = await client.receive_until(b"Z")
    for tag, body in received:
        if tag == b"E":
            raise ServerRefusedError(body)
    return Answer.of(b"".join(messages.message(tag, body) for tag, body in received))


async def test_a_new_session_has_nothing(database: Database) -> None:
    client = await RawClient.connect(database.address)
    answer = await ask(client)
    assert answer == Answer(session_user=database.user)
    client.close()


async def test_a_full_session_is_told_whole_whatever_it_is_set_to(database: Database) -> None:
    database.sql(f"create role {database.user}_low; grant {database.user}_low to {database.user}")
    for hostile in (
        "select 1",
        "set standard_conforming_strings = off; set backslash_quote = off",
        "set client_encoding = sjis",
        "set client_encoding = gb18030",
        "set search_path = ''",
        "set bytea_output = escape",
        "set default_transaction_read_only = on",
        "create temp table pg_settings (n int); set search_path = pg_temp, pg_catalog",
    ):
        client = await RawClient.connect(database.address, {"client_encoding": "UTF8"})
        await client.query('create temp table t (n int); select pg_advisory_lock(1); listen "É c"')
        await client.query("begin; declare c cursor with hold for select 1; commit")
        await client.query(f"prepare \"It's\" as select '{NASTY.replace(chr(39), chr(39) * 2)}'")
        client.send(messages.parse("select 1", "pgweir_1"), messages.SYNC)
        await client.receive_until(b"Z")
        await client.query(f"set role {database.user}_low")
        await client.query(f"set app.x = '{NASTY.replace(chr(39), chr(39) * 2)}'; set work_mem = '5MB'")
        await client.query(hostile)
        for is_unhurried in (False, True):
            answer = await ask(client, EVERYTHING, frozenset({"app.x", "app.unknown"}), is_unhurried=is_unhurried)
            assert answer.found == TEMPORARY | HOLDABLE | LOCKS, hostile
            assert answer.channels == {"É c"}
            assert answer.statements == {"pgweir_1"}
            assert list(answer.sql_statements) == ["It's"]
            assert NASTY[3:] in answer.sql_statements["It's"]
            assert answer.role == f"{database.user}_low"
            assert answer.session_user == database.user
            assert answer.settings["app.x"] == NASTY
            assert "app.unknown" not in answer.settings
            assert answer.settings["work_mem"] in ("5MB", "5120")
            assert not {"role", "session_authorization", "transaction_isolation"} & answer.settings.keys()
        client.close()


async def test_only_what_is_suspected_is_asked(database: Database) -> None:
    client = await RawClient.connect(database.address)
    await client.query("create temp table t (n int); listen c; prepare p as select 1; set work_mem = '5MB'")
    assert (await ask(client, SETTINGS)).settings["work_mem"] == "5120"
    assert await ask(client, CHANNELS) == Answer(channels={"c"})
    assert list((await ask(client, PREPARED)).sql_statements) == ["p"]
    assert (await ask(client, TEMPORARY)).found == TEMPORARY
    assert await ask(client, LOCKS | HOLDABLE) == Answer()
    client.close()


async def test_a_timeout_of_the_session_is_not_felt_and_told_as_it_is(database: Database) -> None:
    client = await RawClient.connect(database.address)
    await client.query("set statement_timeout = 1")
    answers: list[Answer] = []
    while len(answers) < 5:  # what is left of the first statement takes 0.2 ms, which a busy machine may triple
        with contextlib.suppress(ServerRefusedError):
            answers.append(await ask(client, EVERYTHING, is_unhurried=True))
    for answer in answers:
        assert answer.settings["statement_timeout"] in ("1", "1ms")
    assert await client.values("show statement_timeout") == [[b"1ms"]]
    client.close()


async def test_settings_are_named_in_lower_case(database: Database) -> None:
    client = await RawClient.connect(database.address)
    await client.query("set datestyle = 'German'; set timezone = 'Asia/Tokyo'; set intervalstyle = 'iso_8601'")
    answer = await ask(client, SETTINGS)
    assert {"datestyle", "timezone", "intervalstyle"} == answer.settings.keys()
    client.close()


async def test_deallocate(database: Database) -> None:
    client = await RawClient.connect(database.address)
    for names in ({"a"}, {"a", 'b"; select 1 --', "C d"}, {"a", "é"}):
        await client.query("deallocate all; prepare stays as select 1")
        for name in names:
            assert tags(await client.query(f"prepare {quoted(name)} as select 1")) == b"CZ"
        client.send(deallocate(names))
        assert b"E" not in tags(await client.receive_until(b"Z"))
        left = await client.values("select name from pg_prepared_statements")
        assert left == ([] if "é" in names else [[b"stays"]])
    client.close()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b"set app.x = 1", {"app.x"}),
        (b"SET App.X TO 'y'", {"app.x"}),
        (b"select set_config('app.x', 'a.b', false)", {"app.x", "a.b"}),
        (b'set app."x" = 1; set "a b".c = 1', {"app.x", "ab.c"}),
        (b"set app . x = 1", {"app.x"}),
        (b'set "app.x" = 1', {"app.x"}),
        (b"set a.b.c = 1", {"a.b.c"}),
        ("set ä.ö = 1".encode(), {"ä.ö"}),
        (b"select 1.5 from t", set()),
        (b"\0\0app.x\0\0\0\1y", {"app.x"}),
        (b"select set_config($$app.x$$, $q$1$q$, false)", {"app.x", "app.x$$"}),
        (b"select set_config($q$app.x$q$, '1', false)", {"app.x", "q$app.x$q$"}),
        (b"set " + b"a" * 70 + b".x = 1", set()),  # PostgreSQL takes no such name
        (b"set work_mem = '5MB'", set()),
    ],
)
def test_custom_names(text: bytes, names: set[str]) -> None:
    assert custom_names(text) == names


@pytest.mark.parametrize(
    "text",
    [b"a" * 500_000, b"a " * 250_000, b"a." * 250_000, b'"' + b"a." * 250_000, b'"a' * 250_000, b"a" + b" " * 500_000],
    ids=lambda text: text[:4],
)
def test_names_are_found_in_a_time_that_grows_as_the_text(text: bytes) -> None:
    start = time.process_time()
    custom_names(text)
    assert time.process_time() - start < 5  # hours, were every word tried from each of its letters


def test_custom_names_that_are_asked_for_are_few() -> None:
    assert MAX_CUSTOM_NAMES >= 100


@pytest.mark.parametrize(
    ("text", "single"),
    [
        ("prepare p as select 1", True),
        ("prepare p as select 1;", True),
        ("prepare p as select 1 ; ", True),
        ("prepare p as select 1; prepare q as select 2", False),
        ("prepare p as select ';'", False),
    ],
)
def test_a_text_that_may_run_again_by_itself(text: str, single: bool) -> None:
    assert is_single(text) is single


def test_rows_of_another_form_are_an_error() -> None:
    for body in (b"\0\1\0\0\0\1s", b"\0\0", b"\0\4" + b"\0\0\0\1s" * 4):
        with pytest.raises(ServerProtocolError):
            Answer.of(messages.message(b"D", body))
