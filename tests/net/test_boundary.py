"""What a client leaves in its session is there for it on every server, and for nobody else."""

import contextlib

import pytest

from harness import messages
from harness.databases import Database
from harness.raw_client import RawClient, ServerRefusedError
from harness.waiting import until
from net.poolers import NewPooler
from net.two_servers import TwoServers, answer, batch, one, run, sqlstate
from pgweir_pooler.session.session_state import MAX_CUSTOM_NAMES

by_both_protocols = pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])

WORK_MEM = "show work_mem"
APP_X = "select coalesce(current_setting('app.x', true), '')"

# What the client runs, statement by statement; the question; the answer that it gets from then on.
SETTINGS = [
    ("set work_mem = '5MB'", WORK_MEM, "5MB"),
    ("set work_mem = '5MB'; set work_mem = '6MB'", WORK_MEM, "6MB"),
    ("set session work_mem to '5MB'", WORK_MEM, "5MB"),
    ("begin; set work_mem = '5MB'; commit", WORK_MEM, "5MB"),
    ("begin; set work_mem = '5MB'; rollback", WORK_MEM, "4MB"),
    ("set work_mem = '5MB'; begin; set work_mem = '6MB'; rollback", WORK_MEM, "5MB"),
    ("begin; set local work_mem = '5MB'; commit", WORK_MEM, "4MB"),
    ("begin; set work_mem = '5MB'; set local work_mem = '6MB'; commit", WORK_MEM, "5MB"),
    ("begin; set work_mem = '5MB'; savepoint s; set work_mem = '6MB'; rollback to s; commit", WORK_MEM, "5MB"),
    ("begin; savepoint s; set work_mem = '6MB'; release s; commit", WORK_MEM, "6MB"),
    ("select set_config('work_mem', '5MB', false)", WORK_MEM, "5MB"),
    ("select set_config('work_mem', '5MB', true)", WORK_MEM, "4MB"),
    ("begin; select SET_CONFIG('work_mem', '5MB', false); rollback", WORK_MEM, "4MB"),
    ("set work_mem = '5MB'; reset work_mem", WORK_MEM, "4MB"),
    ("set work_mem = '5MB'; reset all", WORK_MEM, "4MB"),
    ("set work_mem = '5MB'; set work_mem to default", WORK_MEM, "4MB"),
    ("set work_mem = '5MB'; discard all", WORK_MEM, "4MB"),
    ("set time zone 'Asia/Tokyo'", "show timezone", "Asia/Tokyo"),
    ('set search_path = a, "B c", public', "show search_path", 'a, "B c", public'),
    ("set search_path = ''", "show search_path", '""'),
    ("set datestyle = 'German'", "show datestyle", "German, DMY"),
    ("set client_encoding = 'LATIN1'", "show client_encoding", "LATIN1"),
    ("set names 'SJIS'", "show client_encoding", "SJIS"),
    ("set session characteristics as transaction read only", "show default_transaction_read_only", "on"),
    ("set statement_timeout = '1h'", "show statement_timeout", "1h"),
    ("set app.x = 'it''s'", APP_X, "it's"),
    ("SET App.X TO 'y'", APP_X, "y"),
    ('set app."x" = 1', APP_X, "1"),
    ("set app . x = 1", APP_X, "1"),
    ("begin; set app.x = 'y'; rollback", APP_X, ""),
    ("begin; set local app.x = 'y'; commit", APP_X, ""),
    ("set app.x = 'y'; reset app.x", APP_X, ""),
    ("set app.x = 'y'; discard all", APP_X, ""),
    ("select set_config('app.x', 'y', false)", APP_X, "y"),
    ("select set_config('app.x', 'y', true)", APP_X, ""),
]


@by_both_protocols
async def test_settings_are_the_clients_own_on_every_server(
    pooler: NewPooler, database: Database, extended: bool
) -> None:
    async with TwoServers(pooler, database) as servers:
        other = await servers.connect()
        for script, question, value in SETTINGS:
            plain = await one(other, question)
            client = await servers.connect()
            await run(client, script, extended=extended)
            for _ in range(2):
                for _ in range(2):
                    assert await one(client, question) == value, script
                    assert await one(other, question) == plain, script
                await servers.switch()
            client.close()


async def test_a_custom_setting_by_names_that_come_as_parameters(pooler: NewPooler, database: Database) -> None:
    async with TwoServers(pooler, database) as servers:
        client, other = await servers.connect(), await servers.connect()
        for name in ("", "s"):  # the unnamed statement, then a named one
            parse = messages.parse("select set_config($1, $2, $3::bool)", name)
            bound = messages.bind([b"app.x", b"y", b"f"], statement=name)
            await batch(client, parse, bound, messages.execute())
            for _ in range(4):
                assert await one(client, APP_X) == "y"
                assert await one(other, APP_X) == ""
                await servers.switch()
            await run(client, "reset app.x")
            assert await one(client, APP_X) == ""


@by_both_protocols
@pytest.mark.parametrize("size", [10_000, 2_000_000])
async def test_a_long_value_is_kept(pooler: NewPooler, database: Database, size: int, extended: bool) -> None:
    async with TwoServers(pooler, database) as servers:
        client, other = await servers.connect(), await servers.connect()
        await answer(client, f"set app.x = '{'x' * size}'", extended=extended)
        for _ in range(3):
            assert await one(client, "select length(current_setting('app.x'))") == str(size)
            assert await one(other, APP_X) == ""
            await servers.switch()


@by_both_protocols
async def test_columns_do_not_crowd_out_settings(pooler: NewPooler, database: Database, extended: bool) -> None:
    async with TwoServers(pooler, database) as servers:
        client = await servers.connect()
        await run(client, "set app.x = 'a'")
        for n in range(MAX_CUSTOM_NAMES // 20 + 2):
            columns = ", ".join(f"t{n}.c{i}" for i in range(20))
            names = ", ".join(f"c{i}" for i in range(20))
            values = ", ".join("1" for _ in range(20))
            await run(client, "begin; set local work_mem = '5MB'")
            await answer(client, f"select {columns} from (values ({values})) t{n} ({names})", extended=extended)
            await run(client, "commit")
        await run(client, "set app.y = 'b'", extended=extended)
        await servers.switch()
        await run(client, "set app.z = 'c'", extended=extended)
        await servers.switch()
        for name, value in ("xa", "yb", "zc"):
            assert await one(client, f"show app.{name}") == value


async def test_a_role_of_the_startup_message_can_be_put_down(pooler: NewPooler, database: Database) -> None:
    me, low = database.user, f"{database.user}_low"
    database.sql(f"create role {low}; grant {low} to {me}")
    async with TwoServers(pooler, database) as servers:
        for script, value in (
            ("set role none", me),
            ("set role none; set work_mem = '5MB'", me),
            ("select set_config('role', 'none', false)", me),
            ("set role none; reset role", low),
            ("set role none; discard all", low),
            ("begin; set role none; rollback", low),
            ("set work_mem = '5MB'", low),
        ):
            client = await servers.connect(role=low)
            await run(client, script)
            for _ in range(3):
                assert await one(client, "select current_user") == value, script
                await servers.switch()
            client.close()


async def test_roles(pooler: NewPooler, database: Database) -> None:
    me, low = database.user, f"{database.user}_low"
    database.sql(f"create role {low}; grant {low} to {me}; alter role {me} superuser")
    who = "select session_user || ',' || current_user"
    async with TwoServers(pooler, database) as servers:
        other = await servers.connect()
        for script, value in (
            (f"set role {low}", f"{me},{low}"),
            (f"begin; set role {low}; rollback", f"{me},{me}"),
            (f"begin; set local role {low}; commit", f"{me},{me}"),
            (f"set role {low}; reset role", f"{me},{me}"),
            (f"set role {low}; set role none", f"{me},{me}"),
            (f"select set_config('role', '{low}', false)", f"{me},{low}"),
            (f"set role {low}; discard all", f"{me},{me}"),
            (f"set session authorization {low}", f"{low},{low}"),
            (f"set session authorization {low}; reset session authorization", f"{me},{me}"),
            (f"set session authorization {low}; set work_mem = '5MB'", f"{low},{low}"),
        ):
            client = await servers.connect()
            await run(client, script)
            for _ in range(3):
                assert await one(client, who) == value, script
                assert await one(other, who) == f"{me},{me}", script
                await servers.switch()
            client.close()


async def test_a_reset_goes_back_to_what_the_client_started_with(pooler: NewPooler, database: Database) -> None:
    started = {
        "client_encoding": "LATIN1",
        "DateStyle": "SQL, MDY",
        "application_name": "me",
        "options": "-c work_mem=7MB -c app.x=start",
    }
    async with TwoServers(pooler, database) as servers:
        other = await servers.connect()
        client = await servers.connect(**started)
        shown = dict(client.parameters)
        questions = ("show client_encoding", "show datestyle", "show application_name", WORK_MEM, APP_X)
        before = [await one(client, question) for question in questions]
        assert before == ["LATIN1", "SQL, MDY", "me", "7MB", "start"]
        for reset in (
            "reset client_encoding; reset datestyle; reset application_name; reset work_mem; reset app.x",
            "reset all",
            "discard all",
            "set client_encoding to default; set datestyle to default; set application_name to default; reset all",
        ):
            await run(client, "set client_encoding = 'UTF8'; set datestyle = 'ISO'; set application_name = 'you'")
            await run(client, "set work_mem = '8MB'; set app.x = 'new'")
            assert client.parameters["client_encoding"] == "UTF8"
            assert client.parameters["DateStyle"] == "ISO, MDY"
            assert client.parameters["application_name"] == "you"
            await servers.switch()
            await run(client, reset)
            assert client.parameters == shown, reset
            for _ in range(2):
                assert [await one(client, question) for question in questions] == before, reset
                assert await one(other, WORK_MEM) == "4MB"
                await servers.switch()


async def test_a_setting_that_a_server_is_brought_to_is_not_told_as_a_change(
    pooler: NewPooler, database18: Database
) -> None:
    async with TwoServers(pooler, database18) as servers:
        client, other = await servers.connect(), await servers.connect()
        assert messages.tags(await client.query("set time zone 'Asia/Tokyo'")) in (b"CSZ", b"SCZ")
        for _ in range(3):
            assert messages.tags(await other.query("select 1")) == b"TDCZ"
            assert messages.tags(await client.query("select 1")) == b"TDCZ"
            await servers.switch()


async def test_a_short_statement_timeout_is_felt_by_the_client_alone(pooler: NewPooler, database: Database) -> None:
    async with TwoServers(pooler, database) as servers:
        client, other = await servers.connect(), await servers.connect()
        for _ in range(30):
            # 1 ms is less than the question of what the session has become takes.
            received = await client.query("set statement_timeout = 1; set work_mem = '5MB'")
            assert received[-1].body == b"I"
            assert await one(other, "show statement_timeout") == "0"
            await client.query("set statement_timeout = 0")
        await client.query("set statement_timeout = '10ms'")
        assert sqlstate(await client.query("select pg_sleep(5)")) == "57014"
        await servers.switch()
        assert await one(client, WORK_MEM) == "5MB"
        assert sqlstate(await client.query("select pg_sleep(5)")) == "57014"


# --- prepared by SQL


async def test_statements_prepared_by_sql_follow_their_client(pooler: NewPooler, database: Database) -> None:
    async with TwoServers(pooler, database) as servers:
        first, second = await servers.connect(), await servers.connect()
        await run(first, "prepare p as select 'first'; prepare \"Q q\" (int) as select $1 + 1")
        await run(second, "prepare p as select 'second'")
        for _ in range(4):
            assert await one(first, "execute p") == "first"
            assert await one(first, 'execute "Q q" (41)') == "42"
            assert await one(second, "EXECUTE p") == "second"
            first.send(messages.extended("execute p"))
            assert messages.rows(await first.receive_until(b"Z")) == [[b"first"]]
            assert sqlstate(await second.query('execute "Q q" (1)')) == "26000"
            await first.query("begin")
            assert await one(first, "execute p") == "first"
            await first.query("commit")
            assert sqlstate(await first.query("prepare p as select 3")) == "42P05"
            await servers.switch()
        await run(first, "deallocate p")
        for _ in range(3):
            assert sqlstate(await first.query("execute p")) == "26000"
            assert await one(first, 'execute "Q q" (41)') == "42"
            assert await one(second, "execute p") == "second"
            await servers.switch()
        await run(first, "deallocate all")
        await run(second, "discard all")
        for _ in range(3):
            assert sqlstate(await first.query('execute "Q q" (41)')) == "26000"
            assert sqlstate(await second.query("execute p")) == "26000"
            await servers.switch()


async def test_a_named_statement_that_executes_one_of_sqls_follows_its_client(
    pooler: NewPooler, database: Database
) -> None:
    async with TwoServers(pooler, database) as servers:
        client = await servers.connect()
        await run(client, "prepare p as select 'mine'")
        await batch(client, messages.parse("execute p", "s"))
        for _ in range(4):
            received = await batch(client, messages.bind(statement="s"), messages.execute())
            assert messages.rows(received) == [[b"mine"]]
            received = await batch(client, messages.describe_statement("s"))
            assert messages.tags(received) == b"tTZ"
            await servers.switch()


async def test_an_execute_in_the_middle_of_a_pipeline_is_answered(pooler: NewPooler, database: Database) -> None:
    async with TwoServers(pooler, database) as servers:
        client = await servers.connect()
        executes = messages.bind(statement="s") + messages.execute()
        received = await batch(client, messages.parse("execute p", "s"), executes)
        assert (messages.tags(received), sqlstate(received)) == (b"12EZ", "26000")
        await run(client, "prepare p as select 'mine'")
        first = messages.parse("select 1", "t") + messages.bind(statement="t") + messages.execute()
        received = await batch(client, first, messages.parse("execute p"), messages.bind(), messages.execute())
        assert messages.rows(received) == [[b"1"], [b"mine"]]
        client.send(messages.query("select 1"), messages.query("execute p"))
        assert messages.rows([*await client.receive_until(b"Z"), *await client.receive_until(b"Z")]) == [
            [b"1"],
            [b"mine"],
        ]


async def test_what_sql_prepared_is_there_behind_a_part_of_a_pipeline_that_is_skipped(
    pooler: NewPooler, database: Database
) -> None:
    async with TwoServers(pooler, database) as servers:
        client = await servers.connect()
        await batch(client, messages.parse("prepare p as select 'mine'", "s"))
        prepares = messages.bind(statement="s") + messages.execute()
        assert messages.tags(await batch(client, prepares)) == b"2CZ"
        await servers.switch()
        client.send(messages.parse("select 1", "s") + prepares + messages.SYNC + prepares + messages.SYNC)
        found = [sqlstate(await client.receive_until(b"Z")) for _ in range(2)]
        assert found == ["42P05", "42P05"]
        assert messages.rows(await answer(client, "execute p")) == [[b"mine"]]


async def test_a_rolled_back_prepare_stays_as_in_postgres(pooler: NewPooler, database: Database) -> None:
    async with TwoServers(pooler, database) as servers:
        client = await servers.connect()
        await run(client, "begin; prepare p as select 'mine'; rollback")
        for _ in range(2):
            assert await one(client, "execute p") == "mine"
            await servers.switch()


async def test_statements_prepared_in_one_text_pin_their_client(pooler: NewPooler, database: Database) -> None:
    async with TwoServers(pooler, database) as servers:
        client = await servers.connect()
        await client.query("prepare p as select 'one'; prepare q as select 'two'")
        assert servers.active == 2
        assert await one(client, "execute p") == "one"
        assert messages.rows(await client.query("execute p; execute q; deallocate p; deallocate q")) == [
            [b"one"],
            [b"two"],
        ]
        await until(lambda: servers.active == 1, "the pin has ended")
        assert sqlstate(await client.query("execute p")) == "26000"


async def test_sql_and_protocol_share_their_names(pooler: NewPooler, database: Database) -> None:
    """As in PostgreSQL: EXECUTE and DEALLOCATE of what was prepared by Parse."""
    async with TwoServers(pooler, database) as servers:
        client, other = await servers.connect(), await servers.connect()
        for each in (client, other):
            await batch(each, messages.parse("select 'by protocol'", "s"))
        await servers.switch()
        assert await one(client, "execute s") == "by protocol"
        await run(client, "deallocate s")
        for _ in range(3):
            assert sqlstate(await client.query("execute s")) == "26000"
            assert sqlstate(await batch(client, messages.bind(statement="s"))) == "26000"
            received = await batch(other, messages.bind(statement="s"), messages.execute())
            assert messages.rows(received) == [[b"by protocol"]]
            await servers.switch()
        await batch(client, messages.parse("select 'again'", "s"))
        await servers.switch()
        received = await batch(client, messages.bind(statement="s"), messages.execute())
        assert messages.rows(received) == [[b"again"]]


async def test_a_name_that_sql_deallocates_in_a_transaction_is_free_at_once(
    pooler: NewPooler, database: Database
) -> None:
    async with TwoServers(pooler, database) as servers:
        client = await servers.connect()
        await batch(client, messages.parse("select 'before'", "s"), messages.parse("select 'other'", "t"))
        await run(client, 'begin; DEALLOCATE PREPARE "s" ;')
        await batch(client, messages.parse("select 'after'", "s"))
        for name, text in (("s", b"after"), ("t", b"other")):
            received = await batch(client, messages.bind(statement=name), messages.execute())
            assert messages.rows(received) == [[text]]
        await run(client, "rollback")
        for name, text in (("s", b"after"), ("t", b"other")):
            received = await batch(client, messages.bind(statement=name), messages.execute())
            assert messages.rows(received) == [[text]]


async def test_sql_names_one_after_the_other_in_a_transaction(pooler: NewPooler, database: Database) -> None:
    async with TwoServers(pooler, database) as servers:
        client = await servers.connect()
        for name in ("s", "t", "u"):
            await batch(client, messages.parse(f"select '{name}'", name))
        await run(client, "begin")
        for name in ("s", "t"):
            assert await one(client, f"execute {name}") == name
        await batch(client, messages.close_statement("s"), messages.close_statement("t"))
        await batch(client, messages.parse("select 'again'", "t"))
        assert await one(client, "execute t") == "again"
        await run(client, "deallocate u")
        await run(client, "savepoint a")
        for name in ("s", "u"):
            assert sqlstate(await client.query(f"execute {name}")) == "26000"
            await run(client, "rollback to a")
        await run(client, "commit")
        assert await one(client, "execute t") == "again"


async def test_a_custom_setting_by_a_statement_that_sql_executes(pooler: NewPooler, database: Database) -> None:
    async with TwoServers(pooler, database) as servers:
        client = await servers.connect()
        await batch(client, messages.parse("set app.x = 'mine'", "S"))
        await servers.switch()
        await run(client, 'execute "S"')
        for _ in range(3):
            assert await one(client, APP_X) == "mine"
            await servers.switch()


@pytest.mark.parametrize("sql", ["deallocate all", "discard all"])
async def test_a_failed_drop_of_all_statements_drops_none(pooler: NewPooler, database: Database, sql: str) -> None:
    async with TwoServers(pooler, database) as servers:
        client = await servers.connect()
        await batch(client, messages.parse("select 'mine'", "s"))
        await run(client, "begin")
        await client.query("select 1/0")
        assert sqlstate(await client.query(sql)) == "25P02"
        assert sqlstate(await batch(client, messages.parse("rollback", "s"))) == "42P05"
        await run(client, "rollback")
        received = await batch(client, messages.bind(statement="s"), messages.execute())
        assert messages.rows(received) == [[b"mine"]]


async def test_a_bound_text_of_another_transaction_that_deallocates(pooler: NewPooler, database: Database) -> None:
    for name in ("", "d"):
        async with TwoServers(pooler, database) as servers:
            client = await servers.connect()
            await batch(client, messages.parse("select 1", "s"))
            await batch(client, messages.parse("deallocate s", name))
            await servers.switch()
            received = await batch(client, messages.bind(statement=name), messages.execute())
            assert messages.tags(received) == b"2CZ"
            assert sqlstate(await batch(client, messages.bind(statement="s"))) == "26000"


@pytest.mark.parametrize("sql", ["deallocate all", "discard all", "DEALLOCATE PREPARE ALL"])
async def test_deallocate_all_drops_the_clients_own_and_nobody_elses(
    pooler: NewPooler, database: Database, sql: str
) -> None:
    async with TwoServers(pooler, database) as servers:
        client, other = await servers.connect(), await servers.connect()
        for each in (client, other):
            await batch(each, messages.parse("select 'shared'", "s"))
        for is_extended in (False, True):
            await answer(client, sql, extended=is_extended)
            for _ in range(2):
                assert sqlstate(await batch(client, messages.bind(statement="s"))) == "26000"
                received = await batch(other, messages.bind(statement="s"), messages.execute())
                assert messages.rows(received) == [[b"shared"]]
                await servers.switch()
            assert messages.tags(await batch(client, messages.parse("select 'shared'", "s"))) == b"1Z"


async def test_statements_are_prepared_again_in_the_transaction_of_a_deallocate_all(
    pooler: NewPooler, database: Database
) -> None:
    """psycopg does so after DDL and rollbacks."""
    entry_text = "select 'shared'"
    async with TwoServers(pooler, database) as servers:
        client = await servers.connect()
        parse, bound = messages.parse(entry_text, "s"), messages.bind(statement="s") + messages.execute()
        await batch(client, parse)
        await client.query("begin")
        await client.query("deallocate all")
        assert messages.rows(await batch(client, parse, bound)) == [[b"shared"]]
        await client.query("commit")
        await servers.switch()
        assert messages.rows(await batch(client, bound)) == [[b"shared"]]
        # The same in one pipeline, with one Sync or several.
        for between in (b"", messages.SYNC):
            dropped = messages.parse("deallocate all") + messages.bind() + messages.execute()
            client.send(dropped, between, parse, between, bound, messages.SYNC)
            received = [m for _ in range(3 if between else 1) for m in await client.receive_until(b"Z")]
            assert messages.rows(received) == [[b"shared"]]
            for _ in range(2):
                assert messages.rows(await batch(client, bound)) == [[b"shared"]]
                await servers.switch()


# --- what cannot move: the client keeps its server until it is gone

HAS_T = "select coalesce(to_regclass('pg_temp.t')::text, '')"
LOCKED = "select pg_try_advisory_lock(5) and pg_advisory_unlock(5)"
HELD = "select count(*) from pg_cursors"
PINS = [
    ("create temp table t (n int)", HAS_T, "drop table t"),
    ("create temporary table t as select 1 as n", HAS_T, "drop table t"),
    ("select 1 as n into temp t", HAS_T, "drop table t"),
    ("!select 1 / (n - 3) from generate_series(1, 5) n; select 1 as n into temp t", HAS_T, "drop table t"),
    ("create table pg_temp.t (n int)", HAS_T, "discard temp"),
    ("begin; create temp table t (n int); commit", HAS_T, "begin; drop table t; commit"),
    ("create temp table t (n int) on commit delete rows", HAS_T, "drop table pg_temp.t"),
    ("create temp view t as select 1 as n", HAS_T, "drop view t"),
    ("create temp sequence t", HAS_T, "drop sequence t"),
    ("begin; declare c cursor with hold for select 1; commit", HELD, "close c"),
    ("begin; declare c cursor with hold for select 1; commit", HELD, "close all"),
    ("select pg_advisory_lock(5)", LOCKED, "select pg_advisory_unlock(5)"),
    ("select pg_try_advisory_lock(5)", LOCKED, "select pg_advisory_unlock_all()"),
    ("begin; select pg_advisory_lock(5); rollback", LOCKED, "discard all"),
    ("do $$ begin perform pg_advisory_lock(5) @ end $$", LOCKED, "do $$ begin perform pg_advisory_unlock(5) @ end $$"),
    ("do $$ begin create temp table t (n int) @ end $$", HAS_T, "do $$ begin drop table t @ end $$"),
    ("call make_table()", HAS_T, "discard all"),
]
PROCEDURE = (
    "create procedure make_table() language plpgsql as $$ begin create temp table t (n int); end $$;"
    "create function pinned() returns text language sql as $$ select 'pinned' $$"
)


@by_both_protocols
async def test_what_cannot_move_pins_until_it_is_gone(pooler: NewPooler, database: Database, extended: bool) -> None:
    database.sql(PROCEDURE)
    async with TwoServers(pooler, database) as servers:
        await servers.release()
        other = await servers.connect()
        for script, question, end in PINS:
            client = await servers.connect()
            plain = await one(other, question)
            await _run(client, script, extended=extended)
            pid = await one(client, "select pg_backend_pid()")
            assert servers.active == 1, script
            await other.query("begin")  # on the other server
            for _ in range(3):
                assert await one(client, "select pg_backend_pid()") == pid, script
                if question != LOCKED:
                    assert await one(client, question) != plain, script
                    assert await one(other, question) == plain, script
                else:
                    assert await one(other, question) is not plain
                    assert await one(other, "select pg_try_advisory_xact_lock(5)") == "f", script
                assert servers.active == 2
            await other.query("commit")
            await _run(client, end, extended=extended)
            await until(lambda: servers.active == 0, f"no pin after {end}")
            await _has_nothing(servers, script)
            client.close()


@pytest.mark.parametrize("say_goodbye", [False, True])
async def test_a_client_that_dies_while_pinned_leaves_nothing(
    pooler: NewPooler, database: Database, say_goodbye: bool
) -> None:
    database.sql(PROCEDURE)
    async with TwoServers(pooler, database) as servers:
        await servers.release()
        for script, _, _ in PINS:
            for then in ("", "begin; create temp table u (n int)", "set app.x = 'y'"):
                client = await servers.connect()
                await _run(client, script, extended=False)
                if then:
                    await _run(client, then, extended=False)
                if say_goodbye:
                    client.close()
                else:
                    client.abort()
                await until(lambda: servers.active == 0, f"no pin after {script}")
                await _has_nothing(servers, script)


async def _run(client: RawClient, script: str, *, extended: bool) -> None:
    """As `run`; in a statement, `@` stands for a semicolon; one behind `!` fails."""
    for sql in script.split(";"):
        with contextlib.suppress(*([ServerRefusedError] if sql.startswith("!") else [])):
            await answer(client, sql.removeprefix("!").replace("@", ";"), extended=extended)


async def _has_nothing(servers: TwoServers, why: str) -> None:
    clients = [await servers.connect() for _ in range(2)]
    for client in clients:
        await client.query("begin")
    for client in clients:
        assert await one(client, HAS_T) == "", why
        assert await one(client, HELD) == "0", why
        assert await one(client, APP_X) == "", why
        assert await one(client, "select count(*) from pg_locks where locktype = 'advisory'") == "0", why
        assert await one(client, "select count(*) from pg_prepared_statements where from_sql") == "0", why
        client.close()
    await until(lambda: servers.active == 0, "both are back")


async def test_what_ends_with_the_transaction_does_not_pin(pooler: NewPooler, database: Database) -> None:
    async with TwoServers(pooler, database) as servers:
        await servers.release()
        client = await servers.connect()
        for script in (
            "begin; create temp table t (n int) on commit drop; commit",
            "begin; create temp table t (n int); rollback",
            "begin; declare c cursor for select 1; commit",
            "begin; declare c cursor with hold for select 1; rollback",
            "select pg_advisory_xact_lock(5)",
            "begin; select pg_advisory_xact_lock(5); commit",
            "select 'advisory' || $$temp (set_config)$$",
            "create table plain (n int)",
            "begin; savepoint s; create temp table t (n int); rollback to s; commit",
        ):
            await run(client, script)
            assert servers.active == 0, script


async def test_a_pinned_client_may_do_anything_else(pooler: NewPooler, database: Database) -> None:
    async with TwoServers(pooler, database) as servers:
        await servers.release()
        client = await servers.connect()
        await run(client, "create temp table t (n int); insert into t values (1)")
        await batch(client, messages.parse("select n from t", "s"))
        # The unnamed statement survives our questions, too.
        await batch(client, messages.parse("select n, 'temp (', $1::int from t"))
        for _ in range(2):
            received = await batch(client, messages.bind([b"7"]), messages.execute())
            assert messages.rows(received) == [[b"1", b"temp (", b"7"]]
        for sql in ("select n from t", "set work_mem = '5MB'", "prepare p as select n from t", "execute p"):
            await run(client, sql)
        received = await batch(client, messages.bind(statement="s"), messages.execute())
        assert messages.rows(received) == [[b"1"]]
        assert sqlstate(await client.query("select 1/0")) == "22012"
        assert servers.active == 1
        await run(client, "deallocate p; drop table t")
        await until(lambda: servers.active == 0, "the pin has ended")
        assert await one(client, WORK_MEM) == "5MB"


async def test_a_loaded_library_pins_to_the_end_and_closes_its_server(pooler: NewPooler, database: Database) -> None:
    database.sql(f"alter role {database.user} superuser")
    async with TwoServers(pooler, database) as servers:
        await servers.release()
        client = await servers.connect()
        await run(client, "load 'auto_explain'; set auto_explain.log_min_duration = '5h'")
        pid = await one(client, "select pg_backend_pid()")
        await run(client, "discard all; load 'auto_explain'")
        assert await one(client, "select pg_backend_pid()") == pid
        assert servers.active == 1
        client.close()
        await until(lambda: pid not in [str(found) for found, _ in database.backends()], "that server is closed")


# --- odd moments


async def test_what_is_left_behind_by_a_half_message_reaches_nobody(pooler: NewPooler, database18: Database) -> None:
    async with TwoServers(pooler, database18) as servers:
        client, other = await servers.connect(), await servers.connect()
        part = messages.copy_data(b"stray")
        for sql in ("select set_config('app.x', 'y', false)", "set app.x = 'y'", "select pg_advisory_lock(5)"):
            client.send(messages.query(sql), part[:7])
            await client.receive_until(b"Z")
            client.send(part[7:])
            await until(lambda: servers.active == 1, "its server is back")
            assert await one(other, APP_X) == ""
            assert await one(other, "select count(*) from pg_locks where locktype = 'advisory'") == "0"


async def test_a_pipeline_of_settings(pooler: NewPooler, database: Database) -> None:
    async with TwoServers(pooler, database) as servers:
        client, other = await servers.connect(), await servers.connect()
        for _ in range(5):
            parts = [messages.query(f"set work_mem = '{n}MB'") + messages.extended(WORK_MEM) for n in range(5, 15)]
            client.send(*parts)
            received = [m for _ in range(20) for m in await client.receive_until(b"Z")]
            assert messages.rows(received) == [[b"%dMB" % n] for n in range(5, 15)]
            assert await one(other, WORK_MEM) == "4MB"
            await servers.switch()


async def test_a_refused_setting_changes_nothing(pooler: NewPooler, database: Database) -> None:
    async with TwoServers(pooler, database) as servers:
        client = await servers.connect()
        await run(client, "set work_mem = '5MB'")
        for sql in ("set work_mem = 'x'", "set no_such = 1", "set role nobody_at_all", "set work_mem = 1; select 1/0"):
            with pytest.raises(ServerRefusedError):
                await answer(client, sql)
            await servers.switch()
            assert await one(client, WORK_MEM) == "5MB"
