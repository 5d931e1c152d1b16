"""A tenant's lists of networks decide who may come, from the next login on, and tell nobody outside that they did."""

from collections.abc import Callable
from dataclasses import replace

from harness.config import files, tenant
from harness.databases import Database
from harness.pooler import Pooler
from harness.waiting import until
from security.places import HERE, THERE, connect_from, log_lines, refusal_from

NewPooler = Callable[..., Pooler]


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
