"""A tenant's lists of networks decide who may come, from the next login on, and tell nobody outside that they did."""

from collections.abc import Callable
from dataclasses import replace

from pydantic import SecretStr

from harness import messages
from harness.address import Address
from harness.config import files, tenant
from harness.databases import Database
from harness.pooler import Pooler
from harness.waiting import until
from pgweir_contract.models import Auth
from security.places import HERE, THERE, connect_from, log_lines, open_from, refusal_from

NewPooler = Callable[..., Pooler]


async def asked_first(host: str, address: Address) -> bytes:
    """What a login from that address is asked for."""
    client = await open_from(host, address.port)
    client.transport.write(messages.startup({"user": address.user, "database": address.database}))
    message = await client.receive()
    client.abort()
    return message.body


async def test_only_allowed_networks_come_in_and_others_read_of_a_wrong_password(
    pooler: NewPooler, database: Database
) -> None:
    entry = tenant(database).model_copy(update={"allowed_cidrs": ("127.0.0.2/32", "2001:db8::/32")})
    process = pooler(entry)
    right = process.address(entry)
    client = await connect_from(THERE, right)
    assert await client.values("select 1") == [[b"1"]]
    client.close()
    refused = await refusal_from(HERE, right)  # with the right password
    assert refused == await refusal_from(THERE, replace(right, password="wrong"))
    assert refused["C"] == "28P01"
    assert process.metrics()['pgweir_login_failures_total{reason="address_not_allowed"}'] == 1
    [line, _] = log_lines(process, "login refused")
    assert '"cause": "address_not_allowed"' in line
    assert f'"client": "{HERE}"' in line


async def test_who_may_not_come_cannot_tell_the_tenant_from_one_that_does_not_exist(
    pooler: NewPooler, database18: Database
) -> None:
    role = {"user": "nobody", "passwords": (SecretStr("no-password"),)}
    found = []
    for number, auth in enumerate(
        (Auth(client_method="MD5"), Auth(client_method="Cleartext"), Auth(mode="AuthQuery", **role))  # type: ignore[arg-type]
    ):
        networks = {"allowed_cidrs": (f"{THERE}/32",), "auth": auth}
        found.append(tenant(database18, f"t{number}").model_copy(update=networks))
    process = pooler(*found)
    for entry in found:
        right = process.address(entry)
        assert (await refusal_from(HERE, right))["C"] == "28P01"
        assert (await asked_first(HERE, right)) == (await asked_first(HERE, replace(right, user="app.nowhere")))
    assert (await asked_first(THERE, process.address(found[0])))[:4] == (5).to_bytes(4, "big")
    assert "users cannot be looked up" not in process.log_text()


async def test_denied_networks_count_before_allowed_ones_and_a_change_counts_at_once(
    pooler: NewPooler, database18: Database
) -> None:
    entry = tenant(database18)
    process = pooler(entry)
    inside = await connect_from(THERE, process.address(entry))
    denied = entry.model_copy(update={"allowed_cidrs": ("127.0.0.0/8",), "denied_cidrs": ("127.0.0.2/32",)})
    process.write(files([denied]))
    await until(lambda: process.metrics()["pgweir_config_reloads_total"] == 2, "the lists are applied")
    assert (await refusal_from(THERE, process.address(entry)))["C"] == "28P01"
    client = await connect_from(HERE, process.address(entry))
    assert await inside.values("select 1") == [[b"1"]], "who is in stays in"
    client.close()
    inside.close()


async def test_a_bad_network_leaves_the_tenant_as_it_was(pooler: NewPooler, database18: Database) -> None:
    entry = tenant(database18)
    process = pooler(entry)
    content = files([entry.model_copy(update={"allowed_cidrs": ("127.0.0.1/8",)})])
    process.write(content)
    await until(lambda: process.status()["problems"], "the problem is reported")
    [problem] = process.status()["problems"]
    assert "allowedCIDRs[0]: 127.0.0.1 has bits behind the network's length" in problem["problem"]
    client = await connect_from(THERE, process.address(entry))
    client.close()
    process.expects_failure = True  # its log names the problem
