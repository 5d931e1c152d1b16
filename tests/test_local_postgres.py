"""The throw-away PostgreSQL: starts, restarts, crashes, refuses clearly, and leaves nothing behind."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from harness.databases import create_database
from pgweir_operator.local_postgres import (
    LocalPostgresError,
    PostgresServer,
    debian_bin_dir,
    embedded_bin_dir,
)


def test_it_answers_and_leaves_nothing_behind() -> None:
    with PostgresServer(embedded_bin_dir()) as server:
        assert server.sql("show fsync") == "off"
        assert server.sql("show server_version").startswith("18.")
        pid, base_dir = server.pid, server.base_dir
    assert not base_dir.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_committed_row_survives_restart_and_crash_on_the_same_port() -> None:
    with PostgresServer(embedded_bin_dir(), settings={"synchronous_commit": "on"}) as server:
        port = server.port
        server.sql("create table t as select 1 as x")
        server.restart()
        server.sql("insert into t values (2)")
        server.crash()
        assert not server.is_running
        server.start()
        assert server.sql("select sum(x) from t") == "3"
        assert server.port == port


def test_a_given_data_directory_is_kept_and_used_again(short_dir: Path) -> None:
    with PostgresServer(embedded_bin_dir(), short_dir / "data", password="one") as server:
        server.sql("create table t as select 7 as x")
    with PostgresServer(embedded_bin_dir(), short_dir / "data", password="one") as server:
        assert server.sql("select x from t") == "7"


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalPostgresError, match=f"port {port} of 127.0.0.1 is taken"):
            PostgresServer(embedded_bin_dir(), port=port).start()


def test_a_bad_setting_fails_with_the_server_s_own_words() -> None:
    with pytest.raises(LocalPostgresError, match="no_such_setting"):
        PostgresServer(embedded_bin_dir(), settings={"no_such_setting": "1"}).start()


def test_a_failed_initdb_shows_its_words(short_dir: Path) -> None:
    (short_dir / "data").mkdir()
    (short_dir / "data" / "somebody's file").touch()
    with pytest.raises(LocalPostgresError, match="exists but is not empty"):
        PostgresServer(embedded_bin_dir(), short_dir / "data").start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")
def test_binaries_in_a_closed_folder_are_copied_once(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgweir_operator.postgres_programs._CACHE_DIR", short_dir / "cache")
    package = embedded_bin_dir().parent.parent
    closed = short_dir / "closed"
    closed.mkdir(mode=0o700)
    for name in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.parent / name, closed / name, symlinks=True)
    for _ in range(2):
        with PostgresServer(closed / package.name / "pginstall" / "bin") as server:
            assert server.sql("select 1") == "1"
    assert len(list((short_dir / "cache").iterdir())) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")
def test_a_data_directory_out_of_reach_is_named(short_dir: Path) -> None:
    (short_dir / "closed").mkdir(mode=0o700)
    with pytest.raises(LocalPostgresError, match=r"may not enter .*closed"):
        PostgresServer(embedded_bin_dir(), short_dir / "closed" / "data").start()


def test_a_missing_version_says_how_to_get_it() -> None:
    with pytest.raises(LocalPostgresError, match="apt-get install postgresql-8"):
        debian_bin_dir(8)


def test_an_error_in_sql_never_shows_the_script(postgres18: PostgresServer) -> None:
    with pytest.raises(LocalPostgresError, match="nonsense") as caught:
        postgres18.sql("create role x password 'geheim' nonsense")
    assert "geheim" not in str(caught.value)


def test_a_database_belongs_to_its_role_alone_and_sees_its_sessions(postgres: PostgresServer) -> None:
    one, two = create_database(postgres), create_database(postgres)
    assert one.sql(f"select datdba::regrole from pg_database where datname = '{one.name}'") == one.user
    assert {one.name, one.user, one.password}.isdisjoint({two.name, two.user, two.password})
    assert one.backends() == []
    assert one.password not in repr(one)
