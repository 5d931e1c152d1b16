"""PostgreSQL's own programs: psql and pgbench of 18 (the wheel's), pg_dump and pg_restore of 15 and of 18."""

import asyncio
import os
import re
from asyncio.subprocess import PIPE
from pathlib import Path

from drivers.runtimes import missing, run_program
from drivers.target import POOL_SIZE, Target
from pgweir_operator.local_postgres import LocalPostgresError, debian_bin_dir, embedded_bin_dir

PSQL = ("-X", "-A", "-t", "-q", "-v", "VERBOSITY=verbose")
REPEATS = 12

BY_ID = "".join(f"\\bind_named by_id {i} \\g\n" for i in range(1, REPEATS + 1))
# \parse, \bind_named and \close_prepared use named statements of the protocol, PREPARE those of SQL.
PSQL_SCRIPT = rf"""
create table items (id int primary key, t text);
insert into items select i, 'Grüße ' || i from generate_series(1, 1000) i;
begin; delete from items; rollback;
select t from items where id = $1 \parse by_id
{BY_ID}
begin;
\bind_named by_id 500 \g
select 1 / 0;
\bind_named by_id 501 \g
rollback;
\bind_named by_id 502 \g
\close_prepared by_id
\bind_named by_id 503 \g
prepare from_sql (int) as select t from items where id = $1;
execute from_sql (504);
execute from_sql (505);
deallocate from_sql;
execute from_sql (506);
\copy (select * from items order by id) to '/dev/null'
copy items from stdin;
2001	from stdin
\.
select t from items where id = 2001;
set statement_timeout = '80ms';
select pg_sleep(15);
reset statement_timeout;
\startpipeline
select $1::int \bind 1 \sendpipeline
select $1::int / $2::int \parse quotient
\bind_named quotient 10 5 \sendpipeline
\syncpipeline
\bind_named quotient 10 0 \sendpipeline
\bind_named quotient 3 1 \sendpipeline
\syncpipeline
\bind_named quotient 12 3 \sendpipeline
\endpipeline
select 'end of the pipeline';
"""


async def test_psql(target: Target) -> None:
    out, err = await run_program(target, [embedded_bin_dir() / "psql", *PSQL], PSQL_SCRIPT)
    lines = out.splitlines()
    assert lines[:REPEATS] == [f"Grüße {i}" for i in range(1, REPEATS + 1)]
    assert lines[REPEATS : REPEATS + 5] == ["Grüße 500", "Grüße 502", "Grüße 504", "Grüße 505", "from stdin"]
    rest = lines[REPEATS + 5 :]
    assert [line for line in rest if line.isdigit()] == ["1", "2", "4"], rest
    assert "end of the pipeline" in rest
    found = re.findall(r"ERROR: +(\w+)", err)
    assert found == ["22012", "25P02", "26000", "26000", "57014", "22012"], err
    await _psql_hears(target)
    await target.check_rest()


async def _psql_hears(target: Target) -> None:
    """psql prints notifications after a statement, so it gets statements until one has come."""
    process = await asyncio.create_subprocess_exec(
        embedded_bin_dir() / "psql", *PSQL, env={**os.environ, **target.environment}, stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"listen news;\nnotify elsewhere, 'unheard';\nnotify news, 'heard';\n")
    line = asyncio.ensure_future(process.stdout.readline())
    async with asyncio.timeout(20):
        while not line.done():
            process.stdin.write(b"do $$ begin end $$;\n")  # it prints nothing
            await asyncio.wait([line], timeout=0.05)
        assert b'"news" with payload "heard"' in await line
        process.stdin.close()
        assert await process.wait() == 0


PIPELINE = r"""
\set aid random(1, 100000)
\startpipeline
begin;
update pgbench_accounts set abalance = abalance + 1 where aid = :aid;
select abalance from pgbench_accounts where aid = :aid;
insert into pgbench_history (tid, bid, aid, delta, mtime) values (1, 1, :aid, 1, current_timestamp);
end;
\endpipeline
"""


async def test_pgbench(target: Target, tmp_path: Path) -> None:
    """20 clients; with -M prepared every statement has a name, in pipelines, too."""
    script = tmp_path / "pipeline.sql"
    script.write_text(PIPELINE)
    await run_program(target, [embedded_bin_dir() / "pgbench", "-i", "-q", "-I", "dtgvp"])
    clients = POOL_SIZE if target.where == "session" else 4 * POOL_SIZE
    await _bench(target, clients, 20, "-M", "prepared")
    await _bench(target, clients, 20, "-M", "prepared", "-S")
    await _bench(target, clients, 20, "-M", "prepared", "-f", script)
    await _bench(target, clients, 20, "-M", "extended", "-f", script)
    await target.check_rest()
    total = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)"
    assert target.database.sql(total) == "t"


async def _bench(target: Target, clients: int, transactions: int, *arguments: str | Path) -> None:
    sizes = ("-n", "-c", str(clients), "-j", str(clients), "-t", str(transactions))
    out, err = await run_program(target, [embedded_bin_dir() / "pgbench", *sizes, *arguments])
    done = re.search(r"actually processed: (\d+)/(\d+)", out)
    assert done is not None and done.groups() == (str(clients * transactions),) * 2, (out, err)
    assert "number of failed transactions: 0 (0.000%)" in out


def bin_dir(major: int) -> Path:
    try:
        return embedded_bin_dir() if major == 18 else debian_bin_dir(major)
    except LocalPostgresError:
        missing(f"PostgreSQL {major}", f"postgresql-{major}")
        raise


OBJECTS = """
create type mood as enum ('sad', 'glad');
create table authors (id int generated always as identity primary key, name text unique, mood mood default 'glad');
create table books (id int primary key, author int references authors, title text, cover bytea);
create index on books (author);
create view titles as select title from books;
create function add(a int, b int) returns int language sql as 'select a + b';
create sequence tickets start 42;
insert into authors (name) select 'author ' || i from generate_series(1, 100) i;
insert into books
  select i, 1 + i % 100, 'Grüße ' || i, decode(repeat('ab', 100), 'hex') from generate_series(1, 5000) i;
insert into books values (0, 1, repeat('x', 1048576), decode(repeat('cd', 1048576), 'hex'));
"""
FACTS = (
    "select count(*), sum(length(title)), sum(length(cover)), md5(string_agg(title, ',' order by id)),"
    " (select count(*) from titles), add(1, 2), (select last_value from tickets) from books"
)


async def test_pg_dump_and_restore(target: Target, tmp_path: Path) -> None:
    """By each version that knows this server; the server's own version restores the dump over its database.

    pg_restore 17 and later set transaction_timeout, which an older PostgreSQL does not know.
    """
    await _psql(target, OBJECTS)
    before = await _psql(target, FACTS)
    version = int(target.database.sql("show server_version_num")) // 10000
    for program in (15, 18):
        if program >= version:
            folder = tmp_path / str(program)
            await _dump(target, bin_dir(program), folder)
            if program == version:
                await _restore(target, bin_dir(program), folder)
                after = await _psql(target, FACTS)
                assert after == before
    await target.check_rest()


async def _dump(target: Target, programs: Path, folder: Path) -> None:
    """One file by one session, and a folder by two workers that share a snapshot."""
    await run_program(target, [programs / "pg_dump", "-Fd", "-j", "2", "-f", folder])
    await run_program(target, [programs / "pg_dump", "-Fc", "-f", folder / "custom"])


async def _restore(target: Target, programs: Path, folder: Path) -> None:
    restore: list[str | Path] = [
        programs / "pg_restore",
        "-d",
        target.address.database,
        "--clean",
        "--if-exists",
        "--exit-on-error",
    ]
    await run_program(target, [*restore, "-j", "2", folder / "custom"])
    await run_program(target, [*restore, "--single-transaction", folder])


async def _psql(target: Target, script: str) -> str:
    out, _ = await run_program(target, [embedded_bin_dir() / "psql", *PSQL, "-v", "ON_ERROR_STOP=1"], script)
    return out
