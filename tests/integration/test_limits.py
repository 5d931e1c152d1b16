"""What has a limit keeps it, and whoever meets one reads which: pools, instances, clients, PostgreSQL itself."""

import re
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from pydantic import SecretStr

from harness import messages
from harness.address import Address
from harness.config import cluster, files, tenant
from harness.databases import Database, create_database
from harness.load import running_load
from harness.messages import Message, error_fields
from harness.pooler import Pooler
from harness.raw_client import RawClient, ServerClosedError, ServerRefusedError
from harness.scram_client import ScramClient
from harness.waiting import until
from integration.quiet import pools, until_quiet
from integration.sampling import most_backends
from pgweir_contract.models import ClusterLimits, User
from pgweir_operator.local_postgres import PostgresServer, free_port

NewPostgres = Callable[..., PostgresServer]
NewDatabase = Callable[[PostgresServer], Database]
NewPooler = Callable[..., Pooler]


async def refusal(address: Address) -> dict[str, str]:
    """The fields of the error that a login ends with."""
    with pytest.raises(ServerRefusedError) as caught:
        await RawClient.connect(address)
    return caught.value.fields


async def last_words(client: RawClient) -> dict[str, str]:
    """The fields of the error that a session ends with."""
    fields = error_fields((await client.receive_until(b"E"))[-1].body)
    with pytest.raises(ServerClosedError):
        await client.receive()
    client.abort()
    return fields


async def _until_served(address: Address, timeout_s: float = 20.0) -> None:
    """Logs in again and again, as an application does; only 53300 may come back meanwhile."""
    async with running_load(address, clients=1) as load:
        await load.until(1, timeout_s)
    assert load.result.errors.keys() <= {"53300"}, load.result.texts


async def test_who_waits_too_long_for_a_server_reads_why(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=2, queue_timeout=1.0)
    process = pooler(entry)
    holders = [await RawClient.connect(process.address(entry)) for _ in range(2)]
    waiter = await RawClient.connect(process.address(entry))
    for holder in holders:
        await holder.values("begin")
    started = time.monotonic()
    waiter.send(messages.query("select 1"))
    await until(lambda: pools(process)[0]["waiting"] == 1, "one waiting client in /status")
    fields = await last_words(waiter)
    assert 0.9 < time.monotonic() - started < 5
    assert (fields["S"], fields["C"]) == ("FATAL", "53300")
    assert fields["M"].startswith("(QueueTimeout) ")
    assert "size" in fields["H"]
    for holder in holders:
        await holder.values("commit")
        holder.close()
    await until_quiet(process, database18)


async def test_an_instance_limit_is_shared_fairly(
    pooler: NewPooler, postgres18: PostgresServer, new_database: NewDatabase
) -> None:
    """Three servers for two pools that would each take ten: both are served, and the sum is kept."""
    databases = [new_database(postgres18) for _ in range(2)]
    entries = [tenant(d, f"t{i}", max_connections=3, size=10) for i, d in enumerate(databases)]
    process = pooler(*entries)
    async with most_backends(*databases) as most, running_load(process.address(entries[0]), clients=10) as first:
        await first.until(300)
        async with running_load(process.address(entries[1]), clients=10) as second:
            await second.until(300)  # the starving pool gets a server from the busy one
            await first.until(300)
        assert not second.result.errors, second.result.texts
    assert not first.result.errors, first.result.texts
    assert most.samples > 10
    assert 0 < most.value <= 3
    await until_quiet(process, *databases)


async def test_an_idle_server_is_given_up_for_another_pool(
    pooler: NewPooler, postgres18: PostgresServer, new_database: NewDatabase
) -> None:
    databases = [new_database(postgres18) for _ in range(2)]
    entries = [tenant(d, f"t{i}", max_connections=3, size=3) for i, d in enumerate(databases)]
    process = pooler(*entries)
    async with most_backends(*databases) as most:
        many = [await RawClient.connect(process.address(entries[0])) for _ in range(3)]
        for client in many:
            await client.values("begin")
        for client in many:
            await client.values("commit")
        await until(lambda: len(databases[0].backends()) == 3, "three idle servers")
        started = time.monotonic()
        other = await RawClient.connect(process.address(entries[1]))
        assert await other.values("select 1") == [[b"1"]]
        print(f"served after {time.monotonic() - started:.2f} s")
        assert time.monotonic() - started < 10
    assert most.value == 3
    for client in [*many, other]:
        client.close()
    await until_quiet(process, *databases)


async def test_limits_on_clients_of_user_tenant_and_process(
    pooler: NewPooler, postgres18: PostgresServer, new_database: NewDatabase
) -> None:
    a, b = (tenant(new_database(postgres18), name, size=2, max_clients=3) for name in "ab")
    other = new_database(postgres18)
    second_user = User(name=other.user, alias="second", passwords=(SecretStr(other.password),), max_clients=1)
    a = a.model_copy(update={"users": (*a.users, second_user)})
    process = pooler(a, b, cluster_file=cluster(limits=ClusterLimits(max_clients=5, drain_timeout=2.0)))
    clients: list[RawClient] = []

    async def expect(address: Address, *, whose: str | None) -> None:
        if whose is None:
            clients.append(await RawClient.connect(address))
            return
        fields = await refusal(address)
        assert (fields["S"], fields["C"]) == ("FATAL", "53300")
        assert fields["M"].startswith("(TooManyClients) ")
        assert whose in fields["M"]
        assert fields["H"]

    of_a, of_b = process.address(a), process.address(b)
    second = process.address(a, user="second", password=other.password)
    await expect(second, whose=None)
    await expect(second, whose="user")
    await expect(of_a, whose=None)
    await expect(of_a, whose=None)
    await expect(of_a, whose="tenant")
    await expect(of_b, whose=None)
    await expect(of_b, whose=None)
    await expect(of_b, whose="this pooler")
    for client in clients:  # those who are in are served, and those who leave make room
        assert await client.values("select 1") == [[b"1"]]
        client.close()
    await until(lambda: process.status()["clients"] == 0, "all clients gone")
    await expect(second, whose=None)
    clients[-1].close()
    await until_quiet(process)


async def test_a_database_that_is_down_is_reported_quickly(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=2)
    upstream = entry.upstream.model_copy(update={"port": free_port()})
    entry = entry.model_copy(update={"upstream": upstream})
    process = pooler(entry)
    for _ in range(3):
        started = time.monotonic()
        fields = await refusal(process.address(entry))
        assert time.monotonic() - started < 3
        assert (fields["S"], fields["C"]) == ("FATAL", "08006")
        assert fields["M"].startswith("(ServerUnreachable) ")
        assert "127.0.0.1" not in str(fields)
    await until_quiet(process)


async def test_a_full_postgresql_passes_its_word_on(pooler: NewPooler, postgres18: PostgresServer) -> None:
    """53300 from PostgreSQL, for the role may have one connection and somebody has it."""
    database = create_database(postgres18, connection_limit=1)
    entry = tenant(database, size=4, queue_timeout=2.0)
    process = pooler(entry)
    outside = await RawClient.connect(database.address)
    fields = await refusal(process.address(entry))
    assert (fields["S"], fields["C"]) == ("FATAL", "53300")
    assert "too many connections for role" in fields["M"]
    outside.close()
    await until(lambda: database.backends() == [], "room again")

    await _until_served(process.address(entry))
    # With one server of its own it serves many: that it may not have more is no reason to refuse anybody.
    async with running_load(process.address(entry), clients=10) as load:
        await load.until(500)
    assert load.result.errors.keys() <= {"53300"}
    await until_quiet(process, database)


async def test_a_full_postgresql_instance(
    pooler: NewPooler, new_postgres: NewPostgres, new_database: NewDatabase
) -> None:
    """`max_connections` reached, for others have taken them all."""
    settings = {"max_connections": "8", "superuser_reserved_connections": "3"}
    server = new_postgres(settings=settings)
    database = new_database(server)
    entry = tenant(database, size=4)
    process = pooler(entry)
    outside: list[RawClient] = []
    with pytest.raises(ServerRefusedError, match="53300"):  # noqa: PT012
        while True:
            outside.append(await RawClient.connect(database.address))
    fields = await refusal(process.address(entry))
    assert (fields["S"], fields["C"]) == ("FATAL", "53300")
    for client in outside:
        client.close()
    async with running_load(process.address(entry), clients=4) as load:
        await load.until(100)
    assert load.result.errors.keys() <= {"53300"}
    await until_quiet(process, database)


async def test_a_wrong_password_upstream_is_passed_on_and_not_logged(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=2)
    wrong = entry.users[0].model_copy(update={"passwords": (SecretStr("not the right one"),)})
    entry = entry.model_copy(update={"users": (wrong,)})
    process = pooler(entry)
    fields = await refusal(process.address(entry))
    assert (fields["S"], fields["C"]) == ("FATAL", "28P01")
    assert "the database refused the pooler's login" in fields["M"]
    text = process.log_text()
    assert "not the right one" not in text + str(fields)
    assert database18.password not in text
    await until_quiet(process)


async def _login_bytes(address: Address) -> list[Message]:
    """All that the server says to a login by SCRAM, whatever comes of it."""
    client = await RawClient.open(address.host, address.port)
    client.send(messages.startup({"user": address.user, "database": address.database}))
    received = [await client.receive()]
    assert received[0].body[:4] == (10).to_bytes(4, "big")
    scram = ScramClient(address.password)
    first = scram.first()
    client.send(messages.password(b"SCRAM-SHA-256\0" + len(first).to_bytes(4, "big") + first))
    received.append(await client.receive())
    client.send(messages.password(scram.final(received[1].body[4:])))
    received += await client.receive_until(b"E")
    assert await client.wait_closed() == b""
    client.abort()
    return received


def _without_salt(received: list[Message], user: str) -> list[tuple[bytes, bytes]]:
    """The messages with nonce, salt and user name replaced: what an attacker could tell apart."""
    shown = []
    for tag, body in received:
        body = re.sub(rb"r=[^,]+,s=[A-Za-z0-9+/=]+", lambda m: b"r,s:%d" % len(m[0]), body)
        shown.append((tag, body.replace(user.encode(), b"USER")))
    return shown


async def test_unknown_users_and_tenants_look_like_a_wrong_password(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=2)
    process = pooler(entry)
    right = process.address(entry)
    name = entry.users[0].name
    cases = {
        "wrong password": (replace(right, password="wrong"), f"{name}"),
        "unknown user": (replace(right, user="nobody.acme"), "nobody"),
        "unknown tenant": (replace(right, user=f"{name}.nowhere"), f"{name}"),
        "unknown both": (replace(right, user="nobody.nowhere"), "nobody"),
        "wrong password, unknown database": (replace(right, password="wrong", database="none"), f"{name}"),
    }
    answers = {what: _without_salt(await _login_bytes(address), user) for what, (address, user) in cases.items()}
    reference = answers["wrong password"]
    assert messages.tags(Message(*m) for m in reference) == b"RRE"
    assert error_fields(reference[-1][1])["C"] == "28P01"
    for what, answer in answers.items():
        assert answer == reference, what
    again = await _login_bytes(cases["unknown user"][0])
    once = await _login_bytes(cases["unknown user"][0])
    salt = re.compile(rb"s=([^,]+),i=(\d+)")
    assert salt.findall(again[1].body) == salt.findall(once[1].body), "a salt that changes shows that nobody is there"
    await until_quiet(process)


async def _salt(address: Address) -> bytes:
    found = re.search(rb",s=([^,]+)", (await _login_bytes(address))[1].body)
    assert found is not None
    return found[1]


async def test_a_user_shows_one_salt_in_all_members(pooler: NewPooler, database18: Database) -> None:
    """It is so by nature of a user who is not there, and so it must be of a real one."""
    entry = tenant(database18, size=2)
    key, other_key = SecretStr("x" * 40), SecretStr("y" * 40)
    members = [pooler(entry, cluster_file=cluster(mock_key=key)) for _ in range(2)]
    users = (entry.users[0].name, "nobody")

    async def salts(process: Pooler) -> list[bytes]:
        return [await _salt(replace(process.address(entry, password="wrong"), user=f"{user}.acme")) for user in users]

    before = await salts(members[0])
    assert before == await salts(members[1])
    members[0].write(files([entry], cluster(mock_key=other_key)))
    await until(lambda: members[0].metrics()["pgweir_config_reloads_total"] == 2, "the new key is applied")
    assert not set(before) & set(await salts(members[0]))
    client = await RawClient.connect(members[0].address(entry))
    client.close()
    assert key.get_secret_value() not in members[0].log_text()


async def test_an_unknown_database_is_named_to_who_may_know(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=2)
    process = pooler(entry)
    fields = await refusal(process.address(entry, database="no_such"))
    assert (fields["S"], fields["C"]) == ("FATAL", "3D000")
    assert 'database "no_such" does not exist' in fields["M"]
    await until_quiet(process)


async def test_a_database_that_only_postgresql_does_not_know(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18, size=2)
    listed = entry.databases[0].model_copy(update={"name": "gone"})
    entry = entry.model_copy(update={"databases": (*entry.databases, listed)})
    process = pooler(entry)
    fields = await refusal(process.address(entry, database="gone"))
    assert (fields["S"], fields["C"]) == ("FATAL", "3D000")
    await until_quiet(process)


@pytest.mark.parametrize("listener", ["transaction", "session"])
async def test_postgresql_never_sees_more_than_the_pool_size(
    pooler: NewPooler, database18: Database, listener: str
) -> None:
    """Also while servers are replaced all the time: one that closes counts until PostgreSQL has closed it."""
    entry = tenant(database18, size=4, max_connections=4, server_lifetime=0.2)
    process = pooler(entry)
    address = process.address(entry, listener=listener)
    async with most_backends(database18) as most:
        async with running_load(address, clients=4 if listener == "session" else 40) as load:
            for _ in range(5):
                await load.until(200)
        for _ in range(20):  # clients that come, work and go, some without a word
            clients = [await RawClient.connect(address) for _ in range(4)]
            for client in clients:
                client.send(messages.query("begin; select pg_sleep(0.01)"))
            for client in clients[:2]:
                await client.receive_until(b"Z")
            for client in clients:
                client.abort()
    assert not load.result.errors, load.result.texts
    assert most.samples > 20
    assert 0 < most.value <= 4
    await until_quiet(process, database18)
