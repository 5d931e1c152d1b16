"""The raw client against a direct PostgreSQL: what it must see there, it must see through a pooler."""

from dataclasses import replace

import pytest

from harness import messages
from harness.databases import Database
from harness.messages import error_fields, rows, tags
from harness.raw_client import RawClient, ServerClosedError, ServerRefusedError, cancel
from harness.waiting import until


async def test_scram_login_and_a_simple_query(database: Database) -> None:
    client = await RawClient.connect(database.address, {"application_name": "raw"})
    received = await client.query("select current_setting('application_name'), null")
    assert tags(received) == b"TDCZ"
    assert rows(received) == [[b"raw", None]]
    assert client.parameters["server_version"].startswith(("18", "15"))
    assert client.pid > 0
    client.close()


async def test_a_wrong_password_is_refused(database: Database) -> None:
    with pytest.raises(ServerRefusedError) as caught:
        await RawClient.connect(replace(database.address, password="wrong"))
    assert caught.value.sqlstate == "28P01"


async def test_flush_without_sync_then_bind_in_binary(database18: Database) -> None:
    client = await RawClient.connect(database18.address)
    client.send(messages.parse("select $1::bytea"), messages.describe_statement(), messages.FLUSH)
    assert [(await client.receive()).tag for _ in range(3)] == [b"1", b"t", b"T"]
    value = b"Z\0\0\0\5I"
    client.send(messages.bind([value], formats=[messages.BINARY], result_formats=[messages.BINARY]))
    client.send(messages.execute(), messages.SYNC)
    received = await client.receive_until(b"Z")
    assert tags(received) == b"2DCZ"
    assert rows(received) == [[value]]
    client.close()


async def test_an_error_has_its_fields_and_values_raises_it(database18: Database) -> None:
    client = await RawClient.connect(database18.address)
    received = await client.query("select 1/0")
    assert tags(received) == b"EZ"
    assert error_fields(received[0].body)["C"] == "22012"
    with pytest.raises(ServerRefusedError, match="22012"):
        await client.values("select 1/0")
    client.close()


async def test_cancel_ends_a_query(database18: Database) -> None:
    client = await RawClient.connect(database18.address)
    client.send(messages.query("select pg_sleep(30)"))
    await until(lambda: database18.backends() == [(client.pid, "active")], "the query runs")
    await cancel(database18.address.host, database18.address.port, client.pid, client.secret)
    received = await client.receive_until(b"Z")
    assert error_fields(received[-2].body)["C"] == "57014"
    client.close()


async def test_silence_is_a_timeout_and_a_killed_backend_is_an_end(database18: Database) -> None:
    client = await RawClient.connect(database18.address, timeout_s=0.05)
    with pytest.raises(TimeoutError):
        await client.receive()
    client.timeout_s = 10
    database18.sql(f"select pg_terminate_backend({client.pid})")
    assert error_fields((await client.receive()).body)["C"] == "57P01"
    with pytest.raises(ServerClosedError):
        await client.receive()


async def test_the_answer_to_an_ssl_request_is_one_byte(database18: Database) -> None:
    client = await RawClient.open(database18.address.host, database18.address.port)
    client.send(messages.ssl_request())
    assert await client.receive_bytes(1) == b"N"
    client.abort()
