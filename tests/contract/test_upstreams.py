"""Where tenants may point: what is never meant, what the lists name, and addresses that stand for others."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pgweir_contract.upstreams import Upstreams

ANY = Upstreams()


def rules(*hosts: str, cidrs: tuple[str, ...] = ()) -> Upstreams:
    return Upstreams(allowed_hosts=hosts, allowed_cidrs=cidrs)


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.0.9", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::127.0.0.1", "loopback"),
        ("64:ff9b::7f00:1", "loopback"),
        ("2002:7f00:1::", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("169.254.0.7", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("169.254.169.254", "one of a cloud's metadata services"),
        ("::ffff:169.254.169.254", "one of a cloud's metadata services"),
        ("64:ff9b::a9fe:a9fe", "one of a cloud's metadata services"),
        ("64:ff9b:1::a9fe:a9fe", "one of a cloud's metadata services"),
        ("fd00:ec2::254", "one of a cloud's metadata services"),
        ("100.100.100.200", "one of a cloud's metadata services"),
    ],
)
def test_what_no_tenant_may_point_to(address: str, what: str) -> None:
    problem = f"is {what}, which the cluster's upstreams.allowedCIDRs does not name"
    assert ANY.host_problem(address) == problem
    assert ANY.address_problem(ipaddress.ip_address(address)) == problem
    everything = rules(cidrs=("0.0.0.0/0", "::/0"))
    assert everything.address_problem(ipaddress.ip_address(address)) == problem


@pytest.mark.parametrize(
    "host",
    ["db.example", "localhost", "10.1.2.3", "192.168.0.1", "8.8.8.8", "fd00::1", "2001:db8::1", "64:ff9b::808:808"],
)
def test_everything_else_is_allowed_when_nothing_is_said(host: str) -> None:
    assert ANY.host_problem(host) is None


def test_a_name_says_nothing_about_its_address() -> None:
    named = rules("localhost")
    assert named.host_problem("localhost") is None
    assert named.address_problem(ipaddress.ip_address("127.0.0.1")) is not None


def test_naming_is_the_only_way_to_what_is_special() -> None:
    local = rules(cidrs=("127.0.0.0/8", "169.254.169.254/32", "::1/128"))
    for address in ("127.0.0.1", "::ffff:127.0.0.1", "169.254.169.254", "::1"):
        assert local.host_problem(address) is None
    assert (
        local.host_problem("169.254.0.1") == "is link-local, which the cluster's upstreams.allowedCIDRs does not name"
    )
    assert local.host_problem("10.0.0.1") == "is not in the cluster's upstreams.allowedCIDRs"
    assert rules("127.0.0.1").host_problem("127.0.0.1") is None
    assert rules("127.0.0.1").host_problem("127.0.0.2") is not None


def test_hosts_are_named_whole_or_by_their_end() -> None:
    named = rules("db.example", "*.rds.example", "10.0.0.5")
    for host in ("db.example", "DB.Example.", "a.rds.example", "a.b.RDS.example", "10.0.0.5"):
        assert named.host_problem(host) is None
    for host in ("rds.example", "evilrds.example", "a.db.example", "rds.example.evil", "10.0.0.6"):
        assert named.host_problem(host) == "is not among the cluster's upstreams.allowedHosts"


def test_each_list_that_is_there_must_name_the_target() -> None:
    both = rules("*.example", cidrs=("10.0.0.0/8",))
    assert both.host_problem("db.example") is None
    assert both.address_problem(ipaddress.ip_address("10.9.9.9")) is None
    assert both.address_problem(ipaddress.ip_address("8.8.8.8")) == "is not in the cluster's upstreams.allowedCIDRs"
    assert both.host_problem("other.test") == "is not among the cluster's upstreams.allowedHosts"
    assert both.host_problem("10.1.1.1") is None


@pytest.mark.parametrize(
    "fields",
    [
        {"allowed_cidrs": ("10.0.0.1/8",)},
        {"allowed_cidrs": ("ten",)},
        {"allowed_cidrs": ("10.0.0.0/33",)},
        {"allowed_hosts": ("*",)},
        {"allowed_hosts": ("*.",)},
        {"allowed_hosts": ("db.*.example",)},
        {"allowed_hosts": ("",)},
    ],
)
def test_what_names_nothing_is_refused(fields: Any) -> None:
    with pytest.raises(ValidationError):
        Upstreams(**fields)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_all_its_forms(address: ipaddress.IPv4Address) -> None:
    verdict = ANY.address_problem(address)
    assert ANY.address_problem(ipaddress.ip_address(f"::ffff:{address}")) == verdict
    if verdict is not None:
        assert (
            ANY.address_problem(ipaddress.IPv6Address(int(ipaddress.ip_address("64:ff9b::")) + int(address)))
            is not None
        )
