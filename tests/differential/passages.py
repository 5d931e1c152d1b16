"""Random scripts: what clients and drivers say in transaction mode, right and wrong.

Most is drawn without knowing what came before, so unknown names, failed transactions and duplicates come by
themselves. What a pooler in transaction mode cannot do, or does otherwise on purpose, is left out, see
docs/transaction-mode.md: LISTEN, `currval`, what a function sets without a report, names that SQL prepared in Bind
messages, and prepared statements under a table whose columns change.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from differential.script import Script, Step, last_steps, query
from harness import messages
from harness.messages import FLUSH, SYNC

NAMES = ("s1", "s2", "s3")
PASSAGES = (10, 30)  # of one script


@dataclass(frozen=True)
class Cast:
    """The names that a script may use: objects that exist for this client alone, and roles."""

    number: int
    role: str  # the user is a member
    user: str
    is_superuser: bool = False
    pins: bool = False  # uses what keeps a server for a client
    is_plain: bool = False  # has no settings in its startup message

    @property
    def table(self) -> str:
        return f"t_{self.number}"

    @property
    def schema(self) -> str:
        """Has a table of the same name and of another shape."""
        return f"other_{self.number}"

    def fill(self, text: str) -> str:
        """Puts the names into a text."""
        words = {"T": self.table, "O": self.schema, "N": str(self.number), "R": self.role, "U": self.user}
        for letter, name in words.items():
            text = text.replace(f"@{letter}", name)
        return text


def script(random: Random, cast: Cast) -> Script:
    """One client's script."""
    steps: list[Step] = []
    for _ in range(random.randint(*PASSAGES)):
        steps += _passage(random, cast)
    return Script(cast.number, (*steps, *last_steps(NAMES)), _PLAIN if cast.is_plain else _startup(random))


def _startup(random: Random) -> dict[str, str]:
    parameters = {
        "DateStyle": random.choice(["ISO, DMY", "German", "SQL, MDY"]),
        "TimeZone": "Asia/Tokyo",
        "client_encoding": random.choice(["UTF8", "LATIN1", "sql_ascii"]),
        "options": random.choice(["-c work_mem=6MB", "-c search_path=public -c pgweir_test.x=o", "-c geqo=off"]),
        "extra_float_digits": "1",
        "default_transaction_isolation": "serializable",
    }
    chosen = {name: parameters[name] for name in parameters if random.random() < 0.25}
    return {"application_name": random.choice(["", "psql", "it's \\ é", "x" * 70]), **chosen}


# What a client that gives no name is called on a shared server.
_PLAIN = {"application_name": "pgweir"}


# --- texts

_SETTINGS = [
    "set work_mem = '5MB'",
    "set work_mem to 7000",
    "set work_mem = 'wrong'",
    "set nonsense = 1",
    "set max_connections = 5",
    "set application_name = 'application of @N'",
    "set datestyle = 'German'",
    "set datestyle = 'ISO, DMY'",
    "set intervalstyle = 'iso_8601'",
    "set timezone = 'Europe/Berlin'",
    "set time zone 3",
    "set time zone 'Nowhere/City'",
    "set search_path = @O, public",
    "set search_path = public",
    'set search_path = "$user", "it\'s", public',
    "set client_encoding = 'LATIN1'",
    "set names 'UTF8'",
    "set standard_conforming_strings = off",
    "set bytea_output = escape",
    "set extra_float_digits = 0",
    "set lock_timeout = '20s'",
    "set pgweir_test.x = 'it''s @N'",
    "set pgweir_test.y = 'yes'",
    "set default_transaction_read_only = on",
    "set default_transaction_isolation = 'repeatable read'",
    "set session characteristics as transaction isolation level serializable",
    "set role @R",
    "set role none",
    "set role nobody_at_all",
    "reset role",
    "set session authorization @U",
    "set session authorization default",
    "set local work_mem = '9MB'",
    "set local search_path = @O",
    "set local pgweir_test.x = 'local'",
    "set local role @R",
    "reset nonsense",
    "select set_config('work_mem', '11MB', false)",
    "select set_config('work_mem', '12MB', true)",
    "select set_config('pgweir_test.x', 'set_config', false), set_config('pgweir_test.y', 'local', true)",
    "select set_config('timezone', 'UTC', false)",
    "select set_config('nonsense', 'x', false)",
    "select name_application('function @N')",
    "discard plans",
    "discard temp",
    "discard sequences",
]
_RESETS = [
    "reset work_mem",
    "reset application_name",
    "set application_name = default",
    "reset search_path",
    "reset pgweir_test.x",
    "reset timezone",
    "set local datestyle = default",
    "reset all",
    "reset all",
    "discard all",
]
_SUPERUSER = [
    "set session authorization @R",
    "set session authorization @R",
    "set session authorization default",
    "reset session authorization",
    "set role @R",
    "set log_min_duration_statement = 1000000",
    "set deadlock_timeout = '2s'",
    "load 'plpgsql'",
    "begin; set local session authorization @R; select current_user, session_user; commit",
]
_LOOKS = [
    "show work_mem",
    "show search_path",
    "show datestyle",
    "show application_name",
    "show timezone",
    "show client_encoding",
    "show transaction_isolation",
    "show nonsense",
    "select current_user, session_user",
    "select nullif(current_setting('pgweir_test.x', true), '')",
    "select 'a\\\\b', '01/02/2024'::date, interval '1 day 2 hours', timestamptz '2024-06-01 12:00'",
    "select * from @T order by 1",
    "select 'ß', 1.1::float8, '\\x00ff'::bytea",
]
_DATA = [
    "",
    ";",
    "-- nothing",
    "select 1",
    "select 1; select 2; insert into public.@T values (1, 'a')",
    "insert into public.@T values (1, 'x')",
    "insert into public.@T select i, 'many' from generate_series(100, 120) i on conflict do nothing",
    "update public.@T set b = b || 'u'",
    "delete from public.@T",
    "truncate public.@T",
    "insert into @O.@T values ('text')",
    "insert into late_@N values (1)",
    "select 1/0",
    "select 1; select 1/0; select 2",
    "selekt",
    "select * from no_such_table",
    "select 1/a from @T",
    "set work_mem = '8MB'; select 1/0",
    "set pgweir_test.x = 'one'; begin; set pgweir_test.x = 'two'; rollback",
    "begin; set pgweir_test.y = 'in between'; commit; select current_setting('pgweir_test.y')",
    "notify channel_@N, 'payload'",
    "select pg_notify('channel_@N', 'x')",
    "explain (costs off) select 1",
    "vacuum public.@T",
    "create index on public.@T (b)",
    "create table if not exists made_@N (a int)",
    "drop table if exists made_@N",
    "comment on table public.@T is 'of @N'",
]
_TRANSACTIONS = [
    "begin",
    "begin",
    "begin",
    "start transaction isolation level repeatable read",
    "begin read only",
    "commit",
    "commit",
    "commit",
    "rollback",
    "rollback",
    "end",
    "commit and chain",
    "rollback and chain",
    "savepoint a",
    "savepoint a",
    "savepoint b",
    "rollback to a",
    "rollback to b",
    "release a",
    "prepare transaction 'never @N'",
    "set transaction isolation level serializable",
]
_SQL_STATEMENTS = [
    "prepare p1 as select $1::int + 1",
    "prepare p1(int) as select $1, 'it''s'",
    "prepare p1(int) as insert into public.@T values ($1, 'prepared') on conflict do nothing",
    "prepare p2(text) as select $1 || 'é'",
    "prepare p2 as selekt",
    "prepare p1 as select $1::int + 2; prepare p2(text) as select $1",
    "begin; prepare p1(int) as select $1; rollback",
    "execute p1(1)",
    "execute p1(2)",
    "execute p1('no number')",
    "execute p2('x')",
    "execute p3",
    "execute p2('y'); execute p1(3)",
    "explain (costs off) execute p1(1)",
    "create table from_p1_@N as execute p1(1)",
    "drop table if exists from_p1_@N",
    "deallocate p1",
    "deallocate p2",
    "deallocate all",
    "execute s1",
    "execute s1('v')",
    "deallocate s1",
    "deallocate prepare s2",
]
_BLOCKS = [
    "do $$ begin raise notice 'noted by @N'; end $$",
    "do $$ begin raise exception 'raised by @N' using errcode = 'P1234', hint = 'none'; end $$",
    "do $$ begin perform set_config('work_mem', '13MB', false); end $$",
    "do $$ begin perform set_config('pgweir_test.x', 'from a block', false); end $$",
    "do $$ begin execute 'set application_name = ''block @N'''; end $$",
    """do $$ begin begin perform set_config('work_mem', '14MB', false); perform 1/0;
    exception when division_by_zero then null; end; end $$""",
    """do $$ begin insert into public.@T values (50, 'kept'); commit; insert into public.@T values (51, 'not');
    rollback; end $$""",
    "call move_on('@N')",
]
_PINS = [
    "create temp table tmp (a int)",
    "create temp table tmp (a int)",
    "create temp table tmp (a text) on commit drop",
    "select 1 as a into temp tmp",
    "create temporary view tmp as select 2 as a",
    "insert into tmp values (7)",
    "insert into tmp values (8)",
    "select * from tmp",
    "select * from tmp",
    "drop table tmp",
    "drop table if exists tmp",
    "drop view tmp",
    "declare h cursor with hold for select generate_series(1, 5)",
    "declare h cursor with hold for select 1/(n - 2) from generate_series(1, 4) n",
    "begin; declare h cursor with hold for select generate_series(11, 15); commit",
    "fetch 2 from h",
    "fetch 2 from h",
    "close h",
    "close all",
    "select pg_advisory_lock(@N0)",
    "select pg_advisory_lock(@N0)",
    "select pg_try_advisory_lock_shared(@N1)",
    "select pg_advisory_unlock(@N0)",
    "select pg_advisory_unlock(@N0)",
    "select pg_advisory_unlock_shared(@N1)",
    "select pg_advisory_unlock_all()",
    "begin; select pg_advisory_lock(@N2); rollback",
    "select pg_advisory_unlock(@N2)",
    "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
]
_CURSORS = [
    "declare c cursor for select generate_series(1, 5)",
    "fetch 2 from c",
    "move 1 in c",
    "close c",
    "select pg_advisory_xact_lock(@N3)",
    "begin; declare c cursor for select 1; fetch all from c; commit",
    "begin; create temp table gone (a int) on commit drop; insert into gone values (1); table gone; commit",
]
_COPIES_OUT = [
    "copy (select generate_series(1, 5)) to stdout",
    "copy public.@T to stdout with csv",
    "copy (select 1/(n - 3) from generate_series(1, 9) n) to stdout",
    "copy (select 1) to stdout; copy (select 2) to stdout; select 3",
]
_COPIES_IN = ["copy public.@T from stdin", "copy public.@T from stdin", "copy nowhere from stdin"]
_LINES = [b"900\tcopied\n", b"901\t\\N\n", b"902\tx\n", b"no number\tx\n", b"\\.\n"]

# Text of an extended statement, and how many parameters it has.
_EXTENDED: list[tuple[str, int]] = [
    ("", 0),
    ("select $1::text", 1),
    ("select $1::text", 1),
    ("select $1::int + $2::int", 2),
    ("select generate_series(1, 5)", 0),
    ("select b, a from public.@T order by a", 0),
    ("select * from public.@T order by 1", 0),
    ("insert into public.@T values ($1::text::int, $2)", 2),
    ("insert into late_@N values (1)", 0),
    ("select 1/$1::int", 1),
    ("selekt", 0),
    ("show work_mem", 0),
    ("select nullif(current_setting('pgweir_test.x', true), ''), current_user", 0),
    ("set work_mem = '15MB'", 0),
    ("set pgweir_test.x = 'extended'", 0),
    ("select set_config('pgweir_test.y', $1, false)", 1),
    ("select set_config($1, 'by name', false)", 1),
    ("begin", 0),
    ("commit", 0),
    ("rollback", 0),
    ("savepoint a", 0),
    ("rollback to a", 0),
    ("copy (select generate_series(1, 3)) to stdout", 0),
    ("do $$ begin raise notice 'extended'; end $$", 0),
    ("prepare p1 as select 'prepared by extended', $1::int", 0),
    ("notify channel_@N", 0),
]
# What they mean depends on settings: the same texts of all clients, read under the settings of each.
_DEPENDENT: list[tuple[str, list[bytes | None]]] = [
    ("select '01/02/2024'::date, 'a\\\\b'", []),
    ("select timestamptz '2024-06-01 12:00' at time zone 'UTC'", []),
    ("select interval '1 2:03', 'ß'", []),
    ("select * from namesake order by 1", []),
    ("insert into namesake values ($1)", [b"7"]),
    ("insert into namesake values ($1)", [b"a text"]),
    ("select current_user, $1 = any (current_schemas(false))", [b"public"]),
]
# Not under a name: whether an EXECUTE has rows is seen when it is prepared, which may be on several servers.
_UNNAMED: list[tuple[str, int]] = [
    ("execute p1(5)", 0),
    ("execute p2('extended')", 0),
]
# Neither those, which end what they are themselves.
_ENDINGS: list[tuple[str, int]] = [
    ("deallocate s1", 0),
    ("deallocate p1", 0),
    ("deallocate all", 0),
    ("reset all", 0),
    ("discard all", 0),
]
_VALUES = [b"1", b"2", b"v", b"pgweir_test.x", None]


# --- passages


def _passage(random: Random, cast: Cast) -> list[Step]:
    passages: dict[Callable[[Random, Cast], list[Step]], float] = {
        _of(_LOOKS): 8,
        _of(_SETTINGS): 8,
        _of(_DATA): 6,
        _of(_TRANSACTIONS): 7,
        _of(_SQL_STATEMENTS): 4,
        _of(_BLOCKS): 1,
        _of(_CURSORS): 1,
        _of(_COPIES_OUT): 1,
        _copy_in: 1,
        _prepare: 4,
        _run: 8,
        _all_at_once: 4,
        _flushed: 2,
        _piped: 3,
        _fresh: 4,
        _close: 1,
        _suspended: 1,
        _change_table: 0.7,
        _reset: 3,
        _of(_SUPERUSER): 4 if cast.is_superuser else 0,
        _of(_PINS): 5 if cast.pins else 0,
    }
    [chosen] = random.choices(list(passages), list(passages.values()))
    return chosen(random, cast)


def _of(texts: Sequence[str]) -> Callable[[Random, Cast], list[Step]]:
    """Passages of one simple query."""
    return lambda random, cast: [query(cast.fill(random.choice(texts)))]


def _reset(random: Random, cast: Cast) -> list[Step]:
    """Inside a transaction, RESET on a shared server goes to the server's value; the client's startup value is back
    when the transaction has ended."""
    reset = query(random.choice(_RESETS))
    return [reset] if cast.is_plain else [query("rollback"), reset]


def _name(random: Random) -> str:
    return random.choice(["", *NAMES])


def _text(random: Random, cast: Cast, name: str = "") -> tuple[str, int]:
    texts = _EXTENDED if name else [*_EXTENDED, *_UNNAMED, *(_ENDINGS if cast.is_plain else [])]
    text, count = random.choice(texts)
    return cast.fill(text), count


def _parse(random: Random, cast: Cast, name: str) -> tuple[str, bytes, int]:
    text, count = _text(random, cast, name)
    said = f"Parse {name!r} {text!r}"
    data = messages.parse(text, name)
    if random.random() < 0.4:
        return f"{said}; Describe {name!r}", data + messages.describe_statement(name), count
    return said, data, count


def _bind(random: Random, name: str, count: int, portal: str = "") -> tuple[str, bytes]:
    values = [random.choice(_VALUES) for _ in range(count)]
    said = f"Bind {name!r} {values}"
    data = messages.bind(values, statement=name, portal=portal)
    if random.random() < 0.5:
        said, data = f"{said}; Describe portal", data + messages.describe_portal(portal)
    rows = random.choice([0, 0, 0, 1, 2])
    said, data = f"{said}; Execute {rows}", data + messages.execute(portal, rows)
    if random.random() < 0.15:
        said, data = f"{said}; Execute 0", data + messages.execute(portal)
    return said, data


def _prepare(random: Random, cast: Cast) -> list[Step]:
    said, data, _ = _parse(random, cast, _name(random))
    return [Step(f"{said}; Sync", data + SYNC)]


def _run(random: Random, cast: Cast) -> list[Step]:
    said, data = _bind(random, _name(random), random.choice([0, 0, 1, 1, 2]))
    return [Step(f"{said}; Sync", data + SYNC)]


def _unit(random: Random, cast: Cast, name: str | None = None) -> tuple[str, bytes]:
    """Parse, Bind and Execute; sometimes a Close of the name before it, as drivers do that reuse names."""
    name = _name(random) if name is None else name
    said, data = "", b""
    if random.random() < 0.3:
        said, data = f"Close {name!r}; ", messages.close_statement(name)
    parsed, parse, count = _parse(random, cast, name)
    bound, bind = _bind(random, name, count)
    return f"{said}{parsed}; {bound}", data + parse + bind


def _all_at_once(random: Random, cast: Cast) -> list[Step]:
    said, data = _unit(random, cast)
    return [Step(f"{said}; Sync", data + SYNC)]


def _flushed(random: Random, cast: Cast) -> list[Step]:
    """As asyncpg prepares: the answer to the Describe is read before Bind is sent."""
    name = _name(random)
    text, count = _text(random, cast, name)
    parse = messages.parse(text, name) + messages.describe_statement(name) + FLUSH
    said, bind = _bind(random, name, count)
    first = Step(f"Parse {name!r} {text!r}; Describe {name!r}; Flush", parse, readies=0, until=b"TnE")
    if random.random() < 0.5:
        return [first, Step(f"{said}; Sync", bind + SYNC)]
    return [first, Step("Sync", SYNC), Step(f"{said}; Sync", bind + SYNC)]


def _piped(random: Random, cast: Cast) -> list[Step]:
    """Several Syncs, and simple queries among them, in one write."""
    said, data, readies = [], b"", 0
    for _ in range(random.randint(2, 5)):
        kind = random.random()
        if kind < 0.25:
            text = cast.fill(random.choice(random.choice([_LOOKS, _SETTINGS, _DATA, _TRANSACTIONS])))
            said.append(text)
            data += messages.query(text)
        else:
            if kind < 0.6:
                words, part = _unit(random, cast, random.choice(NAMES))
            else:
                words, part = _bind(random, _name(random), random.choice([0, 1]))
            said.append(f"{words}; Sync")
            data += part + SYNC
        readies += 1
    return [Step(" | ".join(said), data, readies)]


def _fresh(random: Random, cast: Cast) -> list[Step]:
    """Prepared and run in one go, and not again: PostgreSQL itself may or may not read a text anew when settings have
    changed since it was prepared."""
    name = _name(random)
    text, values = random.choice(_DEPENDENT)
    data = messages.close_statement(name) + messages.parse(text, name) + messages.describe_statement(name)
    data += messages.bind(values, statement=name) + messages.execute() + SYNC
    return [
        Step(f"Close, Parse {name!r} {text!r}, Describe, Bind {values}, Execute; Sync", data),
        Step(f"Close {name!r}; Sync", messages.close_statement(name) + SYNC),
    ]


def _close(random: Random, cast: Cast) -> list[Step]:
    name = _name(random)
    return [Step(f"Close {name!r}; Sync", messages.close_statement(name) + SYNC)]


def _suspended(random: Random, cast: Cast) -> list[Step]:
    """A portal that is read in parts inside a transaction, its name closed in the end."""
    text, count = _text(random, cast)
    values = [b"1"] * count
    return [
        query("begin"),
        Step(
            f"Parse '' {text!r}; Bind portal; Execute 2; Sync",
            messages.parse(text) + messages.bind(values, portal="portal") + messages.execute("portal", 2) + SYNC,
        ),
        Step("Execute portal; Sync", messages.execute("portal") + SYNC),
        Step("Close portal; Sync", messages.close_portal("portal") + SYNC),
        query(random.choice(["commit", "rollback"])),
    ]


def _copy_in(random: Random, cast: Cast) -> list[Step]:
    text = cast.fill(random.choice(_COPIES_IN))
    lines = random.choices(_LINES, [5, 5, 5, 1, 0.3], k=random.randrange(4))
    end, how = random.choice([(messages.COPY_DONE, "CopyDone"), (messages.copy_fail("no more"), "CopyFail")])
    rest = b"".join(map(messages.copy_data, lines)) + end
    if random.random() < 0.6:
        return [Step(f"{text} {lines} {how}", messages.query(text) + rest)]
    data = messages.parse(text) + messages.bind() + messages.execute()
    return [Step(f"Parse, Bind, Execute {text} {lines} {how}; Sync", data + rest + SYNC)]


def _change_table(random: Random, cast: Cast) -> list[Step]:
    """Another shape of the table; what reads it by name is prepared again, for PostgreSQL refuses it from now on."""
    text = random.choice(
        [
            "alter table public.@T add column if not exists c text",
            "alter table public.@T drop column if exists c",
            "alter table public.@T alter b type varchar(100)",
        ]
    )
    closes = b"".join(map(messages.close_statement, NAMES))
    return [
        query("rollback"),
        query(cast.fill(text)),
        Step(f"Close {', '.join(NAMES)}; Sync", closes + SYNC),
        query("deallocate all"),
    ]
