"""psql and pgbench through both modes, from PostgreSQL 18's own binaries."""

import asyncio
import os
import re
import subprocess

import pytest

from integration.conftest import POOL_SIZE, Route
from integration.quiet import until_quiet
from pgweir_operator.local_postgres import embedded_bin_dir

TIMEOUT_S = 60


def run(route: Route, program: str, *arguments: str, stdin: str = "", code: int = 0, **more: str) -> tuple[str, str]:
    """A program of PostgreSQL's against the route; its output and its errors, after its exit code was checked."""
    done = subprocess.run(
        [embedded_bin_dir() / program, *arguments],
        input=stdin,
        env={**os.environ, **route.address.environment, "LC_ALL": "C.UTF-8", **more},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == code, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout, done.stderr


PSQL = ("-X", "-A", "-t", "-q", "-v", "VERBOSITY=verbose")

SCRIPT = r"""
create table items (id int primary key, t text);
insert into items select i, 'Grüße ' || i from generate_series(1, 1000) i;
begin;
delete from items;
rollback;
select count(*) from items;
begin;
insert into items values (1001, '世界');
savepoint s;
insert into items values (1001, 'twice');
rollback to s;
commit;
select t from items where id = 1001;
\copy (select * from items where id <= 500) to '/dev/null'
copy items from stdin;
2001	from stdin
\.
select t from items where id = 2001;
select $1 || $2 \bind 'bound ' 'values' \g
select length(string_agg(repeat('z', 1000), '')) from generate_series(1, 3000);
select 1 \; select 2 \; select 3;
do $$ begin raise notice 'a notice'; end $$;
\d items
"""


async def test_psql_runs_a_script(route: Route) -> None:
    out, err = await asyncio.to_thread(run, route, "psql", *PSQL, stdin=SCRIPT)
    lines = out.splitlines()
    assert lines[:6] == ["1000", "世界", "from stdin", "bound values", "3000000", "1"]
    assert "id|integer||not null|" in lines
    assert re.findall(r"(?:ERROR|NOTICE): +(\w+)", err) == ["23505", "00000"]
    await until_quiet(route.process, route.database)


async def test_psql_pipelines(route: Route) -> None:
    """psql 18 speaks the extended protocol with many statements before a Sync."""
    script = r"""
\startpipeline
select $1 \bind 1 \sendpipeline
select $1 \bind 2 \sendpipeline
\syncpipeline
select 1 / $1 \bind 0 \sendpipeline
select $1 \bind 3 \sendpipeline
\syncpipeline
select $1 \bind 4 \sendpipeline
\endpipeline
select 5;
"""
    out, err = await asyncio.to_thread(run, route, "psql", *PSQL, stdin=script)
    assert [line for line in out.splitlines() if line.isdigit()] == ["1", "2", "4", "5"], (out, err)
    assert "22012" in err
    await until_quiet(route.process, route.database)


async def test_psql_that_asks_for_protocol_3_2_gets_it(route: Route) -> None:
    out, _ = await asyncio.to_thread(
        run, route, "psql", *PSQL, "-c", "\\conninfo", "-c", "select 1", PGMAXPROTOCOLVERSION="latest"
    )
    assert out.splitlines()[-1] == "1"
    assert "Protocol Version|3.2" in out


async def test_psql_lists_what_other_programs_show(route: Route) -> None:
    """The startup parameters and ParameterStatus that programs rely on are the real server's."""
    version = await asyncio.to_thread(route.database.sql, "show server_version")
    script = r"\echo :SERVER_VERSION_NAME :ENCODING" + "\nshow application_name; show search_path;"
    out, _ = await asyncio.to_thread(
        run, route, "psql", *PSQL, stdin=script, PGAPPNAME="my program", PGOPTIONS="-c search_path=pg_catalog"
    )
    assert out.splitlines() == [f"{version} UTF8", "my program", "pg_catalog"]


async def test_pgbench(route: Route) -> None:
    await asyncio.to_thread(run, route, "pgbench", "-i", "-q", "-I", "dtgvp")
    clients = 4 * POOL_SIZE if route.mode == "transaction" else POOL_SIZE
    for protocol in ("simple", "extended", "prepared"):
        await _bench(route, clients, 20, "-M", protocol)
    await _bench(route, POOL_SIZE, 10, "-C")
    await _bench(route, POOL_SIZE, 10, "-M", "extended", "-C", "-S")
    await until_quiet(route.process, route.database)
    assert len(route.database.backends()) <= POOL_SIZE
    total = await asyncio.to_thread(
        route.database.sql,
        "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history),"
        " (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)",
    )
    assert total == "t|t"


async def _bench(route: Route, clients: int, transactions: int, *arguments: str) -> None:
    sizes = ("-n", "-c", str(clients), "-j", str(clients), "-t", str(transactions))
    out, err = await asyncio.to_thread(run, route, "pgbench", *sizes, *arguments)
    done = re.search(r"actually processed: (\d+)/(\d+)", out)
    assert done is not None and done.groups() == (str(clients * transactions),) * 2, (out, err)
    assert "number of failed transactions: 0 (0.000%)" in out


@pytest.mark.timeout(180)
async def test_pg_dump_of_a_session_restores(route: Route) -> None:
    """A dump holds one long transaction with a snapshot; its restore is COPY and DDL."""
    await asyncio.to_thread(run, route, "psql", *PSQL, stdin=SCRIPT)
    dump, _ = await asyncio.to_thread(run, route, "pg_dump", "--clean", "--no-owner")
    assert "世界" in dump
    # The dump begins with SET, for the whole session; one of them only PostgreSQL 17 knows.
    _, err = await asyncio.to_thread(run, route, "psql", *PSQL, stdin=dump)
    assert err.count("ERROR") == err.count("transaction_timeout"), err
    out, _ = await asyncio.to_thread(run, route, "psql", *PSQL, "-c", "select count(*) from items")
    assert out.strip() == "1002"
    await until_quiet(route.process, route.database)
