"""Scripts that once parted, made as short as can be: eight clients over two servers, so that each meets the others."""

from collections.abc import Mapping

from differential.comparison import differences
from differential.scene import prepare_roles
from differential.script import Script, Step, query
from harness import messages
from harness.config import tenant
from harness.databases import Database
from harness.messages import SYNC
from net.poolers import NewPooler

CLIENTS = 8
POOL_SIZE = 2

NAMED = {"application_name": "pgweir"}


def say(said: str, *parts: bytes, readies: int = 1) -> Step:
    """A step of the extended protocol."""
    return Step(said, b"".join(parts) + SYNC, readies)


def prepare(text: str, name: str = "s") -> Step:
    return say(f"Parse {name!r} {text!r}; Sync", messages.parse(text, name))


def run(name: str = "s", *values: bytes) -> Step:
    return say(f"Bind {name!r}; Execute; Sync", messages.bind(values, statement=name), messages.execute())


SCRIPTS: dict[str, tuple[Mapping[str, str], list[Step]]] = {
    "a pinned server is kept after a query that stands alone": (
        NAMED,
        [
            query("begin; declare h cursor with hold for select generate_series(1, 5); commit"),
            query("select 1"),
            query("select 1"),
            query("fetch 2 from h"),
            query("close h"),
            query("fetch 2 from h"),
        ],
    ),
    "SET of a setting of the startup message that is written in mixed case": (
        {**NAMED, "TimeZone": "Asia/Tokyo", "DateStyle": "German"},
        [
            query("set timezone = 'Europe/Berlin'"),
            query("show timezone"),
            query("reset timezone"),
            query("show timezone"),
        ],
    ),
    "a closed name is given again in the same batch": (
        NAMED,
        [
            prepare("select 1"),
            say(
                "Close, Parse 's' again; Bind; Execute; Sync",
                messages.close_statement("s") + messages.parse("select 2", "s"),
                messages.bind(statement="s") + messages.execute(),
            ),
            run(),
        ],
    ),
    "a batch that fails has prepared, closed and told nothing": (
        NAMED,
        [
            prepare("select $1::text"),
            say(
                "Parse 'selekt'; Close 's'; Parse 's' select 1; Sync | Bind 's'; Execute; Sync",
                messages.parse("selekt") + messages.close_statement("s") + messages.parse("select 1", "s") + SYNC,
                messages.bind([b"x"], statement="s") + messages.execute(),
                readies=2,
            ),
            say(
                "Parse 'selekt'; Parse 't' select 1; Sync | Bind 't'; Execute; Sync",
                messages.parse("selekt") + messages.parse("select 1", "t") + SYNC,
                messages.bind(statement="t") + messages.execute(),
                readies=2,
            ),
            run("s", b"y"),
        ],
    ),
    "a taken name is refused behind what is wrong with the text": (
        NAMED,
        [
            prepare("select 1"),
            prepare("selekt"),
            prepare("select 2"),
            query("begin"),
            query("select 1/0"),
            prepare("select 2"),
        ],
    ),
    "an error names a statement as the client does": (NAMED, [prepare("select $1::int"), run(), run("s", b"1", b"2")]),
    "EXECUTE and DISCARD by named statements": (
        NAMED,
        [
            query("prepare p as select 'p'"),
            query("select 1"),
            say(
                "Parse 's' execute p; Bind; Execute; Sync",
                messages.parse("execute p", "s") + messages.bind(statement="s") + messages.execute(),
            ),
            say(
                "Parse '' discard all; Bind; Execute; Sync",
                messages.parse("discard all") + messages.bind() + messages.execute(),
            ),
            query("execute p"),
            run(),
        ],
    ),
    "PREPARE by a named statement, twice in a pipeline": (
        NAMED,
        [
            say(
                "Parse 's' prepare p; Bind; Execute; Sync | Bind 's'; Execute; Sync",
                messages.parse("prepare p as select 'p'", "s")
                + messages.bind(statement="s")
                + messages.execute()
                + SYNC,
                messages.bind(statement="s") + messages.execute(),
                readies=2,
            ),
            query("select 1"),
            query("execute p"),
            query("deallocate p"),
            query("select 1"),
            query("execute p"),
        ],
    ),
    "what SQL has prepared outlives a block on another server": (
        NAMED,
        [query("prepare p as select 'é'"), query("do $$ begin null; end $$"), query("select 1"), query("execute p")],
    ),
    "what SQL has prepared in another encoding": (
        {**NAMED, "client_encoding": "LATIN1"},
        [query("prepare p as select 'é'"), query("select 1"), query("select 2"), query("execute p")],
    ),
    "a custom setting that is named by a parameter": (
        NAMED,
        [
            prepare("select set_config($1, 'by name', false)", ""),
            say("Bind; Execute; Sync", messages.bind([b"pgweir_test.x"]) + messages.execute()),
            query("select 1"),
            query("select nullif(current_setting('pgweir_test.x', true), '')"),
        ],
    ),
    "RESET of a custom setting of the startup message": (
        {**NAMED, "options": "-c pgweir_test.x=o"},
        [query("set pgweir_test.x = 'y'"), query("reset pgweir_test.x"), query("show pgweir_test.x")],
    ),
    "what is prepared behind DEALLOCATE ALL in a transaction stays": (
        NAMED,
        [query("begin"), query("deallocate all"), prepare("select 1"), query("commit"), run()],
    ),
    "an unnamed statement that was skipped is none, nor anybody else's": (
        NAMED,
        [
            query("select 1"),
            say(
                "Execute nowhere; Parse '' select 1; Sync | Bind ''; Execute; Sync",
                messages.execute("nowhere") + messages.parse("select 1") + SYNC,
                messages.bind() + messages.execute(),
                readies=2,
            ),
            prepare("select 'mine'", ""),
            run(""),
        ],
    ),
    "an unnamed statement that could not be parsed is none": (
        NAMED,
        [prepare("selekt", ""), query("select 1"), run("")],
    ),
}


async def test_what_once_parted_does_no_more(pooler: NewPooler, database: Database) -> None:
    prepare_roles(database)
    entry = tenant(database, size=POOL_SIZE, queue_timeout=60.0)
    address = pooler(entry).address(entry)
    for name, (startup, steps) in SCRIPTS.items():
        scripts = [Script(number, tuple(steps), startup) for number in range(CLIENTS)]
        found = await differences(database, address, scripts)
        assert not found, f"{name}:\n" + "\n\n".join(found)


# One text of all clients, read by settings that differ from client to client.
READ_BY_SETTINGS = {
    "a date": ("select '01/02/2024'::date", ["SET datestyle = 'ISO, MDY'", "SET datestyle = 'ISO, DMY'"]),
    "a backslash": (
        r"select 'a\\b'",
        ["SET standard_conforming_strings = on", "SET standard_conforming_strings = off"],
    ),
    "a table": ("select * from namesake", ["SET search_path = other_{n}", "SET search_path = other_{n}, public"]),
    "a character": ("select length('é')", ["SET client_encoding = 'UTF8'", "SET client_encoding = 'LATIN1'"]),
}


async def test_a_text_means_what_the_settings_of_its_client_say(pooler: NewPooler, database: Database) -> None:
    prepare_roles(database)
    entry = tenant(database, size=POOL_SIZE, queue_timeout=60.0)
    address = pooler(entry).address(entry)
    described = say("Describe 's'; Sync", messages.describe_statement("s"))
    for what, (text, settings) in READ_BY_SETTINGS.items():
        scripts = [
            Script(
                number,
                (
                    query(settings[number % 2].format(n=number)),
                    prepare(text),
                    described,
                    *[run(), query("select 1")] * 4,
                ),
                NAMED,
            )
            for number in range(CLIENTS)
        ]
        found = await differences(database, address, scripts)
        assert not found, f"{what}:\n" + "\n\n".join(found)
