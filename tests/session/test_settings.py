"""The settings of a client, as PostgreSQL understands what we send."""

import pytest

from harness.databases import Database
from harness.messages import error_fields, tags
from harness.raw_client import RawClient
from pgweir_pooler.session.settings import (
    NO_SETTINGS,
    apply_settings,
    render_parameters,
    split_application_name,
)
from pgweir_pooler.session.steps import Settings

NASTY = "a'b\\c\"d$$;--/*é\n"


async def _apply(client: RawClient, settings: Settings) -> bytes:
    """What PostgreSQL answered, parameters excepted; as many ReadyForQuery as `apply_settings` says."""
    data, count = apply_settings(settings)
    client.send(data)
    received = [message for _ in range(count) for message in await client.receive_until(b"Z")]
    return tags(message for message in received if message.tag != b"S")


async def test_values_arrive_as_they_are_whatever_the_session_is_set_to(database: Database) -> None:
    client = await RawClient.connect(database.address, {"client_encoding": "UTF8"})
    for hostile in (
        "set standard_conforming_strings = off",
        "set backslash_quote = off",
        "set backslash_quote = off; set standard_conforming_strings = off",
        "set client_encoding = sjis",
        "set client_encoding = gb18030",
        "set search_path = pg_temp",
        "set role none",
    ):
        await client.query(hostile)
        settings = (("my.value", NASTY), ("search_path", '"$user", public'), ("work_mem", "5MB"))
        assert await _apply(client, settings) == b"CCZTDCZ"
        assert await client.values("select current_setting('my.value')") == [[NASTY.encode()]]
        # A list stays a list: quoted as one name it would find nothing.
        assert await client.values("show search_path") == [[b'"$user", public']]
        assert await client.values("show work_mem") == [[b"5MB"]]
    client.close()


async def test_the_former_clients_settings_are_gone(database: Database) -> None:
    client = await RawClient.connect(database.address)
    [[default]] = await client.values("show work_mem")
    await _apply(client, (("work_mem", "5MB"), ("application_name", "first")))
    await _apply(client, (("statement_timeout", "1h"),))
    assert await client.values("show work_mem") == [[default]]
    assert await client.values("show application_name") == [[b""]]
    await _apply(client, NO_SETTINGS)
    assert await client.values("show statement_timeout") == [[b"0"]]
    client.close()


async def test_a_refused_setting_applies_none(database: Database) -> None:
    client = await RawClient.connect(database.address)
    await _apply(client, (("work_mem", "5MB"),))
    data, count = apply_settings((("work_mem", "6MB"), ("no_such_setting", "1")))
    client.send(data)
    assert count == 2
    await client.receive_until(b"Z")
    received = [message for message in await client.receive_until(b"Z") if message.tag != b"S"]
    assert tags(received[-2:]) == b"EZ"
    assert error_fields(received[-2].body)["C"] == "42704"
    assert received[-1].body == b"I"
    assert await client.values("show work_mem") == [[b"4MB"]]  # the reset stands, none of the new ones does
    client.close()


async def test_a_role_is_undone_with_the_settings(database: Database) -> None:
    database.sql(f"create role {database.user}_low; grant {database.user}_low to {database.user}")
    client = await RawClient.connect(database.address)
    for settings in (NO_SETTINGS, (("work_mem", "5MB"),)):
        await _apply(client, (("role", f"{database.user}_low"),))
        assert await client.values("select current_user") == [[f"{database.user}_low".encode()]]
        await _apply(client, settings)
        assert await client.values("select current_user, session_user") == [[database.user.encode()] * 2]
    client.close()


@pytest.mark.parametrize("name", ["", "psql", "x" * 63, "it's a name"])
def test_a_plain_application_name_needs_no_server(name: str) -> None:
    settings = (("application_name", name), ("work_mem", "5MB"))
    assert split_application_name(settings) == ((("work_mem", "5MB"),), name)


@pytest.mark.parametrize("name", ["x" * 64, "tab\t", "é", "\x7f"])
def test_a_name_that_postgres_would_change_stays_in_the_settings(name: str) -> None:
    settings = (("application_name", name),)
    assert split_application_name(settings) == (settings, None)


async def test_the_name_is_reported_exactly_as_promised(database: Database) -> None:
    for name in ("", "psql", "x" * 63, "it's a name"):
        client = await RawClient.connect(database.address, {"application_name": name})
        assert client.parameters["application_name"] == name
        client.close()


def test_no_name_and_no_settings() -> None:
    assert split_application_name(NO_SETTINGS) == (NO_SETTINGS, None)
    server = {b"server_version": b"18.0", b"application_name": b"pgweir"}
    reported = b"S\0\0\0\x18server_version\x0018.0\0" + b"S\0\0\0\x1capplication_name\0pgweir\0"
    assert render_parameters(server, None) == reported
    assert render_parameters(server, "me").endswith(b"application_name\0me\0")
    assert server[b"application_name"] == b"pgweir"
