"""Credentials of listed users, with a real pooler before PostgreSQL 18 and 15."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from auth.scene import WRONG, at, pool_error, query, secrets, set_password, stored, through, with_user
from harness.address import Address
from harness.config import cluster, files
from harness.databases import Database
from harness.pooler import Pooler
from pgweir_contract.models import AdminConsole, AdminUser, Auth
from pgweir_pooler.wire.scram import Verifier

Start = Callable[..., Pooler]


def test_during_a_rotation_both_passwords_let_in_whichever_postgresql_has(pooler: Start, database: Database) -> None:
    old, new = database.password, "the-new-password"
    entry = with_user(database, passwords=secrets(new, old), overlap_until=at(600))
    process = pooler(entry)
    for password in (new, old):
        assert query(through(process, database, password)) == database.user
    set_password(database, new)
    database.sql(f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{database.user}'")
    for password in (old, new):
        assert query(through(process, database, password)) == database.user
    assert WRONG in query(through(process, database, "neither"))


def test_a_server_that_asks_for_much_work_holds_up_nobody(pooler: Start, database: Database) -> None:
    verifier = Verifier.from_password(database.password, b"0123456789abcdef", iterations=1_000_000)
    set_password(database, verifier.render())
    process = pooler(with_user(database, passwords=secrets(database.password)))
    assert query(through(process, database, database.password)) == database.user


def test_the_old_password_ends_with_the_overlap(pooler: Start, database: Database) -> None:
    entry = with_user(
        database, passwords=secrets(database.password, "the-older-one", "the-oldest-one"), overlap_until=at(-1)
    )
    process = pooler(entry)
    assert query(through(process, database, database.password)) == database.user
    for password in ("the-older-one", "the-oldest-one"):
        assert WRONG in query(through(process, database, password))


def test_taking_the_old_password_away_ends_no_session(pooler: Start, database: Database) -> None:
    async def run(process: Pooler) -> None:
        way = through(process, database, "the-older-one")
        client = await asyncpg.connect(
            host=way.host, port=way.port, user=way.user, password=way.password, database=way.database, ssl=False
        )
        backend = await client.fetchval("select pg_backend_pid()")
        entry = with_user(database, passwords=secrets(database.password))
        await asyncio.to_thread(process.write, files([entry]))
        await asyncio.to_thread(
            process.wait_for, lambda: WRONG in query(through(process, database, "the-older-one")), "the change applied"
        )
        assert await client.fetchval("select pg_backend_pid()") == backend
        await client.close()

    asyncio.run(run(pooler(with_user(database, passwords=secrets(database.password, "the-older-one")))))


def test_no_login_after_valid_until(pooler: Start, database: Database) -> None:
    process = pooler(with_user(database, passwords=secrets(database.password), valid_until=at(-1)))
    assert WRONG in query(through(process, database, database.password))
    process = pooler(with_user(database, passwords=secrets(database.password), valid_until=at(600)))
    assert query(through(process, database, database.password)) == database.user


def test_with_a_verifier_alone_the_proof_of_a_client_opens_the_servers(pooler: Start, database: Database) -> None:
    set_password(database, database.password)
    entry = with_user(database, verifiers=secrets(stored(database)), pool={"min_idle": 2})
    process = pooler(entry)
    assert WRONG in query(through(process, database, "wrong"))
    process.wait_for(lambda: pool_error(process, database.user) == "NoClientKey", "said that it has no key")
    assert database.backends() == []
    assert query(through(process, database, database.password)) == database.user
    process.wait_for(lambda: len(database.backends()) == 2, "minIdle is kept")
    assert pool_error(process, database.user) is None
    process.kill()
    process.start()
    process.wait_for(lambda: pool_error(process, database.user) == "NoClientKey", "after a restart, too")
    assert "NoClientKey" in process.log_text()
    assert query(through(process, database, database.password)) == database.user


def test_a_key_that_postgresql_does_not_take_is_dropped(pooler: Start, database: Database) -> None:
    set_password(database, "first")
    process = pooler(with_user(database, verifiers=secrets(stored(database))))
    assert query(through(process, database, "first")) == database.user
    set_password(database, "second")
    database.sql(f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{database.user}'")
    process.wait_for(lambda: database.backends() == [], "without servers")
    answer = query(through(process, database, "first"))
    assert "SCRAM verifier at the database is not the one" in answer
    set_password(database, "third")
    process.write(files([with_user(database, verifiers=secrets(stored(database)))]))
    process.wait_for(lambda: query(through(process, database, "third")) == database.user, "the new verifier applied")


def test_of_two_verifiers_the_next_is_offered_after_a_failure(pooler: Start, database: Database) -> None:
    set_password(database, "old")
    old = stored(database)
    set_password(database, "new")
    process = pooler(with_user(database, verifiers=secrets(stored(database), old)))
    assert query(through(process, database, "new")) == database.user
    assert WRONG in query(through(process, database, "old"))
    assert WRONG not in query(through(process, database, "old"))
    # It stays with what worked for this address.
    assert WRONG in query(through(process, database, "new"))
    assert query(through(process, database, "new")) == database.user


@pytest.mark.parametrize("kind", ["password", "verifier"])
def test_clients_may_be_asked_for_md5(pooler: Start, database: Database, kind: str) -> None:
    set_password(database, database.password, method="md5")
    secret: dict[str, Any] = (
        {"passwords": secrets(database.password)} if kind == "password" else {"verifiers": secrets(stored(database))}
    )
    entry = with_user(database, auth=Auth(client_method="MD5"), **secret)
    process = pooler(entry, cluster_file=cluster(default_tenant="acme"))
    # The hash that PostgreSQL stores is made of the role's name, so that must be the whole name that a client sends.
    plain = Address(process.port(), database.user, database.name, database.password)
    assert query(plain) == database.user
    dotted = query(through(process, database, database.password))
    assert dotted == database.user if kind == "password" else WRONG in dotted
    assert WRONG in query(through(process, database, "wrong"))
    assert WRONG in query(through(process, database, "wrong", user="nobody"))


def test_an_md5_hash_lets_nobody_in_where_scram_is_asked_for(pooler: Start, database: Database) -> None:
    set_password(database, database.password, method="md5")
    process = pooler(with_user(database, verifiers=secrets(stored(database))))
    assert WRONG in query(through(process, database, database.password))


def test_a_password_in_clear_is_not_asked_for_without_tls(pooler: Start, database18: Database) -> None:
    entry = with_user(database18, auth=Auth(client_method="Cleartext"), passwords=secrets(database18.password))
    process = pooler(entry)
    answer = query(through(process, database18, database18.password))
    assert "(TlsNeeded) the password would cross the network in clear" in answer
    assert "sslmode=require" in answer


def test_admins_may_use_either_of_two_passwords(pooler: Start, database18: Database) -> None:
    jane = AdminUser(name="jane", role="Admin", passwords=secrets("the-new-one", "the-old-one"))
    entry = with_user(database18, passwords=secrets(database18.password))
    process = pooler(entry, cluster_file=cluster(admin=AdminConsole(users=(jane,))))
    for password in ("the-new-one", "the-old-one"):
        assert "failed" not in query(Address(process.port(), "jane", "pgweir", password), "show version")
    assert WRONG in query(Address(process.port(), "jane", "pgweir", "neither"), "show version")
